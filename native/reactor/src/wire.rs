//! What an exchange does with its connection's socket. It knows nothing of Python, and waits with
//! no lock held.

use crate::connection::{Connection, Held, NEVER};
use crate::decisions;
use crate::log_queue::Entry;
use crate::output::{COALESCED_BYTES, Flushed, Piece, Region};
use crate::shared::Hub;
use crate::states::{Fate, Input, Phase};
use crate::sys::{self, Fd, Nanos, Readiness};
use penstock_protocol::{Event, Head, Input as Bytes, State, response};
use std::io::{self, IoSlice};
use std::sync::{Arc, MutexGuard};

/// The most that one read of a streamed body takes.
/// Pipelined requests that are answered before it is others' turn.
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
    /// For a request whose body has arrived, with so many bytes.
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

    /// Have something unread, unless the body is over; else tell how long to wait for input.
    pub fn receive(
        &mut self,
        hub: &Hub,
        size: usize,
        head_sent: bool,
        buffer: &mut Vec<u8>,
    ) -> Result<Option<Nanos>, Failure> {
        if !self.awaits_more() || size == 0 || self.look(hub, &[])? {
            return Ok(None);
        }
        // PEP 3333 leaves the time to the server; with the first read is the one at which the
        // application has shown that it wants the body. Never once a response has begun.
        if self.continue_owed && !head_sent {
            self.continue_owed = false;
            let mut held = self.connection.lock();
            send_small(hub, &self.connection, &mut held, response::CONTINUE)?;
            drop(held);
            trace_interim(hub, &self.connection, "100 Continue");
        }
        buffer.resize(hub.options.receive_bytes, 0);
        let received = self.read_socket(buffer)?;
        if self.look(hub, buffer.get(..received).unwrap_or(&[]))? {
            return Ok(None);
        }
        let allowed = hub.options.body_allowance(self.received, self.waited);
        Ok(Some(allowed.saturating_sub(self.waited)))
    }

    /// Look for a part of the body in what was received; tell whether there is one, or its end.
    fn look(&mut self, hub: &Hub, received: &[u8]) -> Result<bool, Failure> {
        let mut held = self.connection.lock();
        let Held {
            parser,
            carry,
            trace,
            ..
        } = &mut *held;
        if let Some(trace) = trace {
            trace.received(received);
        }
        let block = carry.join(received);
        let mut input = Bytes::new(block);
        let mut head = Head::default();
        let event = parser.next_event(&mut input, &hub.options.parser, &mut head);
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
            held.fate.worsen(Fate::Close);
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
        self.connection.lock().fate.worsen(Fate::Close);
        let text = "the request's body came too slowly (body_timeout)";
        Err(Failure::BadBody(408, text.to_owned()))
    }

    fn read_socket(&mut self, buffer: &mut [u8]) -> Result<usize, Failure> {
        let mut held = self.connection.lock();
        match self.connection.stream.receive(buffer) {
            Ok(0) => {
                held.parser.receive_eof();
                held.input = Input::Drained;
                Ok(0)
            }
            Ok(size) => Ok(size),
            // Readiness may turn out to be spurious (a segment with a bad checksum).
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(disconnected(&self.connection, &mut held, &error)),
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

    /// Decide what becomes of a streamed body of which not all has been read.
    ///
    /// What is short is dropped later, for the connection's sake; otherwise the connection ends.
    /// `discard_bytes` counts as short. In no case is the rest of a body taken for a request.
    pub fn settle_request_body(&self, discard_bytes: u64, held: &mut Held) {
        if self.body_over || held.parser.state() == State::Done {
            return;
        }
        let remaining = held.parser.body_remaining(held.carry.remaining().len());
        if !decisions::keeps_connection(discard_bytes, self.continue_owed, remaining) {
            held.fate.worsen(Fate::Close);
        }
    }
}

/// Wait until the socket is readable; tell for how long, and whether it is.
pub fn wait_for_input(hub: &Hub, connection: &Connection, patience: Nanos) -> (Nanos, bool) {
    let before = sys::monotonic();
    let most = patience.min(hub.options.wait_slice);
    let ready = connection
        .stream
        .wait(Readiness::Input, most)
        .unwrap_or(true);
    (sys::monotonic() - before, patience > 0 && ready)
}

// -- the response -----------------------------------------------------------------------------

/// Send `head`, a block without copying it, and what ends it.
pub fn send_large(
    hub: &Hub,
    connection: &Arc<Connection>,
    head: &[u8],
    block: impl AsRef<[u8]> + Send + 'static,
    ends: [&'static [u8]; 2],
) -> Result<(), Failure> {
    let mut held = connection.lock();
    let [chunk_end, end] = ends;
    let sent = if held.output.busy() {
        Ok(0)
    } else {
        connection
            .stream
            .send_vector(&[head, block.as_ref(), chunk_end, end].map(IoSlice::new))
    };
    let mut sent = match sent {
        Ok(sent) => sent,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        Err(error) => return Err(disconnected(connection, &mut held, &error)),
    };
    if sent < head.len() {
        held.output.append(Piece::Owned(head.to_vec(), sent));
    }
    sent = sent.saturating_sub(head.len());
    let size = block.as_ref().len();
    if sent < size {
        held.output.append(Piece::Held(Box::new(block), sent));
    }
    sent = sent.saturating_sub(size);
    let tail = [chunk_end, end].concat();
    if sent < tail.len() {
        held.output.append(Piece::Owned(tail, sent));
    }
    flush_queued(hub, connection, held)
}

/// Send a part of a file.
pub fn send_region(
    hub: &Hub,
    connection: &Arc<Connection>,
    file: Fd,
    offset: u64,
    count: u64,
    end: &[u8],
) -> Result<(), Failure> {
    let mut held = connection.lock();
    held.output.append(Piece::Region(Region {
        file,
        offset,
        count,
    }));
    if !end.is_empty() {
        held.output.append(Piece::Owned(end.to_vec(), 0));
    }
    flush_queued(hub, connection, held)
}

fn flush_queued(
    hub: &Hub,
    connection: &Arc<Connection>,
    held: MutexGuard<'_, Held>,
) -> Result<(), Failure> {
    if held.output.busy() {
        let (mut held, flushed) = flush_all(hub, connection, held);
        flushed?;
        watch(hub, connection, &mut held);
    }
    Ok(())
}

/// Send what the kernel takes now: parts of files without the lock, so that no other thread waits
/// for a disk.
fn flush_all<'a>(
    hub: &Hub,
    connection: &'a Arc<Connection>,
    mut held: MutexGuard<'a, Held>,
) -> (MutexGuard<'a, Held>, Result<(), Failure>) {
    loop {
        let flushed = match held.output.take_region() {
            Some((mut region, most)) => {
                drop(held);
                let sent = region.send(&*connection.stream, most);
                held = connection.lock();
                if held.phase == Phase::Answered {
                    // The response was ended meanwhile, and the leader could not close.
                    hub.post(connection, &mut held);
                    hub.hurry();
                }
                held.output.put_back(region, sent)
            }
            None => held.output.flush_memory(&*connection.stream),
        };
        match flushed {
            Ok(Flushed::More) => {} // it is this thread's own time
            Ok(_) => return (held, Ok(())),
            Err(error) => {
                let failure = disconnected(connection, &mut held, &error);
                return (held, Err(failure));
            }
        }
    }
}

/// A thread's waiting until no more is unsent than may be.
pub struct RoomAwaited<'a> {
    hub: &'a Hub,
    connection: &'a Arc<Connection>,
    /// What the client had taken when the deadline was set.
    before: i64,
    deadline: Nanos,
}

