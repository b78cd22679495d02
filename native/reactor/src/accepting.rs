//! Accepting connections: not where that would do harm, and not more than the worker's share.
//!
//! Where the kernel can wake one of the workers that share a listener, it wakes the one that has
//! waited for longest: that one accepts at least one client, and goes behind the others. Otherwise
//! it wakes all. Each accepts in small steps, and leaves the rest for a moment to those that have
//! fewer connections and poll their sockets.

use crate::closing;
use crate::connection::{Connection, NEVER};
use crate::decisions::{self, Holding};
use crate::handshaking;
use crate::log_queue::{Entry, message};
use crate::poller::Token;
use crate::refusal::Refusal;
use crate::refusing;
use crate::scoreboard::{
    ACCEPTING, DENIED, EVICTED_BODY, EVICTED_HEAD, EVICTED_IDLE, IO_BOUND_CALLS, STARTED, WAITING,
};
use crate::shared::Shared;
use crate::states::Phase;
use crate::stream::PlainStream;
use crate::sys::{self, Nanos, Peer};
use penstock_protocol::Input;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A listening socket.
pub struct Acceptor {
    descriptor: RawFd,
    name: String,
    /// Its clients speak TLS.
    tls: bool,
    watched: bool,
    resume_at: Nanos,
    /// Its clients are left to other workers, until then.
    left: bool,
    complained: bool,
    /// A peer that may not speak the uwsgi protocol was logged.
    told_peer: bool,
    closed: bool,
}

impl Acceptor {
    pub fn new(descriptor: RawFd, name: String, tls: bool) -> Self {
        Acceptor {
            descriptor,
            name,
            tls,
            watched: false,
            resume_at: 0,
            left: false,
            complained: false,
            told_peer: false,
            closed: false,
        }
    }

    /// Have the poller watch it. Where there is no memory for that, the next sweep tries again.
    fn watch(&mut self, shared: &Shared, index: usize, exclusive: bool) {
        let (poller, token) = (&shared.poller, Token::listener(index));
        let added = poller.add_listener(self.descriptor, token, exclusive);
        self.watched = added.is_ok();
    }

    /// Whether a peer may not speak the uwsgi protocol, which this listener has; log the first one.
    fn refuses_peer(&mut self, shared: &Shared, index: usize, peer: Peer) -> bool {
        let options = &shared.options;
        if !options.speaks_uwsgi(index) || options.uwsgi_peers.trusts(peer) {
            return false;
        }
        if !std::mem::replace(&mut self.told_peer, true) {
            let shown = peer.map(|(address, _)| address.to_string());
            let arguments = [
                ("listener", self.name.clone()),
                ("peer", shown.unwrap_or_else(|| "a unix socket".to_owned())),
            ];
            let entry = message("UWSGI_PEER_REFUSED", arguments);
            shared.log_queue.write(entry);
        }
        true
    }
}

/// How this worker and its siblings share the clients that wait.
struct AcceptBalancing {
    /// Every thread is with the application.
    all_busy: bool,
    /// How often in a row clients were left to others.
    deferrals: u32,
    /// How often in a row they did not come to it.
    in_vain: u32,
    /// How many requests had been handed out when every thread had one, plus one for each connection
    /// accepted since for a thread that became free.
    started: u64,
    /// Since when clients have waited in the accept queue at each look, with all threads busy.
    waited_since: Option<Nanos>,
    /// How many connections the others had accepted that would accept, and when that changed.
    others: (u64, Nanos),
    /// No room or no descriptor was left.
    exhausted: bool,
    /// When listeners are to be watched again that were left to others.
    look_again: Nanos,
    /// Listeners are watched so that this worker is woken in place of another one, and not beside all
    /// others, where the kernel can do so.
    exclusive: bool,
    /// No room or no descriptor was left when a client was last to be accepted.
    unable: bool,
    /// How many clients were accepted in this turn.
    taken: usize,
    /// The worker went behind the others, and clients may wait.
    went_behind: bool,
}

