//! A stream that speaks TLS over another one.

use super::{ACME_PROTOCOL, Configs, ciphers};
use crate::stream::{Handshake, Session, Stream};
use crate::sync::lock;
use crate::sys::{self, Fd, Nanos, Peer, Readiness};
use rustls::server::{Acceptor, ServerConnection};
use rustls::{CertificateError, HandshakeKind, ProtocolVersion};
use std::cell::RefCell;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// The most plaintext that is encrypted before the kernel has taken what came of it: some records
/// of 16 KiB leave in one call, and this is the most that a connection holds of ciphertext.
const BATCH_BYTES: usize = 64 * 1024;

/// Reads of the socket in one call. A client may send records without content, without end.
const READS_PER_CALL: usize = 64;

/// Why a handshake is not complete.
const LEFT: &str = "the client disconnected";

thread_local! {
    /// What is read of a file before it is encrypted.
    static FILE_BLOCK: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What a stream does.
enum State {
    /// It waits for the client's first message, which decides what it is served with.
    Greeting(Box<Acceptor>),
    Shaking(Box<ServerConnection>),
    Open(Box<ServerConnection>),
    /// The client speaks no TLS, and gets an answer in plain HTTP.
    Plain,
    /// Nothing more can be received or sent.
    Failed,
}

/// A session, and how far its bytes are on their way.
struct Inner {
    state: State,
    /// Something was received.
    begun: bool,
    /// Bytes of plaintext that are encrypted, and not reported as sent yet.
    unreported: usize,
    /// Bytes that the kernel has taken of what came of them.
    unreported_sent: u64,
    /// The own side ends as soon as all is sent.
    ends: bool,
    /// It ends without a word, since a response was cut short.
    cut_short: bool,
}

/// TLS over another stream. A thread that calls a method holds the session's lock for as long as the
/// processor needs, and never while it waits.
pub struct TlsStream {
    inner: Box<dyn Stream>,
    configs: Arc<Configs>,
    session: Mutex<Inner>,
    /// See [`Stream::holds_input`].
    holds_input: AtomicBool,
    /// The handshake is complete.
    secure: AtomicBool,
    resets: AtomicBool,
}

impl TlsStream {
    pub fn new(inner: Box<dyn Stream>, configs: Arc<Configs>) -> Self {
        TlsStream {
            inner,
            configs,
            session: Mutex::new(Inner {
                state: State::Greeting(Box::default()),
                begun: false,
                unreported: 0,
                unreported_sent: 0,
                ends: false,
                cut_short: false,
            }),
            holds_input: AtomicBool::new(false),
            secure: AtomicBool::new(false),
            resets: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.session)
    }

    /// Send what is encrypted; fails with `WouldBlock` where the kernel does not take all of it.
    fn flush(&self, session: &mut Inner) -> io::Result<()> {
        let (State::Shaking(tls) | State::Open(tls)) = &mut session.state else {
            return Ok(());
        };
        while tls.wants_write() {
            match tls.write_tls(&mut Socket::new(&*self.inner)) {
                Ok(sent) => session.unreported_sent += sent as u64,
                Err(error) => {
                    if error.kind() != io::ErrorKind::WouldBlock {
                        session.state = State::Failed;
                    }
                    return Err(error);
                }
            }
        }
        session.unreported_sent = 0;
        if std::mem::take(&mut session.ends) {
            self.inner.shut_down()?;
        }
        Ok(())
    }

    /// Encrypt and send by `write`, which is told how many bytes were sent before and returns how
    /// many it has encrypted; return how many bytes of `size` were sent in all.
    fn send_by(
        &self,
        session: &mut Inner,
        size: usize,
        mut write: impl FnMut(&mut ServerConnection, usize) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let (mut sent, mut encrypted) = (0, false);
        loop {
            if matches!(session.state, State::Failed) {
                return Err(gone());
            }
            // What is left of the handshake leaves with the first bytes, in one call.
            if sent > 0 || session.unreported > 0 || encrypted {
                match self.flush(session) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock && sent > 0 => break,
                    Err(error) => return Err(error),
                }
            }
            let reported = session.unreported.min(size - sent);
            session.unreported -= reported;
            sent += reported;
            if sent == size {
                break;
            }
            let State::Open(tls) = &mut session.state else {
                return Err(gone());
            };
            session.unreported = write(tls, sent)?;
            encrypted = true;
            if session.unreported == 0 && !tls.wants_write() {
                return Err(gone()); // the keys are used up, and cannot be replaced
            }
        }
        Ok(sent)
    }

    /// Take decrypted bytes, and decrypt more, until the buffer is full or the kernel has no more:
    /// then `drained` is set.
    fn receive_decrypted(
        &self,
        session: &mut Inner,
        buffer: &mut [u8],
        drained: &mut bool,
    ) -> io::Result<usize> {
        let (mut taken, mut reads) = (0, 0);
        let taken_or = |taken: usize, error: io::Error| match taken {
            0 => Err(error),
            _ => Ok(taken),
        };
        loop {
            let State::Open(tls) = &mut session.state else {
                return taken_or(taken, gone());
            };
            let room = buffer.get_mut(taken..).unwrap_or_default();
            if room.is_empty() {
                return Ok(taken);
            }
            match tls.reader().read(room) {
                Ok(0) => return Ok(taken), // close_notify
                Ok(size) => {
                    taken += size;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The end without close_notify. An attacker may have cut the connection, which a
                // request shows by its own framing: its end is never that of the connection.
                Err(_) => return Ok(taken),
            }
            if *drained || reads == READS_PER_CALL {
                return taken_or(taken, io::ErrorKind::WouldBlock.into());
            }
            reads += 1;
            let mut socket = Socket::new(&*self.inner);
            let received = tls.read_tls(&mut socket);
            *drained = socket.drained;
            match received {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => {
                    session.state = State::Failed;
                    return taken_or(taken, error);
                }
            }
            if tls.process_new_packets().is_err() {
                let _ = self.flush(session); // the alert that says why
                session.state = State::Failed;
            }
        }
    }

    /// Whether there are decrypted bytes, the end, or an error.
    fn has_more(session: &mut Inner) -> bool {
        let State::Open(tls) = &mut session.state else {
            return true;
        };
        match tls.reader().into_first_chunk() {
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
            Ok(_) => true,
        }
    }

    /// Read and write what the handshake needs.
    fn advance(&self, session: &mut Inner) -> io::Result<Handshake> {
        let mut drained = false;
        loop {
            // What is left at the end of the handshake, such as tickets, leaves with the first response,
            // or where no request has come yet: see `receive`.
            let flushed = match &session.state {
                State::Shaking(tls) if !tls.is_handshaking() => Ok(()),
                _ => self.flush(session),
            };
            if let Err(error) = flushed {
                if error.kind() != io::ErrorKind::WouldBlock {
                    return Err(failed(LEFT));
                }
                // A client that takes nothing has nothing more to say, either.
                return Ok(Handshake::Pending { begun: true });
            }
            let mut socket = Socket::new(&*self.inner);
            let received = match &mut session.state {
                State::Shaking(tls) if !tls.is_handshaking() => {
                    return Ok(match tls.alpn_protocol() {
                        Some(ACME_PROTOCOL) => Handshake::Over,
                        _ => Handshake::Complete,
                    });
                }
                State::Greeting(_) | State::Shaking(_) if drained => {
                    return Ok(Handshake::Pending {
                        begun: session.begun,
                    });
                }
                State::Greeting(acceptor) => acceptor.read_tls(&mut socket),
                State::Shaking(tls) => tls.read_tls(&mut socket),
                _ => return Ok(Handshake::Complete),
            };
            drained = socket.drained;
            match received {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Handshake::Pending {
                        begun: session.begun,
                    });
                }
                Ok(1..) => {}
                _ if !session.begun => return Ok(Handshake::Left),
                _ => return Err(failed(LEFT)),
            }
            // TLS begins with a 22, the type of its record (RFC 8446, section 5.1), HTTP with a method.
            if !std::mem::replace(&mut session.begun, true) && socket.first.is_ascii_uppercase() {
                session.state = State::Plain;
                return Ok(Handshake::PlainHttp);
            }
            self.process(session)?;
        }
    }

    /// Act on what was received of the handshake.
    fn process(&self, session: &mut Inner) -> io::Result<()> {
        let begun = match &mut session.state {
            State::Shaking(tls) => {
                let Err(error) = tls.process_new_packets() else {
                    return Ok(());
                };
                let _ = self.flush(session); // the alert that says why
                return Err(failed(&reason_of(&error)));
            }
            State::Greeting(acceptor) => match acceptor.accept() {
                Ok(None) => return Ok(()),
                Ok(Some(accepted)) => {
                    let config = self.configs.for_client(&accepted.client_hello());
                    accepted.into_connection(Arc::clone(config))
                }
                Err(refused) => Err(refused),
            },
            _ => return Ok(()),
        };
        match begun {
            Ok(mut tls) => {
                tls.set_buffer_limit(Some(BATCH_BYTES));
                session.state = State::Shaking(Box::new(tls));
                Ok(())
            }
            Err((error, mut alert)) => {
                let _ = alert.write_all(&mut Socket::new(&*self.inner));
                Err(failed(&reason_of(&error)))
            }
        }
    }
}

