//! One client's connection: reading requests off it, and what happens to it after each.
//!
//! A connection belongs to the leader, but for the time in which its request is handed out
//! (`Phase::HandedOut`): then the thread that answers the request reads and writes the socket,
//! and the leader only watches. Its state is under a lock. No thread holds it while it waits for
//! a client or for the GIL.
//!
//! This file has its state, and what is done at an event. Its other methods are in files of their
//! own, by what they are for:
//!
//! * `reading`: read requests, up to where a thread gets one. For the leader.
//! * `own_answers`: answer health and readiness checks. For the leader.
//! * `wire`: read a streamed body and send a response. For the thread that answers.
//! * `ending`: send what the thread has left unsent, refuse, linger, close, and act on deadlines. For
//!   the leader, but for `begin_next` and `await_output`, which the thread that answers calls, too.
//! * `disconnect`: find out that the client has left. For any thread, but for `has_disconnected`.

use crate::event_loop::LeaderState;
use crate::exchange::ExchangeState;
use crate::exchange_trace::ExchangeTrace;
use crate::log_queue::HeadCopy;
use crate::output::Output;
use crate::poller::{Event, Token};
use crate::shared::{Shared, lock};
use crate::spool::Spool;
use crate::states::{Ended, Fate, Input, Phase};
use crate::stream::Stream;
use crate::sys::{Nanos, Peer};
use penstock_protocol::{Carry, Parser, State};
use std::any::Any;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

/// No deadline.
pub const NEVER: Nanos = Nanos::MAX;

/// Where the bytes of a request's head are.
pub enum Source {
    /// In the leader's buffer, with what they say in the leader's `Head`.
    Buffer(Range<usize>),
    /// In the leader's scratch, likewise.
    Scratch,
    Copy(Box<HeadCopy>),
}

/// How the application gets at a request's body.
pub enum Body {
    Empty,
    Collected(Spool),
    Streamed,
}

/// A request that is complete as far as it has to be, for the application.
pub struct Ready {
    pub connection: Arc<Connection>,
    /// In the transport's life.
    pub number: u64,
    pub source: Source,
    pub body: Body,
    /// Its client has ended its side, and no thread has looked for a long time.
    pub disconnected: bool,
}

/// One protocol on one stream. The module's text says which thread may touch it when.
pub struct Connection {
    pub stream: Box<dyn Stream>,
    pub token: Token,
    pub peer: Peer,
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
    pub ended: Ended,
    pub since: Nanos, // when `awaited` changed, or the lingering began
    pub requests: u64,
    pub exchange: ExchangeState,
    pub output: Output,
    pub progress: i64, // what the client had acknowledged when the deadline was set
    /// It is in a queue of connections that go on later: each stands there once.
    pub queued: bool,
    /// Requests that were answered in this turn.
    pub answered_in_turn: u32,
    pub lingered: u64,
    pub trace: Option<Box<ExchangeTrace>>,
}

impl Connection {
    pub fn new(
        shared: &Shared,
        stream: Box<dyn Stream>,
        token: Token,
        listener: usize,
        number: u64,
        now: Nanos,
    ) -> Self {
        let peer = stream.peer();
        let options = &shared.options;
        let trace = options.trace.then(|| {
            let (body, head) = (options.trace_body, options.trace_head);
            Box::new(ExchangeTrace::new(body, head, number))
        });
        let patience = if shared.draining.get() {
            shared
                .options
                .drain_linger
                .max(shared.options.drain_accepted)
        } else {
            shared.options.keep_alive
        };
        Connection {
            peer,
            stream,
            token,
            listener,
            number,
            accepted_at: now,
            deadline: AtomicU64::new(now.saturating_add(patience)),
            phase: AtomicU8::new(Phase::Reading as u8),
            heavy: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            name: OnceLock::new(),
            companion: OnceLock::new(),
            state: Mutex::new(ConnectionState {
                phase: Phase::Reading,
                awaited: State::Idle,
                parser: Parser::new(),
                carry: Carry::default(),
                left_over: false,
                input: Input::Drained,
                ended: None,
                since: now,
                requests: 0,
                exchange: ExchangeState::default(),
                output: Output::new(shared.options.flush_bytes),
                progress: 0,
                queued: false,
                answered_in_turn: 0,
                lingered: 0,
                trace,
            }),
        }
    }

