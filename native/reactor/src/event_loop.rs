//! The loop over all sockets. One thread at a time, the leader, runs it.
//!
//! Nothing here knows of Python. A leader that holds the GIL is told when to give it up:
//! when the poll would block, and before work that takes long.

use crate::accepting::{AcceptBalancing, Acceptor};
use crate::connection::{Connection, ConnectionState, Ready, Source};
use crate::leader_followers::Waiting;
use crate::log_queue::message;
use crate::poller::{Event, Events, Token};
use crate::scoreboard::POLLED;
use crate::shared::Shared;
use crate::states::Phase;
use crate::sys::{self, MILLISECOND, Nanos};
use penstock_protocol::{FieldCache, Head};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// How long a leader may hold the interpreter lock while it serves what needs no application:
/// other threads may want the lock.
const ATTACHED_TIME: Nanos = MILLISECOND;

/// What bytes are read into, and what they say. A thread that takes a request takes the buffers
/// with it and leaves its own, so that it need not lead while it runs Python code.
pub struct ReadBuffers {
    pub buffer: Box<[u8]>,
    pub head: Head,
    pub scratch: Vec<u8>,
}

impl ReadBuffers {
    /// `size` is the most that one read takes: a whole head with its body, as a rule, and no
    /// client's monopoly.
    pub fn new(size: usize) -> Self {
        ReadBuffers {
            buffer: vec![0; size].into_boxed_slice(),
            head: Head::default(),
            scratch: Vec::new(),
        }
    }

    /// What a request's head says, and its bytes.
    pub fn head_of<'a>(&'a self, source: &'a Source) -> (&'a Head, &'a [u8]) {
        match source {
            Source::Buffer(range) => (&self.head, self.buffer.get(range.clone()).unwrap_or(&[])),
            Source::Scratch => (&self.head, &self.scratch),
            Source::Copy(copy) => (&copy.head, &copy.bytes),
        }
    }
}

/// What the leader works with: one set for all connections, so that an idle one has none.
pub struct LeaderState {
    pub now: Nanos,
    pub read: Box<ReadBuffers>,
    /// What fields mean that clients send again and again.
    pub field_cache: FieldCache,
    /// With more to do than their turn allowed: they go on with what the next poll brings.
    proceed: VecDeque<Arc<Connection>>,
    /// What is handled now was told of long ago, and more may have come since.
    pub late: bool,
}

impl LeaderState {
    /// Have the connection go on after the next poll: it has had its turn.
    pub fn defer(&mut self, connection: &Arc<Connection>, state: &mut ConnectionState) {
        if !std::mem::replace(&mut state.queued, true) {
            self.proceed.push_back(Arc::clone(connection));
        }
    }
}

/// Which kind of thread runs the loop, and so what it may do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Leader {
    /// A thread that holds the GIL: nothing that takes long.
    Attached,
    /// A thread without the GIL.
    Detached,
    /// The stall monitor, which gives way to any thread that comes free.
    StallMonitor,
}

/// Why the loop came back.
pub enum Step {
    /// A request is ready.
    Ready(Ready),
    /// What comes next would block, or take long: not with the GIL held.
    Blocked,
    /// The log queue has entries, and they need the GIL.
    Tell,
    /// A thread has come free.
    Relieved,
    /// There is nothing left to do, and will not be.
    Over,
}

pub enum Item {
    Event(Event),
    Proceed(Arc<Connection>),
}

/// The leader's state: the thread that holds its lock leads.
pub struct EventLoop {
    pub leader: LeaderState,
    pub acceptors: Vec<Acceptor>,
    pub balancing: AcceptBalancing,
    pub batch: VecDeque<Item>,
    events: Events,
    polled_at: Nanos,
    next_sweep: Nanos,
    sweep_interval: Nanos,
    pub drain_begun: bool,
    /// Some listener is open.
    pub listening: bool,
    /// In a drain: until then a client may connect whose handshake was under way.
    pub handshakes_until: Nanos,
}

impl EventLoop {
    pub fn new(shared: &Shared, acceptors: Vec<Acceptor>) -> Self {
        let now = sys::monotonic();
        let mut event_loop = EventLoop {
            leader: LeaderState {
                now,
                read: Box::new(ReadBuffers::new(shared.options.receive_bytes)),
                field_cache: FieldCache::default(),
                proceed: VecDeque::new(),
                late: false,
            },
            acceptors,
            balancing: AcceptBalancing::default(),
            batch: VecDeque::new(),
            events: Events::default(),
            polled_at: now,
            next_sweep: now,
            sweep_interval: shared.options.sweep_interval,
            drain_begun: false,
            listening: true,
            handshakes_until: 0,
        };
        event_loop.resume_accepting(shared);
        event_loop
    }

