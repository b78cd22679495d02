//! One client's connection: what is known of it, and how it changes from one state to the next.
//!
//! A connection belongs to the leader, but for the time in which its request is handed out
//! (`Phase::HandedOut`): then the thread that answers the request reads and writes the socket,
//! and the leader only watches. Its state is under a lock. No thread holds it while it waits for
//! a client, for a disk or for the GIL.
//!
//! What is done with it is in other modules, as functions:
//!
//! | module | what | thread |
//! |---|---|---|
//! | `dispatch` | what comes next: at an event, in its turn, after its thread has answered | leader |
//! | `proxying` | what a proxy says before all else | leader |
//! | `handshaking` | what comes before HTTP over TLS | leader |
//! | `reading` | received bytes to a request | leader |
//! | `storing` | have a part of a body written to a temporary file | leader; the disk's |
//! | `own_answers` | health and readiness checks | leader |
//! | `request_body` | a body that is read as it arrives | that answers |
//! | `responding` | send a response | that answers; leader for what is left |
//! | `file_sending` | send what is in files for the leader | a sender's |
//! | `next_request` | what follows a response that was sent | both |
//! | `refusing` | answer with an error | leader |
//! | `deadlines` | what happens when one has passed | leader |
//! | `closing` | linger, close, reset | leader |
//! | `disconnect` | whether the client has left | any |

use crate::body_clock::BodyClock;
use crate::decisions::Holding;
use crate::exchange::ExchangeState;
use crate::exchange_trace::ExchangeTrace;
use crate::forwarded::Forwarded;
use crate::log_queue::{Ended, LogQueue};
use crate::options::Options;
use crate::output::{Output, OutputTotals};
use crate::poller::Token;
use crate::scoreboard::Scoreboard;
use crate::states::{Input, Phase};
use crate::stream::Stream;
use crate::sync::lock;
use crate::sys::{Nanos, Peer};
use penstock_protocol::{Carry, Parser, State};
use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

/// No deadline.
pub const NEVER: Nanos = Nanos::MAX;

/// One protocol on one stream. The module's text says which thread may touch it when.
pub struct Connection {
    pub stream: Box<dyn Stream>,
    pub token: Token,
    peer: Peer,
    /// The peer is believed, as `forwarded::Peers` says.
    trusted: bool,
    /// What the PROXY header says, or the packet of the uwsgi protocol.
    proxied: OnceLock<Proxied>,
    /// The index of the listener that it came in by.
    pub listener: usize,
    pub number: u64,
    pub accepted_at: Nanos,
    deadline: AtomicU64,
    phase: AtomicU8, // what `ConnectionState::phase` is, for threads that only count
    heavy: AtomicBool,
    gone: AtomicBool,
    /// The client's address, as the scoreboard shows it.
    name: OnceLock<Box<[u8]>>,
    /// What the user of this crate keeps for each connection. It refers to that weakly, if at all.
    pub companion: OnceLock<Box<dyn Any + Send + Sync>>,
    state: Mutex<ConnectionState>,
    /// A thread has sent a part of a file: `Output::is_in_flight`.
    pub flight_over: Condvar,
}

/// How long a client has until the first byte of its first request.
pub fn first_patience(options: &Options, draining: bool) -> Nanos {
    if draining {
        options.drain_linger.max(options.drain_accepted)
    } else {
        options.keep_alive
    }
}

