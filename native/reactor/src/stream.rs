//! One client's bytes, both ways. What is above knows of no socket: TLS is another [`Stream`].

use crate::sys::{self, Fd, Nanos, Peer, Readiness};
use std::io::{self, IoSlice};
use std::os::fd::RawFd;

/// A connection of bytes that never blocks, but for [`Stream::wait`] and, on a slow disk,
/// [`Stream::send_file`]. Any thread may call any method; the connection decides which one does.
///
/// An error of kind `WouldBlock` means that an event will follow. Each other error is final.
pub trait Stream: Send + Sync {
    /// Receive what is there; return 0 at the end.
    ///
    /// Less than the buffer's size means that there was no more: what comes later has an event of
    /// its own.
    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Return 0 if the client has ended its side and nothing is left to receive, and more if there
    /// is something. Takes nothing.
    fn peek(&self) -> io::Result<usize>;

    /// Copy what has come of the bytes before TLS, and leave it there; return its size, 0 at the
    /// end.
    fn peek_raw(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let _ = buffer;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Take bytes that come before TLS.
    fn receive_raw(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let _ = buffer;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Send what is taken at once; return its size.
    fn send(&self, data: &[u8]) -> io::Result<usize>;

    /// Send several pieces as one, without copying them together.
    fn send_vector(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Send a part of a file; return 0 if the file ends before `offset`.
    fn send_file(&self, file: &Fd, offset: u64, size: usize) -> io::Result<usize>;

    /// Wait until the stream is ready, or in an error; return whether it is.
    fn wait(&self, what: Readiness, timeout: Nanos) -> io::Result<bool>;

    /// End the own side: the client reads the end behind all that was sent.
    fn shut_down(&self) -> io::Result<()>;

    /// Have the closing be a reset, which no client takes for a response's proper end.
    fn reset_on_close(&self);

    /// Reset the connection under a thread that uses it: that thread's next call fails.
    fn cut_off(&self);

    /// Close it. Later calls fail, and further ones of this do nothing.
    fn close(&self);

    /// Where the client is; None for a unix socket.
    fn peer(&self) -> Peer;

    /// What the poller watches; None if another part of the program brings the events.
    fn descriptor(&self) -> Option<RawFd>;

    /// Whether this process opened it: not in a child that was forked since.
    fn is_ours(&self) -> bool;

    /// Bytes that were sent and that the client's side has not acknowledged; 0 if unknown.
    fn unacknowledged(&self) -> u64;

    /// Bytes that have arrived and were not received; 0 if unknown.
    fn arrived(&self) -> u64;

    /// Whether the bytes are protected on their way, as by TLS.
    fn is_secure(&self) -> bool;
}

/// An accepted socket, TCP or unix, with nothing between it and HTTP.
pub struct PlainStream {
    socket: Fd,
    peer: Peer,
}

impl PlainStream {
    pub fn new(socket: Fd, peer: Peer) -> Self {
        PlainStream { socket, peer }
    }
}

impl Stream for PlainStream {
    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        sys::receive(&self.socket, buffer)
    }

    fn peek(&self) -> io::Result<usize> {
        sys::peek(&self.socket)
    }

    fn peek_raw(&self, buffer: &mut [u8]) -> io::Result<usize> {
        sys::peek_into(&self.socket, buffer)
    }

    fn receive_raw(&self, buffer: &mut [u8]) -> io::Result<usize> {
        sys::receive(&self.socket, buffer)
    }

    fn send(&self, data: &[u8]) -> io::Result<usize> {
        sys::send(&self.socket, data)
    }

    fn send_vector(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        sys::send_vector(&self.socket, pieces)
    }

    fn send_file(&self, file: &Fd, offset: u64, size: usize) -> io::Result<usize> {
        sys::send_file(&self.socket, file, offset, size)
    }

    fn wait(&self, what: Readiness, timeout: Nanos) -> io::Result<bool> {
        sys::wait_until(&self.socket, what, timeout)
    }

    fn shut_down(&self) -> io::Result<()> {
        sys::shutdown_write(&self.socket)
    }

    fn reset_on_close(&self) {
        sys::reset_on_close(&self.socket);
    }

    fn cut_off(&self) {
        sys::cut_off(&self.socket);
    }

    fn close(&self) {
        self.socket.close();
    }

    fn peer(&self) -> Peer {
        self.peer
    }

    fn descriptor(&self) -> Option<RawFd> {
        Some(self.socket.raw())
    }

    fn is_ours(&self) -> bool {
        self.socket.is_ours()
    }

    fn unacknowledged(&self) -> u64 {
        sys::unacknowledged(&self.socket)
    }

    fn arrived(&self) -> u64 {
        sys::arrived(&self.socket)
    }

    fn is_secure(&self) -> bool {
        false
    }
}