impl Default for AcceptBalancing {
    fn default() -> Self {
        AcceptBalancing {
            all_busy: false,
            deferrals: 0,
            in_vain: 0,
            started: 0,
            waited_since: None,
            others: (u64::MAX, 0),
            exhausted: false,
            look_again: NEVER,
            exclusive: false,
            unable: false,
            taken: 0,
            went_behind: false,
        }
    }
}

impl AcceptBalancing {
    /// Note that a connection was accepted, `insists` if the worker had left it to others, and none accepted it.
    fn accepted(&mut self, insists: bool) {
        if !insists {
            self.in_vain = 0;
        } else if self.deferrals > 0 {
            self.in_vain += 1;
        }
        self.deferrals = 0;
        self.unable = false;
        self.taken += 1;
    }

    /// Whether clients were left to others, and that was not yet forgotten.
    fn has_deferred(&self) -> bool {
        self.deferrals + self.in_vain > 0 || self.waited_since.is_some()
    }

    /// Whether another worker would accept, and is not halted: it does so in time.
    fn others_accept(&mut self, shared: &Shared, since: Nanos, now: Nanos) -> bool {
        let options = &shared.options;
        let accepted = shared
            .scoreboard
            .accepted_by_others(options.responsive, now);
        let Some(accepted) = accepted else {
            return false;
        };
        if accepted != self.others.0 {
            self.others = (accepted, now);
        }
        now.saturating_sub(since.max(self.others.1)) < options.busy_accept
    }

    /// Return true if a thread has become free for which no connection was accepted yet.
    fn take_freed(&mut self, shared: &Shared) -> bool {
        let started = shared.scoreboard.get(STARTED);
        let since = self
            .started
            .max(started.saturating_sub(shared.options.balance_batch as u64));
        if since >= started {
            return false;
        }
        self.started = since + 1;
        true
    }
}

/// The listeners of a transport, for its leader.
pub struct Accepting {
    acceptors: Vec<Acceptor>,
    balancing: AcceptBalancing,
    /// What was accepted, for the event loop to take.
    pub accepted: Vec<Arc<Connection>>,
    /// Some listener is open.
    pub listening: bool,
    /// The transport drains: what waits in the accept queues is served.
    pub drain_begun: bool,
    /// In a drain: until then a client may connect whose handshake was under way.
    handshakes_until: Nanos,
}

impl Accepting {
    pub fn new(acceptors: Vec<Acceptor>) -> Self {
        Accepting {
            acceptors,
            balancing: AcceptBalancing::default(),
            accepted: Vec::new(),
            listening: true,
            drain_begun: false,
            handshakes_until: 0,
        }
    }

    /// Whether all listeners are watched.
    pub fn is_watching(&self) -> bool {
        self.acceptors.iter().all(|acceptor| acceptor.watched)
    }

    /// When listeners are to be watched again that were left to others.
    pub fn next_look(&self) -> Nanos {
        self.balancing.look_again
    }

    /// Watch the listeners again whose pause is over.
    ///
    /// Also without room: an idle connection may be old enough by now to be evicted for a client
    /// that waits. If no client waits, there is no event.
    pub fn resume_accepting(&mut self, shared: &Shared, now: Nanos) {
        let exclusive = self.is_woken_alone();
        for (index, acceptor) in self.acceptors.iter_mut().enumerate() {
            if !acceptor.watched && !acceptor.closed && now >= acceptor.resume_at {
                acceptor.watch(shared, index, exclusive);
                self.balancing.went_behind |= exclusive;
                acceptor.left = false;
                self.balancing.exhausted = false;
            }
        }
        self.tell_accepting(shared);
    }

    /// Say whether another connection would be accepted.
    pub fn tell_accepting(&self, shared: &Shared) {
        let refuses = shared.draining.get() || self.balancing.all_busy || self.balancing.exhausted;
        shared.scoreboard.set(ACCEPTING, u64::from(!refuses));
    }