/// What the PROXY header of a connection says, or its packet of the uwsgi protocol.
pub struct Proxied {
    /// The client that it names; else the socket's peer.
    pub peer: Peer,
    pub trusted: bool,
    /// As which its connections are counted: None where it names no client.
    pub counted: Peer,
    /// What is set in the environ: of the client's connection to the proxy, where it was secured.
    pub variables: Vec<(&'static str, Vec<u8>)>,
    /// What a packet of the uwsgi protocol says of its request, as trusted proxies do.
    pub said: Option<Box<Forwarded>>,
}

/// What is under a connection's lock.
pub struct ConnectionState {
    pub phase: Phase,
    /// Of the parser, when it last asked for data.
    pub awaited: State,
    pub parser: Parser,
    pub carry: Carry,
    /// What is carried has not been looked at for the request that begins with it.
    pub left_over: bool,
    pub input: Input,
    /// The poller does not watch it yet: it was accepted after the last poll.
    pub unwatched: bool,
    /// The poller does not tell of its input: a thread reads the body of a request.
    pub input_ignored: bool,
    /// When the client ended its side, as far as an event has reported.
    pub ended: Option<Nanos>,
    pub since: Nanos, // when `awaited` changed, or the lingering began
    pub requests: u64,
    pub exchange: ExchangeState,
    pub output: Output,
    /// What has come of the PROXY header.
    pub proxy_header: Vec<u8>, // or of the packet
    /// It counts as one within a head: `Shared::note_head`.
    pub in_head: bool,
    pub body_clock: BodyClock,
    /// Bytes of requests behind an unsent response, as the budget counts them.
    pub held_input: u64,
    pub progress: i64, // what the client had acknowledged when the deadline was set
    /// It is in a queue of connections that go on later: each stands there once.
    pub queued: bool,
    /// Requests that were answered in this turn.
    pub answered_in_turn: u32,
    pub lingered: u64,
    pub trace: Option<Box<ExchangeTrace>>,
}

impl ConnectionState {
    /// Whether no request is in progress, not even the first byte of one.
    pub fn is_idle(&self) -> bool {
        let begun = self.awaited != State::Idle || !self.carry.remaining().is_empty();
        self.phase == Phase::Reading && !begun && !self.input.is_possible()
    }

    /// What it has its place for, since when, and how much of a body has come.
    pub fn holding(&self) -> (Holding, Nanos, u64) {
        let holding = match (self.phase, self.awaited) {
            _ if self.is_idle() => Holding::Idle,
            (Phase::Lingering, _) => Holding::Lingering,
            (Phase::Reading | Phase::Storing, State::Body) => Holding::Body,
            (Phase::Reading, State::Head) => Holding::Head,
            (Phase::AwaitingProxy, _) if self.proxy_header.is_empty() => Holding::Idle,
            (Phase::AwaitingProxy, _) => Holding::Head,
            (Phase::Handshaking, _) if self.in_head => Holding::Head,
            (Phase::Handshaking, _) => Holding::Idle,
            _ => Holding::Call,
        };
        (holding, self.since, self.exchange.body_received)
    }

