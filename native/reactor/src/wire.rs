//! What an exchange does with its connection's socket. It knows nothing of Python, and waits with
//! no lock held.

use crate::connection::{Connection, ConnectionState, NEVER};
use crate::decisions;
use crate::output::{COALESCED_BYTES, Flushed, Piece, Region};
use crate::shared::Shared;
use crate::states::{Fate, Input, Phase};
use crate::sys::{self, Fd, Nanos, Readiness};
use penstock_protocol::{Event, Head, Input as Bytes, State, response};
use std::io::{self, IoSlice};
use std::sync::{Arc, MutexGuard};

/// Pipelined requests that are answered before it is the turn of others.
const ANSWERS_PER_TURN: u32 = 16;

/// Why the client cannot be answered, or its body not be read.
pub enum Failure {
    Disconnected(String),
    BadBody(u16, String),
}

/// A connection in the hands of the thread that answers.
pub struct Wire {
    pub connection: Arc<Connection>,
    /// Bytes of the request's body that have arrived.
    pub received: u64,
    body_over: bool,
    continue_owed: bool,
    unread: Vec<u8>,
    waited: Nanos, // for which `receive` has waited for the client
}

impl Wire {
    /// For a request whose body has arrived, with `received` bytes.
    pub fn complete(connection: Arc<Connection>, received: u64) -> Self {
        Wire {
            connection,
            received,
            body_over: true,
            continue_owed: false,
            unread: Vec::new(),
            waited: 0,
        }
    }

    /// For a request whose body is still to be read.
    pub fn streamed(connection: Arc<Connection>, continue_owed: bool) -> Self {
        Wire {
            body_over: false,
            continue_owed,
            ..Wire::complete(connection, 0)
        }
    }

    // -- the request's body, where it is streamed ---------------------------------------------

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
        let allowed = shared.options.body_allowance(self.received, self.waited);
        Ok(Some(allowed.saturating_sub(self.waited)))
    }

    /// Look for a part of the body in what was received; return whether there is one, or its end.
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
        let event = parser.next_event(&mut input, &shared.options.parser, &mut head);
        let left = input.remaining().len();
        let found = match event {
            Ok(Event::Data(data)) => {
                self.unread.extend_from_slice(data);
                self.received += data.len() as u64;
                if let Some(trace) = trace {
                    trace.body_received(data, left);
                }
                Ok(true)
            }
            Ok(Event::EndOfMessage) => {
                self.body_over = true;
                Ok(true)
            }
            Ok(_) => Ok(false),
            Err(error) => Err(Failure::BadBody(error.status, error.reason.to_owned())),
        };
        carry.keep(received, left);
        if found.is_err() {
            state.exchange.fate.worsen(Fate::Close);
        }
        found
    }

    /// Keep account of a wait; fails where it has been too long.
    ///
    /// Only waiting counts: a client is not blamed for an application that reads slowly.
    pub fn note_wait(&mut self, waited: Nanos, late: bool) -> Result<(), Failure> {
        self.waited += waited;
        if !late {
            return Ok(());
        }
        self.connection.lock().exchange.fate.worsen(Fate::Close);
        let text = "the request's body came too slowly (body_timeout)";
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
            Ok(size) => Ok(size),
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
    /// What is short is dropped later, for the connection's sake; otherwise the connection ends.
    /// `discard_bytes` counts as short. In no case is the rest of a body taken for a request.
    pub fn decide_unread_body(&self, discard_bytes: u64, state: &mut ConnectionState) {
        if self.body_over || state.parser.state() == State::Done {
            return;
        }
        let remaining = state.parser.body_remaining(state.carry.remaining().len());
        if !decisions::keeps_connection(discard_bytes, self.continue_owed, remaining) {
            state.exchange.fate.worsen(Fate::Close);
        }
    }
}

/// Wait until the socket is readable; return for how long, and whether it is.
pub fn wait_for_input(shared: &Shared, connection: &Connection, patience: Nanos) -> (Nanos, bool) {
    let before = sys::monotonic();
    let most = patience.min(shared.options.wait_slice);
    let ready = connection
        .stream
        .wait(Readiness::Input, most)
        .unwrap_or(true);
    (sys::monotonic() - before, patience > 0 && ready)
}

