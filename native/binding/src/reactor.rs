//! The loop over all sockets. One thread at a time, the leader, runs it.
//!
//! Nothing here knows of Python. A leader that holds the GIL is told where it should let go of it:
//! when the poll would block, and before work that takes long.

use crate::connection::{Connection, NEVER, Ready};
use crate::diary::Entry;
use crate::hub::Hub;
use crate::poller::{Event, Events, Token};
use crate::sys::{self, MILLISECOND, Nanos, SECOND};
use penstock_protocol::{Head, Memory};
use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// The most that one read takes: a whole head with its body, as a rule, and no client's monopoly.
const RECEIVE_BYTES: usize = 64 * 1024;

/// Connections accepted in one turn, so that a flood of them does not hold up the others.
const ACCEPT_BATCH: usize = 64;

/// The most connections that a listen queue can hold.
const MAX_BACKLOG: usize = 65535;

/// How long accepting rests when the system has no descriptor or memory for another connection.
///
/// The waiting connections keep the listener readable: without a rest the loop would spin.
const ACCEPT_PAUSE: Nanos = SECOND / 2;

/// At the cap on connections, one that has been idle for so long makes room for a new one.
const REAP_IDLE: Nanos = SECOND;

/// What the leader works with: one set for all connections, so that an idle one has none.
pub struct Desk {
    pub now: Nanos,
    pub buffer: Box<[u8]>,
    pub head: Head,
    /// What fields mean that clients send again and again.
    pub memory: Memory,
    pub scratch: Vec<u8>,
    /// With more to do than their turn allowed: they go on with what the next poll brings.
    pub proceed: VecDeque<Arc<Connection>>,
}

/// A listening socket.
pub struct Acceptor {
    pub descriptor: RawFd,
    pub name: String,
    watched: bool,
    resume_at: Nanos,
    complained: bool,
    /// At the end: nobody is left in its queue.
    emptied: bool,
}

impl Acceptor {
    pub fn new(descriptor: RawFd, name: String) -> Self {
        Acceptor {
            descriptor,
            name,
            watched: false,
            resume_at: 0,
            complained: false,
            emptied: false,
        }
    }
}

/// Who runs the loop, and so what it may do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Leader {
    /// A thread that holds the GIL: nothing that takes long.
    Attached,
    /// A thread without the GIL.
    Detached,
    /// The watchdog, which gives way to any thread that comes free.
    Watchdog,
}

/// Why the loop came back.
pub enum Step {
    /// A request is ready.
    Ready(Ready),
    /// What comes next would block, or take long: not with the GIL held.
    Blocked,
    /// The diary has entries, and they need the GIL.
    Tell,
    /// A thread has come free.
    Relieved,
    /// There is nothing left to do, for good.
    Over,
}

enum Item {
    Event(Event),
    Proceed(Arc<Connection>),
}

/// The leader's state: whoever holds its lock leads.
pub struct Reactor {
    pub desk: Desk,
    acceptors: Vec<Acceptor>,
    batch: VecDeque<Item>,
    events: Events,
    polled_at: Nanos,
    next_sweep: Nanos,
    sweep_interval: Nanos,
    drain_begun: bool,
    queues_empty: bool,
}

impl Reactor {
    pub fn new(hub: &Hub, acceptors: Vec<Acceptor>) -> Self {
        let now = sys::monotonic();
        let mut reactor = Reactor {
            desk: Desk {
                now,
                buffer: vec![0; RECEIVE_BYTES].into_boxed_slice(),
                head: Head::default(),
                memory: Memory::default(),
                scratch: Vec::new(),
                proceed: VecDeque::new(),
            },
            acceptors,
            batch: VecDeque::new(),
            events: Events::default(),
            polled_at: now,
            next_sweep: now,
            sweep_interval: hub.options.sweep_interval,
            drain_begun: false,
            queues_empty: false,
        };
        reactor.resume_accepting(hub);
        reactor
    }