impl<'a> RoomAwaited<'a> {
    pub fn new(hub: &'a Hub, connection: &'a Arc<Connection>) -> Self {
        let mut held = connection.lock();
        held.awaiting_room = true;
        RoomAwaited {
            hub,
            connection,
            before: held.output.acknowledged(&*connection.stream),
            deadline: sys::monotonic().saturating_add(hub.options.write_timeout),
        }
    }

    /// Wait for a while; tell whether there is room. The leader sends what then remains.
    pub fn wait(&mut self) -> Result<bool, Failure> {
        let Self {
            hub, connection, ..
        } = *self;
        let until = sys::monotonic().saturating_add(hub.options.wait_slice);
        loop {
            let (mut held, flushed) = flush_all(hub, connection, connection.lock());
            flushed?;
            if held.output.size <= hub.options.out_buffer {
                watch(hub, connection, &mut held);
                return Ok(true);
            }
            let now = sys::monotonic();
            if now >= self.deadline {
                let taken = held.output.acknowledged(&*connection.stream);
                if ((taken - self.before) as f64) < hub.options.least_progress() {
                    connection.set_gone();
                    let text = "the client stalled past the write deadline";
                    return Err(Failure::Disconnected(text.to_owned()));
                }
                self.before = taken;
                self.deadline = now.saturating_add(hub.options.write_timeout);
            }
            if now >= until {
                return Ok(false);
            }
            drop(held);
            let left = self.deadline.min(until) - now;
            let _ = connection.stream.wait(Readiness::Room, left);
        }
    }
}

