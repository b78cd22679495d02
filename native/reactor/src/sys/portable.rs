//! What macOS and the BSDs have: POSIX, and kqueue. Linux uses it for tests alone (the feature
//! `portable`), with the kqueue of `native/kqueue`.

use super::{Fd, SocketEvents, check, count, retry};
use crate::sync::lock;
use std::ffi::CStr;
use std::io;
use std::os::fd::RawFd;
use std::sync::Mutex;

use kqueue::{
    EV_ADD, EV_CLEAR, EV_DELETE, EV_EOF, EVFILT_READ, EVFILT_USER, EVFILT_WRITE, NOTE_TRIGGER,
};

/// A client that comes ends the wait of all processes that share a listener.
pub const EXCLUSIVE_WAKE: bool = false;

/// No signal for a connection that is gone: the error does.
#[cfg(not(target_vendor = "apple"))]
pub const SEND_FLAGS: libc::c_int = libc::MSG_NOSIGNAL;

/// None: each socket has an option for it ([`accept`]).
#[cfg(target_vendor = "apple")]
pub const SEND_FLAGS: libc::c_int = 0;

/// The most of a file that is read to be sent at once.
const FILE_BLOCK: usize = 64 * 1024;

/// Do nothing: listeners limit this on Linux alone.
pub fn hold_ahead(_socket: RawFd, _bytes: libc::c_int) {}

/// Accept a connection, non-blocking and not inherited by programs that the application starts.
pub fn accept(
    listener: RawFd,
    address: *mut libc::sockaddr,
    length: &mut libc::socklen_t,
) -> io::Result<RawFd> {
    // SAFETY: the caller's `address` is to `length` bytes.
    let number = check(unsafe { libc::accept(listener, address, length) })?;
    // SAFETY: no pointer is passed.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFL) };
    // SAFETY: no pointer is passed.
    let set = check(unsafe { libc::fcntl(number, libc::F_SETFL, flags | libc::O_NONBLOCK) });
    if let Err(error) = set {
        // SAFETY: no pointer is passed; no other code has the number.
        unsafe { libc::close(number) };
        return Err(error);
    }
    close_on_exec(number);
    #[cfg(target_vendor = "apple")]
    {
        let one: libc::c_int = 1;
        let (pointer, size) = (
            (&raw const one).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        );
        let (level, option) = (libc::SOL_SOCKET, libc::SO_NOSIGPIPE);
        // SAFETY: pointer and size are those of `one`. It fails where the client is gone already.
        unsafe { libc::setsockopt(number, level, option, pointer, size) };
    }
    Ok(number)
}

fn close_on_exec(number: RawFd) {
    // SAFETY: no pointer is passed.
    unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
}

/// Read a part of a file, and send what the kernel takes of it; 0 where it ends before `offset`.
pub fn send_file(socket: RawFd, file: RawFd, offset: u64, size: usize) -> io::Result<usize> {
    let mut block = [0_u8; FILE_BLOCK];
    let most = block.len().min(size);
    let pointer = block.as_mut_ptr();
    let from = offset as libc::off_t;
    // SAFETY: `most` is no more than the block's length.
    let read = retry(|| count(unsafe { libc::pread(file, pointer.cast(), most, from) }))?;
    if read == 0 {
        return Ok(0);
    }
    // SAFETY: so much of the block has been written to.
    retry(|| count(unsafe { libc::send(socket, pointer.cast(), read, SEND_FLAGS) }))
}

/// Put a socket that was never connected in the place of another, which is closed by that; return
/// whether there was a descriptor for it.
pub fn disconnect(socket: RawFd) -> bool {
    // SAFETY: no pointer is passed.
    let Ok(unconnected) = check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0) })
    else {
        return false;
    };
    // SAFETY: no pointer is passed; the number is ours, and used nowhere else.
    unsafe {
        libc::dup2(unconnected, socket);
        libc::close(unconnected);
    };
    close_on_exec(socket);
    true
}

/// No file system makes a file without a name.
pub fn open_unnamed(_directory: &CStr) -> Option<io::Result<RawFd>> {
    None
}

/// Bytes that wait in the send buffer or on the wire.
#[cfg(not(target_os = "macos"))]
pub fn unacknowledged(socket: RawFd) -> io::Result<libc::c_int> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: TIOCOUTQ writes one int.
    check(unsafe { libc::ioctl(socket, libc::TIOCOUTQ, &mut bytes) })?;
    Ok(bytes)
}

/// Bytes that wait in the send buffer or on the wire.
#[cfg(target_os = "macos")]
pub fn unacknowledged(socket: RawFd) -> io::Result<libc::c_int> {
    let mut bytes: libc::c_int = 0;
    let mut size = size_of::<libc::c_int>() as libc::socklen_t;
    let (level, option) = (libc::SOL_SOCKET, libc::SO_NWRITE);
    let pointer = (&raw mut bytes).cast();
    // SAFETY: SO_NWRITE writes one int, whose size is `size`.
    check(unsafe { libc::getsockopt(socket, level, option, pointer, &mut size) })?;
    Ok(bytes)
}

/// What the kernel reports of one descriptor, and of one direction.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct RawEvent(kqueue::kevent);

// SAFETY: what an event has as a pointer is a number here, which is never dereferenced.
unsafe impl Send for RawEvent {}

pub const NO_EVENT: RawEvent = change(0, 0, 0, 0);

const fn change(ident: usize, filter: i16, flags: u16, token: u64) -> RawEvent {
    RawEvent(kqueue::kevent {
        ident,
        filter,
        flags,
        fflags: 0,
        data: 0,
        udata: token as usize as *mut libc::c_void,
    })
}

