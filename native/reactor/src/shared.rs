//! What the threads of one transport share: options, counts, flags, and the connections.
//!
//! It knows nothing of what is done with a connection.

use crate::client::key_of;
use crate::connection::{Connection, ConnectionState};
use crate::decisions;
use crate::disk::Disk;
use crate::file_count::FileCount;
use crate::held_answers::HeldAnswers;
use crate::inbox::Inbox;
use crate::log_queue::LogQueue;
use crate::options::Options;
use crate::output::OutputTotals;
use crate::poller::{Poller, Token};
use crate::queue::WaitingQueue;
use crate::rate_limit::siphash;
use crate::refusal::Refusal;
use crate::scoreboard::{
    ACCEPTED, CLIENT_CONNECTIONS, CLOSING, CONNECTIONS, DENIED, HANDSHAKING, IDLE, IN_APPLICATION,
    READING, SENDING, Scoreboard,
};
use crate::slow_path_estimate::SlowPathEstimate;
use crate::spool::Spooling;
use crate::states::{Fate, Phase};
use crate::stream::{Secure, Stream};
use crate::streamed_bodies::StreamedBodies;
use crate::sync::{Alarm, Flag, lock};
use crate::sys::{self, Nanos, Peer};
use penstock_protocol::date::DateLine;
use penstock_protocol::response::{self, ErrorAnswer, ErrorResponse};
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// The connections by their slot. A token names slot and occupant, so that an event that is older
/// than a close finds no connection.
#[derive(Default)]
struct Registry {
    slots: Vec<Option<Arc<Connection>>>,
    free: Vec<u32>,
    occupant: u64,
}

const SLOT_BITS: u32 = 24;

impl Registry {
    fn reserve(&mut self) -> Token {
        self.occupant = (self.occupant + 1) & ((1 << (62 - SLOT_BITS)) - 1);
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as u32
        });
        Token(self.occupant << SLOT_BITS | u64::from(slot))
    }
}

fn slot(token: Token) -> usize {
    (token.0 & ((1 << SLOT_BITS) - 1)) as usize
}

/// The threads that send from files, and how they have the leader look at a connection.
#[derive(Clone)]
pub struct Senders {
    pub threads: Disk,
    pub inbox: Arc<Inbox>,
}

/// Some of the fields that the server adds to a response, unless the application has set them.
#[derive(Clone, Copy, Default)]
pub struct Added {
    pub date: bool,
    pub server: bool,
    /// Strict-Transport-Security (RFC 6797), over TLS alone.
    pub hsts: bool,
}

impl Added {
    /// These without the `others`.
    pub fn without(self, others: Added) -> Self {
        Added {
            date: self.date && !others.date,
            server: self.server && !others.server,
            hsts: self.hsts && !others.hsts,
        }
    }
}

pub struct Shared {
    pub options: Options,
    pub scoreboard: Arc<Scoreboard>,
    pub poller: Arc<Poller>,
    pub log_queue: LogQueue,
    pub slow_paths: SlowPathEstimate,
    /// The requests that wait for a thread.
    pub queue: WaitingQueue,
    /// There are a stall monitor and a thread of the log writer.
    pub attended: Flag,
    /// A thread leads.
    pub led: Arc<Flag>,
    /// Wakes the thread of the log writer, where there is one.
    pub log_writer: Alarm,
    log_writer_called: Flag,
    registry: Mutex<Registry>,
    pub inbox: Arc<Inbox>,
    pub held_answers: HeldAnswers,
    pub senders: Senders,
    pub draining: Flag,
    /// A drain leaves the clients that wait in the accept queues to others.
    pub handing_over: Flag,
    /// In a drain: the listeners that accept only clients whose handshake was under way.
    lasting: Mutex<Vec<bool>>,
    pub closed: Flag,
    /// Nothing is left to do, and will not be.
    pub drained: Flag,
    pub closed_in_child: Flag,
    /// An untrusted peer has sent a forwarding field, and that is logged.
    pub told_of_forwarding: Flag,
    /// A connection was closed since accepting was last looked at.
    pub room_made: Flag,
    /// A client waits that the kernel may have woken another worker for, which does not accept it.
    pub look_for_clients: Flag,
    /// How many threads wait for the interpreter lock, to take a request to the application.
    pub attaching: AtomicUsize,
    /// The stall monitor leads, and a thread has come free.
    pub relieve: Flag,
    date_line: Mutex<DateLine>,
    /// Descriptors of spooled bodies and of files that are sent.
    pub files: FileCount,
    pub spooling: Spooling,
    pub streamed_bodies: Arc<StreamedBodies>,
    output_totals: OutputTotals,
    /// What TLS connections begin with.
    tls: Mutex<Option<Arc<dyn Secure>>>,
    /// How many connections each client has, by `client::key_of`, where that is limited.
    clients: Mutex<HashMap<u64, u64>>,
    /// Connections within the head of a request.
    heads: AtomicUsize,
    connections: AtomicU64,
    accepted: AtomicU64,
    requests: AtomicU64,
    refused: AtomicU64,
}