    // -- for any thread ---------------------------------------------------------------------

    pub fn lock(&self) -> MutexGuard<'_, ConnectionState> {
        lock(&self.state)
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
        self.name.get_or_init(|| match self.peer {
            Some((address, port)) => format!("{address}:{port}").into_bytes().into(),
            None => Box::default(),
        })
    }

    /// Whether the client is known to have reset the connection.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    pub fn set_gone(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    pub fn set_phase(&self, state: &mut ConnectionState, phase: Phase) {
        debug_assert!(state.phase.allows(phase), "{:?} to {phase:?}", state.phase);
        state.phase = phase;
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// The thread that answers is done: go on to the next request, or have the leader do so.
    ///
    /// Returns whether the leader should hurry. Where it need not, the client's next request is
    /// what wakes it up anyway.
    pub fn give_back(
        self: &Arc<Self>,
        shared: &Shared,
        state: &mut ConnectionState,
        now: Nanos,
    ) -> bool {
        let quiet = state.exchange.fate == Fate::Keep
            && state.output.size == 0
            && state.input == Input::Drained
            && state.parser.state() == State::Done
            && state.carry.remaining().is_empty()
            && !shared.draining.get()
            && !shared.closed.get();
        if quiet {
            self.begin_next(shared, state, now);
        } else {
            self.set_phase(state, Phase::Answered);
            shared.post(self, state);
        }
        !quiet
    }

    // -- what the leader calls --------------------------------------------------------------

    /// Do what the socket is ready for; return a request that became ready.
    pub fn handle_event(
        self: &Arc<Self>,
        shared: &Shared,
        leader: &mut LeaderState,
        event: Event,
    ) -> Option<Ready> {
        let event = event.told;
        let mut state = self.lock();
        if event.input || event.ended || event.broken {
            state.input = Input::Announced;
            if (event.ended || event.broken) && state.ended.is_none() {
                state.ended = Some(leader.now);
            }
        }
        if event.broken {
            self.set_gone();
        }
        match state.phase {
            Phase::Reading | Phase::Discarding => {
                if event.room {
                    self.send_rest(&mut state);
                }
                state.answered_in_turn = 0;
                self.read(shared, leader, &mut state)
            }
            Phase::HandedOut => {
                if event.room || event.broken {
                    self.drain_output(shared, leader, &mut state);
                }
                None
            }
            Phase::Flushing | Phase::Refusing => {
                if event.room || event.broken {
                    self.flush(shared, leader, &mut state);
                }
                None
            }
            Phase::Lingering => {
                self.discard_input(shared, leader, &mut state);
                None
            }
            Phase::Answered => None, // the leader goes on with it soon
            Phase::Closed => None,   // the event was older than the closing
        }
    }

    /// Go on with a connection that was handed back, or that has more to read or to send.
    pub fn proceed(self: &Arc<Self>, shared: &Shared, leader: &mut LeaderState) -> Option<Ready> {
        let mut state = self.lock();
        state.queued = false;
        match state.phase {
            Phase::Answered if state.output.is_in_flight() => {
                self.stream.cut_off(); // the thread that sends comes back at once, and posts it
                None
            }
            Phase::Answered => self.resume(shared, leader, &mut state),
            Phase::HandedOut => {
                self.drain_output(shared, leader, &mut state);
                None
            }
            Phase::Reading | Phase::Discarding => {
                state.answered_in_turn = 0;
                self.read(shared, leader, &mut state)
            }
            Phase::Flushing | Phase::Refusing => {
                self.flush(shared, leader, &mut state);
                None
            }
            Phase::Lingering => {
                self.discard_input(shared, leader, &mut state);
                None
            }
            Phase::Closed => None,
        }
    }
}
