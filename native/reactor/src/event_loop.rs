//! The loop over all sockets. One thread at a time, the leader, runs it.
//!
//! Nothing here knows of Python. A leader that holds the GIL is told when to give it up:
//! when the poll would block, and before work that takes long.

use crate::accepting::{Accepting, Acceptor};
use crate::closing;
use crate::connection::Connection;
use crate::deadlines;
use crate::decisions;
use crate::dispatch;
use crate::leader::{Leader, LeaderState};
use crate::log_queue::message;
use crate::options::Options;
use crate::poller::{Event, Events, Token};
use crate::remainder::Remainder;
use crate::request::{Ready, Waiting};
use crate::responding;
use crate::scoreboard::POLLED;
use crate::shared::Shared;
use crate::slow_readers::SlowReaders;
use crate::states::{Input, Phase};
use crate::sys::{self, MILLISECOND, Nanos};
use crate::unserved;
use penstock_protocol::State;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// How long native code may hold the interpreter lock in a row, where it serves what needs no
/// application, or one that is native code: other threads may want the lock.
pub const ATTACHED_TIME: Nanos = MILLISECOND;

/// Why the loop came back.
pub enum Step {
    /// A request is ready.
    Ready(Ready),
    /// What comes next would block, or take long: not with the GIL held.
    Blocked,
    /// The same, and there is nothing to do for now.
    Idle,
    /// The log queue has entries, and they need the GIL.
    WriteLogs,
    /// A thread has come free.
    Relieved,
    /// There is nothing left to do, and will not be.
    Over,
}

pub enum Item {
    Event(Event),
    Proceed(Arc<Connection>),
}

/// How many further polls one turn makes at most while each finds as many events as fit.
/// Together they find those of 10,000 connections.
const FULL_POLLS: usize = 40;

/// The leader's state: the thread that holds its lock leads.
pub struct EventLoop {
    pub leader: LeaderState,
    pub accepting: Accepting,
    pub batch: VecDeque<Item>,
    /// The same, of connections, once a turn has lasted for too long.
    remainder: Remainder,
    /// Connections that the poller watches from the next poll on, by their tokens.
    unwatched: Vec<Token>,
    slow_readers: SlowReaders,
    events: Events,
    polled_at: Nanos,
    next_sweep: Nanos,
    sweep_interval: Nanos,
}

impl EventLoop {
    pub fn new(shared: &Shared, acceptors: Vec<Acceptor>) -> Self {
        let now = sys::monotonic();
        let mut event_loop = EventLoop {
            leader: LeaderState::new(&shared.options, now),
            accepting: Accepting::new(acceptors),
            batch: VecDeque::new(),
            remainder: Remainder::default(),
            unwatched: Vec::new(),
            slow_readers: SlowReaders::default(),
            events: Events::default(),
            polled_at: now,
            next_sweep: now,
            sweep_interval: shared.options.sweep_interval,
        };
        event_loop.accepting.resume_accepting(shared, now);
        event_loop
    }

