//! What Linux has, and has better than others: one call where they need several, and epoll.

use super::{Fd, SocketEvents, check, count, retry};
use crate::sync::lock;
use std::ffi::CStr;
use std::io;
use std::mem;
use std::os::fd::RawFd;
use std::sync::Mutex;

/// The kernel can wake one of several processes that wait for a client.
pub const EXCLUSIVE_WAKE: bool = true;

/// No signal for a connection that is gone: the error does.
pub const SEND_FLAGS: libc::c_int = libc::MSG_NOSIGNAL;

/// Accept a connection, non-blocking and not inherited by programs that the application starts.
pub fn accept(
    listener: RawFd,
    address: *mut libc::sockaddr,
    length: &mut libc::socklen_t,
) -> io::Result<RawFd> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: the caller's `address` is to `length` bytes.
    check(unsafe { libc::accept4(listener, address, length, flags) })
}

/// Have the kernel send a part of a file; 0 where the file ends before `offset`.
///
/// `sendfile` knows no MSG_NOSIGNAL: the signal is blocked in the calling thread meanwhile, and
/// taken away where it came. An application may have restored its default action, which is to end
/// the process. If it stayed blocked, it would be blocked in programs that the application starts.
pub fn send_file(socket: RawFd, file: RawFd, offset: u64, size: usize) -> io::Result<usize> {
    let blocked = SigpipeBlocked::new();
    let sent = retry(|| {
        let mut from = offset as libc::off_t;
        // SAFETY: `from` is an offset to read from and to write to.
        count(unsafe { libc::sendfile(socket, file, &mut from, size) })
    });
    // A call that had sent a part before the connection was gone returns that part, and raises the
    // signal all the same.
    if !matches!(&sent, Ok(count) if *count == size) {
        blocked.take_pending();
    }
    sent
}

/// SIGPIPE is blocked in the thread that made this, until it is dropped.
struct SigpipeBlocked {
    only_sigpipe: libc::sigset_t,
    /// It was not blocked before.
    newly: bool,
}

impl SigpipeBlocked {
    fn new() -> Self {
        // SAFETY: all-zero bytes are a valid sigset_t, and each call gets one to read or write.
        unsafe {
            let mut only_sigpipe: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut only_sigpipe);
            libc::sigaddset(&mut only_sigpipe, libc::SIGPIPE);
            libc::pthread_sigmask(libc::SIG_BLOCK, &only_sigpipe, &mut before);
            SigpipeBlocked {
                only_sigpipe,
                newly: libc::sigismember(&before, libc::SIGPIPE) == 0,
            }
        }
    }

    /// Take the signal away that a call has just raised, unless the thread had it blocked anyway.
    fn take_pending(&self) {
        let at_once = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        if self.newly {
            // SAFETY: a set and a time to read; what is known of the signal is not asked for.
            unsafe { libc::sigtimedwait(&self.only_sigpipe, std::ptr::null_mut(), &at_once) };
        }
    }
}

impl Drop for SigpipeBlocked {
    fn drop(&mut self) {
        if self.newly {
            let only_sigpipe = &self.only_sigpipe;
            // SAFETY: a set to read; what was before is not asked for.
            unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, only_sigpipe, std::ptr::null_mut()) };
        }
    }
}

/// Reset a TCP connection, and keep its socket; return whether that was possible.
///
/// Needs no other descriptor: there may be none left (EMFILE).
pub fn disconnect(socket: RawFd) -> bool {
    let address = libc::sockaddr {
        sa_family: libc::AF_UNSPEC as libc::sa_family_t,
        sa_data: [0; 14],
    };
    let size = mem::size_of_val(&address) as libc::socklen_t;
    // SAFETY: pointer and size are those of `address`.
    unsafe { libc::connect(socket, &raw const address, size) == 0 }
}

/// Open a file without a name, where the file system knows how to; None where not.
pub fn open_unnamed(directory: &CStr) -> Option<io::Result<RawFd>> {
    let flags = libc::O_TMPFILE | libc::O_RDWR | libc::O_CLOEXEC | libc::O_EXCL;
    // SAFETY: `directory` is a C string.
    match check(unsafe { libc::open(directory.as_ptr(), flags, 0o600) }) {
        Err(error) => match error.raw_os_error() {
            Some(libc::EISDIR | libc::EOPNOTSUPP | libc::EINVAL) => None,
            _ => Some(Err(error)),
        },
        opened => Some(opened),
    }
}

/// Have the kernel take up to `bytes` that are not on their way to the client yet.
pub fn hold_ahead(socket: RawFd, bytes: libc::c_int) {
    let size = std::mem::size_of_val(&bytes) as libc::socklen_t;
    let (pointer, option) = ((&raw const bytes).cast(), libc::TCP_NOTSENT_LOWAT);
    // A unix socket refuses it, and does not need it.
    // SAFETY: pointer and size are those of `bytes`.
    unsafe { libc::setsockopt(socket, libc::IPPROTO_TCP, option, pointer, size) };
}

