//! Load over TLS, for `benchmarks/`: what wrk and bulk are for plain HTTP.
//!
//! `tls_load PORT CONNECTIONS SECONDS kept|full|resumed BODY_BYTES <HEAD`
//!
//! The input is the head of each request. With `kept`, connections are opened first, with a request
//! for /hello, and send a request whenever the previous one is answered. With `full` and `resumed`
//! each request has a new connection; with `resumed` the handshake has to resume the session of the
//! one before. The last line of the output is that of the scripts for wrk. An unfinished request counts as a fraction, by
//! the bytes of both bodies. Responses need a Content-Length.
//!
//! All servers have to do the same work: TLS 1.3 with TLS_AES_128_GCM_SHA256 and X25519 alone is
//! offered. A client has more to compute than a server in a full handshake, most of it to verify
//! signatures. This one verifies none and keeps one key for all handshakes, as no client may
//! that wants to be safe: so a core of it is enough for a core of any server.
#![allow(clippy::print_stdout, reason = "a program")]

use aws_lc_rs::agreement;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider};
use rustls::crypto::{ActiveKeyExchange, CryptoProvider, SharedSecret, SupportedKxGroup};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus, WriteTraffic};
use rustls::{ClientConfig, DigitallySignedStruct, Error, HandshakeKind, NamedGroup};
use rustls::{PeerMisbehaved, SignatureScheme, version};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

const NAME: &str = "localhost";
/// What is received, and what is encrypted, at once.
const BLOCK: usize = 256 * 1024;
/// Room for a head that comes in several pieces.
const MOST_HEAD: usize = 16 * 1024;
/// For connections to be opened, and first sessions to be made, before the time begins.
const OPENING_SECONDS: u64 = 20;
static BODY: [u8; BLOCK] = [b'x'; BLOCK];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Kept,
    Full,
    Resumed,
}

struct Load {
    port: u16,
    mode: Mode,
    /// What is asked before the time begins: a server with few threads may not go on with another
    /// connection before it has a request of this one.
    first: Request,
    asked: Request,
}

/// What is asked.
struct Request {
    head: Vec<u8>,
    /// Bytes.
    body: usize,
}

const FIRST: &[u8] = b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n";

fn other(why: impl std::fmt::Debug) -> io::Error {
    io::Error::other(format!("{why:?}"))
}

// -- a client that takes no care -----------------------------------------------------------------

#[derive(Debug)]
struct VerifyNothing;

impl ServerCertVerifier for VerifyNothing {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// X25519 with one key for all handshakes.
#[derive(Debug)]
struct OneKey;

static KEY: OnceLock<(agreement::PrivateKey, Vec<u8>)> = OnceLock::new();

/// Make the key, once.
fn make_key() -> io::Result<()> {
    let private = agreement::PrivateKey::generate(&agreement::X25519).map_err(other)?;
    let public = private.compute_public_key().map_err(other)?;
    KEY.set((private, public.as_ref().to_vec()))
        .map_err(|_| other("there is a key"))
}

impl SupportedKxGroup for OneKey {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        match KEY.get() {
            Some((private, public)) => Ok(Box::new(Agreeing { private, public })),
            None => Err(Error::FailedToGetRandomBytes),
        }
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

struct Agreeing {
    private: &'static agreement::PrivateKey,
    public: &'static [u8],
}

impl ActiveKeyExchange for Agreeing {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        let peer = agreement::UnparsedPublicKey::new(&agreement::X25519, peer);
        let wrong = Error::from(PeerMisbehaved::InvalidKeyShare);
        agreement::agree(self.private, peer, wrong, |secret| {
            Ok(SharedSecret::from(secret))
        })
    }

