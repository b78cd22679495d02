//! Accepting connections: not where that would do harm, and not more than the worker's share.
//!
//! Workers that share listeners are all told of whoever waits. Each accepts in small steps, and
//! leaves the rest for a moment to those that have fewer connections and look at their sockets.

use crate::connection::{Connection, NEVER};
use crate::decisions;
use crate::event_loop::{Item, Reactor};
use crate::log_queue::{Entry, message};
use crate::poller::Token;
use crate::scoreboard::{ACCEPTING, STARTED};
use crate::shared::Hub;
use crate::stream::PlainStream;
use crate::sys::{self, Nanos};
use std::os::fd::RawFd;
use std::sync::Arc;

/// A listening socket.
pub struct Acceptor {
    pub descriptor: RawFd,
    pub name: String,
    pub watched: bool,
    resume_at: Nanos,
    /// Who waits is left to other workers, until then.
    left: bool,
    complained: bool,
    closed: bool,
}

impl Acceptor {
    pub fn new(descriptor: RawFd, name: String) -> Self {
        Acceptor {
            descriptor,
            name,
            watched: false,
            resume_at: 0,
            left: false,
            complained: false,
            closed: false,
        }
    }
}

/// How this worker and its siblings share those who wait.
pub struct Sharing {
    /// Every thread is with the application.
    all_busy: bool,
    /// How often in a row who waits was left to others.
    deferrals: u32,
    /// How often in a row they did not come to it.
    in_vain: u32,
    /// The requests handed out, less those for which newcomers were let in; while all are busy.
    started: u64,
    /// No room or no descriptor was left.
    exhausted: bool,
    /// When listeners are to be watched again that were left to others.
    pub look_again: Nanos,
}

impl Default for Sharing {
    fn default() -> Self {
        Sharing {
            all_busy: false,
            deferrals: 0,
            in_vain: 0,
            started: 0,
            exhausted: false,
            look_again: NEVER,
        }
    }
}

impl Sharing {
    /// Keep in mind that somebody was accepted, because they were left to others in vain or not.
    fn accepted(&mut self, insists: bool) {
        if !insists {
            self.in_vain = 0;
        } else if self.deferrals > 0 {
            self.in_vain += 1;
        }
        self.deferrals = 0;
    }

    /// Whether a thread has come free for which nobody was let in yet; then somebody is.
    fn take_freed(&mut self, hub: &Hub) -> bool {
        let started = hub.scoreboard.get(STARTED);
        let since = self
            .started
            .max(started.saturating_sub(hub.options.balance_batch as u64));
        self.started = (since + 1).min(started);
        since < started
    }
}

impl Reactor {
    /// Watch the listeners again whose pause is over.
    ///
    /// Even without room: an idle connection may be old enough by now to make room for whoever
    /// waits, and if nobody waits there is no event.
    pub fn resume_accepting(&mut self, hub: &Hub) {
        for (index, acceptor) in self.acceptors.iter_mut().enumerate() {
            if !acceptor.watched && !acceptor.closed && self.desk.now >= acceptor.resume_at {
                let token = Token::listener(index);
                acceptor.watched = hub.poller.add_listener(acceptor.descriptor, token).is_ok();
                acceptor.left = false;
                self.sharing.exhausted = false;
            }
        }
        self.tell_accepting(hub);
    }

    /// Say whether another connection would be accepted.
    pub fn tell_accepting(&self, hub: &Hub) {
        let refuses = hub.draining.get() || self.sharing.all_busy || self.sharing.exhausted;
        hub.scoreboard.set(ACCEPTING, u64::from(!refuses));
    }

    pub fn pause(&mut self, hub: &Hub, index: usize, time: Nanos) {
        if let Some(acceptor) = self.acceptors.get_mut(index) {
            acceptor.resume_at = self.desk.now + time;
            if std::mem::take(&mut acceptor.watched) {
                hub.poller.remove(acceptor.descriptor);
            }
        }
    }

    /// Pause where there is no room, or nothing to make it of.
    fn pause_exhausted(&mut self, hub: &Hub, index: usize, time: Nanos) {
        self.pause(hub, index, time);
        self.sharing.exhausted = true;
        self.tell_accepting(hub);
    }

