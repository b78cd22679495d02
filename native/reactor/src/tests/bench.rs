//! A server without sockets: its clients are buffers, and its time passes when the test says so.

use crate::budgets::Budgets;
use crate::connection::Connection;
use crate::event_loop::{EventLoop, Item, Step};
use crate::forwarded::{ForwardedPolicy, Peers};
use crate::leader::Leader;
use crate::log_queue::Entry;
use crate::next_request;
use crate::options::{Checks, HeaderMap, Options, StreamRequests};
use crate::poller::{Event, Token};
use crate::proxy_protocol::Versions;
use crate::request::{Body, Waiting};
use crate::responding;
use crate::scoreboard::{ENTRY_BYTES, Memory, RECORD_BYTES, RECORDS_AT, Scoreboard, Shape, WORD};
use crate::shared::Shared;
use crate::spool::Spool;
use crate::states::{Fate, Phase};
use crate::stream::Stream;
use crate::sync::lock;
use crate::sys::{EXCLUSIVE_WAKE, Fd, MILLISECOND, Nanos, Peer, Readiness, SECOND, SocketEvents};
use penstock_protocol::Limits;
use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex};

thread_local! {
    static TIME: Cell<Option<Nanos>> = const { Cell::new(None) };
}

/// The time of the calling thread's test; None where it has none of its own.
pub fn fake_time() -> Option<Nanos> {
    TIME.get()
}

/// What both ends of a stream share.
#[derive(Default)]
struct Ends {
    to_server: VecDeque<u8>,
    ended: bool,
    reset_by_client: bool,
    to_client: Vec<u8>,
    /// How many bytes more the client's side takes.
    room: usize,
    shut: bool,
    reset: bool,
    closed: bool,
    /// Sending a file waits, as for a disk.
    disk_waits: bool,
    disk_asked: bool,
}

#[derive(Default)]
struct Pair {
    ends: Mutex<Ends>,
    changed: Condvar,
}

/// The server's end: bytes through a pair of buffers.
struct BufferStream(Arc<Pair>);

impl BufferStream {
    fn take(&self, data: &[u8]) -> io::Result<usize> {
        let mut ends = lock(&self.0.ends);
        if ends.closed || ends.shut || ends.reset_by_client {
            return Err(io::Error::from_raw_os_error(libc::EPIPE));
        }
        let size = data.len().min(ends.room);
        if size == 0 && !data.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        ends.room -= size;
        ends.to_client.extend_from_slice(&data[..size]);
        Ok(size)
    }
}

impl Stream for BufferStream {
    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut ends = lock(&self.0.ends);
        if ends.reset_by_client {
            return Err(io::Error::from_raw_os_error(libc::ECONNRESET));
        }
        if ends.to_server.is_empty() && !ends.ended {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let size = buffer.len().min(ends.to_server.len());
        for (place, byte) in buffer.iter_mut().zip(ends.to_server.drain(..size)) {
            *place = byte;
        }
        Ok(size)
    }

    fn peek(&self) -> io::Result<usize> {
        let ends = lock(&self.0.ends);
        match ends.to_server.len() {
            0 if !ends.ended => Err(io::ErrorKind::WouldBlock.into()),
            size => Ok(size.min(1)),
        }
    }

    fn send(&self, data: &[u8]) -> io::Result<usize> {
        self.take(data)
    }

    fn send_vector(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.take(
            &pieces
                .iter()
                .flat_map(|piece| piece.to_vec())
                .collect::<Vec<u8>>(),
        )
    }

    fn send_file(&self, file: &Fd, offset: u64, size: usize) -> io::Result<usize> {
        let mut ends = lock(&self.0.ends);
        ends.disk_asked = true;
        self.0.changed.notify_all();
        while ends.disk_waits {
            ends = self.0.changed.wait(ends).unwrap();
        }
        drop(ends);
        let mut block = vec![0; size.min(4096)];
        let read = crate::sys::read_at(file.raw(), &mut block, offset)?;
        self.take(&block[..read])
    }