impl Shared {
    pub fn new(options: Options, scoreboard: Scoreboard) -> io::Result<Self> {
        let slow_paths = SlowPathEstimate::new(
            options.slow_call,
            options.slow_share,
            options.stalled_call,
            options.held_call,
        );
        let (scoreboard, files) = (Arc::new(scoreboard), FileCount::default());
        let poller = Arc::new(Poller::new()?);
        let inbox = Arc::new(Inbox::new(Arc::clone(&poller)));
        let output_totals = OutputTotals::new(&options);
        Ok(Shared {
            streamed_bodies: Arc::new(StreamedBodies::new(Arc::clone(&inbox))),
            spooling: Spooling {
                scoreboard: Arc::clone(&scoreboard),
                files: files.clone(),
                memory: Arc::default(),
                disk: Disk::new(&options),
            },
            senders: Senders {
                threads: Disk::senders(&options),
                inbox: Arc::clone(&inbox),
            },
            log_queue: LogQueue::new(options.log_entries, options.log_bytes),
            options,
            scoreboard,
            inbox,
            held_answers: HeldAnswers::default(),
            poller,
            slow_paths,
            queue: WaitingQueue::default(),
            attended: Flag::default(),
            led: Arc::default(),
            log_writer: Alarm::default(),
            log_writer_called: Flag::default(),
            registry: Mutex::default(),
            draining: Flag::default(),
            handing_over: Flag::default(),
            lasting: Mutex::default(),
            closed: Flag::default(),
            drained: Flag::default(),
            closed_in_child: Flag::default(),
            told_of_forwarding: Flag::default(),
            room_made: Flag::default(),
            look_for_clients: Flag::default(),
            attaching: AtomicUsize::new(0),
            relieve: Flag::default(),
            date_line: Mutex::default(),
            files,
            output_totals,
            tls: Mutex::default(),
            clients: Mutex::default(),
            heads: AtomicUsize::new(0),
            connections: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        })
    }

    // -- for any thread ---------------------------------------------------------------------

    /// Have the poller tell of no input of a connection: the thread that answers reads the request's
    /// body as it arrives, and the leader would wake for each part in vain.
    pub fn ignore_input(&self, connection: &Connection, state: &mut ConnectionState) {
        if state.input_ignored || state.unwatched {
            return;
        }
        if let Some(descriptor) = connection.stream.descriptor() {
            let ignored = self.poller.ignore_input(descriptor, connection.token);
            state.input_ignored = ignored.is_ok();
        }
    }

    /// Have it tell of input again, also of what has come meanwhile.
    #[inline(always)]
    pub fn tell_of_input(&self, connection: &Connection, state: &mut ConnectionState) {
        if state.input_ignored {
            self.watch_input(connection, state);
        }
    }

