//! A request's body that the application reads as it arrives. It knows nothing of Python, and waits
//! with no lock held.

use crate::body_clock::BodyClock;
use crate::connection::{Connection, ConnectionState};
use crate::decisions;
use crate::request::Streaming;
use crate::responding::{Failure, disconnected, send_rest, send_small};
use crate::shared::Shared;
use crate::spool::Spooled;
use crate::states::{Fate, Input};
use crate::sys::{self, Nanos, Readiness};
use penstock_protocol::{Event, Head, Input as Bytes, State, response};
use std::io;
use std::sync::Arc;

/// The body of the request that a thread answers, and its connection.
pub struct RequestBody {
    pub connection: Arc<Connection>,
    /// Bytes of the request's body that have arrived.
    pub received: u64,
    body_over: bool,
    continue_owed: bool,
    unread: Vec<u8>,
    /// The share of a spooled body, whose file Python has.
    pub file: Option<Spooled>,
    /// It counts as one that is read, until it has been, or the exchange is over.
    pub streaming: Option<Streaming>,
    clock: Option<BodyClock>, // counts only while the body is waited for
    waited: Nanos,            // for which `receive` has waited for the client
}

impl RequestBody {
    /// For a request whose body has arrived, with `received` bytes.
    pub fn complete(connection: Arc<Connection>, received: u64) -> Self {
        RequestBody {
            connection,
            received,
            body_over: true,
            continue_owed: false,
            unread: Vec::new(),
            file: None,
            streaming: None,
            clock: None,
            waited: 0,
        }
    }

    /// For a request whose body is still to be read.
    pub fn streamed(
        connection: Arc<Connection>,
        continue_owed: bool,
        streaming: Option<Streaming>,
    ) -> Self {
        RequestBody {
            body_over: false,
            continue_owed,
            streaming,
            ..RequestBody::complete(connection, 0)
        }
    }

    /// Have something unread, unless the body is over; else return how long to wait for input.
    pub fn receive(
        &mut self,
        shared: &Shared,
        size: usize,
        head_sent: bool,
        buffer: &mut Vec<u8>,
    ) -> Result<Option<Nanos>, Failure> {
        if !self.awaits_more() || size == 0 || self.look(shared, &[])? {
            return Ok(None);
        }
        // PEP 3333 leaves the time to the server; with the first read is the one at which the
        // application has shown that it wants the body. Never once a response has begun.
        if self.continue_owed && !head_sent {
            self.continue_owed = false;
            let mut state = self.connection.lock();
            send_small(shared, &self.connection, &mut state, response::CONTINUE)?;
            if let Some(trace) = &mut state.trace {
                trace.sent_interim(b"100 Continue");
            }
        }
        buffer.resize(shared.options.receive_bytes, 0);
        let received = self.read_socket(buffer)?;
        if self.look(shared, buffer.get(..received).unwrap_or(&[]))? {
            return Ok(None);
        }
        let options = &shared.options;
        let mut clock = self.clock.unwrap_or(BodyClock::new(options, 0));
        let allowed = clock.received(options, self.received, self.waited, 0);
        self.clock = Some(clock);
        Ok(Some(allowed.saturating_sub(self.waited)))
    }

    /// Take all of the body in what was received; return whether there is some of it, or its end.
    fn look(&mut self, shared: &Shared, received: &[u8]) -> Result<bool, Failure> {
        let mut state = self.connection.lock();
        let ConnectionState {
            parser,
            carry,
            trace,
            ..
        } = &mut *state;
        if let Some(trace) = trace {
            trace.received(received);
        }
        let block = carry.join(received);
        let mut input = Bytes::new(block);
        let mut head = Head::default();
        let found = loop {
            match parser.next_event(&mut input, &shared.options.parser, &mut head) {
                Ok(Event::Data(data)) => {
                    self.unread.extend_from_slice(data);
                    self.received += data.len() as u64;
                    if let Some(trace) = trace {
                        trace.body_received(data, input.remaining().len());
                    }
                }
                Ok(Event::EndOfMessage) => {
                    self.body_over = true;
                    self.streaming = None;
                    break Ok(true);
                }
                Ok(_) => break Ok(!self.unread.is_empty()),
                // What came before the fault is read first; the parser fails again then.
                Err(_) if !self.unread.is_empty() => break Ok(true),
                Err(error) => {
                    break Err(Failure::BadBody(error.status, error.reason.to_owned()));
                }
            }
        };
        let left = input.remaining().len();
        carry.keep(received, left);
        if found.is_err() {
            state.exchange.fate.worsen(Fate::Close);
        }
        found
    }