/// The connection is of no more use, for a reason that lies with the client.
fn gone() -> io::Error {
    io::Error::from_raw_os_error(libc::ECONNRESET)
}

/// Why a handshake has failed, in words that need no knowledge of the library.
fn reason_of(error: &rustls::Error) -> String {
    use CertificateError::{
        Expired, ExpiredContext, NotValidYet, NotValidYetContext, Other, UnknownIssuer,
    };
    let rustls::Error::InvalidCertificate(what) = error else {
        return error.to_string();
    };
    let why = match what {
        UnknownIssuer => "no authority of ca_certs has issued it".to_owned(),
        Expired | ExpiredContext { .. } => "it has expired".to_owned(),
        NotValidYet | NotValidYetContext { .. } => "it is not valid yet".to_owned(),
        // webpki's own error, of which rustls has no kind.
        Other(inner) if inner.to_string().contains("UnsupportedCertVersion") => {
            "it is of X.509 version 1, and has to be of version 3".to_owned()
        }
        _ => what.to_string(),
    };
    format!("the client's certificate is refused: {why}")
}

fn failed(why: &str) -> io::Error {
    io::Error::other(why)
}

impl Stream for TlsStream {
    fn awaits_handshake(&self) -> bool {
        true
    }

    fn shake_hands(&self) -> io::Result<Handshake> {
        let mut session = self.lock();
        let advanced = self.advance(&mut session);
        match &advanced {
            Ok(Handshake::Complete | Handshake::Over) => {
                session.state = match std::mem::replace(&mut session.state, State::Failed) {
                    State::Shaking(tls) => State::Open(tls),
                    other => other,
                };
                self.secure.store(true, Ordering::Relaxed);
            }
            Ok(_) => {}
            Err(_) => session.state = State::Failed,
        }
        advanced
    }