/// Bytes that wait in the send buffer or on the wire.
pub fn unacknowledged(socket: RawFd) -> io::Result<libc::c_int> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: TIOCOUTQ writes one int.
    check(unsafe { libc::ioctl(socket, libc::TIOCOUTQ, &mut bytes) })?;
    Ok(bytes)
}

/// What the kernel reports of one descriptor.
pub type RawEvent = libc::epoll_event;

pub const NO_EVENT: RawEvent = RawEvent { events: 0, u64: 0 };

/// What an event says, and the number that the descriptor was added with.
pub fn socket_events(event: &RawEvent) -> (u64, SocketEvents) {
    let mask = event.events as i32;
    let events = SocketEvents {
        input: mask & libc::EPOLLIN != 0,
        room: mask & libc::EPOLLOUT != 0,
        ended: mask & libc::EPOLLRDHUP != 0,
        broken: mask & (libc::EPOLLERR | libc::EPOLLHUP) != 0,
    };
    (event.u64, events)
}

/// An epoll instance, and a descriptor that ends its wait.
pub struct Queue {
    epoll: Fd,       // used by the leader, who also closes it
    wake: Mutex<Fd>, // used by any thread: locked, so that none writes to a reused number
}

/// What is reported of a connection, but for its input.
const APART_FROM_INPUT: i32 = libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;

impl Queue {
    /// `wake` is the number that a wake-up is reported with.
    pub fn new(wake: u64) -> io::Result<Self> {
        // SAFETY: no pointer is passed.
        let epoll = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }).map(Fd::new)?;
        let flags = libc::EFD_NONBLOCK | libc::EFD_CLOEXEC;
        // SAFETY: no pointer is passed.
        let eventfd = check(unsafe { libc::eventfd(0, flags) }).map(Fd::new)?;
        let queue = Queue {
            epoll,
            wake: Mutex::new(eventfd),
        };
        // Edge-triggered: each write makes an event, and the counter need not be read.
        let number = lock(&queue.wake).raw();
        queue.watch(number, libc::EPOLLIN | libc::EPOLLET, wake)?;
        Ok(queue)
    }

    /// Report all that happens on a socket, once each time.
    pub fn add(&self, socket: RawFd, token: u64) -> io::Result<()> {
        self.watch(socket, APART_FROM_INPUT | libc::EPOLLIN, token)
    }

    /// Report no input of a socket until `tell_of_input`; its end all the same.
    pub fn ignore_input(&self, socket: RawFd, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, socket, APART_FROM_INPUT, token)
    }

    /// Report input of a socket again, and what has come meanwhile.
    pub fn tell_of_input(&self, socket: RawFd, token: u64) -> io::Result<()> {
        self.control(
            libc::EPOLL_CTL_MOD,
            socket,
            APART_FROM_INPUT | libc::EPOLLIN,
            token,
        )
    }

    /// Report a listener in each wait while a client is in its queue.
    pub fn add_listener(&self, listener: RawFd, token: u64, exclusive: bool) -> io::Result<()> {
        let mode = if exclusive { libc::EPOLLEXCLUSIVE } else { 0 };
        self.watch(listener, libc::EPOLLIN | mode, token)
    }

    pub fn remove_listener(&self, listener: RawFd) {
        let mut event = NO_EVENT;
        let epoll = self.epoll.raw();
        // It may be closed, and so out of it, already.
        // SAFETY: `event` is one epoll_event.
        unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_DEL, listener, &mut event) };
    }

    fn watch(&self, number: RawFd, events: i32, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, number, events, token)
    }

    fn control(&self, what: i32, number: RawFd, events: i32, token: u64) -> io::Result<()> {
        let mut event = RawEvent {
            events: events as u32,
            u64: token,
        };
        let epoll = self.epoll.raw();
        // SAFETY: `event` is one epoll_event.
        check(unsafe { libc::epoll_ctl(epoll, what, number, &mut event) }).map(drop)
    }

    /// Fill `events` from the front; return how many. An interrupted wait is one without events.
    pub fn wait(&self, events: &mut [RawEvent], milliseconds: i32) -> io::Result<usize> {
        let (pointer, size) = (events.as_mut_ptr(), events.len() as libc::c_int);
        // SAFETY: pointer and size are those of `events`.
        match check(unsafe { libc::epoll_wait(self.epoll.raw(), pointer, size, milliseconds) }) {
            Ok(ready) => Ok(ready as usize),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// End the wait in progress, or the next one. Any thread may call it.
    pub fn wake(&self) {
        let one = 1u64.to_ne_bytes();
        let eventfd = lock(&self.wake);
        // It fails only where the counter is full, and then it is readable anyway.
        // SAFETY: pointer and length are those of `one`.
        unsafe { libc::write(eventfd.raw(), one.as_ptr().cast(), one.len()) };
    }

    /// Close it all, at the end: later wake-ups go nowhere.
    pub fn close(&self) {
        self.epoll.close();
        lock(&self.wake).close();
    }
}