    /// Report the response that has been flushed, or how and why it was cut off.
    pub fn log_finished(
        &mut self,
        scoreboard: &Scoreboard,
        log_queue: &LogQueue,
        cut_off: Option<(Ended, String)>,
    ) {
        self.exchange
            .log_finished(&self.output, scoreboard, log_queue, cut_off);
    }
}

impl Connection {
    #[expect(clippy::too_many_arguments, reason = "what a connection consists of")]
    pub fn new(
        options: &Options,
        output_totals: OutputTotals,
        draining: bool,
        stream: Box<dyn Stream>,
        token: Token,
        listener: usize,
        number: u64,
        now: Nanos,
    ) -> Self {
        let peer = stream.peer();
        let trace = options.trace.then(|| {
            let (body, head) = (options.trace_body, options.trace_head);
            Box::new(ExchangeTrace::new(body, head, number))
        });
        let (phase, patience) = if options.awaits_proxy(listener, peer) {
            (Phase::AwaitingProxy, options.header_timeout)
        } else if stream.awaits_handshake() {
            (Phase::Handshaking, options.tls_handshake_timeout)
        } else {
            (Phase::Reading, first_patience(options, draining))
        };
        let shakes_hands = phase == Phase::Handshaking;
        Connection {
            trusted: options.forwarded.peers.trusts(peer),
            peer,
            proxied: OnceLock::new(),
            stream,
            token,
            listener,
            number,
            accepted_at: now,
            deadline: AtomicU64::new(now.saturating_add(patience)),
            phase: AtomicU8::new(phase as u8),
            heavy: AtomicBool::new(shakes_hands), // its signature takes a millisecond
            gone: AtomicBool::new(false),
            name: OnceLock::new(),
            flight_over: Condvar::new(),
            companion: OnceLock::new(),
            state: Mutex::new(ConnectionState {
                phase,
                awaited: State::Idle,
                parser: Parser::new(),
                carry: Carry::default(),
                left_over: false,
                input: Input::Drained,
                unwatched: false,
                input_ignored: false,
                ended: None,
                since: now,
                requests: 0,
                exchange: ExchangeState::default(),
                output: Output::new(options.flush_bytes, output_totals),
                proxy_header: Vec::new(),
                in_head: false,
                body_clock: BodyClock::default(),
                held_input: 0,
                progress: 0,
                queued: false,
                answered_in_turn: 0,
                lingered: 0,
                trace,
            }),
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, ConnectionState> {
        lock(&self.state)
    }

    /// Wait, with the lock given up, until a thread has sent a part of a file.
    pub fn await_flight(&self, state: MutexGuard<'_, ConnectionState>, timeout: Nanos) {
        let timeout = Duration::from_nanos(timeout);
        drop(self.flight_over.wait_timeout(state, timeout));
    }

    pub fn phase(&self) -> Phase {
        Phase::from_number(self.phase.load(Ordering::Relaxed))
    }

    pub fn deadline(&self) -> Nanos {
        self.deadline.load(Ordering::Relaxed)
    }

    pub fn set_deadline(&self, deadline: Nanos) {
        self.deadline.store(deadline, Ordering::Relaxed);
    }

    /// Whether what comes next on it may take long: then it is not done with the GIL held.
    pub fn is_heavy(&self) -> bool {
        self.heavy.load(Ordering::Relaxed)
    }

    pub fn set_heavy(&self, heavy: bool) {
        self.heavy.store(heavy, Ordering::Relaxed);
    }

    /// Address and port, once they are asked for; empty for a unix socket.
    pub fn name(&self) -> &[u8] {
        self.name.get_or_init(|| name_of(self.peer()).into())
    }

    /// Where the client is, as far as the connection tells: the socket's peer, or whom its PROXY
    /// header names; None for a unix socket.
    pub fn peer(&self) -> Peer {
        self.proxied.get().map_or(self.peer, |it| it.peer)
    }

    /// The socket's peer, which may be a proxy; None for a unix socket.
    pub const fn socket_peer(&self) -> Peer {
        self.peer
    }

    /// Whether the forwarding fields of the requests are believed.
    pub fn trusted(&self) -> bool {
        self.proxied.get().map_or(self.trusted, |it| it.trusted)
    }

    /// As which client its connections are counted.
    pub fn counted(&self) -> Peer {
        match self.proxied.get() {
            Some(proxied) => proxied.counted,
            None if self.phase() == Phase::AwaitingProxy => None,
            None => self.peer,
        }
    }

    /// Whether the client's connection is secured, here or as far as the PROXY header tells.
    pub fn is_secure(&self) -> bool {
        let secured = |(name, _): &(&str, Vec<u8>)| *name == "HTTPS";
        self.stream.is_secure() || self.proxied_variables().iter().any(secured)
    }

    /// What a packet of the uwsgi protocol says of its request.
    pub fn said(&self) -> Option<&Forwarded> {
        self.proxied.get().and_then(|it| it.said.as_deref())
    }

    /// What the PROXY header says of the client's TLS, for the environ.
    pub fn proxied_variables(&self) -> &[(&'static str, Vec<u8>)] {
        self.proxied.get().map_or(&[], |it| &it.variables)
    }

    /// Keep what the PROXY header says. Before the first request.
    pub fn set_proxied(&self, proxied: Proxied) {
        let _ = self.proxied.set(proxied); // there is one header
    }

    /// Whether the client is known to have reset the connection.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    pub fn set_gone(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    /// Note that nothing is left of what the application's thread has sent so far, or that its client
    /// is lost.
    pub fn note_drained(&self, sent: bool) {
        if !sent {
            self.set_gone(); // the next send of the application's thread fails
        }
        self.set_deadline(NEVER);
        self.set_heavy(false);
    }

    pub fn set_phase(&self, state: &mut ConnectionState, phase: Phase) {
        debug_assert!(state.phase.allows(phase), "{:?} to {phase:?}", state.phase);
        state.phase = phase;
        self.phase.store(phase as u8, Ordering::Relaxed);
    }
}

/// Address and port, as the scoreboard shows them; empty for a unix socket.
pub fn name_of(peer: Peer) -> Vec<u8> {
    match peer {
        Some((address, 0)) => address.to_string().into_bytes(),
        Some((address, port)) => format!("{address}:{port}").into_bytes(),
        None => Vec::new(),
    }
}