    /// Accept at most `most` connections; tell whether nobody is left in the queue.
    pub fn accept(&mut self, hub: &Hub, index: usize, most: usize) -> bool {
        let shares = hub.scoreboard.is_shared() && !self.drain_begun;
        let most = if shares {
            most.min(self.step(hub))
        } else {
            most
        };
        let insists = self.sharing.deferrals >= hub.options.balance_deferrals;
        for count in 0..most {
            if shares && self.leaves_to_others(hub, index, insists) {
                return false;
            }
            if !self.has_room(hub) {
                if count > 0 {
                    return false; // whether anybody else waits is for the next poll to say
                }
                if !self.make_room(hub) {
                    self.pause_exhausted(hub, index, 0);
                    return false;
                }
            }
            let Some(acceptor) = self.acceptors.get_mut(index).filter(|it| !it.closed) else {
                return true;
            };
            match sys::accept(acceptor.descriptor) {
                Ok((socket, peer)) => {
                    self.sharing.accepted(insists);
                    let stream = Box::new(PlainStream::new(socket, peer));
                    hub.add(stream, index, self.desk.now);
                }
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
                hub.log_queue.write(message(
                    "ACCEPT_PAUSED",
                    [
                        ("listener", acceptor.name.clone()),
                        ("error", sys::error_text(error).to_string()),
                    ],
                ));
            }
        }
        self.pause_exhausted(hub, index, hub.options.accept_pause);
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
    pub(crate) fn close_idle(&mut self, hub: &Hub) -> bool {
        let before = hub.connection_count();
        let long_ago = self.desk.now.saturating_sub(hub.options.evict_idle);
        let mut idle: Vec<(Nanos, Arc<Connection>)> = Vec::new();
        for connection in hub.connections() {
            let held = connection.lock();
            if held.since <= long_ago && held.is_idle() {
                idle.push((held.since, Arc::clone(&connection)));
            }
        }
        idle.sort_by_key(|(since, _)| *since);
        // A share of them at once, so that not every new connection has to look at all.
        for (_, connection) in idle.iter().take(decisions::evicted(idle.len())) {
            if !matches!(connection.stream.peek(), Ok(size) if size > 0) {
                connection.close(hub, &mut connection.lock());
            }
        }
        hub.room_made.set(false); // by this very accepting
        hub.connection_count() < before
    }

    // -- sharing with other workers -------------------------------------------------------------

    /// The most connections that are accepted in this turn.
    fn step(&self, hub: &Hub) -> usize {
        decisions::accept_step(&hub.options, self.sharing.deferrals, self.sharing.in_vain)
    }

    /// Tell whether who waits is left to others; then the listener is looked at again later.
    fn leaves_to_others(&mut self, hub: &Hub, index: usize, insists: bool) -> bool {
        let time = if self.sharing.all_busy {
            // Who waits can be taken by any worker as long as they wait here. Where none has a thread
            // free, somebody has to answer the checks, and as many may come in as threads have come
            // free: they took what was waiting, and would keep newcomers out for good.
            if hub
                .scoreboard
                .fewest_of_others(hub.options.responsive, self.desk.now)
                .is_none()
                && (hub.options.checks.any() || self.sharing.take_freed(hub))
            {
                return false;
            }
            hub.options.busy_pause
        } else if !insists && self.has_more_than_others(hub) {
            self.sharing.deferrals += 1;
            hub.options.balance_pause
        } else {
            return false;
        };
        self.pause(hub, index, time);
        if let Some(acceptor) = self.acceptors.get_mut(index) {
            acceptor.left = true;
        }
        self.sharing.look_again = self.sharing.look_again.min(self.desk.now + time);
        true
    }

    fn has_more_than_others(&self, hub: &Hub) -> bool {
        let own = hub.connection_count() as u64;
        let others = hub
            .scoreboard
            .fewest_of_others(hub.options.responsive, self.desk.now);
        decisions::leaves_to_others(&hub.options, own, others, hub.scoreboard.threads())
    }

    /// Watch listeners again that were left to others, whether or not their time has come.
    pub fn look_at_left(&mut self, hub: &Hub) {
        self.sharing.look_again = NEVER;
        for acceptor in self.acceptors.iter_mut().filter(|it| it.left) {
            acceptor.resume_at = 0;
        }
        self.resume_accepting(hub);
    }

    /// Keep in mind whether every thread is with the application.
    pub fn note_busy(&mut self, hub: &Hub, all_busy: bool) {
        if std::mem::replace(&mut self.sharing.all_busy, all_busy) != all_busy {
            self.sharing.started = hub.scoreboard.get(STARTED);
            if !all_busy && !self.drain_begun {
                self.look_at_left(hub);
            }
            self.tell_accepting(hub);
        }
    }

    /// Do what is due for those who were left to others.
    pub fn look_again(&mut self, hub: &Hub, room_made: bool) {
        if self.sharing.look_again == NEVER {
            return;
        }
        let due = self.desk.now >= self.sharing.look_again;
        let may = room_made && !self.sharing.all_busy && !self.has_more_than_others(hub);
        if due || may {
            self.look_at_left(hub);
        }
    }

    /// Forget how often somebody was left to others, where nobody waits any more: they came to it.
    pub fn note_polled(&mut self) {
        if self.sharing.deferrals + self.sharing.in_vain == 0 {
            return;
        }
        let looked = self.acceptors.iter().all(|acceptor| acceptor.watched);
        let waits = |item: &Item| match item {
            Item::Event(event) => event.token.as_listener().is_some(),
            Item::Proceed(_) => false,
        };
        if looked && !self.batch.iter().any(waits) {
            self.sharing.deferrals = 0;
            self.sharing.in_vain = 0;
        }
    }

    // -- the end --------------------------------------------------------------------------------

    /// Accept what waits in the listen queues: the kernel has accepted it, so it is served.
    ///
    /// Where no descriptor is left for all of it, the rest waits until others have left. A queue
    /// into which nobody new comes stays open for a while, for handshakes that are under way.
    pub fn empty_queues(&mut self, hub: &Hub) {
        let last = hub.connection_count() == 0 || self.desk.now >= self.handshakes_until;
        for index in 0..self.acceptors.len() {
            let open = self.acceptors.get(index).is_some_and(|it| !it.closed);
            if open
                && (last || !hub.is_lasting(index))
                && self.accept(hub, index, hub.options.max_backlog)
            {
                self.close_listener(hub, index);
            }
        }
        self.listening = self.acceptors.iter().any(|acceptor| !acceptor.closed);
    }

    /// Have a listener closed, by whoever holds the GIL.
    pub fn close_listener(&mut self, hub: &Hub, index: usize) {
        self.pause(hub, index, 0);
        if let Some(acceptor) = self.acceptors.get_mut(index) {
            if !std::mem::replace(&mut acceptor.closed, true) {
                hub.log_queue.write(Entry::CloseListener(index));
            }
        }
    }

    /// Leave the listeners, and who waits there, to others.
    pub fn hand_over(&mut self, hub: &Hub) {
        for index in 0..self.acceptors.len() {
            self.close_listener(hub, index);
        }
        self.listening = false;
        self.sharing.look_again = NEVER; // there is nothing to look at any more
        self.tell_accepting(hub);
    }
}
