//! One client's bytes, both ways. What is above knows of no socket: TLS is another [`Stream`].

use crate::scoreboard::{BYTES_RECEIVED, BYTES_SENT, Scoreboard};
use crate::sys::{self, Fd, Nanos, Peer, Readiness};
use std::io::{self, IoSlice};
use std::os::fd::RawFd;
use std::sync::Arc;

/// How far a handshake is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Handshake {
    /// It goes on with the next event. `begun` is whether the client has sent anything.
    Pending {
        begun: bool,
    },
    Complete,
    /// It is complete, and all that the client wanted: the connection ends.
    Over,
    /// The client speaks HTTP, and not TLS. What is sent from now on is not protected.
    PlainHttp,
    /// The client left before it had sent anything.
    Left,
}

/// What the environ tells of a TLS session.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Session {
    /// OpenSSL's names.
    pub protocol: &'static str,
    pub cipher: &'static str,
    /// The name that the client asked for.
    pub server_name: Option<String>,
    /// Clients are asked for a certificate.
    pub asks: bool,
    /// The client's certificate, verified, in DER.
    pub certificate: Option<Vec<u8>>,
}

/// Makes streams that protect what another one carries.
pub trait Secure: Send + Sync {
    /// Protect `inner`, which nothing was received from or sent to yet.
    fn secure(&self, inner: Box<dyn Stream>) -> Box<dyn Stream>;
}

/// A connection of bytes that never blocks, but for [`Stream::wait`] and, on a slow disk,
/// [`Stream::send_file`]. Any thread may call any method; the connection decides which one does.
///
/// An error of kind `WouldBlock` means that an event will follow. Each other error is final.
pub trait Stream: Send + Sync {
    /// Whether a handshake comes before anything is received or sent.
    fn awaits_handshake(&self) -> bool {
        false
    }

    /// Go on with the handshake, as far as that is possible now. The text of an error is for the
    /// log.
    fn shake_hands(&self) -> io::Result<Handshake> {
        Ok(Handshake::Complete)
    }

    /// Whether the handshake that is complete has resumed a session.
    fn has_resumed(&self) -> bool {
        false
    }

    /// What was agreed on in the handshake; None for a stream without one.
    fn session(&self) -> Option<Session> {
        None
    }

    /// Receive what is there; return 0 at the end.
    ///
    /// Less than the buffer's size means that there was no more, unless [`Stream::holds_input`]: what
    /// comes later has an event of its own.
    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Whether there is input, or its end, of which no event tells: within the stream, and not in
    /// the kernel.
    fn holds_input(&self) -> bool {
        false
    }

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

    /// Send and receive without TLS from now on: the client does not speak it. Only before the
    /// handshake has begun.
    fn speak_plain(&self) {}

    /// Send what is taken at once; return its size.
    ///
    /// What was not taken has to come again, in the same order, in the next calls of this and the
    /// next two, unless nothing more is sent at all: the stream may have encrypted it already.
    fn send(&self, data: &[u8]) -> io::Result<usize>;

    /// Send several pieces as one, without copying them together.
    fn send_vector(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Send a part of a file; return 0 if the file ends before `offset`.
    fn send_file(&self, file: &Fd, offset: u64, size: usize) -> io::Result<usize>;

    /// Have the kernel hold up to `bytes` that are not on their way to the client yet.
    fn hold_ahead(&self, bytes: u64) {
        let _ = bytes;
    }

    /// Wait until the stream is ready, or in an error; return whether it is.
    fn wait(&self, what: Readiness, timeout: Nanos) -> io::Result<bool>;

    /// End the own side: the client reads the end behind all that was sent.
    fn shut_down(&self) -> io::Result<()>;

    /// Note that the response is cut short: its end must not look like a proper one, as far as the
    /// protocol can tell the difference.
    fn cut_short(&self) {}

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
    /// Counts the bytes.
    scoreboard: Arc<Scoreboard>,
}

impl PlainStream {
    pub fn new(socket: Fd, peer: Peer, scoreboard: &Arc<Scoreboard>) -> Self {
        PlainStream {
            socket,
            peer,
            scoreboard: Arc::clone(scoreboard),
        }
    }

    fn count(&self, word: usize, moved: io::Result<usize>) -> io::Result<usize> {
        if let Ok(bytes) = &moved {
            self.scoreboard.add(word, *bytes as u64);
        }
        moved
    }
}

impl Stream for PlainStream {
    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.count(BYTES_RECEIVED, sys::receive(&self.socket, buffer))
    }

    fn peek(&self) -> io::Result<usize> {
        sys::peek(&self.socket)
    }

    fn peek_raw(&self, buffer: &mut [u8]) -> io::Result<usize> {
        sys::peek_into(&self.socket, buffer)
    }

    fn receive_raw(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.receive(buffer)
    }

    fn send(&self, data: &[u8]) -> io::Result<usize> {
        self.count(BYTES_SENT, sys::send(&self.socket, data))
    }

    fn send_vector(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.count(BYTES_SENT, sys::send_vector(&self.socket, pieces))
    }

    fn send_file(&self, file: &Fd, offset: u64, size: usize) -> io::Result<usize> {
        self.count(BYTES_SENT, sys::send_file(&self.socket, file, offset, size))
    }

    fn hold_ahead(&self, bytes: u64) {
        sys::hold_ahead(&self.socket, bytes);
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