    /// Poll, read and write until there is a reason to come back.
    ///
    /// `until` is when a leader that holds the interpreter lock has to give it up; 0 has that time
    /// begin now. It passes while the server answers requests itself, one after the other.
    pub fn run(&mut self, shared: &Shared, leader: Leader, until: &mut Nanos) -> Step {
        self.leader.now = sys::monotonic();
        let mut over = self.leader.now >= self.leader.turn_ends;
        if leader == Leader::Attached {
            if *until == 0 {
                *until = self.leader.now + ATTACHED_TIME;
            } else if self.leader.now >= *until {
                return Step::Blocked;
            }
        }
        self.leader.queues = leader == Leader::StallMonitor;
        self.accepting
            .note_busy(shared, self.leader.now, leader == Leader::StallMonitor);
        loop {
            self.send_due(shared);
            self.take_posts(shared);
            if shared.closed.get() {
                self.tear_down(shared); // before anything else is handed out
                return Step::Over;
            }
            while !over {
                let Some(item) = self.next_item(&shared.options) else {
                    break;
                };
                if leader == Leader::Attached && item.is_heavy(shared) {
                    self.batch.push_front(item);
                    return Step::Blocked;
                }
                if let Some(ready) = self.handle(shared, item) {
                    self.expect_answer(shared, ready.number);
                    return Step::Ready(ready);
                }
                self.leader.now = sys::monotonic();
                over = self.leader.now >= self.leader.turn_ends;
                self.send_due(shared);
            }
            if shared.held_answers.are_left() {
                self.send_held(shared); // the turn is over
            }
            if shared.has_posts() {
                continue;
            }
            if self.do_what_is_due(shared) {
                return Step::Over;
            }
            if !shared.log_queue.is_empty()
                && (leader == Leader::Attached || !shared.call_log_writer())
            {
                return Step::WriteLogs;
            }
            if leader == Leader::StallMonitor && shared.relieve.swap(false) {
                return Step::Relieved;
            }
            if leader == Leader::Attached && self.leader.now >= *until {
                return Step::Blocked;
            }
            // A signal may have ended the wait, and its handler is not run here.
            let comes_back = leader == Leader::Detached && shared.options.idle_wait.is_some();
            if !self.poll(shared, leader) {
                if leader == Leader::Attached {
                    return Step::Idle;
                }
                if comes_back {
                    return Step::Blocked;
                }
            }
            over = false;
        }
    }

    /// Send the answers that wait, if they have waited long enough, or what they wait for will not be.
    #[inline(always)]
    fn send_due(&self, shared: &Shared) {
        if !shared.held_answers.are_left() {
            return;
        }
        // The stall monitor hands out nothing: it leads while calls last.
        let more = !self.batch.is_empty() && !self.leader.queues && !shared.closed.get();
        let most = shared.options.monitor_tick;
        if shared.held_answers.are_due(self.leader.now, more, most) {
            self.send_held(shared);
        }
    }

    /// Send the answers that wait.
    #[inline(never)]
    fn send_held(&self, shared: &Shared) {
        for connection in shared.held_answers.take() {
            let _ = contained(shared, &connection, || {
                responding::send_held(shared, &connection, self.leader.now);
                None
            });
        }
    }

    /// Say whether the answer to the request with this number, which is handed out, may wait, and with
    /// it those that wait already: there is more to do, and its call will be short.
    #[inline(always)]
    fn expect_answer(&self, shared: &Shared, number: u64) {
        let expected = self.leader.short_call && !self.batch.is_empty() && !self.leader.queues;
        shared
            .held_answers
            .expect(if expected { number } else { 0 });
        if !expected && shared.held_answers.are_left() {
            self.send_held(shared);
        }
    }

    /// Take what is next of what was polled.
    #[inline(always)]
    fn next_item(&mut self, options: &Options) -> Option<Item> {
        match self.batch.pop_front() {
            None if !self.remainder.is_empty() => self.take_from_remainder(options),
            item => item,
        }
    }

    /// The turn begins with the first of them, so that there is one in each: clients that connect
    /// without a pause do not keep those waiting for ever that have sent a request.
    #[cold]
    fn take_from_remainder(&mut self, options: &Options) -> Option<Item> {
        if self.leader.turn_ends == Nanos::MAX {
            self.leader.turn_ends = self.leader.now.saturating_add(options.shared_turn);
        }
        let (event, proceed) = self.remainder.take()?;
        match (event, proceed) {
            (Some(event), Some(proceed)) => {
                self.batch.push_front(Item::Proceed(proceed));
                Some(Item::Event(event))
            }
            (Some(event), None) => Some(Item::Event(event)),
            (None, proceed) => proceed.map(Item::Proceed),
        }
    }