    /// Poll, read and write until there is a reason to come back.
    pub fn run(&mut self, hub: &Hub, leader: Leader) -> Step {
        self.desk.now = sys::monotonic();
        if leader != Leader::Attached {
            for connection in hub.take_corked() {
                connection.drain_corked(hub, &mut self.desk);
            }
        }
        loop {
            self.take_posts(hub);
            if hub.closed.get() {
                self.tear_down(hub); // before anything else is handed out
                return Step::Over;
            }
            while let Some(item) = self.batch.pop_front() {
                if leader == Leader::Attached && item.is_heavy(hub) {
                    self.batch.push_front(item);
                    return Step::Blocked;
                }
                if let Some(ready) = self.handle(hub, item) {
                    return Step::Ready(ready);
                }
            }
            if hub.has_posts() {
                continue;
            }
            if self.keep_house(hub) {
                return Step::Over;
            }
            if leader != Leader::Attached && !hub.diary.is_empty() && !hub.call_scribe() {
                return Step::Tell;
            }
            if leader == Leader::Watchdog && hub.relieve.swap(false) {
                return Step::Relieved;
            }
            if !self.poll(hub, leader) && leader == Leader::Attached {
                return Step::Blocked;
            }
        }
    }

    /// Take what other threads have posted, before what was polled: a response was sent.
    fn take_posts(&mut self, hub: &Hub) {
        if hub.has_posts() {
            let mut posts = Vec::new();
            hub.take_posts(&mut posts);
            for connection in posts.into_iter().rev() {
                self.batch.push_front(Item::Proceed(connection));
            }
        }
    }