// -- the response -----------------------------------------------------------------------------

/// Send `head`, a block without copying it, and what ends it.
pub fn send_large(
    shared: &Shared,
    connection: &Arc<Connection>,
    head: &[u8],
    block: impl AsRef<[u8]> + Send + 'static,
    ends: [&'static [u8]; 2],
) -> Result<(), Failure> {
    let mut state = connection.lock();
    let [chunk_end, end] = ends;
    let sent = if state.output.busy() {
        Ok(0)
    } else {
        connection
            .stream
            .send_vector(&[head, block.as_ref(), chunk_end, end].map(IoSlice::new))
    };
    let mut sent = match sent {
        Ok(sent) => sent,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        Err(error) => return Err(disconnected(connection, &mut state, &error)),
    };
    if sent < head.len() {
        state.output.append(Piece::Owned(head.to_vec(), sent));
    }
    sent = sent.saturating_sub(head.len());
    let size = block.as_ref().len();
    if sent < size {
        state.output.append(Piece::Held(Box::new(block), sent));
    }
    sent = sent.saturating_sub(size);
    let tail = [chunk_end, end].concat();
    if sent < tail.len() {
        state.output.append(Piece::Owned(tail, sent));
    }
    flush_queued(shared, connection, state)
}

/// Send a part of a file.
pub fn send_region(
    shared: &Shared,
    connection: &Arc<Connection>,
    file: Fd,
    offset: u64,
    count: u64,
    end: &[u8],
) -> Result<(), Failure> {
    let mut state = connection.lock();
    state.output.append(Piece::Region(Region {
        file,
        offset,
        count,
    }));
    if !end.is_empty() {
        state.output.append(Piece::Owned(end.to_vec(), 0));
    }
    flush_queued(shared, connection, state)
}

fn flush_queued(
    shared: &Shared,
    connection: &Arc<Connection>,
    state: MutexGuard<'_, ConnectionState>,
) -> Result<(), Failure> {
    if state.output.busy() {
        let (mut state, flushed) = flush_all(shared, connection, state);
        flushed?;
        watch(shared, connection, &mut state);
    }
    Ok(())
}

/// Send what the kernel takes now: parts of files without the lock, so that no other thread waits
/// for a disk.
fn flush_all<'a>(
    shared: &Shared,
    connection: &'a Arc<Connection>,
    mut state: MutexGuard<'a, ConnectionState>,
) -> (MutexGuard<'a, ConnectionState>, Result<(), Failure>) {
    loop {
        let flushed = match state.output.take_region() {
            Some((mut region, most)) => {
                drop(state);
                let sent = region.send(&*connection.stream, most);
                state = connection.lock();
                if state.phase == Phase::Answered {
                    // The response was ended meanwhile, and the leader could not close.
                    shared.post(connection, &mut state);
                    shared.hurry();
                }
                state.output.put_back(region, sent)
            }
            None => state.output.flush_memory(&*connection.stream),
        };
        match flushed {
            Ok(Flushed::More) => {} // it is this thread's own time
            Ok(_) => return (state, Ok(())),
            Err(error) => {
                let failure = disconnected(connection, &mut state, &error);
                return (state, Err(failure));
            }
        }
    }
}

/// A thread's waiting until no more is unsent than may be.
pub struct RoomAwaited<'a> {
    shared: &'a Shared,
    connection: &'a Arc<Connection>,
    /// What the client had taken when the deadline was set.
    before: i64,
    deadline: Nanos,
}

impl<'a> RoomAwaited<'a> {
    pub fn new(shared: &'a Shared, connection: &'a Arc<Connection>) -> Self {
        let mut state = connection.lock();
        state.exchange.awaiting_room = true;
        RoomAwaited {
            shared,
            connection,
            before: state.output.acknowledged(&*connection.stream),
            deadline: sys::monotonic().saturating_add(shared.options.write_timeout),
        }
    }

