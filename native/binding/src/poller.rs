//! Waiting for sockets: edge-triggered, so that a request needs no call to change what is watched.

use crate::hub::lock;
use crate::sys::{Fd, MILLISECOND, Nanos, epoll};
use std::io;
use std::os::fd::RawFd;
use std::sync::Mutex;

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

    pub fn as_listener(self) -> Option<usize> {
        (self.0 & Self::LISTENER != 0).then_some((self.0 & !Self::LISTENER) as usize)
    }
}

/// What happened on a socket.
#[derive(Clone, Copy)]
pub struct Event {
    pub token: Token,
    pub input: bool,
    pub room: bool,
    /// The client has ended its side: the end comes behind the input.
    pub ended: bool,
    /// The connection is no more.
    pub broken: bool,
}

/// What one poll told. Its room is made once: a poll is too frequent for that.
pub struct Events {
    raw: Box<[epoll::Event]>,
    ready: usize,
}

impl Default for Events {
    fn default() -> Self {
        Events {
            raw: vec![epoll::Event { events: 0, u64: 0 }; BATCH].into_boxed_slice(),
            ready: 0,
        }
    }
}

impl Events {
    pub fn len(&self) -> usize {
        self.ready
    }

    /// Take them all.
    pub fn take(&mut self) -> impl Iterator<Item = Event> + '_ {
        let ready = std::mem::take(&mut self.ready);
        self.raw.iter().take(ready).map(|event| {
            let mask = event.events as i32;
            Event {
                token: Token(event.u64),
                input: mask & libc::EPOLLIN != 0,
                room: mask & libc::EPOLLOUT != 0,
                ended: mask & libc::EPOLLRDHUP != 0,
                broken: mask & (libc::EPOLLERR | libc::EPOLLHUP) != 0,
            }
        })
    }
}

/// An epoll instance, and a descriptor that ends its wait.
pub struct Poller {
    epoll: Fd,       // used by the leader, who also closes it
    wake: Mutex<Fd>, // used by any thread: locked, lest one writes to what its number became
}

impl Poller {
    pub fn new() -> io::Result<Self> {
        let poller = Poller {
            epoll: epoll::create()?,
            wake: Mutex::new(epoll::create_eventfd()?),
        };
        // Edge-triggered: each write makes an event, and nobody has to read the counter.
        let events = (libc::EPOLLIN | libc::EPOLLET) as u32;
        epoll::add(
            &poller.epoll,
            lock(&poller.wake).raw(),
            events,
            Token::WAKE.0,
        )?;
        Ok(poller)
    }

    /// Watch a connection for all that can happen, once for its whole life.
    pub fn add(&self, socket: &Fd, token: Token) -> io::Result<()> {
        let events = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        epoll::add(&self.epoll, socket.raw(), events as u32, token.0)
    }

    /// Watch a listening socket: as long as somebody waits, each poll tells.
    pub fn add_listener(&self, number: RawFd, token: Token) -> io::Result<()> {
        epoll::add(&self.epoll, number, libc::EPOLLIN as u32, token.0)
    }

    pub fn remove(&self, number: RawFd) {
        epoll::remove(&self.epoll, number);
    }

    /// Wait for up to so long (None: for ever), and write what happened into `events`.
    pub fn wait(&self, events: &mut Events, timeout: Option<Nanos>) -> io::Result<()> {
        let milliseconds = match timeout {
            None => -1,
            Some(time) => time.div_ceil(MILLISECOND).min(60_000) as i32,
        };
        events.ready = 0;
        events.ready = epoll::wait(&self.epoll, &mut events.raw, milliseconds)?;
        Ok(())
    }

    /// End the wait in progress, or the next one. Any thread may call it.
    pub fn wake(&self) {
        epoll::signal(&lock(&self.wake));
    }

    /// Close it all, at the end: later wake-ups go nowhere.
    pub fn close(&self) {
        self.epoll.close();
        lock(&self.wake).close();
    }
}