    /// Have what connections have for the leader wait, shared by client: a turn was not enough.
    ///
    /// What is not a connection's stays in the batch, and so comes first, as does what other threads
    /// have posted: a response was sent.
    #[cold]
    fn put_in_remainder(&mut self, shared: &Shared) {
        let now = self.polled_at;
        for item in std::mem::take(&mut self.batch) {
            match item {
                Item::Event(event) if event.token.is_connection() => {
                    if let Some(connection) = shared.find(event.token) {
                        self.remainder.add_event(&connection, event, now);
                    }
                }
                Item::Proceed(connection)
                    if !matches!(connection.phase(), Phase::Answered | Phase::HandedOut) =>
                {
                    self.remainder.add_proceed(&connection, now);
                }
                other => self.batch.push_back(other),
            }
        }
    }

    /// How many events and connections wait for their turn.
    #[cfg(test)]
    pub fn queued(&self) -> usize {
        self.batch.len() + self.remainder.len() + self.leader.deferred.len()
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
        self.leader.queues = true;
        for connection in posts {
            if let Some(ready) = self.handle(shared, Item::Proceed(connection)) {
                waiting.push(ready.own(&self.leader));
            }
        }
        waiting
    }

    /// Poll; return whether there is something to do.
    fn poll(&mut self, shared: &Shared, leader: Leader) -> bool {
        self.watch_accepted(shared);
        shared.inbox.polling.set(true);
        let behind = !self.batch.is_empty() || !self.remainder.is_empty();
        let pending = behind
            || shared.has_posts()
            || shared.held_answers.are_left()
            || !self.leader.deferred.is_empty()
            || self.accepting.looks_for_clients()
            || self.slow_readers.are_left()
            || self.next_body(shared) <= self.leader.now;
        let timeout = match leader {
            Leader::Attached => Some(0),
            _ if pending => Some(0),
            _ => {
                self.accepting.begin_wait(shared);
                self.time_to_wait(shared)
            }
        };
        let waits = timeout != Some(0);
        if waits {
            shared.scoreboard.note_wait();
        }
        // An error here would be a defect of ours: there is nothing that it could tell a client.
        let mut result = shared.poller.wait(&mut self.events, timeout);
        if result.is_ok() && self.events.is_empty() && waits {
            // A process that was halted in the poll comes back with nothing, whatever has arrived
            // meanwhile; a client that sent in time must not be taken for late.
            result = shared.poller.wait(&mut self.events, Some(0));
        }
        shared.inbox.polling.set(false);
        if let Err(error) = result {
            shared
                .log_queue
                .write(message("POLL_FAILED", [("error", error.to_string())]));
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        self.leader.now = sys::monotonic();
        self.polled_at = self.leader.now;
        shared.scoreboard.set(POLLED, self.leader.now);
        self.batch.extend(self.events.take().map(Item::Event));
        if behind {
            self.poll_further(shared);
        }
        self.batch
            .extend(self.leader.deferred.drain(..).map(Item::Proceed));
        let clients = |item: &Item| match item {
            Item::Event(event) => event.token.as_listener().is_some(),
            Item::Proceed(_) => false,
        };
        let client_waits = self.batch.iter().any(clients);
        self.accepting.note_polled(client_waits);
        self.leader.turn_ends = if behind {
            self.put_in_remainder(shared);
            self.leader.now = sys::monotonic();
            Nanos::MAX // it begins behind the batch: `take_from_remainder`
        } else {
            let turn = decisions::turn(&shared.options, self.batch.len());
            self.leader.now.saturating_add(turn)
        };
        let scarce = shared.spooling.is_input_scarce(&shared.options);
        self.leader.shares = behind || scarce;
        self.leader.receive_bytes = match scarce {
            true => shared.options.scarce_receive_bytes,
            false => shared.options.receive_bytes,
        };
        if client_waits && waits && self.accepting.is_woken_alone() {
            self.accept_first(shared);
        }
        !self.batch.is_empty() || !self.remainder.is_empty() || shared.has_posts()
    }

    /// Accept before a request goes to the application: no other worker may know of the client.
    fn accept_first(&mut self, shared: &Shared) {
        for _ in 0..self.batch.len() {
            let Some(item) = self.batch.pop_front() else {
                break;
            };
            let listener = match &item {
                Item::Event(event) => event.token.as_listener(),
                Item::Proceed(_) => None,
            };
            match listener {
                Some(index) => self.accept(shared, index, true),
                None => self.batch.push_back(item),
            }
        }
    }

    fn accept(&mut self, shared: &Shared, index: usize, owes: bool) {
        let most = shared.options.accept_batch;
        let accepting = &mut self.accepting;
        accepting.accept(shared, self.leader.now, index, most, owes);
        // Behind those that wait already where a turn was not enough.
        self.take_accepted(shared, self.remainder.is_empty());
    }

    /// Take the events that did not fit into one poll: the one may be among them that is next.
    #[cold]
    fn poll_further(&mut self, shared: &Shared) {
        for _ in 0..FULL_POLLS {
            let full = self.events.were_full();
            if !full || shared.poller.wait(&mut self.events, Some(0)).is_err() {
                return;
            }
            self.batch.extend(self.events.take().map(Item::Event));
        }
    }

    fn time_to_wait(&self, shared: &Shared) -> Option<Nanos> {
        let watching = self.accepting.is_watching();
        if shared.connection_count() == 0 && !shared.draining.get() && watching {
            shared.spooling.memory.free_spares_unless_held();
            return shared.options.idle_wait; // nothing has a deadline
        }
        let next = self.next_sweep.min(self.accepting.next_look());
        let next = next.min(self.next_body(shared));
        Some(next.saturating_sub(sys::monotonic()))
    }

    /// When a body is due that waits until the application reads fewer.
    #[inline(always)]
    fn next_body(&self, shared: &Shared) -> Nanos {
        let most = decisions::most_streamed(&shared.options);
        shared.streamed_bodies.next_due(most).unwrap_or(Nanos::MAX)
    }

    /// Take what was accepted. `at_once` has it read from in this turn: a client that sends its request
    /// with the connection may have its answer, and the end, before the poller would watch it.
    fn take_accepted(&mut self, shared: &Shared, at_once: bool) {
        for connection in self.accepting.accepted.drain(..) {
            let mut state = connection.lock();
            state.unwatched = true;
            self.unwatched.push(connection.token);
            let credit = self.leader.first_read_credit;
            let reads = at_once
                && state.phase == Phase::Reading
                && decisions::reads_at_once(&shared.options, credit, connection.number);
            if reads {
                self.leader.note_first_read(&shared.options, false);
                state.input = Input::Possible;
                state.queued = true;
                drop(state);
                self.batch.push_back(Item::Proceed(connection));
            }
        }
    }

    /// Have the poller watch what was accepted since the last poll, and is still there. What has come
    /// by now it reports as if that came later.
    fn watch_accepted(&mut self, shared: &Shared) {
        self.take_accepted(shared, false);
        let leader = &mut self.leader;
        self.unwatched
            .retain(|token| !self::watch(shared, leader, *token));
    }

    #[inline(always)]
    fn handle(&mut self, shared: &Shared, item: Item) -> Option<Ready> {
        let connection = match &item {
            Item::Event(event) => match event.token {
                Token::WAKE => return None,
                token => match token.as_listener() {
                    Some(index) => {
                        self.accept(shared, index, false);
                        return None;
                    }
                    None => shared.find(token)?, // else the event was older than the closing
                },
            },
            Item::Proceed(connection) => Arc::clone(connection),
        };
        let leader = &mut self.leader;
        self::contained(shared, &connection, || match item {
            Item::Event(event) => dispatch::handle_event(&connection, shared, leader, event),
            Item::Proceed(_) => dispatch::proceed(&connection, shared, leader),
        })
    }

    /// Do what is due between two polls; return whether the loop is at its end.
    fn do_what_is_due(&mut self, shared: &Shared) -> bool {
        let now = self.leader.now;
        if shared.draining.get() {
            if !self.accepting.drain_begun {
                self.begin_drain(shared);
                return false;
            }
            if shared.handing_over.get() {
                self.hand_over(shared); // perhaps after the drain had begun without
            }
            if self.accepting.listening {
                self.accepting.empty_queues(shared, now);
            }
            if !self.accepting.listening && shared.connection_count() == 0 {
                self.tear_down(shared);
                return true;
            }
        } else {
            let room_made = shared.room_made.swap(false);
            if room_made {
                self.accepting.resume_accepting(shared, now); // a waiting client need not wait for the next sweep
            }
            self.accepting.look_again(shared, now, room_made);
            if shared.look_for_clients.get() && shared.look_for_clients.swap(false) {
                self.accepting.look_for_clients(shared);
            }
        }
        self.accepting.limit_heads(shared, now);
        self.slow_readers.cut_off(shared, &self.leader);
        let most = decisions::most_streamed(&shared.options);
        for connection in shared.streamed_bodies.take_due(now, most) {
            self.leader.defer(&connection, &mut connection.lock());
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
            if self.remainder.waits_since(&connection) <= connection.deadline() {
                continue; // what it waited for had come in time
            }
            let leader = &mut self.leader;
            self::contained(shared, &connection, || {
                deadlines::expire(&connection, shared, leader);
                None
            });
        }
        unserved::sweep_queue(shared, self.polled_at);
        shared.spooling.memory.free_spares_unless_held();
        if !shared.draining.get() {
            self.accepting.resume_accepting(shared, self.polled_at);
        }
    }

    // -- the end --------------------------------------------------------------------------------

    /// Leave the listeners, and the clients that wait there, to others.
    pub fn hand_over(&mut self, shared: &Shared) {
        self.accepting.hand_over(shared, self.leader.now);
    }

    /// Accept the clients that wait, or leave them to others, and give idle connections a last short while.
    fn begin_drain(&mut self, shared: &Shared) {
        self.accepting.begin_drain(shared, self.leader.now);
        for connection in shared.connections() {
            closing::hurry_up(&connection, shared, &connection.lock(), self.leader.now);
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
                    closing::close_answered(&connection, shared, &mut state);
                }
            }
        }
        self.leader.deferred.clear();
        self.remainder = Remainder::default();
        self.unwatched.clear();
        self.slow_readers = SlowReaders::default();
        shared.streamed_bodies.clear();
        if before {
            return;
        }
        unserved::refuse_all(shared, self.leader.now);
        for connection in shared.connections() {
            self::contained(shared, &connection, || {
                closing::tear_down(&connection, shared);
                None
            });
        }
        self.hand_over(shared);
        shared.poller.close();
        shared.end_disk();
    }
}

