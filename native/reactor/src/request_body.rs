//! A request's body that the application reads as it arrives. It knows nothing of Python, and waits
//! with no lock held.

use crate::body_clock::BodyClock;
use crate::connection::{Connection, ConnectionState};
use crate::decisions;
use crate::responding::{Failure, disconnected, send_rest, send_small};
use crate::shared::Shared;
use crate::spool::{HeldBody, Spooled};
use crate::states::{Fate, Input};
use crate::streamed_bodies::Streaming;
use crate::sys::{self, Nanos, Readiness};
use penstock_protocol::{Event, Head, Input as Bytes, State, response};
use std::io;
use std::sync::Arc;

/// What a look for more of a body found.
pub enum Received {
    /// How many bytes were put there; 0 at the end of the body.
    Bytes(usize),
    /// Nothing, and how long it may be waited for.
    Nothing(Nanos),
}

/// Where the content is of what was received.
#[derive(Clone, Copy)]
enum Kept {
    /// It is to be kept until it is read.
    Unread,
    /// Where the application wants it.
    InPlace,
}

/// What has come of a body and was not read.
#[derive(Default)]
struct Unread {
    bytes: HeldBody,
    taken: usize,
}

impl Unread {
    fn is_empty(&self) -> bool {
        self.bytes.bytes().is_empty()
    }

    /// Fill `target` as far as there is something; return how far.
    fn take(&mut self, target: &mut [u8]) -> usize {
        let rest = self.bytes.bytes().get(self.taken..).unwrap_or_default();
        let size = rest.len().min(target.len());
        if let (Some(from), Some(to)) = (rest.get(..size), target.get_mut(..size)) {
            to.copy_from_slice(from);
        }
        self.taken += size;
        if self.taken == self.bytes.bytes().len() {
            *self = Unread::default();
        }
        size
    }
}

/// The body of the request that a thread answers, and its connection.
pub struct RequestBody {
    pub connection: Arc<Connection>,
    /// Bytes of the request's body that have arrived.
    pub received: u64,
    body_over: bool,
    continue_owed: bool,
    unread: Unread,
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
            unread: Unread::default(),
            file: None,
            streaming: None,
            clock: None,
            waited: 0,
        }
    }

    /// For a request whose body is still to be read, but for what has `come` of it.
    pub fn streamed(
        connection: Arc<Connection>,
        continue_owed: bool,
        streaming: Option<Streaming>,
        come: HeldBody,
    ) -> Self {
        RequestBody {
            body_over: false,
            continue_owed,
            streaming,
            received: come.bytes().len() as u64,
            unread: Unread {
                bytes: come,
                taken: 0,
            },
            ..RequestBody::complete(connection, 0)
        }
    }

    /// Put what has come of the body into `target`, or return how long to wait for input.
    ///
    /// `buffer` is for what cannot be received in its place: it may hold the framing of chunks.
    pub fn receive(
        &mut self,
        shared: &Shared,
        target: &mut [u8],
        head_sent: bool,
        buffer: &mut Vec<u8>,
    ) -> Result<Received, Failure> {
        if !self.awaits_more() || target.is_empty() || self.look(shared, &[], Kept::Unread)? {
            return Ok(Received::Bytes(self.unread.take(target)));
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
        let options = &shared.options;
        if let Some(room) = self.room_in_place(options.receive_bytes, target) {
            let received = self.read_socket(room)?;
            let came = room.get(..received).unwrap_or(&[]);
            if self.look(shared, came, Kept::InPlace)? {
                return Ok(Received::Bytes(received));
            }
        } else {
            buffer.resize(options.receive_bytes, 0);
            let received = self.read_socket(buffer)?;
            let came = buffer.get(..received).unwrap_or(&[]);
            if self.look(shared, came, Kept::Unread)? {
                return Ok(Received::Bytes(self.unread.take(target)));
            }
        }
        let mut clock = self.clock.unwrap_or(BodyClock::new(options, 0));
        let allowed = clock.received(options, self.received, self.waited, 0);
        self.clock = Some(clock);
        Ok(Received::Nothing(allowed.saturating_sub(self.waited)))
    }

    /// The part of `target` that takes at most `most` bytes off the socket which are content and
    /// nothing else; None where what comes next may be framing, or another request.
    fn room_in_place<'a>(&self, most: usize, target: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let state = self.connection.lock();
        if !state.carry.remaining().is_empty() {
            return None;
        }
        let remaining = state.parser.body_remaining(0).filter(|&size| size > 0)?;
        let most = most.min(usize::try_from(remaining).unwrap_or(usize::MAX));
        let size = most.min(target.len());
        target.get_mut(..size)
    }

    /// Take all of the body in what was received; return whether there is some of it, or its end.
    fn look(&mut self, shared: &Shared, received: &[u8], kept: Kept) -> Result<bool, Failure> {
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
        let before = self.received;
        let found = loop {
            match parser.next_event(&mut input, &shared.options.parser, &mut head) {
                Ok(Event::Data(data)) => {
                    if matches!(kept, Kept::Unread) {
                        self.unread.bytes.add_uncounted(data);
                    }
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
                Ok(_) => break Ok(self.received > before),
                // What came before the fault is read first; the parser fails again then.
                Err(_) if self.received > before => break Ok(true),
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