    fn pub_key(&self) -> &[u8] {
        self.public
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

fn config(mode: Mode) -> io::Result<Arc<ClientConfig>> {
    let provider = CryptoProvider {
        cipher_suites: vec![cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![&OneKey],
        ..default_provider()
    };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&version::TLS13])
        .map_err(other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(VerifyNothing))
        .with_no_client_auth();
    config.resumption = match mode {
        Mode::Resumed => Resumption::in_memory_sessions(8),
        _ => Resumption::disabled(),
    };
    Ok(Arc::new(config))
}

// -- one request after the other -----------------------------------------------------------------

/// How far a request and its response are.
#[derive(Default)]
struct Exchange {
    asked: bool,
    head_sent: bool,
    body_sent: usize,
    head: Vec<u8>,
    /// Of the response's body; None until the head is read.
    length: Option<usize>,
    received: usize,
}

impl Exchange {
    /// Encrypt more of the request, behind what `out` has; return whether there was something.
    fn write<D>(
        &mut self,
        request: &Request,
        traffic: &mut WriteTraffic<'_, D>,
        out: &mut Vec<u8>,
    ) -> io::Result<bool> {
        if !self.asked || out.len() >= BLOCK {
            return Ok(false);
        }
        let left = request.body.saturating_sub(self.body_sent);
        let data = if !std::mem::replace(&mut self.head_sent, true) {
            &request.head[..]
        } else {
            let part = BODY.get(..left.min(BLOCK)).unwrap_or_default();
            self.body_sent += part.len();
            part
        };
        if data.is_empty() {
            return Ok(false);
        }
        let at = out.len();
        // Each record of 16 KiB has 22 bytes more.
        out.resize(at + data.len() + (data.len() / 16384 + 1) * 32, 0);
        let room = out.get_mut(at..).unwrap_or_default();
        let size = traffic.encrypt(data, room).map_err(other)?;
        out.truncate(at + size);
        Ok(true)
    }

    fn take(&mut self, mut data: &[u8]) -> io::Result<()> {
        if self.length.is_none() {
            self.head.extend_from_slice(data);
            let Some(end) = self.head.windows(4).position(|four| four == b"\r\n\r\n") else {
                return match self.head.len() < MOST_HEAD {
                    true => Ok(()),
                    false => Err(other("a head without an end")),
                };
            };
            let (head, rest) = self.head.split_at(end + 4);
            self.length = Some(length_in(head)?);
            data = data.get(data.len() - rest.len()..).unwrap_or_default();
        }
        self.received += data.len();
        Ok(())
    }

    fn is_complete(&self) -> bool {
        self.length.is_some_and(|length| self.received >= length)
    }

    /// What it counts for so far, of 1.
    fn share(&self, request: &Request) -> f64 {
        let Some(all) = self.length.map(|length| length + request.body) else {
            // The response's body is small where there is one of the request.
            return match request.body {
                0 => 0.0,
                body => (self.body_sent as f64 / body as f64).min(0.999),
            };
        };
        (self.body_sent + self.received) as f64 / all.max(1) as f64
    }
}

fn length_in(head: &[u8]) -> io::Result<usize> {
    let text = String::from_utf8_lossy(head).to_ascii_lowercase();
    if !text.starts_with("http/1.1 200 ") {
        return Err(other(text));
    }
    let field = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"));
    field
        .and_then(|value| value.trim().parse().ok())
        .ok_or_else(|| other("no Content-Length"))
}

// -- connections ---------------------------------------------------------------------------------

/// What has become of a connection.
#[derive(PartialEq, Eq)]
enum Outcome {
    Goes,
    Answered,
}

struct Connection {
    socket: TcpStream,
    tls: UnbufferedClientConnection,
    incoming: Vec<u8>,
    start: usize,
    end: usize,
    out: Vec<u8>,
    out_at: usize,
    exchange: Exchange,
    began: Instant,
}

impl Connection {
    fn open(load: &Load, config: &Arc<ClientConfig>) -> io::Result<Self> {
        let began = Instant::now();
        let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, load.port))?;
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        let name = ServerName::try_from(NAME).map_err(other)?;
        let tls = UnbufferedClientConnection::new(Arc::clone(config), name).map_err(other)?;
        Ok(Connection {
            socket,
            tls,
            incoming: Vec::new(),
            start: 0,
            end: 0,
            out: Vec::new(),
            out_at: 0,
            exchange: Exchange::default(),
            began,
        })
    }

    fn ask(&mut self) {
        self.exchange = Exchange {
            asked: true,
            ..Exchange::default()
        };
    }

    /// Do what is possible now.
    fn go_on(&mut self, request: &Request) -> io::Result<Outcome> {
        loop {
            let outcome = self.process(request)?;
            let all_sent = self.send()?;
            if outcome == Outcome::Answered {
                return Ok(outcome);
            }
            let writes = self.exchange.head_sent && self.exchange.body_sent < request.body;
            if all_sent && writes {
                continue;
            }
            if !self.receive()? {
                return Ok(outcome);
            }
        }
    }