/// What an event says, and the number that the descriptor was added with.
pub fn socket_events(event: &RawEvent) -> (u64, SocketEvents) {
    let RawEvent(event) = event;
    let over = event.flags & EV_EOF != 0;
    let events = SocketEvents {
        input: event.filter == EVFILT_READ,
        room: event.filter == EVFILT_WRITE,
        ended: over,
        // For a reader the end is the client's; a writer's end means that the client reads no more.
        broken: over && (event.filter == EVFILT_WRITE || event.fflags != 0),
    };
    (event.udata as usize as u64, events)
}

/// A kqueue.
pub struct Queue {
    kqueue: Mutex<Fd>, // locked for a wake-up and for closing: the number may be reused
    number: RawFd,     // the same, for the leader, who also closes it
    wake: u64,
}

impl Queue {
    /// `wake` is the number that a wake-up is reported with.
    pub fn new(wake: u64) -> io::Result<Self> {
        // SAFETY: no pointer is passed.
        let number = check(unsafe { kqueue::kqueue() })?;
        close_on_exec(number);
        let queue = Queue {
            kqueue: Mutex::new(Fd::new(number)),
            number,
            wake,
        };
        queue.apply(&[change(0, EVFILT_USER, EV_ADD | EV_CLEAR, wake)])?;
        Ok(queue)
    }

    /// Report all that happens on a socket, once each time.
    pub fn add(&self, socket: RawFd, token: u64) -> io::Result<()> {
        let flags = EV_ADD | EV_CLEAR;
        self.apply(&[
            change(socket as usize, EVFILT_READ, flags, token),
            change(socket as usize, EVFILT_WRITE, flags, token),
        ])
    }

    /// Report no input of a socket until `tell_of_input`; its end with the room for output.
    pub fn ignore_input(&self, socket: RawFd, token: u64) -> io::Result<()> {
        self.apply(&[change(socket as usize, EVFILT_READ, EV_DELETE, token)])
    }

    /// Report input of a socket again, and what has come meanwhile.
    pub fn tell_of_input(&self, socket: RawFd, token: u64) -> io::Result<()> {
        let flags = EV_ADD | EV_CLEAR;
        self.apply(&[change(socket as usize, EVFILT_READ, flags, token)])
    }

    /// Report a listener in each wait while a client is in its queue.
    pub fn add_listener(&self, listener: RawFd, token: u64, _exclusive: bool) -> io::Result<()> {
        self.apply(&[change(listener as usize, EVFILT_READ, EV_ADD, token)])
    }

    pub fn remove_listener(&self, listener: RawFd) {
        // It may be closed, and so out of it, already.
        let _ = self.apply(&[change(listener as usize, EVFILT_READ, EV_DELETE, 0)]);
    }

    fn apply(&self, changes: &[RawEvent]) -> io::Result<()> {
        self.call(changes, &mut [], 0).map(drop)
    }

    fn call(
        &self,
        changes: &[RawEvent],
        events: &mut [RawEvent],
        milliseconds: i32,
    ) -> io::Result<usize> {
        let time = libc::timespec {
            tv_sec: libc::time_t::from(milliseconds.max(0) / 1000),
            tv_nsec: libc::c_long::from(milliseconds.max(0) % 1000 * 1_000_000),
        };
        let timeout = if milliseconds < 0 {
            std::ptr::null()
        } else {
            &raw const time
        };
        let (given, taken) = (changes.len() as libc::c_int, events.len() as libc::c_int);
        let (from, to) = (changes.as_ptr().cast(), events.as_mut_ptr().cast());
        // SAFETY: pointers and sizes are those of the slices; `timeout` is null or to `time`.
        let count = check(unsafe { kqueue::kevent(self.number, from, given, to, taken, timeout) })?;
        Ok(count as usize)
    }

    /// Fill `events` from the front; return how many. An interrupted wait is one without events.
    pub fn wait(&self, events: &mut [RawEvent], milliseconds: i32) -> io::Result<usize> {
        match self.call(&[], events, milliseconds) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            result => result,
        }
    }

    /// End the wait in progress, or the next one. Any thread may call it.
    pub fn wake(&self) {
        let kqueue = lock(&self.kqueue);
        if kqueue.raw() >= 0 {
            let mut trigger = change(0, EVFILT_USER, 0, self.wake);
            trigger.0.fflags = NOTE_TRIGGER;
            let _ = self.apply(&[trigger]);
        }
    }

    /// Close it, at the end: later wake-ups go nowhere.
    pub fn close(&self) {
        lock(&self.kqueue).close();
    }
}

#[cfg(not(target_os = "linux"))]
use libc as kqueue;

/// What `native/kqueue` has of it.
#[cfg(target_os = "linux")]
mod kqueue {
    pub const EVFILT_READ: i16 = -1;
    pub const EVFILT_WRITE: i16 = -2;
    pub const EVFILT_USER: i16 = -11;
    pub const EV_ADD: u16 = 0x0001;
    pub const EV_DELETE: u16 = 0x0002;
    pub const EV_CLEAR: u16 = 0x0020;
    pub const EV_EOF: u16 = 0x8000;
    pub const NOTE_TRIGGER: u32 = 0x0100_0000;

    #[allow(non_camel_case_types, reason = "its name in C")]
    #[repr(C)]
    #[derive(Clone, Copy)]
    pub struct kevent {
        pub ident: usize,
        pub filter: i16,
        pub flags: u16,
        pub fflags: u32,
        pub data: isize,
        pub udata: *mut libc::c_void,
    }

    #[link(name = "kqueue")]
    unsafe extern "C" {
        pub fn kqueue() -> libc::c_int;
        pub fn kevent(
            kqueue: libc::c_int,
            changes: *const kevent,
            given: libc::c_int,
            events: *mut kevent,
            taken: libc::c_int,
            timeout: *const libc::timespec,
        ) -> libc::c_int;
    }
}