    pub fn pause(&mut self, shared: &Shared, now: Nanos, index: usize, time: Nanos) {
        if let Some(acceptor) = self.acceptors.get_mut(index) {
            acceptor.resume_at = now + time;
            if std::mem::take(&mut acceptor.watched) {
                shared.poller.remove(acceptor.descriptor);
            }
        }
    }

    /// Pause where there is no room, or nothing to make it of.
    fn pause_exhausted(&mut self, shared: &Shared, now: Nanos, index: usize, time: Nanos) {
        self.pause(shared, now, index, time);
        self.balancing.exhausted = true;
        self.balancing.unable = true;
        self.tell_accepting(shared);
    }

    /// Accept at most `most` connections; return true if the accept queue is empty. `owes` is whether
    /// the kernel may have woken this worker in place of another one.
    pub fn accept(
        &mut self,
        shared: &Shared,
        now: Nanos,
        index: usize,
        most: usize,
        owes: bool,
    ) -> bool {
        self.balancing.taken = 0;
        let is_empty = self.accept_some(shared, now, index, most, owes);
        if self.balancing.taken > 0 && self.is_woken_alone() {
            self.step_back(shared, now, index, is_empty);
        }
        is_empty
    }

    fn accept_some(
        &mut self,
        shared: &Shared,
        now: Nanos,
        index: usize,
        most: usize,
        owes: bool,
    ) -> bool {
        let shares = shared.scoreboard.is_shared() && !self.drain_begun;
        let alone = self.is_woken_alone();
        let most = if shares {
            most.min(self.step(shared))
        } else {
            most
        };
        let insists = self.balancing.deferrals >= shared.options.balance_deferrals;
        for count in 0..most {
            let turn = (insists, count as u64);
            if alone && count > 0 && !insists && self.has_more_than_others(shared, now) {
                return false; // `step_back`
            }
            let bound = owes && count == 0; // another worker may not know of the client
            if shares && !bound && self.leaves_to_others(shared, now, index, turn) {
                return false;
            }
            if !self.has_room(shared) {
                if count > 0 {
                    return false; // the next poll shows whether another client waits
                }
                if !self.make_room(shared, now) {
                    self.complain_of_descriptors(shared, index);
                    self.pause_exhausted(shared, now, index, 0);
                    return false;
                }
            }
            let Some(acceptor) = self.acceptors.get_mut(index).filter(|it| !it.closed) else {
                return true;
            };
            match sys::accept(acceptor.descriptor) {
                Ok((socket, peer)) => {
                    self.balancing.accepted(insists);
                    if acceptor.refuses_peer(shared, index, peer) {
                        shared.scoreboard.count(DENIED);
                        continue; // it closes
                    }
                    // Of a proxy's connection, the client is looked at that its header names.
                    let refused = match shared.options.awaits_proxy(index, peer) {
                        true => None,
                        false => shared.refuses_client(peer),
                    };
                    if let Some(reason) = refused {
                        shared.scoreboard.count(reason);
                        continue; // it closes
                    }
                    let stream = Box::new(PlainStream::new(socket, peer, &shared.scoreboard));
                    let connection = match acceptor.tls {
                        false => Some(shared.add(stream, index, now)),
                        true => handshaking::begin(shared, stream, index, now),
                    };
                    self.accepted.extend(connection);
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => {
                        acceptor.complained = false; // the next time is a new one
                        return true;
                    }
                    Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                        if self.evict(shared, now) {
                            continue; // there is room now for a client that waits
                        }
                        self.rest(shared, now, index, &error);
                        return false;
                    }
                    Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK) => {
                        self.pause(shared, now, index, NEVER / 4);
                        return true; // closed under us
                    }
                    _ => {} // that client has gone already (ECONNABORTED and its kind)
                },
            }
        }
        false
    }

    /// Pause, and log why: once for each time that it begins.
    fn rest(&mut self, shared: &Shared, now: Nanos, index: usize, error: &std::io::Error) {
        if let Some(acceptor) = self.acceptors.get_mut(index) {
            if !std::mem::replace(&mut acceptor.complained, true) {
                shared.log_queue.write(message(
                    "ACCEPT_PAUSED",
                    [
                        ("listener", acceptor.name.clone()),
                        ("error", sys::error_text(error).to_string()),
                    ],
                ));
            }
        }
        self.pause_exhausted(shared, now, index, shared.options.accept_pause);
    }

    /// Tell that no connection is accepted because of the descriptors that are open: once for each
    /// time that it begins. `max_connections` is a limit that was meant, and goes without a word.
    fn complain_of_descriptors(&mut self, shared: &Shared, index: usize) {
        let connections = shared.connection_count();
        if connections >= shared.options.max_connections {
            return;
        }
        if let Some(acceptor) = self.acceptors.get_mut(index) {
            if !std::mem::replace(&mut acceptor.complained, true) {
                let arguments = [
                    ("listener", acceptor.name.clone()),
                    ("connections", connections.to_string()),
                    ("files", shared.files.get().to_string()),
                ];
                shared
                    .log_queue
                    .write(message("DESCRIPTORS_USED_UP", arguments));
            }
        }
    }

    fn has_room(&self, shared: &Shared) -> bool {
        // While draining, more than max_connections: the kernel resets what is left in the accept
        // queue.
        self.drain_begun
            || decisions::has_room(
                &shared.options,
                shared.connection_count(),
                shared.descriptor_count(),
            )
    }

    /// Return whether another connection may be accepted, closing others if need be.
    ///
    /// Otherwise a client that holds connections open could keep all others out until their time is
    /// over.
    fn make_room(&mut self, shared: &Shared, now: Nanos) -> bool {
        if !self.has_room(shared) {
            self.evict(shared, now);
        }
        self.has_room(shared)
    }

    /// Close connections to make room, in the order of `decisions::eviction_key`; return whether
    /// there were any.
    pub(crate) fn evict(&mut self, shared: &Shared, now: Nanos) -> bool {
        let before = shared.connection_count();
        let mut found: Vec<(f64, Holding, Arc<Connection>)> = Vec::new();
        for connection in shared.connections() {
            let (holding, since, received) = connection.lock().holding();
            let age = now.saturating_sub(since);
            let key = decisions::eviction_key(&shared.options, holding, age, received);
            if key >= 0.0 {
                found.push((key, holding, connection));
            }
        }
        found.sort_by(|(a, ..), (b, ..)| b.total_cmp(a));
        for kind in [
            Holding::Lingering,
            Holding::Idle,
            Holding::Head,
            Holding::Body,
        ] {
            let of_kind = found.iter().filter(|(_, holding, _)| *holding == kind);
            // A share of them at once, so that not every new connection has to look at all.
            let most = decisions::evicted(of_kind.clone().count());
            for (_, _, connection) in of_kind.take(most) {
                // What has just come may be the rest.
                let unread = matches!(connection.phase(), Phase::Storing | Phase::Lingering);
                if unread || !matches!(connection.stream.peek(), Ok(size) if size > 0) {
                    evict_one(shared, connection, kind, "max_connections", now);
                }
            }
            if shared.connection_count() < before {
                break;
            }
        }
        shared.room_made.set(false); // by this very accepting
        shared.connection_count() < before
    }

    /// Close the oldest unfinished heads as far as there are too many.
    pub fn limit_heads(&mut self, shared: &Shared, now: Nanos) {
        let budgets = &shared.options.budgets;
        if !decisions::exceeds_heads(budgets, shared.head_count()) {
            return;
        }
        let excess = shared.head_count() - budgets.unfinished_heads;
        let mut heads: Vec<(Nanos, Arc<Connection>)> = Vec::new();
        for connection in shared.connections() {
            let (holding, since, _) = connection.lock().holding();
            if holding == Holding::Head {
                heads.push((since, connection));
            }
        }
        heads.sort_by_key(|(since, _)| *since);
        for (_, connection) in heads.iter().take(excess) {
            evict_one(
                shared,
                connection,
                Holding::Head,
                "max_unfinished_heads",
                now,
            );
        }
    }

    // -- being woken alone ------------------------------------------------------------------------

    /// Whether the kernel wakes this worker in place of another one.
    pub fn is_woken_alone(&self) -> bool {
        self.balancing.exclusive && !self.drain_begun
    }

    /// Have the listeners watched as fits a leader that is about to wait: one that might not accept
    /// is woken beside the others, and not in place of one. So is one that would accept clients only
    /// to have them wait, because a call keeps the interpreter lock.
    pub fn begin_wait(&mut self, shared: &Shared) {
        let attaching = shared.attaching.load(Ordering::Relaxed) > 0;
        let exclusive = decisions::watches_exclusively(
            &shared.options,
            shared.scoreboard.is_alone(),
            attaching || self.balancing.all_busy || self.balancing.unable,
            shared.connection_count(),
            shared.descriptor_count(),
        );
        if exclusive != self.balancing.exclusive && !self.drain_begun {
            self.balancing.exclusive = exclusive;
            self.watch_again(shared);
        }
    }

    /// Look whether a client waits that the kernel has woken another worker for.
    pub fn look_for_clients(&mut self, shared: &Shared) {
        if self.is_woken_alone() {
            self.watch_again(shared); // otherwise the next poll shows each client
        }
    }

    /// Watch the listeners from the end of the kernel's queue on; it looks whether clients wait.
    fn watch_again(&mut self, shared: &Shared) {
        for index in 0..self.acceptors.len() {
            self.go_behind(shared, index);
        }
    }

    fn go_behind(&mut self, shared: &Shared, index: usize) {
        let exclusive = self.is_woken_alone();
        if let Some(acceptor) = self.acceptors.get_mut(index).filter(|it| it.watched) {
            shared.poller.remove(acceptor.descriptor);
            acceptor.watch(shared, index, exclusive);
        }
    }

    /// Go behind the other workers unless they all have more connections, and for a moment out of
    /// their way where they have fewer. Where the accept queue may not be empty, the next poll shows
    /// whether a client waits that others know of, too.
    fn step_back(&mut self, shared: &Shared, now: Nanos, index: usize, is_empty: bool) {
        let own = shared.connection_count() as u64;
        let options = &shared.options;
        let fewest = shared.scoreboard.fewest_of_others(options.responsive, now);
        if decisions::leaves_to_others(options, own, fewest, u64::MAX) {
            self.leave_for(shared, now, index, options.balance_pause);
        } else if decisions::steps_back(own, fewest) {
            self.go_behind(shared, index);
            self.balancing.went_behind |= !is_empty;
        }
    }

    // -- sharing with other workers -------------------------------------------------------------

    /// The most connections that are accepted in this turn.
    fn step(&self, shared: &Shared) -> usize {
        decisions::accept_step(
            &shared.options,
            shared.scoreboard.is_alone(),
            self.balancing.deferrals,
            self.balancing.in_vain,
        )
    }

    /// Return whether the clients that wait are left to others; then the listener is looked at again
    /// later. `turn` is as for `pause_while_busy`.
    fn leaves_to_others(
        &mut self,
        shared: &Shared,
        now: Nanos,
        index: usize,
        turn: (bool, u64),
    ) -> bool {
        let (insists, _) = turn;
        let time = if self.balancing.all_busy {
            match self.pause_while_busy(shared, now, turn) {
                0 => return false,
                pause => pause,
            }
        } else if !insists && self.has_more_than_others(shared, now) {
            self.balancing.deferrals += 1;
            shared.options.balance_pause
        } else {
            return false;
        };
        self.leave_for(shared, now, index, time);
        true
    }

    /// Leave the clients that wait to others for some time.
    fn leave_for(&mut self, shared: &Shared, now: Nanos, index: usize, time: Nanos) {
        self.pause(shared, now, index, time);
        if let Some(acceptor) = self.acceptors.get_mut(index) {
            acceptor.left = true;
        }
        self.balancing.look_again = self.balancing.look_again.min(now + time);
    }

    /// Return for how long a client is left in the accept queue; 0 to accept it.
    ///
    /// While it waits there, any worker can accept it. A worker without others accepts it: the queue
    /// of requests bounds how long it waits. If none of several has a free thread, one has to answer
    /// the checks; otherwise as many connections are accepted as threads have become free: these
    /// took waiting requests, and would keep new connections out permanently. Where clients have
    /// waited for long, each worker accepts unless another one has a shorter queue. `turn` is whether
    /// clients were left to others often enough, and how many were accepted in this turn, and not
    /// read from yet.
    fn pause_while_busy(&mut self, shared: &Shared, now: Nanos, turn: (bool, u64)) -> Nanos {
        let (insists, taken) = turn;
        let (options, scoreboard) = (&shared.options, &shared.scoreboard);
        let since = *self.balancing.waited_since.get_or_insert(now);
        if self.balancing.others_accept(shared, since, now) {
            return options.busy_pause;
        }
        if scoreboard.is_alone() || self.balancing.take_freed(shared) {
            return 0;
        }
        let own = scoreboard.get(WAITING) + taken;
        let fewest = scoreboard.fewest_waiting(options.responsive, now);
        let waited = now.saturating_sub(since);
        if !options.checks.any() && !decisions::accepts_into_queue(options, waited, own, fewest) {
            return options.busy_pause;
        }
        // No thread is free: nothing is gained by a queue that is longer by one.
        if insists || !decisions::leaves_to_others(options, own, fewest, 0) {
            return 0;
        }
        self.balancing.deferrals += 1;
        options.balance_pause
    }

    /// Whether the next poll shows if clients still wait that were left to others. That poll does
    /// not wait: afterwards it would be unknown since when a client waits.
    pub fn looks_for_clients(&self) -> bool {
        self.balancing.went_behind || self.balancing.has_deferred() && self.is_watching()
    }

    fn has_more_than_others(&self, shared: &Shared, now: Nanos) -> bool {
        let own = shared.connection_count() as u64;
        let others = shared
            .scoreboard
            .fewest_of_others(shared.options.responsive, now);
        // Calls that have left the count have their threads beside the others.
        let threads = shared.scoreboard.threads() + shared.scoreboard.get(IO_BOUND_CALLS);
        decisions::leaves_to_others(&shared.options, own, others, threads)
    }

    /// Watch listeners again that were left to others, whether or not their time has come.
    pub fn look_at_left(&mut self, shared: &Shared, now: Nanos) {
        self.balancing.look_again = NEVER;
        for acceptor in self.acceptors.iter_mut().filter(|it| it.left) {
            acceptor.resume_at = 0;
        }
        self.resume_accepting(shared, now);
    }

    /// Keep in mind whether every thread is with the application.
    pub fn note_busy(&mut self, shared: &Shared, now: Nanos, all_busy: bool) {
        if std::mem::replace(&mut self.balancing.all_busy, all_busy) != all_busy {
            // A thread without a request in its record has taken one, and is about to call: its
            // request does not count as one that a thread took which became free later.
            let scoreboard = &shared.scoreboard;
            let counting = scoreboard.calls_of_count();
            let about_to_call = scoreboard.threads().saturating_sub(counting);
            self.balancing.started = scoreboard.get(STARTED) + about_to_call;
            if !all_busy && !self.drain_begun {
                self.look_at_left(shared, now);
            }
            self.tell_accepting(shared);
        }
    }

    /// Do what is due for clients that were left to others.
    pub fn look_again(&mut self, shared: &Shared, now: Nanos, room_made: bool) {
        if self.balancing.look_again == NEVER {
            return;
        }
        let due = now >= self.balancing.look_again;
        let may = room_made && !self.balancing.all_busy && !self.has_more_than_others(shared, now);
        if due || may {
            self.look_at_left(shared, now);
        }
    }

    /// Forget how often connections were left to others if no client waits: the others accepted them.
    pub fn note_polled(&mut self, client_waits: bool) {
        if self.looks_for_clients() && !client_waits {
            self.balancing.deferrals = 0;
            self.balancing.in_vain = 0;
            self.balancing.waited_since = None;
        }
        self.balancing.went_behind = false;
    }

    // -- the end --------------------------------------------------------------------------------

    /// Begin to drain: accept the clients that wait, or leave them to others.
    pub fn begin_drain(&mut self, shared: &Shared, now: Nanos) {
        self.drain_begun = true;
        self.tell_accepting(shared);
        if shared.handing_over.get() {
            self.hand_over(shared, now);
        } else {
            self.handshakes_until = now + shared.options.drain_handshake;
            self.look_at_left(shared, now);
            self.empty_queues(shared, now);
        }
    }

    /// Accept what waits in the accept queues: the kernel has accepted it, so it is served.
    ///
    /// Where no descriptor is left for all of it, the rest waits until others have left. A queue
    /// that gets no new connections stays open for a while, for handshakes that are under way.
    pub fn empty_queues(&mut self, shared: &Shared, now: Nanos) {
        let last = shared.connection_count() == 0 || now >= self.handshakes_until;
        for index in 0..self.acceptors.len() {
            let open = self.acceptors.get(index).is_some_and(|it| !it.closed);
            if open
                && (last || !shared.is_lasting(index))
                && self.accept(shared, now, index, shared.options.max_backlog, false)
            {
                self.close_listener(shared, now, index);
            }
        }
        self.listening = self.acceptors.iter().any(|acceptor| !acceptor.closed);
    }

    /// Have a listener closed by the next thread that holds the GIL.
    pub fn close_listener(&mut self, shared: &Shared, now: Nanos, index: usize) {
        self.pause(shared, now, index, 0);
        if let Some(acceptor) = self.acceptors.get_mut(index) {
            if !std::mem::replace(&mut acceptor.closed, true) {
                shared.log_queue.write(Entry::CloseListener(index));
            }
        }
    }

    /// Leave the listeners, and the clients that wait there, to others.
    pub fn hand_over(&mut self, shared: &Shared, now: Nanos) {
        for index in 0..self.acceptors.len() {
            self.close_listener(shared, now, index);
        }
        self.listening = false;
        self.balancing.look_again = NEVER; // there is nothing to look at any more
        self.tell_accepting(shared);
    }
}

/// Close a connection to make room for others; `setting` is what limits them.
fn evict_one(
    shared: &Shared,
    connection: &Connection,
    kind: Holding,
    setting: &'static str,
    now: Nanos,
) {
    shared.scoreboard.count(match kind {
        Holding::Lingering | Holding::Idle => EVICTED_IDLE,
        Holding::Head => EVICTED_HEAD,
        _ => EVICTED_BODY,
    });
    let mut state = connection.lock();
    if state.phase == Phase::Handshaking && kind != Holding::Idle {
        let why = format!("the connection was closed to make room for others (setting: {setting})");
        handshaking::fail(connection, shared, &mut state, why);
        return;
    }
    if matches!(kind, Holding::Head | Holding::Body) {
        let input = Input::new(state.carry.remaining());
        let refusal = Refusal::evicted(setting, state.parser.request_line(&input));
        refusing::note_refusal(connection, shared, &mut state, now, refusal, 0);
    }
    closing::close(connection, shared, &mut state);
}