    #[cold]
    fn watch_input(&self, connection: &Connection, state: &mut ConnectionState) {
        state.input_ignored = false;
        if let Some(descriptor) = connection.stream.descriptor() {
            if self
                .poller
                .tell_of_input(descriptor, connection.token)
                .is_err()
            {
                state.exchange.fate.worsen(Fate::Close); // its next request would not be seen
            }
        }
    }

    /// Let the threads that wait for the disk end.
    pub fn end_disk(&self) {
        self.spooling.disk.end();
        self.senders.threads.end();
    }

    /// Queue a connection for the next leader. `hurry` wakes the leader now.
    pub fn post(&self, connection: &Arc<Connection>, state: &mut ConnectionState) {
        self.inbox.post(connection, state);
    }

    /// See [`Inbox::withdraw`].
    pub fn withdraw(&self, connection: &Arc<Connection>, state: &mut ConnectionState) {
        self.inbox.withdraw(connection, state);
    }

    /// See [`Inbox::hurry`].
    pub fn hurry(&self) {
        self.inbox.hurry();
    }

    /// Set what TLS connections begin with from now on.
    pub fn set_tls(&self, tls: Arc<dyn Secure>) {
        let before = lock(&self.tls).replace(tls);
        drop(before); // without the lock
    }

    /// What a TLS connection begins with now.
    pub fn tls(&self) -> Option<Arc<dyn Secure>> {
        lock(&self.tls).clone()
    }

    /// Whether a listener answers each request with a redirection to https.
    pub fn redirects(&self, listener: usize) -> bool {
        let redirecting = &self.options.redirecting;
        redirecting.get(listener).copied().unwrap_or(false)
    }

    /// Set which listeners need not be closed as soon as their queues are empty.
    pub fn set_lasting(&self, lasting: Vec<bool>) {
        *lock(&self.lasting) = lasting;
    }

    /// Whether a listener is such a one.
    pub fn is_lasting(&self, index: usize) -> bool {
        lock(&self.lasting).get(index).copied().unwrap_or(false)
    }

    pub fn has_posts(&self) -> bool {
        self.inbox.is_filled()
    }

    /// Take what was posted.
    pub fn take_posts(&self, into: &mut impl Extend<Arc<Connection>>) {
        self.inbox.take(into);
    }