    /// Wait for a while; return whether there is room. The leader sends what then remains.
    pub fn wait(&mut self) -> Result<bool, Failure> {
        let Self {
            shared, connection, ..
        } = *self;
        let until = sys::monotonic().saturating_add(shared.options.wait_slice);
        loop {
            let (mut state, flushed) = flush_all(shared, connection, connection.lock());
            flushed?;
            if state.output.size <= shared.options.out_buffer {
                watch(shared, connection, &mut state);
                return Ok(true);
            }
            let now = sys::monotonic();
            if now >= self.deadline {
                let taken = state.output.acknowledged(&*connection.stream);
                if ((taken - self.before) as f64) < shared.options.least_progress() {
                    connection.set_gone();
                    let text = "the client stalled past the write deadline";
                    return Err(Failure::Disconnected(text.to_owned()));
                }
                self.before = taken;
                self.deadline = now.saturating_add(shared.options.write_timeout);
            }
            if now >= until {
                return Ok(false);
            }
            drop(state);
            let left = self.deadline.min(until) - now;
            let _ = connection.stream.wait(Readiness::Room, left);
        }
    }
}

impl Drop for RoomAwaited<'_> {
    fn drop(&mut self) {
        self.connection.lock().exchange.awaiting_room = false;
    }
}

/// Fail where the leader has found that no more can be sent.
pub fn check_output(connection: &Connection, state: &mut ConnectionState) -> Result<(), Failure> {
    let checked = state.output.check();
    checked.map_err(|error| disconnected(connection, state, &error))
}

/// Send bytes now where the kernel takes them, and queue the rest.
pub fn send_small(
    shared: &Shared,
    connection: &Connection,
    state: &mut ConnectionState,
    data: &[u8],
) -> Result<(), Failure> {
    if state.output.busy() {
        // The next of these sends it: this thread, when it waits for room, or the leader.
        check_output(connection, state)?;
        state.output.append_copy(data);
        if state.output.uncork() {
            flush(connection, state)?; // nothing but this has kept it from being sent
        }
        watch(shared, connection, state);
        return Ok(());
    }
    let sent = match connection.stream.send(data) {
        Ok(sent) => sent,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        Err(error) => return Err(disconnected(connection, state, &error)),
    };
    if sent < data.len() {
        state
            .output
            .append(Piece::Owned(data.get(sent..).unwrap_or(&[]).to_vec(), 0));
        watch(shared, connection, state);
    }
    Ok(())
}

/// Keep a whole response back, to leave with the next one, where the client pipelines; tell
/// whether that may be.
///
/// Only if the next request has arrived whole, so that its answer follows at once, and only
/// a limited number of times before other connections have their turn. And only with a stall
/// monitor: if the next call stalls, another thread has to send the pending output.
pub fn cork(shared: &Shared, state: &mut ConnectionState, data: &[u8]) -> bool {
    let next = state.carry.remaining();
    let may = shared.options.attended
        && state.parser.state() == State::Done
        && state.exchange.fate == Fate::Keep
        && (state.output.is_corked() || !state.output.busy())
        && state.output.size as usize + data.len() <= COALESCED_BYTES
        && state.answered_in_turn < ANSWERS_PER_TURN
        && next.first().is_some_and(u8::is_ascii_alphabetic)
        && !shared.draining.get()
        && memchr::memmem::find(next, b"\r\n\r\n").is_some();
    if may {
        state.output.append_copy(data);
        state.output.cork();
        state.answered_in_turn += 1;
    }
    may
}

/// Have the leader send what is queued, within the write deadline.
fn watch(shared: &Shared, connection: &Connection, state: &mut ConnectionState) {
    if state.output.size > 0 && connection.deadline() == NEVER {
        connection.await_output(shared, state, sys::monotonic());
    }
}

fn flush(connection: &Connection, state: &mut ConnectionState) -> Result<Flushed, Failure> {
    loop {
        match state.output.flush(&*connection.stream) {
            Ok(Flushed::More) => {} // it is this thread's own time
            Ok(flushed) => return Ok(flushed),
            Err(error) => return Err(disconnected(connection, state, &error)),
        }
    }
}

fn disconnected(
    connection: &Connection,
    state: &mut ConnectionState,
    error: &io::Error,
) -> Failure {
    if sys::is_disconnect(error) {
        connection.set_gone();
    }
    state.exchange.fate.worsen(Fate::Close);
    Failure::Disconnected(format!("the client is gone: {}", sys::error_text(error)))
}