    fn wait(&self, what: Readiness, _timeout: Nanos) -> io::Result<bool> {
        let ends = lock(&self.0.ends);
        Ok(match what {
            Readiness::Input => !ends.to_server.is_empty() || ends.ended,
            Readiness::Room => ends.room > 0,
            Readiness::Trouble => ends.reset_by_client,
        })
    }

    fn shut_down(&self) -> io::Result<()> {
        lock(&self.0.ends).shut = true;
        Ok(())
    }

    fn reset_on_close(&self) {
        lock(&self.0.ends).reset = true;
    }

    fn cut_off(&self) {
        let mut ends = lock(&self.0.ends);
        ends.reset = true;
        ends.shut = true;
    }

    fn close(&self) {
        lock(&self.0.ends).closed = true;
    }

    fn peer(&self) -> Peer {
        None
    }

    fn descriptor(&self) -> Option<RawFd> {
        None
    }

    fn is_ours(&self) -> bool {
        true
    }

    fn unacknowledged(&self) -> u64 {
        0
    }

    fn arrived(&self) -> u64 {
        lock(&self.0.ends).to_server.len() as u64
    }

    fn is_secure(&self) -> bool {
        false
    }
}

/// A client's end of a stream.
pub struct Client {
    pair: Arc<Pair>,
    token: Token,
    pub connection: Arc<Connection>,
    #[cfg(feature = "tls")]
    pub tls: Option<super::tls::TlsEnd>,
}

impl Client {
    /// What the server has sent since this was called last.
    pub fn received(&self) -> String {
        let sent = self.take_raw();
        #[cfg(feature = "tls")]
        let sent = self
            .tls
            .as_ref()
            .map_or(sent.clone(), |it| it.decrypt(&sent));
        String::from_utf8_lossy(&sent).into_owned()
    }

    /// The bytes that the server has sent since then.
    pub fn take_raw(&self) -> Vec<u8> {
        std::mem::take(&mut lock(&self.pair.ends).to_client)
    }

    /// The statuses of the answers among that.
    pub fn statuses(&self) -> Vec<u16> {
        let received = self.received();
        let lines = received.split("HTTP/1.1 ").skip(1);
        lines.map(|line| line[..3].parse().unwrap()).collect()
    }

    pub fn is_shut(&self) -> bool {
        lock(&self.pair.ends).shut
    }

    pub fn is_closed(&self) -> bool {
        lock(&self.pair.ends).closed
    }

    pub fn is_reset(&self) -> bool {
        let ends = lock(&self.pair.ends);
        ends.closed && ends.reset
    }

    pub fn phase(&self) -> Phase {
        self.connection.phase()
    }

    /// Send bytes of which no event has told the server yet.
    pub fn put(&self, data: &[u8]) {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return self.put_raw(&tls.encrypt(data));
        }
        self.put_raw(data);
    }

    /// The same for bytes as they are on the wire.
    pub fn put_raw(&self, data: &[u8]) {
        lock(&self.pair.ends).to_server.extend(data);
    }

    /// Let its side take `bytes` bytes more, and no others.
    pub fn set_room(&self, bytes: usize) {
        lock(&self.pair.ends).room = bytes;
    }

    /// Have the sending of files wait.
    pub fn stop_disk(&self) {
        let mut ends = lock(&self.pair.ends);
        (ends.disk_waits, ends.disk_asked) = (true, false);
    }

    /// Wait until a thread waits for the disk.
    pub fn await_disk(&self) {
        let mut ends = lock(&self.pair.ends);
        while !ends.disk_asked {
            ends = self.pair.changed.wait(ends).unwrap();
        }
    }

    pub fn start_disk(&self) {
        lock(&self.pair.ends).disk_waits = false;
        self.pair.changed.notify_all();
    }
}