    /// Poll, read and write until there is a reason to come back.
    ///
    /// `until` is when a leader that holds the interpreter lock has to give it up; 0 has that time
    /// begin now. It passes while the server answers requests itself, one after the other.
    pub fn run(&mut self, shared: &Shared, leader: Leader, until: &mut Nanos) -> Step {
        self.leader.now = sys::monotonic();
        if leader == Leader::Attached {
            if *until == 0 {
                *until = self.leader.now + ATTACHED_TIME;
            } else if self.leader.now >= *until {
                return Step::Blocked;
            }
        }
        if self.leader.now.saturating_sub(self.polled_at) >= shared.options.disconnected {
            self.leader.late = true;
        }
        self.note_busy(shared, leader == Leader::StallMonitor);
        loop {
            self.take_posts(shared);
            if shared.closed.get() {
                self.tear_down(shared); // before anything else is handed out
                return Step::Over;
            }
            while let Some(item) = self.batch.pop_front() {
                if leader == Leader::Attached && item.is_heavy(shared) {
                    self.batch.push_front(item);
                    return Step::Blocked;
                }
                if let Some(ready) = self.handle(shared, item) {
                    return Step::Ready(ready);
                }
            }
            if shared.has_posts() {
                continue;
            }
            if self.keep_house(shared) {
                return Step::Over;
            }
            if !shared.log_queue.is_empty()
                && (leader == Leader::Attached || !shared.call_log_writer())
            {
                return Step::Tell;
            }
            if leader == Leader::StallMonitor && shared.relieve.swap(false) {
                return Step::Relieved;
            }
            if leader == Leader::Attached && self.leader.now >= *until {
                return Step::Blocked;
            }
            // A signal may have ended the wait, and its handler is not run here.
            let comes_back = leader == Leader::Detached && shared.options.idle_wait.is_some();
            if !self.poll(shared, leader) && (leader == Leader::Attached || comes_back) {
                return Step::Blocked;
            }
        }
    }

    /// How many events and connections wait for their turn.
    #[cfg(test)]
    pub fn queued(&self) -> usize {
        self.batch.len() + self.leader.proceed.len()
    }

    /// Take what other threads have posted, before what was polled: a response was sent.
    fn take_posts(&mut self, shared: &Shared) {
        if shared.has_posts() {
            let mut posts = Vec::new();
            shared.take_posts(&mut posts);
            for connection in posts.into_iter().rev() {
                self.batch.push_front(Item::Proceed(connection));
            }
        }
    }

    /// Do what other threads have posted, and nothing that waits; return what became ready. Each
    /// request is copied before the next connection is read into the same buffers.
    pub fn attend(&mut self, shared: &Shared) -> Vec<Waiting> {
        self.leader.now = sys::monotonic();
        let mut posts = Vec::new();
        shared.take_posts(&mut posts);
        let mut waiting = Vec::new();
        for connection in posts {
            if let Some(ready) = self.handle(shared, Item::Proceed(connection)) {
                waiting.push(ready.own(&self.leader));
            }
        }
        waiting
    }