    fn process(&mut self, request: &Request) -> io::Result<Outcome> {
        let mut outcome = Outcome::Goes;
        loop {
            let filled = self.incoming.get_mut(self.start..self.end);
            let status = self.tls.process_tls_records(filled.unwrap_or_default());
            let UnbufferedStatus { mut discard, state } = status;
            let mut more = true;
            match state.map_err(other)? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(other)?;
                        discard += record.discard;
                        self.exchange.take(record.payload)?;
                    }
                    if self.exchange.is_complete() {
                        outcome = Outcome::Answered;
                    }
                }
                ConnectionState::EncodeTlsData(mut data) => {
                    let at = self.out.len();
                    let wanted = match data.encode(&mut []) {
                        Err(EncodeError::InsufficientSize(size)) => size.required_size,
                        _ => 0,
                    };
                    self.out.resize(at + wanted, 0);
                    let room = self.out.get_mut(at..).unwrap_or_default();
                    data.encode(room).map_err(other)?;
                }
                ConnectionState::TransmitTlsData(transmitted) => transmitted.done(),
                ConnectionState::WriteTraffic(mut traffic) => {
                    let out = &mut self.out;
                    more = outcome == Outcome::Goes
                        && self.exchange.write(request, &mut traffic, out)?;
                }
                ConnectionState::BlockedHandshake => more = false,
                _ if outcome == Outcome::Answered => more = false,
                _ => return Err(other("closed before an answer")),
            }
            self.start += discard;
            if !more {
                return Ok(outcome);
            }
        }
    }

    /// Send what is encrypted; return whether that was all.
    fn send(&mut self) -> io::Result<bool> {
        while let Some(rest) = self.out.get(self.out_at..).filter(|rest| !rest.is_empty()) {
            match (&self.socket).write(rest) {
                Ok(sent) => self.out_at += sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.out_at = 0;
        Ok(true)
    }

    /// Return whether something has come.
    fn receive(&mut self) -> io::Result<bool> {
        self.incoming.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.incoming.is_empty() {
            self.incoming.resize(BLOCK, 0);
        }
        let room = self.incoming.get_mut(self.end..).unwrap_or_default();
        match (&self.socket).read(room) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(size) => {
                self.end += size;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }
}

// -- all of them ---------------------------------------------------------------------------------

struct Poller(i32);

impl Poller {
    fn new() -> io::Result<Self> {
        // SAFETY: it takes no pointer.
        match unsafe { libc::epoll_create1(0) } {
            -1 => Err(io::Error::last_os_error()),
            poller => Ok(Poller(poller)),
        }
    }

    fn add(&self, socket: &TcpStream, slot: usize) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLET) as u32,
            u64: slot as u64,
        };
        // SAFETY: the event lives until the call returns.
        match unsafe {
            libc::epoll_ctl(
                self.0,
                libc::EPOLL_CTL_ADD,
                socket.as_raw_fd(),
                &raw mut event,
            )
        } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }

    fn wait(&self, ready: &mut Vec<usize>) {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 64];
        // SAFETY: there is room for as many events as are asked for.
        let count = unsafe { libc::epoll_wait(self.0, events.as_mut_ptr(), 64, 10) };
        let found = events
            .iter()
            .take(usize::try_from(count).unwrap_or_default());
        ready.clear();
        ready.extend(found.map(|event| event.u64 as usize));
    }
}

/// A connection at a time, and what its next one begins with.
struct Slot {
    config: Arc<ClientConfig>,
    connection: Connection,
    /// It may take part in what is measured.
    ready: bool,
}

struct Run {
    load: Load,
    poller: Poller,
    measures: bool,
    finished: u64,
    errors: u64,
    /// Microseconds.
    latencies: Vec<u32>,
    last_error: String,
}

impl Run {
    /// What is asked now.
    fn request(&self) -> &Request {
        match self.measures {
            true => &self.load.asked,
            false => &self.load.first,
        }
    }

    /// Open a connection, and ask.
    fn begin(&self, slot: &mut Slot, index: usize) -> io::Result<()> {
        slot.connection = Connection::open(&self.load, &slot.config)?;
        self.poller.add(&slot.connection.socket, index)?;
        slot.connection.ask();
        Ok(())
    }

    /// Ask for what is measured.
    fn ask(&self, slot: &mut Slot, index: usize) -> io::Result<()> {
        if self.load.mode != Mode::Kept {
            return self.begin(slot, index);
        }
        slot.connection.ask();
        slot.connection.began = Instant::now();
        Ok(())
    }