/// A transport's loop, and what it shares with its threads.
pub struct Bench {
    pub shared: Shared,
    pub event_loop: EventLoop,
    pub ready: VecDeque<Waiting>,
    /// What the loop has logged.
    pub logged: Vec<Entry>,
    /// The disk is stopped as long as there is this.
    disk_goes: Option<Sender<()>>,
}

/// An hour after the machine's start, so that no deadline lies before it.
const START: Nanos = 3600 * SECOND;

pub fn options() -> Options {
    Options {
        threads: 2,
        max_io_bound: 1,
        max_websockets: 2,
        overloaded: "overloaded".to_owned(),
        queue_full: "full".to_owned(),
        queue_late: "late".to_owned(),
        left_in_queue: "left".to_owned(),
        stopped_in_queue: String::new(),
        stopping: String::new(),
        parser: Limits::default(),
        body_memory: 64 * 1024,
        ample_body_memory: 0,
        body_setting: "max_body",
        refusal_rules: Vec::new(),
        out_buffer: 64 * 1024,
        max_connections: 100,
        budgets: Budgets::default(),
        networks: None,
        forwarded: ForwardedPolicy::default(),
        proxy_versions: Versions::default(),
        proxy_peers: Peers::default(),
        proxy_header_bytes: 4096,
        rate_limit: None,
        header_timeout: 30 * SECOND,
        tls_handshake_timeout: 10 * SECOND,
        plain_http: "This port speaks TLS.".to_owned(),
        hsts: None,
        redirecting: Vec::new(),
        packets: Vec::new(),
        uwsgi_peers: Peers::default(),
        body_timeout: 20 * SECOND,
        body_min_rate: 500.0,
        keep_alive: 75 * SECOND,
        write_timeout: 60 * SECOND,
        drain_linger: 2 * SECOND,
        sweep_interval: SECOND,
        server_header: None,
        header_map: HeaderMap::Drop,
        stream_requests: StreamRequests::Never,
        fast_rest: SECOND,
        fast_least: SECOND / 1000,
        keep_alive_field: String::new(),
        temp_dir: std::env::temp_dir(),
        id_prefix: String::new(),
        id_key: (0, 0),
        send_request_id: false,
        trace: false,
        observed: false,
        recorded: false,

        timed_out: "The application did not answer in time.".to_owned(),
        checks: Checks::default(),
        idle_wait: None,
        turn: Nanos::MAX, // what tests put into the batch is handled at once
        turn_events: 64,
        few_events_turn: Nanos::MAX,
        shared_turn: Nanos::MAX,
        accept_batch: 64,
        first_reads: 64,
        max_backlog: 65_535,
        accept_pause: SECOND / 2,
        evict_idle: SECOND,
        balance_batch: 4,
        balance_slack: 1,
        balance_share: 16,
        balance_deferrals: 5,
        balance_doublings: 6,
        balance_pause: 2 * MILLISECOND,
        busy_pause: 10 * MILLISECOND,
        busy_accept: SECOND,
        responsive: 10 * MILLISECOND,
        exclusive_wake: EXCLUSIVE_WAKE,
        receive_bytes: 64 * 1024,
        scarce_receive_bytes: 4 * 1024,
        store_bytes: 256 * 1024,
        max_storing: 16 * 1024 * 1024,
        disk_idle: SECOND,
        send_threads: 2,
        discard_bytes: 256 * 1024,
        wait_slice: 100 * MILLISECOND,
        flush_bytes: 1024 * 1024,
        ahead_bytes: 1024 * 1024,
        join_bytes: 64 * 1024,
        out_spool_patience: 20 * MILLISECOND,
        linger: 10 * SECOND,
        linger_idle: 2 * SECOND,
        linger_bytes: 256 * 1024 * 1024,
        unlingered_bytes: 12 * 1024,
        drain_head: 2 * SECOND,
        drain_handshake: SECOND,
        drain_sweep: 50 * MILLISECOND,
        drain_accepted: 100 * MILLISECOND,
        slow_call: MILLISECOND,
        slow_share: 0.25,
        stalled_call: 20 * MILLISECOND,
        stalled_calls: 10,
        held_call: MILLISECOND / 10,
        longest_held_call: MILLISECOND / 2,
        monitor_tick: MILLISECOND,
        monitor_idle: 50 * MILLISECOND,
        client_left: 499,
        notable_call: 20 * MILLISECOND,
        refused_head: 16 << 10,
        trace_body: 1024,
        trace_head: 4096,
        log_entries: 10_000,
        log_bytes: 8 << 20,
    }
}