    /// Poll; tell whether there is something to do.
    fn poll(&mut self, hub: &Hub, leader: Leader) -> bool {
        hub.polling.set(true);
        let pending = hub.has_posts() || !self.desk.proceed.is_empty();
        let timeout = match leader {
            Leader::Attached => Some(0),
            _ if pending => Some(0),
            _ => self.time_to_sweep(hub),
        };
        // An error here would be a defect of ours: there is nothing that it could tell a client.
        let mut result = hub.poller.wait(&mut self.events, timeout);
        if result.is_ok() && self.events.len() == 0 && timeout != Some(0) {
            // A process that was halted in the poll comes back with nothing, whatever has arrived
            // meanwhile; whoever sent it in time must not be taken for late.
            result = hub.poller.wait(&mut self.events, Some(0));
        }
        hub.polling.set(false);
        if let Err(error) = result {
            hub.diary
                .write(Entry::Defect(format!("the poll failed: {error}")));
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        self.desk.now = sys::monotonic();
        self.polled_at = self.desk.now;
        self.batch.extend(self.events.take().map(Item::Event));
        self.batch
            .extend(self.desk.proceed.drain(..).map(Item::Proceed));
        !self.batch.is_empty() || hub.has_posts()
    }

    fn time_to_sweep(&self, hub: &Hub) -> Option<Nanos> {
        let accepting = self.acceptors.iter().all(|acceptor| acceptor.watched);
        if hub.connection_count() == 0 && !hub.draining.get() && accepting {
            return None; // nothing has a deadline
        }
        Some(self.next_sweep.saturating_sub(sys::monotonic()))
    }

    fn handle(&mut self, hub: &Hub, item: Item) -> Option<Ready> {
        let connection = match &item {
            Item::Event(event) => match event.token {
                Token::WAKE => return None,
                token => match token.as_listener() {
                    Some(index) => {
                        let _ = self.accept(hub, index, ACCEPT_BATCH);
                        return None;
                    }
                    None => hub.find(token)?, // else the event was older than the closing
                },
            },
            Item::Proceed(connection) => Arc::clone(connection),
        };
        let desk = &mut self.desk;
        self::contained(hub, &connection, || match item {
            Item::Event(event) => connection.handle_event(hub, desk, event),
            Item::Proceed(_) => connection.proceed(hub, desk),
        })
    }

    /// Do what is due between two polls; tell whether the loop is at its end.
    fn keep_house(&mut self, hub: &Hub) -> bool {
        if hub.draining.get() {
            if !self.drain_begun {
                self.begin_drain(hub);
                return false;
            }
            if !self.queues_empty {
                self.empty_queues(hub);
            } else if hub.connection_count() == 0 {
                self.tear_down(hub);
                return true;
            }
        } else if hub.room_made.swap(false) {
            self.resume_accepting(hub); // whoever waits need not wait for the next sweep
        }
        // Measured against the last poll, not against now: what had arrived by then has been
        // handled, so that nobody is blamed for time that the process itself has lost.
        if self.polled_at >= self.next_sweep {
            self.sweep(hub);
        }
        hub.drained.get()
    }

    fn sweep(&mut self, hub: &Hub) {
        self.next_sweep = self.polled_at + self.sweep_interval;
        self.desk.now = self.polled_at;
        for connection in hub.expired(self.polled_at) {
            let desk = &mut self.desk;
            self::contained(hub, &connection, || {
                connection.expire(hub, desk);
                None
            });
        }
        if !hub.draining.get() {
            self.resume_accepting(hub);
        }
    }

    // -- accepting ------------------------------------------------------------------------------

    /// Watch the listeners again whose pause is over.
    ///
    /// Even without room: an idle connection may be old enough by now to make room for whoever
    /// waits, and if nobody waits there is no event.
    fn resume_accepting(&mut self, hub: &Hub) {
        for (index, acceptor) in self.acceptors.iter_mut().enumerate() {
            if !acceptor.watched && self.desk.now >= acceptor.resume_at {
                let token = Token::listener(index);
                acceptor.watched = hub.poller.add_listener(acceptor.descriptor, token).is_ok();
            }
        }
    }

    fn pause(&mut self, hub: &Hub, index: usize, time: Nanos) {
        if let Some(acceptor) = self.acceptors.get_mut(index) {
            acceptor.resume_at = self.desk.now + time;
            if std::mem::take(&mut acceptor.watched) {
                hub.poller.remove(acceptor.descriptor);
            }
        }
    }

    /// Accept at most `most` connections; tell whether nobody is left in the queue.
    fn accept(&mut self, hub: &Hub, index: usize, most: usize) -> bool {
        for count in 0..most {
            if !self.has_room(hub) {
                if count > 0 {
                    return false; // whether anybody else waits is for the next poll to say
                }
                if !self.make_room(hub) {
                    self.pause(hub, index, 0);
                    return false;
                }
            }
            let Some(acceptor) = self.acceptors.get_mut(index) else {
                return true;
            };
            match sys::accept(acceptor.descriptor) {
                Ok((socket, peer)) => hub.add(socket, peer, index, self.desk.now),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => {
                        acceptor.complained = false; // the next time is a new one
                        return true;
                    }
                    Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                        if self.close_idle(hub) {
                            continue; // so that there is room for whoever waits
                        }
                        self.rest(hub, index, &error);
                        return false;
                    }
                    Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK) => {
                        self.pause(hub, index, NEVER / 4);
                        return true; // closed under us
                    }
                    _ => {} // that client has gone already (ECONNABORTED and its kind)
                },
            }
        }
        false
    }

    /// Pause, and tell why: once for each time that it begins.
    fn rest(&mut self, hub: &Hub, index: usize, error: &std::io::Error) {
        if let Some(acceptor) = self.acceptors.get_mut(index) {
            if !std::mem::replace(&mut acceptor.complained, true) {
                hub.diary.write(Entry::Warning(format!(
                    "cannot accept connections on {} for now: {}; clients wait in the listen \
                     queue. Raise the limit on open files (ulimit -n) or lower max_connections",
                    acceptor.name,
                    sys::error_text(error),
                )));
            }
        }
        self.pause(hub, index, ACCEPT_PAUSE);
    }

    fn has_room(&self, hub: &Hub) -> bool {
        // At the end, even beyond the cap: who is left in the queue of a listener is reset.
        self.drain_begun || hub.connection_count() < hub.options.max_connections
    }

    /// Tell whether another connection may be accepted, closing idle ones if need be.
    ///
    /// Otherwise whoever holds idle connections open could keep everybody else out until the
    /// keep-alive time has run out.
    fn make_room(&mut self, hub: &Hub) -> bool {
        if !self.has_room(hub) {
            self.close_idle(hub);
        }
        self.has_room(hub)
    }

    /// Close the connections that have been idle for longest; tell whether there were any.
    fn close_idle(&mut self, hub: &Hub) -> bool {
        let before = hub.connection_count();
        let long_ago = self.desk.now.saturating_sub(REAP_IDLE);
        let mut idle: Vec<(Nanos, Arc<Connection>)> = Vec::new();
        for connection in hub.connections() {
            let held = connection.lock();
            if held.since <= long_ago && held.is_idle() {
                idle.push((held.since, Arc::clone(&connection)));
            }
        }
        idle.sort_by_key(|(since, _)| *since);
        // A share of them at once, so that not every new connection has to look at all.
        for (_, connection) in idle.iter().take(1 + idle.len() / 16) {
            if !matches!(sys::peek(&connection.socket), Ok(size) if size > 0) {
                connection.close(hub, &mut connection.lock());
            }
        }
        hub.room_made.set(false); // by this very accepting
        hub.connection_count() < before
    }

    // -- the end --------------------------------------------------------------------------------

    /// Stop accepting, and give idle connections a last short while.
    fn begin_drain(&mut self, hub: &Hub) {
        self.drain_begun = true;
        for index in 0..self.acceptors.len() {
            self.pause(hub, index, 0);
        }
        self.empty_queues(hub);
        for connection in hub.connections() {
            connection.hurry_up(hub, &connection.lock(), self.desk.now);
        }
        // After the next poll: what was accepted just now is read before anything expires.
        self.next_sweep = self.desk.now + 1;
        self.sweep_interval = self.sweep_interval.min(50 * MILLISECOND);
    }

    /// Accept what waits in the listen queues: the kernel has accepted it, so it is served.
    ///
    /// Where no descriptor is left for all of it, the rest waits until others have left.
    fn empty_queues(&mut self, hub: &Hub) {
        self.queues_empty = true;
        for index in 0..self.acceptors.len() {
            let emptied = self.acceptors.get(index).is_none_or(|one| one.emptied)
                || self.accept(hub, index, MAX_BACKLOG);
            self.queues_empty &= emptied;
            match self.acceptors.get_mut(index) {
                Some(acceptor) if emptied && !acceptor.emptied => {
                    acceptor.emptied = true;
                    hub.diary.write(Entry::CloseListener(index));
                }
                _ => {}
            }
        }
    }

    fn tear_down(&mut self, hub: &Hub) {
        let before = hub.drained.swap(true);
        for item in std::mem::take(&mut self.batch) {
            if let Item::Proceed(connection) = item {
                let mut held = connection.lock();
                if held.answered {
                    connection.close_answered(hub, &mut held);
                }
            }
        }
        self.desk.proceed.clear();
        if before {
            return;
        }
        for connection in hub.connections() {
            self::contained(hub, &connection, || {
                connection.tear_down(hub);
                None
            });
        }
        for index in 0..self.acceptors.len() {
            self.pause(hub, index, 0);
            hub.diary.write(Entry::CloseListener(index));
        }
        hub.poller.close();
    }
}

impl Item {
    fn is_heavy(&self, hub: &Hub) -> bool {
        match self {
            Item::Proceed(connection) => connection.is_heavy(),
            Item::Event(event) if event.token == Token::WAKE => false,
            Item::Event(event) if event.token.as_listener().is_some() => false,
            Item::Event(event) => hub.find(event.token).is_some_and(|found| found.is_heavy()),
        }
    }
}

/// Confine a defect of ours to the connection that met it.
fn contained(
    hub: &Hub,
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
            let line = format!("internal error; the connection is closed: {text}");
            hub.diary.write(Entry::Defect(line));
            let mut held = connection.lock();
            if held.phase != crate::connection::Phase::HandedOut {
                connection.close(hub, &mut held);
            }
            None
        }
    }
}