    fn has_resumed(&self) -> bool {
        let session = self.lock();
        matches!(&session.state, State::Open(tls) if tls.handshake_kind() == Some(HandshakeKind::Resumed))
    }

    fn session(&self) -> Option<Session> {
        let session = self.lock();
        let State::Open(tls) = &session.state else {
            return None;
        };
        let suite = tls.negotiated_cipher_suite();
        Some(Session {
            protocol: match tls.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
                _ => "TLSv1.3",
            },
            cipher: suite.map_or("", ciphers::name_of),
            server_name: tls.server_name().map(str::to_ascii_lowercase),
            asks: self.configs.asks,
            certificate: tls
                .peer_certificates()
                .and_then(|chain| chain.first())
                .map(|leaf| leaf.as_ref().to_vec()),
        })
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut session = self.lock();
        if matches!(session.state, State::Plain) {
            return self.inner.receive(buffer);
        }
        let mut drained = false;
        let received = self.receive_decrypted(&mut session, buffer, &mut drained);
        if !matches!(received, Ok(1..)) {
            // Such as the answer to a request for new keys, or what was left of the handshake. Behind
            // a request it leaves with the response, in one call.
            let _ = self.flush(&mut session);
        }
        let holds = !drained || Self::has_more(&mut session);
        self.holds_input.store(holds, Ordering::Relaxed);
        received
    }

    fn holds_input(&self) -> bool {
        self.holds_input.load(Ordering::Relaxed)
    }

    fn peek(&self) -> io::Result<usize> {
        match self.holds_input() {
            true => Ok(1),
            false => self.inner.peek(),
        }
    }

    fn peek_raw(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.peek_raw(buffer)
    }

    fn receive_raw(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.receive_raw(buffer)
    }

    fn speak_plain(&self) {
        self.lock().state = State::Plain;
    }

    fn send(&self, data: &[u8]) -> io::Result<usize> {
        let mut session = self.lock();
        if matches!(session.state, State::Plain) {
            return self.inner.send(data);
        }
        self.send_by(&mut session, data.len(), |tls, sent| {
            tls.writer().write(data.get(sent..).unwrap_or_default())
        })
    }

    fn send_vector(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut session = self.lock();
        if matches!(session.state, State::Plain) {
            return self.inner.send_vector(pieces);
        }
        let size = pieces.iter().map(|piece| piece.len()).sum();
        let mut rest = pieces.to_vec();
        let mut left = rest.as_mut_slice();
        let mut at = 0;
        self.send_by(&mut session, size, |tls, sent| {
            IoSlice::advance_slices(&mut left, sent - at);
            at = sent;
            tls.writer().write_vectored(left)
        })
    }

    fn send_file(&self, file: &Fd, offset: u64, size: usize) -> io::Result<usize> {
        // What is encrypted already is not read again.
        let waiting = {
            let mut session = self.lock();
            self.flush(&mut session)?;
            session.unreported
        };
        if waiting > 0 {
            return self.send_by(&mut self.lock(), waiting.min(size), |_, _| Ok(0));
        }
        FILE_BLOCK.with_borrow_mut(|block| {
            block.resize(BATCH_BYTES, 0);
            let block = block.get_mut(..size.min(BATCH_BYTES)).unwrap_or_default();
            let read = sys::read_at(file.raw(), block, offset)?; // without the lock
            match read {
                0 => Ok(0),
                _ => self.send(block.get(..read).unwrap_or_default()),
            }
        })
    }

    fn wait(&self, what: Readiness, timeout: Nanos) -> io::Result<bool> {
        match what {
            Readiness::Input if self.holds_input() => Ok(true),
            _ => self.inner.wait(what, timeout),
        }
    }

    fn shut_down(&self) -> io::Result<()> {
        let mut session = self.lock();
        let cut_short = session.cut_short;
        if let State::Open(tls) = &mut session.state {
            if !cut_short {
                tls.send_close_notify();
            }
            session.ends = true;
            match self.flush(&mut session) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
                flushed => flushed,
            }
        } else {
            self.inner.shut_down()
        }
    }

    fn cut_short(&self) {
        self.lock().cut_short = true;
    }

    fn hold_ahead(&self, bytes: u64) {
        self.inner.hold_ahead(bytes);
    }

    fn reset_on_close(&self) {
        self.resets.store(true, Ordering::Relaxed);
        self.inner.reset_on_close();
    }

    fn cut_off(&self) {
        self.resets.store(true, Ordering::Relaxed);
        self.inner.cut_off();
    }

    fn close(&self) {
        if !self.resets.load(Ordering::Relaxed) && self.inner.is_ours() {
            let mut session = self.lock();
            let cut_short = session.cut_short;
            if let (State::Open(tls), false) = (&mut session.state, cut_short) {
                tls.send_close_notify(); // once only
                let _ = self.flush(&mut session);
            }
        }
        self.inner.close();
    }

    fn peer(&self) -> Peer {
        self.inner.peer()
    }

    fn descriptor(&self) -> Option<RawFd> {
        self.inner.descriptor()
    }

    fn is_ours(&self) -> bool {
        self.inner.is_ours()
    }

    fn unacknowledged(&self) -> u64 {
        // What the kernel has of bytes that are not reported as sent counts as neither.
        let unreported = self.lock().unreported_sent;
        self.inner.unacknowledged().saturating_sub(unreported)
    }

    fn arrived(&self) -> u64 {
        let mut session = self.lock();
        let decrypted = match &mut session.state {
            State::Open(tls) => tls
                .process_new_packets()
                .map_or(0, |state| state.plaintext_bytes_to_read() as u64),
            _ => 0,
        };
        decrypted + self.inner.arrived()
    }

    fn is_secure(&self) -> bool {
        self.secure.load(Ordering::Relaxed)
    }
}

/// A stream as rustls reads and writes it.
struct Socket<'a> {
    stream: &'a dyn Stream,
    /// The first byte that was received.
    first: u8,
    /// The kernel had no more.
    drained: bool,
}

impl<'a> Socket<'a> {
    fn new(stream: &'a dyn Stream) -> Self {
        Socket {
            stream,
            first: 0,
            drained: false,
        }
    }
}

impl Read for Socket<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let received = self.stream.receive(buffer);
        self.drained = match &received {
            Ok(size) => *size < buffer.len() && *size > 0,
            Err(_) => true,
        };
        self.first = buffer.first().copied().unwrap_or_default();
        received
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.stream.send(data)
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match pieces {
            [piece] => self.stream.send(piece),
            pieces => self.stream.send_vector(pieces),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