/// A scoreboard with one slot and a number of threads, in memory of this process alone.
pub fn scoreboard(threads: usize) -> Scoreboard {
    let slot_bytes = RECORDS_AT + threads * (RECORD_BYTES + ENTRY_BYTES);
    let mut words = vec![0_u64; slot_bytes / WORD];
    let start = NonNull::new(words.as_mut_ptr().cast()).unwrap();
    // SAFETY: the words are where the vector has them, however that is moved.
    let memory = unsafe { Memory::new(start, slot_bytes, Box::new(words)) };
    let shape = Shape {
        slots: 1,
        slot_bytes,
        index: 0,
        threads,
        records: threads,
        rings: 0,
        entries: 1,
    };
    Scoreboard::new(memory, shape).unwrap()
}

impl Bench {
    pub fn new(options: Options) -> Self {
        TIME.set(Some(START));
        let shared = Shared::new(options, scoreboard(4)).unwrap();
        shared.attended.set(true);
        let event_loop = EventLoop::new(&shared, Vec::new());
        Bench {
            shared,
            event_loop,
            ready: VecDeque::new(),
            logged: Vec::new(),
            disk_goes: None,
        }
    }

    /// Let time pass, and the loop do what is due by then.
    pub fn pass(&mut self, time: Nanos) {
        TIME.set(Some(TIME.get().unwrap() + time));
        self.turn();
    }

    /// Let time pass in which the loop does not run.
    pub fn stand_still(&mut self, time: Nanos) {
        TIME.set(Some(TIME.get().unwrap() + time));
    }

    pub fn connect(&mut self) -> Client {
        self.connect_by(|stream| stream)
    }