    /// Poll; return whether there is something to do.
    fn poll(&mut self, shared: &Shared, leader: Leader) -> bool {
        shared.polling.set(true);
        let pending = shared.has_posts() || !self.leader.proceed.is_empty();
        let timeout = match leader {
            Leader::Attached => Some(0),
            _ if pending => Some(0),
            _ => self.time_to_wait(shared),
        };
        if timeout != Some(0) {
            shared.scoreboard.note_wait();
        }
        // An error here would be a defect of ours: there is nothing that it could tell a client.
        let mut result = shared.poller.wait(&mut self.events, timeout);
        if result.is_ok() && self.events.is_empty() && timeout != Some(0) {
            // A process that was halted in the poll comes back with nothing, whatever has arrived
            // meanwhile; a client that sent in time must not be taken for late.
            result = shared.poller.wait(&mut self.events, Some(0));
        }
        shared.polling.set(false);
        if let Err(error) = result {
            shared
                .log_queue
                .write(message("POLL_FAILED", [("error", error.to_string())]));
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        self.leader.now = sys::monotonic();
        self.polled_at = self.leader.now;
        shared.scoreboard.set(POLLED, self.leader.now);
        self.leader.late = false;
        self.batch.extend(self.events.take().map(Item::Event));
        self.batch
            .extend(self.leader.proceed.drain(..).map(Item::Proceed));
        self.note_polled();
        !self.batch.is_empty() || shared.has_posts()
    }

    fn time_to_wait(&self, shared: &Shared) -> Option<Nanos> {
        let accepting = self.acceptors.iter().all(|acceptor| acceptor.watched);
        if shared.connection_count() == 0 && !shared.draining.get() && accepting {
            return shared.options.idle_wait; // nothing has a deadline
        }
        let next = self.next_sweep.min(self.balancing.look_again);
        Some(next.saturating_sub(sys::monotonic()))
    }

    #[inline(always)]
    fn handle(&mut self, shared: &Shared, item: Item) -> Option<Ready> {
        let connection = match &item {
            Item::Event(event) => match event.token {
                Token::WAKE => return None,
                token => match token.as_listener() {
                    Some(index) => {
                        let _ = self.accept(shared, index, shared.options.accept_batch);
                        return None;
                    }
                    None => shared.find(token)?, // else the event was older than the closing
                },
            },
            Item::Proceed(connection) => Arc::clone(connection),
        };
        let leader = &mut self.leader;
        self::contained(shared, &connection, || match item {
            Item::Event(event) => connection.handle_event(shared, leader, event),
            Item::Proceed(_) => connection.proceed(shared, leader),
        })
    }

    /// Do what is due between two polls; return whether the loop is at its end.
    fn keep_house(&mut self, shared: &Shared) -> bool {
        if shared.draining.get() {
            if !self.drain_begun {
                self.begin_drain(shared);
                return false;
            }
            if shared.handing_over.get() {
                self.hand_over(shared); // perhaps after the drain had begun without
            }
            if self.listening {
                self.empty_queues(shared);
            }
            if !self.listening && shared.connection_count() == 0 {
                self.tear_down(shared);
                return true;
            }
        } else {
            let room_made = shared.room_made.swap(false);
            if room_made {
                self.resume_accepting(shared); // a waiting client need not wait for the next sweep
            }
            self.look_again(shared, room_made);
        }
        // Measured against the last poll, not against now: what had arrived by then has been
        // handled, so that no client is blamed for time in which the process did not run.
        if self.polled_at >= self.next_sweep {
            self.sweep(shared);
        }
        shared.drained.get()
    }

    fn sweep(&mut self, shared: &Shared) {
        self.next_sweep = self.polled_at + self.sweep_interval;
        self.leader.now = self.polled_at;
        for connection in shared.expired(self.polled_at) {
            let leader = &mut self.leader;
            self::contained(shared, &connection, || {
                connection.expire(shared, leader);
                None
            });
        }
        if !shared.draining.get() {
            self.resume_accepting(shared);
        }
    }

    // -- the end --------------------------------------------------------------------------------

    /// Accept the clients that wait, or leave them to others, and give idle connections a last short while.
    pub fn begin_drain(&mut self, shared: &Shared) {
        self.drain_begun = true;
        self.tell_accepting(shared);
        if shared.handing_over.get() {
            self.hand_over(shared);
        } else {
            self.handshakes_until = self.leader.now + shared.options.drain_handshake;
            self.look_at_left(shared);
            self.empty_queues(shared);
        }
        for connection in shared.connections() {
            connection.hurry_up(shared, &connection.lock(), self.leader.now);
        }
        // After the next poll: what was accepted just now is read before anything expires.
        self.next_sweep = self.leader.now + 1;
        self.sweep_interval = self.sweep_interval.min(shared.options.drain_sweep);
    }

    fn tear_down(&mut self, shared: &Shared) {
        let before = shared.drained.swap(true);
        for item in std::mem::take(&mut self.batch) {
            if let Item::Proceed(connection) = item {
                let mut state = connection.lock();
                if state.phase == Phase::Answered {
                    connection.close_answered(shared, &mut state);
                }
            }
        }
        self.leader.proceed.clear();
        if before {
            return;
        }
        for connection in shared.connections() {
            self::contained(shared, &connection, || {
                connection.tear_down(shared);
                None
            });
        }
        self.hand_over(shared);
        shared.poller.close();
    }
}

impl Item {
    fn is_heavy(&self, shared: &Shared) -> bool {
        match self {
            Item::Proceed(connection) => connection.is_heavy(),
            Item::Event(event) if event.token == Token::WAKE => false,
            Item::Event(event) if event.token.as_listener().is_some() => false,
            Item::Event(event) => shared
                .find(event.token)
                .is_some_and(|found| found.is_heavy()),
        }
    }
}

/// Confine a defect of ours to the connection that met it.
fn contained(
    shared: &Shared,
    connection: &Arc<Connection>,
    work: impl FnOnce() -> Option<Ready>,
) -> Option<Ready> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(ready) => ready,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("panic");
            let detail = format!(": {text}");
            shared
                .log_queue
                .write(message("CONNECTION_DEFECT", [("detail", detail)]));
            let mut state = connection.lock();
            if !matches!(state.phase, Phase::HandedOut | Phase::Answered) {
                connection.close(shared, &mut state);
            }
            None
        }
    }
}