impl Item {
    fn is_heavy(&self, shared: &Shared) -> bool {
        match self {
            Item::Proceed(connection) => connection.is_heavy(),
            Item::Event(event) if !event.token.is_connection() => false,
            Item::Event(event) => shared
                .find(event.token)
                .is_some_and(|found| found.is_heavy()),
        }
    }
}

/// Have the poller watch a connection; return false if that has to be done later.
fn watch(shared: &Shared, leader: &mut LeaderState, token: Token) -> bool {
    let Some(connection) = shared.find(token) else {
        leader.note_first_read(&shared.options, true); // or it would not be closed by now
        return true;
    };
    let mut state = connection.lock();
    if state.requests > 0 || state.awaited != State::Idle {
        leader.note_first_read(&shared.options, true);
    }
    let Some(descriptor) = connection.stream.descriptor().filter(|_| state.unwatched) else {
        return true;
    };
    if shared.poller.add(descriptor, token).is_ok() {
        state.unwatched = false;
        return true;
    }
    // There is no memory for it.
    let in_use = matches!(state.phase, Phase::HandedOut | Phase::Answered);
    if !in_use {
        closing::close(&connection, shared, &mut state);
    }
    !in_use
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
                closing::close(connection, shared, &mut state);
            }
            None
        }
    }
}