    /// Keep account of a wait; fails where it has been too long.
    ///
    /// Only waiting counts: a client is not blamed for an application that reads slowly.
    pub fn note_wait(&mut self, shared: &Shared, waited: Nanos, late: bool) -> Result<(), Failure> {
        self.waited += waited;
        if !late {
            return Ok(());
        }
        self.connection.lock().exchange.fate.worsen(Fate::Close);
        let deadline = self.clock.map_or(0, |clock| clock.deadline());
        let text = match decisions::exceeds_body_time(&shared.options.budgets, deadline, 0) {
            true => "the request's body did not arrive in time (max_body_time)",
            false => "the request's body came too slowly (body_timeout)",
        };
        Err(Failure::BadBody(408, text.to_owned()))
    }

    fn read_socket(&mut self, buffer: &mut [u8]) -> Result<usize, Failure> {
        let mut state = self.connection.lock();
        match self.connection.stream.receive(buffer) {
            Ok(0) => {
                state.parser.receive_eof();
                state.input = Input::Drained;
                Ok(0)
            }
            Ok(size) => {
                if self.connection.stream.holds_input() {
                    state.input = Input::Possible; // no event tells of it
                }
                Ok(size)
            }
            // Readiness may turn out to be spurious (a segment with a bad checksum).
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(disconnected(&self.connection, &mut state, &error)),
        }
    }

    /// Whether more of the body would have to be read off the socket.
    pub fn awaits_more(&self) -> bool {
        self.unread.is_empty() && !self.body_over
    }

    /// Give up to `size` bytes of what is unread.
    pub fn take_unread(&mut self, size: usize) -> Vec<u8> {
        let rest = self.unread.split_off(size.min(self.unread.len()));
        std::mem::replace(&mut self.unread, rest)
    }

    /// Decide what happens to a streamed body of which not all has been read.
    ///
    /// What is short and has arrived is dropped later, for the connection's sake; otherwise the
    /// connection ends. `discard_bytes` counts as short. In no case is the rest of a body taken for a request.
    pub fn decide_unread_body(&self, discard_bytes: u64, state: &mut ConnectionState) {
        if self.body_over || state.parser.state() == State::Done {
            return;
        }
        let remaining = state.parser.body_remaining(state.carry.remaining().len());
        let arrived = match remaining {
            Some(1..) => self.connection.stream.arrived(),
            _ => 0,
        };
        if !decisions::keeps_connection(discard_bytes, self.continue_owed, remaining, arrived) {
            state.exchange.fate.worsen(Fate::Close);
        }
    }
}

/// Wait until the socket is readable; return for how long, and whether it is.
pub fn wait_for_input(shared: &Shared, connection: &Connection, patience: Nanos) -> (Nanos, bool) {
    let before = sys::monotonic();
    let most = patience.min(shared.options.wait_slice);
    let mut state = connection.lock();
    send_rest(connection, &mut state);
    // A client that has only a part of 100 Continue sends nothing before it has the rest.
    let awaited = match state.output.size {
        0 => Readiness::Input,
        _ => Readiness::Room,
    };
    drop(state);
    let ready = connection.stream.wait(awaited, most).unwrap_or(true);
    (sys::monotonic() - before, patience > 0 && ready)
}