    fn advance(&mut self, slot: &mut Slot, index: usize) -> io::Result<()> {
        loop {
            match slot.connection.go_on(self.request()) {
                Ok(Outcome::Goes) => return Ok(()),
                Ok(Outcome::Answered) if !self.measures => {
                    slot.ready = true;
                    return Ok(());
                }
                Ok(Outcome::Answered) => {
                    self.count(&slot.connection);
                    self.ask(slot, index)?;
                }
                Err(error) if !self.measures => return Err(error),
                Err(error) => {
                    self.errors += 1;
                    self.last_error = error.to_string();
                    self.begin(slot, index)?;
                }
            }
        }
    }

    fn count(&mut self, connection: &Connection) {
        self.finished += 1;
        let took = connection.began.elapsed().as_micros();
        self.latencies.push(took as u32);
        let resumed = connection.tls.handshake_kind() == Some(HandshakeKind::Resumed);
        if resumed != (self.load.mode == Mode::Resumed) {
            self.errors += 1;
            "a session was not resumed, or was where it must not".clone_into(&mut self.last_error);
        }
    }

    fn turn(&mut self, slots: &mut [Slot], ready: &mut Vec<usize>) -> io::Result<()> {
        self.poller.wait(ready);
        for &index in ready.iter() {
            if let Some(slot) = slots.get_mut(index) {
                if self.measures || !slot.ready {
                    self.advance(slot, index)?;
                }
            }
        }
        Ok(())
    }
}

fn percentile(sorted: &[u32], share: f64) -> u32 {
    let last = sorted.len().saturating_sub(1);
    let at = (share * last as f64).round() as usize;
    sorted.get(at).copied().unwrap_or_default()
}

fn load_from(arguments: &[String]) -> Option<(Load, usize, f64)> {
    let [port, connections, seconds, mode, body] = arguments else {
        return None;
    };
    let load = Load {
        port: port.parse().ok()?,
        mode: match mode.as_str() {
            "kept" => Mode::Kept,
            "full" => Mode::Full,
            "resumed" => Mode::Resumed,
            _ => return None,
        },
        first: Request {
            head: FIRST.to_vec(),
            body: 0,
        },
        asked: Request {
            head: Vec::new(),
            body: body.parse().ok()?,
        },
    };
    Some((load, connections.parse().ok()?, seconds.parse().ok()?))
}

fn run(mut load: Load, connections: usize, seconds: f64) -> io::Result<()> {
    io::stdin().read_to_end(&mut load.asked.head)?;
    make_key()?;
    let mut run = Run {
        load,
        poller: Poller::new()?,
        measures: false,
        finished: 0,
        errors: 0,
        latencies: Vec::new(),
        last_error: String::new(),
    };
    let mut slots = Vec::new();
    for index in 0..connections {
        let config = config(run.load.mode)?;
        let mut connection = Connection::open(&run.load, &config)?;
        connection.ask();
        run.poller.add(&connection.socket, index)?;
        slots.push(Slot {
            config,
            connection,
            ready: false,
        });
    }
    let mut ready = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(OPENING_SECONDS);
    while !slots.iter().all(|slot| slot.ready) {
        run.turn(&mut slots, &mut ready)?;
        if Instant::now() > deadline {
            return Err(other("the connections could not be opened in time"));
        }
    }

    run.measures = true;
    let start = Instant::now();
    for (index, slot) in slots.iter_mut().enumerate() {
        run.ask(slot, index)?;
        run.advance(slot, index)?;
    }
    let end = start + Duration::from_secs_f64(seconds);
    while Instant::now() < end {
        run.turn(&mut slots, &mut ready)?;
    }
    let took = start.elapsed().as_micros();
    let unfinished: f64 = slots
        .iter()
        .map(|slot| slot.connection.exchange.share(&run.load.asked))
        .sum();
    run.latencies.sort_unstable();
    if run.errors > 0 {
        println!("{} errors; the last: {}", run.errors, run.last_error);
    }
    println!(
        "{{\"requests\": {:.3}, \"duration_us\": {took}, \"p50_us\": {}, \"p99_us\": {}, \
         \"errors\": {}}}",
        run.finished as f64 + unfinished,
        percentile(&run.latencies, 0.5),
        percentile(&run.latencies, 0.99),
        run.errors
    );
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((load, connections, seconds)) = load_from(&arguments) else {
        println!("usage: tls_load PORT CONNECTIONS SECONDS kept|full|resumed BODY_BYTES <HEAD");
        return ExitCode::from(2);
    };
    match run(load, connections, seconds) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}