    /// Append the lines of fields that the server adds.
    pub fn write_server_fields(&self, added: Added, out: &mut Vec<u8>) {
        if added.date {
            let second = u64::try_from(sys::wall_second()).unwrap_or(0);
            out.extend_from_slice(lock(&self.date_line).at(second).as_bytes());
        }
        if let (true, Some(name)) = (added.server, &self.options.server_header) {
            out.extend_from_slice(b"Server: ");
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        if let (true, Some(value)) = (added.hsts, &self.options.hsts) {
            out.extend_from_slice(b"Strict-Transport-Security: ");
            out.extend_from_slice(value.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }

    /// The fields that the server adds to each response on a connection.
    pub fn added_to(&self, stream: &dyn Stream) -> Added {
        Added {
            date: true,
            server: true,
            hsts: self.options.hsts.is_some() && stream.is_secure(),
        }
    }

    /// What the server itself answers to a request that the application does not get, or does not
    /// answer in time.
    pub fn error_response(
        &self,
        refusal: &Refusal,
        to_head: bool,
        stream: &dyn Stream,
        request_id: impl FnOnce() -> String,
    ) -> ErrorResponse {
        let mut added = Vec::new();
        self.write_server_fields(self.added_to(stream), &mut added);
        if self.options.send_request_id {
            response::encode_field(&mut added, b"X-Request-ID", request_id().as_bytes());
        }
        response::error_response(&ErrorAnswer {
            status: refusal.status,
            reason: &refusal.reason,
            to_head,
            retry_after: refusal.retry_after,
            keeps: refusal.keeps,
            added: &added,
        })
    }

    /// Wake the thread of the log writer; return whether there is one.
    pub fn call_log_writer(&self) -> bool {
        if self.attended.get() && !self.log_writer_called.swap(true) {
            self.log_writer.ring();
        }
        self.attended.get()
    }

    /// Wait until the thread of the log writer is woken.
    pub fn await_call(&self) {
        self.log_writer.wait();
        self.log_writer_called.set(false);
    }

    /// Count a request, and return its number in the transport's life.
    pub fn count_request(&self) -> u64 {
        self.requests.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The 64 bits of the id of the request with this number. Who knows others does not know them.
    #[inline]
    pub fn id_bits(&self, number: u64) -> u64 {
        siphash(self.options.id_key, number)
    }

    /// The id of the request with this number.
    pub fn request_id(&self, number: u64) -> String {
        format!("{}{:016x}", self.options.id_prefix, self.id_bits(number))
    }

    pub fn count_refusal(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Why a client may not have a connection, as the word of the scoreboard that counts it; None
    /// where it may. A unix socket has no clients that could be told apart.
    pub fn refuses_client(&self, peer: Peer) -> Option<usize> {
        let (address, _) = peer?;
        let networks = self.options.networks.as_ref();
        if networks.is_some_and(|networks| !networks.admits(address)) {
            return Some(DENIED);
        }
        let budgets = &self.options.budgets;
        // The connections of a trusted proxy are of all its clients.
        if budgets.connections_per_client == 0 || self.options.forwarded.peers.trusts(peer) {
            return None;
        }
        let clients = lock(&self.clients);
        let own = clients.get(&key_of(address)).copied().unwrap_or(0);
        (!decisions::client_has_room(budgets, own)).then_some(CLIENT_CONNECTIONS)
    }

    /// Count a connection as a client's, from when that is known.
    pub fn count_client(&self, peer: Peer, comes: bool) {
        let Some((address, _)) = peer.filter(|_| self.options.budgets.connections_per_client > 0)
        else {
            return;
        };
        let mut clients = lock(&self.clients);
        let own = clients.entry(key_of(address)).or_default();
        *own = if comes {
            *own + 1
        } else {
            own.saturating_sub(1)
        };
        if *own == 0 {
            clients.remove(&key_of(address));
        }
    }

    /// Note whether a connection is within a head.
    pub fn note_head(&self, state: &mut ConnectionState, within: bool) {
        if std::mem::replace(&mut state.in_head, within) != within {
            if within {
                self.heads.fetch_add(1, Ordering::Relaxed);
            } else {
                self.heads.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Count that a connection keeps `size` bytes of requests until its output has left.
    pub fn hold_input(&self, state: &mut ConnectionState, size: u64) {
        let before = std::mem::replace(&mut state.held_input, size);
        if before != size {
            // Wraps where it is less than before.
            let more = size.wrapping_sub(before);
            self.spooling.memory.count(more);
        }
    }

    /// How many connections are within the head of a request.
    pub fn head_count(&self) -> usize {
        self.heads.load(Ordering::Relaxed)
    }

    /// Descriptors that connections, spooled bodies and files take.
    pub fn descriptor_count(&self) -> usize {
        self.connection_count() + self.files.get()
    }

    /// Whether the unsent bytes of all responses are more than may be.
    pub fn exceeds_unsent(&self) -> bool {
        decisions::exceeds_unsent(&self.options.budgets, self.output_totals.unsent())
    }

    /// Whether they are far more, and readers are cut off whatever else is to be done.
    pub fn far_exceeds_unsent(&self) -> bool {
        decisions::far_exceeds_unsent(&self.options.budgets, self.output_totals.unsent())
    }

    /// Whether enough readers have been cut off: there is some room again.
    pub fn is_relieved(&self) -> bool {
        decisions::is_relieved(&self.options.budgets, self.output_totals.unsent())
    }

    pub fn connection_count(&self) -> usize {
        self.connections.load(Ordering::Relaxed) as usize
    }

    pub fn counts(&self) -> [(&'static str, u64); 5] {
        let connections = self.connections();
        let busy = connections.iter().filter(|it| it.phase().is_in_progress());
        let in_progress = busy.count();
        [
            ("connections", self.connections.load(Ordering::Relaxed)),
            (
                "connections_accepted",
                self.accepted.load(Ordering::Relaxed),
            ),
            ("requests", self.requests.load(Ordering::Relaxed)),
            ("requests_in_progress", in_progress as u64),
            ("requests_refused", self.refused.load(Ordering::Relaxed)),
        ]
    }

    /// All connections there are.
    pub fn connections(&self) -> Vec<Arc<Connection>> {
        lock(&self.registry)
            .slots
            .iter()
            .flatten()
            .cloned()
            .collect()
    }

    /// Write to the slot how many connections do what, and whose they are.
    pub fn publish_connections(&self) {
        let words = [HANDSHAKING, IDLE, READING, IN_APPLICATION, SENDING, CLOSING];
        let mut counts = [0; 6];
        let mut clients = HashMap::new();
        for connection in self.connections() {
            if let Some((address, _)) = connection.peer() {
                *clients.entry(address).or_insert(0) += 1;
            }
            let index = match connection.phase() {
                Phase::AwaitingProxy | Phase::Handshaking => 0,
                Phase::Reading if connection.lock().is_idle() => 1,
                Phase::Reading | Phase::Storing | Phase::Discarding => 2,
                Phase::HandedOut | Phase::Answered => 3,
                Phase::Flushing | Phase::Refusing => 4,
                Phase::Lingering => 5,
                Phase::Closed => continue,
            };
            if let Some(count) = counts.get_mut(index) {
                *count += 1;
            }
        }
        for (word, count) in words.into_iter().zip(counts) {
            self.scoreboard.set(word, count);
        }
        let top = clients.into_iter().max_by_key(|(_, count)| *count);
        let (address, count) = match top {
            Some((address, count)) => (address.to_string(), count),
            None => (String::new(), 0),
        };
        self.scoreboard.set_top_client(&address, count);
    }

    /// The connections whose deadline has passed at `now`.
    pub fn expired(&self, now: Nanos) -> Vec<Arc<Connection>> {
        let registry = lock(&self.registry);
        let all = registry.slots.iter().flatten();
        all.filter(|connection| connection.deadline() <= now)
            .cloned()
            .collect()
    }

    // -- for the leader ---------------------------------------------------------------------

    pub fn find(&self, token: Token) -> Option<Arc<Connection>> {
        let registry = lock(&self.registry);
        let connection = registry.slots.get(slot(token))?.as_ref()?;
        (connection.token == token).then(|| Arc::clone(connection))
    }

    /// Take a new connection in. The poller does not watch it yet.
    pub fn add(&self, stream: Box<dyn Stream>, listener: usize, now: Nanos) -> Arc<Connection> {
        let number = self.accepted.fetch_add(1, Ordering::Relaxed) + 1;
        let peer = stream.peer();
        let mut registry = lock(&self.registry);
        let token = registry.reserve();
        let connection = Arc::new(Connection::new(
            &self.options,
            self.output_totals.clone(),
            self.draining.get(),
            stream,
            token,
            listener,
            number,
            now,
        ));
        if let Some(place) = registry.slots.get_mut(slot(token)) {
            *place = Some(Arc::clone(&connection));
        }
        if !self.options.awaits_proxy(listener, peer) {
            self.count_client(peer, true);
        }
        let connections = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
        self.scoreboard.set(CONNECTIONS, connections);
        self.scoreboard.set(ACCEPTED, number);
        connection
    }

    /// Give up a connection that is about to be closed.
    pub fn forget(&self, token: Token) {
        let mut registry = lock(&self.registry);
        if let Some(place) = registry.slots.get_mut(slot(token)) {
            if let Some(gone) = place.take_if(|connection| connection.token == token) {
                self.count_client(gone.counted(), false);
                registry.free.push(slot(token) as u32);
                let connections = self.connections.fetch_sub(1, Ordering::Relaxed) - 1;
                self.scoreboard.set(CONNECTIONS, connections);
                self.room_made.set(true);
            }
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if !self.closed_in_child.get() {
            self.end_disk(); // a transport that was never torn down
        }
    }
}
