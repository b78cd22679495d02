//! Waiting for sockets: edge-triggered, so that a request needs no call to change what is watched.

use crate::sys::{self, MILLISECOND, NO_EVENT, Nanos, Queue, RawEvent, SocketEvents};
use std::io;
use std::os::fd::RawFd;

/// Events taken in one poll. A batch is handled before the next poll.
const BATCH: usize = 256;

/// Names what an event is about: a connection's slot, a listener, or the wake-up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Token(pub u64);

impl Token {
    pub const WAKE: Token = Token(u64::MAX);
    const LISTENER: u64 = 1 << 63;

    pub fn listener(index: usize) -> Token {
        Token(Self::LISTENER | index as u64)
    }

    pub fn is_connection(self) -> bool {
        self.0 & Self::LISTENER == 0
    }

    pub fn as_listener(self) -> Option<usize> {
        let is_listener = self != Self::WAKE && self.0 & Self::LISTENER != 0;
        is_listener.then_some((self.0 & !Self::LISTENER) as usize)
    }
}

/// What happened on a socket.
#[derive(Clone, Copy)]
pub struct Event {
    pub token: Token,
    pub events: SocketEvents,
}

/// What one poll returned. Its room is made once: a poll is too frequent for that.
pub struct Events {
    raw: Box<[RawEvent]>,
    ready: usize,
    found: usize, // the same, and not changed by taking them
}

impl Default for Events {
    fn default() -> Self {
        Events {
            raw: vec![NO_EVENT; BATCH].into_boxed_slice(),
            ready: 0,
            found: 0,
        }
    }
}

impl Events {
    pub fn is_empty(&self) -> bool {
        self.ready == 0
    }

    /// Whether the last poll found as many as fit.
    pub fn were_full(&self) -> bool {
        self.found == self.raw.len()
    }

    /// Take them all.
    pub fn take(&mut self) -> impl Iterator<Item = Event> + '_ {
        let ready = std::mem::take(&mut self.ready);
        self.raw.iter().take(ready).map(|event| {
            let (token, events) = sys::socket_events(event);
            Event {
                token: Token(token),
                events,
            }
        })
    }
}

/// The kernel's queue of events: an epoll instance, or a kqueue.
pub struct Poller(Queue);

impl Poller {
    pub fn new() -> io::Result<Self> {
        Queue::new(Token::WAKE.0).map(Poller)
    }

    /// Watch a connection for all that can happen.
    pub fn add(&self, socket: RawFd, token: Token) -> io::Result<()> {
        self.0.add(socket, token.0)
    }

    /// Report no input of a connection for a while: a thread reads it, and needs no leader for that.
    pub fn ignore_input(&self, socket: RawFd, token: Token) -> io::Result<()> {
        self.0.ignore_input(socket, token.0)
    }

    /// Report input of a connection again, and what has come meanwhile.
    pub fn tell_of_input(&self, socket: RawFd, token: Token) -> io::Result<()> {
        self.0.tell_of_input(socket, token.0)
    }

    /// Watch a listening socket: each poll reports it while a client waits. If it is `exclusive`, a
    /// client that comes ends the wait of one process that watches it so, where the kernel can do
    /// that: of the one that has watched it for longest among those that wait.
    pub fn add_listener(&self, number: RawFd, token: Token, exclusive: bool) -> io::Result<()> {
        self.0.add_listener(number, token.0, exclusive)
    }

    pub fn remove(&self, number: RawFd) {
        self.0.remove_listener(number);
    }

    /// Wait for up to so long (None: for ever), and write what happened into `events`.
    pub fn wait(&self, events: &mut Events, timeout: Option<Nanos>) -> io::Result<()> {
        let milliseconds = match timeout {
            None => -1,
            Some(time) => time.div_ceil(MILLISECOND).min(60_000) as i32,
        };
        events.ready = 0;
        events.ready = self.0.wait(&mut events.raw, milliseconds)?;
        events.found = events.ready;
        Ok(())
    }

    /// End the wait in progress, or the next one. Any thread may call it.
    pub fn wake(&self) {
        self.0.wake();
    }

    /// Close it all, at the end: later wake-ups go nowhere.
    pub fn close(&self) {
        self.0.close();
    }
}