impl Drop for RoomAwaited<'_> {
    fn drop(&mut self) {
        self.connection.lock().awaiting_room = false;
    }
}

/// Tell the trace, where there is one, of an interim response.
pub fn trace_interim(hub: &Hub, connection: &Connection, status: &str) {
    if hub.options.trace {
        let text = format!("sent HTTP/1.1 {status}");
        hub.log_queue.write(Entry::Note(connection.number, text));
    }
}

/// Fail where the leader has found that no more can be sent.
pub fn check_output(connection: &Connection, held: &mut Held) -> Result<(), Failure> {
    let checked = held.output.check();
    checked.map_err(|error| disconnected(connection, held, &error))
}

/// Send bytes now where the kernel takes them, and queue the rest.
pub fn send_small(
    hub: &Hub,
    connection: &Connection,
    held: &mut Held,
    data: &[u8],
) -> Result<(), Failure> {
    if held.output.busy() {
        // Sent by whoever comes next: this thread where it waits for room, or the leader.
        check_output(connection, held)?;
        held.output.append_copy(data);
        if held.output.uncork() {
            flush(connection, held)?; // nothing but this has kept it from being sent
        }
        watch(hub, connection, held);
        return Ok(());
    }
    let sent = match connection.stream.send(data) {
        Ok(sent) => sent,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        Err(error) => return Err(disconnected(connection, held, &error)),
    };
    if sent < data.len() {
        held.output
            .append(Piece::Owned(data.get(sent..).unwrap_or(&[]).to_vec(), 0));
        watch(hub, connection, held);
    }
    Ok(())
}

/// Keep a whole response back, to leave with the next one, where the client pipelines; tell
/// whether that may be.
///
/// Only where the next request is here as a whole, so that its answer follows at once, and only
/// so many times before it is others' turn. And only where there is a watchdog: should the next
/// call stall, somebody has to send what waits.
pub fn cork(hub: &Hub, held: &mut Held, data: &[u8]) -> bool {
    let next = held.carry.remaining();
    let may = hub.options.attended
        && held.parser.state() == State::Done
        && held.fate == Fate::Keep
        && (held.output.is_corked() || !held.output.busy())
        && held.output.size as usize + data.len() <= COALESCED_BYTES
        && held.answered_in_turn < ANSWERS_PER_TURN
        && next.first().is_some_and(u8::is_ascii_alphabetic)
        && !hub.draining.get()
        && !hub.options.trace
        && memchr::memmem::find(next, b"\r\n\r\n").is_some();
    if may {
        held.output.append_copy(data);
        held.output.cork();
        held.answered_in_turn += 1;
    }
    may
}

/// Have the leader send what is queued, within the write deadline.
fn watch(hub: &Hub, connection: &Connection, held: &mut Held) {
    if held.output.size > 0 && connection.deadline() == NEVER {
        connection.await_output(hub, held, sys::monotonic());
    }
}

fn flush(connection: &Connection, held: &mut Held) -> Result<Flushed, Failure> {
    loop {
        match held.output.flush(&*connection.stream) {
            Ok(Flushed::More) => {} // it is this thread's own time
            Ok(flushed) => return Ok(flushed),
            Err(error) => return Err(disconnected(connection, held, &error)),
        }
    }
}

fn disconnected(connection: &Connection, held: &mut Held, error: &io::Error) -> Failure {
    if sys::is_disconnect(error) {
        connection.set_gone();
    }
    held.fate.worsen(Fate::Close);
    Failure::Disconnected(format!("the client is gone: {}", sys::error_text(error)))
}