    /// The same by a stream that is made of a pair of buffers.
    pub fn connect_by(&mut self, make: impl FnOnce(Box<dyn Stream>) -> Box<dyn Stream>) -> Client {
        let pair = Arc::new(Pair::default());
        lock(&pair.ends).room = usize::MAX;
        let stream = Box::new(BufferStream(Arc::clone(&pair)));
        let now = crate::sys::monotonic();
        let connection = self.shared.add(make(stream), 0, now);
        Client {
            pair,
            token: connection.token,
            connection,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    fn event(&mut self, client: &Client, events: SocketEvents) {
        self.note(client, events);
        self.turn();
    }

    fn note(&mut self, client: &Client, events: SocketEvents) {
        let event = Event {
            token: client.token,
            events,
        };
        self.event_loop.batch.push_back(Item::Event(event));
    }

    /// Have the loop learn of a client's input when it runs next.
    pub fn tell_of_input(&mut self, client: &Client) {
        self.note(client, socket_events(true, false, false, false));
    }

    pub fn send(&mut self, client: &Client, data: &[u8]) {
        client.put(data);
        self.tell_of_input(client);
        self.turn();
    }

    /// Send bytes as they are on the wire.
    #[cfg(feature = "tls")]
    pub fn send_raw(&mut self, client: &Client, data: &[u8]) {
        client.put_raw(data);
        self.tell_of_input(client);
        self.turn();
    }

    /// End the client's side, behind what it has sent.
    pub fn end(&mut self, client: &Client) {
        lock(&client.pair.ends).ended = true;
        self.event(client, socket_events(true, false, true, false));
    }

    pub fn reset(&mut self, client: &Client) {
        lock(&client.pair.ends).reset_by_client = true;
        self.event(client, socket_events(true, true, true, true));
    }

    /// Let the client's side take `bytes` bytes more, and notify the server.
    pub fn make_room(&mut self, client: &Client, bytes: usize) {
        client.set_room(bytes);
        self.event(client, socket_events(false, true, false, false));
    }

    /// Evict idle connections; return whether there were any.
    pub fn evict(&mut self) -> bool {
        let now = self.event_loop.leader.now;
        self.event_loop.accepting.evict(&self.shared, now)
    }

    /// Run the loop until it comes back once.
    pub fn step(&mut self) {
        if let Step::Ready(ready) = self.event_loop.run(&self.shared, Leader::Attached, &mut 0) {
            self.ready.push_back(ready.own(&self.event_loop.leader));
        }
    }

    /// Run the loop until it has nothing to do, nor the disk, unless that is stopped; requests that
    /// become ready go to `ready`.
    pub fn turn(&mut self) {
        self.run();
        while self.disk_goes.is_none() {
            self.shared.senders.threads.catch_up();
            self.shared.spooling.disk.catch_up();
            if !self.shared.has_posts() {
                return;
            }
            self.run();
        }
    }

    /// Have all that is written to temporary files wait.
    pub fn stop_disk(&mut self) {
        let (goes, wait) = channel::<()>();
        let stopped = move || {
            let _ = wait.recv();
        };
        self.shared.spooling.disk.run(0, stopped).unwrap();
        self.disk_goes = Some(goes);
    }

    /// Let the disk do what has waited.
    pub fn start_disk(&mut self) {
        self.disk_goes = None;
        self.turn();
    }

    fn run(&mut self) {
        let mut quiet = 0;
        while quiet < 3 {
            // In turns as a leader that may do all that takes long, and as one that polls.
            self.shared.relieve.set(true);
            let step = match quiet % 2 {
                0 => self
                    .event_loop
                    .run(&self.shared, Leader::StallMonitor, &mut 0),
                _ => self.event_loop.run(&self.shared, Leader::Attached, &mut 0),
            };
            match step {
                Step::Ready(ready) => {
                    self.ready.push_back(ready.own(&self.event_loop.leader));
                    quiet = 0;
                }
                Step::WriteLogs => self.logged.extend(self.shared.log_queue.take()),
                Step::Over => return,
                Step::Blocked | Step::Idle | Step::Relieved => quiet += 1,
            }
        }
    }

    /// The one request that is ready.
    pub fn take(&mut self) -> Waiting {
        let waiting = self.ready.pop_front().expect("no request is ready");
        assert!(self.ready.is_empty(), "more than one request is ready");
        waiting
    }

    /// Answer a request as the application's thread does.
    pub fn answer(&mut self, waiting: &Waiting, response: &[u8]) {
        self.answer_part(waiting, response);
        let mut state = waiting.connection.lock();
        if !waiting.request.head.keep_alive {
            state.exchange.fate.worsen(Fate::Close);
        }
        let now = crate::sys::monotonic();
        next_request::give_back(&waiting.connection, &self.shared, &mut state, now);
        drop(state);
        self.turn();
    }

    /// Send a part of a response.
    pub fn answer_part(&mut self, waiting: &Waiting, part: &[u8]) {
        let mut state = waiting.connection.lock();
        let _ = responding::send_small(&self.shared, &waiting.connection, &mut state, part);
    }
}

fn socket_events(input: bool, room: bool, ended: bool, broken: bool) -> SocketEvents {
    SocketEvents {
        input,
        room,
        ended,
        broken,
    }
}

/// The bytes of a body that has arrived.
pub fn body_of(body: &Body) -> Vec<u8> {
    match body {
        Body::Collected(Spool::Memory(held)) => held.bytes().to_vec(),
        Body::Collected(Spool::Disk(body)) => {
            let mut bytes = vec![0; body.size() as usize];
            let read = crate::sys::read_at(body.descriptor().unwrap(), &mut bytes, 0).unwrap();
            assert_eq!(read, bytes.len());
            bytes
        }
        Body::Empty | Body::Streamed(..) => Vec::new(),
    }
}
