//! Sending a response: by the thread that answers as far as the kernel takes it, and by the leader
//! for what is left. It knows nothing of Python, and waits with no lock held.

use crate::closing;
use crate::connection::{Connection, ConnectionState, NEVER};
use crate::decisions::{self, OutputStep};
use crate::disk::DiskFile;
use crate::file_sending;
use crate::leader::LeaderState;
use crate::next_request;
use crate::output::{
    CLIENT_STALLED, COALESCED_BYTES, Flushed, Piece, Region, RegionFile, lost_client,
};
use crate::output_spool;
use crate::scoreboard::OUT_SPOOL_LIMIT;
use crate::shared::Shared;
use crate::slow_path_estimate::PathHash;
use crate::states::{Fate, Phase};
use crate::sys::{self, Fd, Nanos, Readiness};
use penstock_protocol::State;
use std::io::{self, IoSlice};
use std::sync::{Arc, MutexGuard};

/// The most bytes of a response that wait for its next blocks.
const HELD_BYTES: usize = 32 * 1024;

/// Pipelined requests that are answered before it is the turn of others.
const ANSWERS_PER_TURN: u32 = 16;

/// Why the client cannot be answered, or its body not be read.
pub enum Failure {
    Disconnected(String),
    /// A file became shorter while it was sent.
    FileTruncated,
    BadBody(u16, String),
}

// -- for the thread that answers ------------------------------------------------------------------

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
    let behind = state.output.busy();
    let sent = if behind {
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
    if state.output.size > 0 && !behind && !connection.stream.is_secure() {
        // It took a part, and will take no more now: epoll(7). TLS may take a part for other reasons.
        state.output.blocked();
        watch(shared, connection, &mut state);
        return Ok(());
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
        file: RegionFile::Own(DiskFile::new(
            file,
            shared.files.take(),
            &shared.spooling.disk,
        )),
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
        let (mut state, flushed) = flush_all(connection, state);
        flushed?;
        watch(shared, connection, &mut state);
    }
    Ok(())
}

/// Send what the kernel takes now, in this thread's own time.
fn flush_all<'a>(
    connection: &'a Arc<Connection>,
    mut state: MutexGuard<'a, ConnectionState>,
) -> (MutexGuard<'a, ConnectionState>, Result<(), Failure>) {
    loop {
        let flushed;
        (state, flushed) = file_sending::flush_turn(connection, state);
        match flushed {
            Ok(Flushed::More | Flushed::File) => {}
            Ok(Flushed::All | Flushed::Blocked) => return (state, Ok(())),
            Err(error) => {
                let failure = disconnected(connection, &mut state, &error);
                return (state, Err(failure));
            }
        }
    }
}

/// How a part of a thread's waiting has ended.
pub enum Room {
    /// The application may make the next block.
    Made,
    /// There is no room yet.
    Awaited,
    /// A temporary file may take what is in memory, where another thread sends from there: call
    /// [`RoomAwaited::spool`] or [`RoomAwaited::do_without_spool`].
    Spool,
}

/// A thread's waiting until no more is in memory than may be.
pub struct RoomAwaited<'a> {
    shared: &'a Shared,
    connection: &'a Arc<Connection>,
    began: Nanos,
    /// No temporary file takes what is in memory.
    refused: bool,
    /// It is counted that the file of the response takes no more.
    at_limit: bool,
    /// What the client had taken when the deadline was set.
    before: i64,
    deadline: Nanos,
}

impl<'a> RoomAwaited<'a> {
    pub fn new(shared: &'a Shared, connection: &'a Arc<Connection>) -> Self {
        let mut state = connection.lock();
        state.exchange.awaiting_room = true;
        let now = sys::monotonic();
        RoomAwaited {
            shared,
            connection,
            began: now,
            refused: false,
            at_limit: false,
            before: state.output.acknowledged(&*connection.stream),
            deadline: now.saturating_add(shared.options.write_timeout),
        }
    }

    /// Have a temporary file take what is in memory.
    pub fn spool(&mut self) {
        self.refused = !output_spool::move_to_spool(self.shared, self.connection);
        // The client has the whole write deadline, after the time that the disk has taken.
        let state = self.connection.lock();
        self.before = state.output.acknowledged(&*self.connection.stream);
        self.deadline = sys::monotonic().saturating_add(self.shared.options.write_timeout);
    }

    /// Wait for the client alone.
    pub fn do_without_spool(&mut self) {
        self.refused = true;
    }

    /// Wait for a while. The leader sends what then remains.
    pub fn wait(&mut self) -> Result<Room, Failure> {
        let Self {
            shared, connection, ..
        } = *self;
        let options = &shared.options;
        let patience_ends = self.began.saturating_add(options.out_spool_patience);
        let until = sys::monotonic().saturating_add(options.wait_slice);
        loop {
            let (mut state, flushed) = flush_all(connection, connection.lock());
            flushed?;
            let now = sys::monotonic();
            let (memory, spool) = (state.output.memory(), state.output.spool_size());
            match decisions::output_step(options, memory, spool, now - self.began) {
                OutputStep::GoOn => {
                    watch(shared, connection, &mut state);
                    return Ok(Room::Made);
                }
                OutputStep::Spool if !self.refused => return Ok(Room::Spool),
                OutputStep::WaitAtLimit if !self.at_limit => {
                    self.at_limit = true;
                    shared.scoreboard.count(OUT_SPOOL_LIMIT);
                }
                OutputStep::Spool | OutputStep::Wait | OutputStep::WaitAtLimit => {}
            }
            if now >= self.deadline {
                let taken = state.output.acknowledged(&*connection.stream);
                if ((taken - self.before) as f64) < options.least_progress() {
                    connection.set_gone();
                    return Err(Failure::Disconnected(CLIENT_STALLED.to_owned()));
                }
                self.before = taken;
                self.deadline = now.saturating_add(options.write_timeout);
            }
            if now >= until {
                return Ok(Room::Awaited);
            }
            let mut next = self.deadline.min(until);
            if now < patience_ends {
                next = next.min(patience_ends);
            }
            if state.output.is_in_flight() {
                // Another thread waits for a disk, whether or not there is room.
                connection.await_flight(state, next - now);
            } else {
                drop(state);
                let _ = connection.stream.wait(Readiness::Room, next - now);
            }
        }
    }
}

impl Drop for RoomAwaited<'_> {
    fn drop(&mut self) {
        self.connection.lock().exchange.awaiting_room = false;
    }
}

/// Fail where the leader has found that no more can be sent.
fn check_output(connection: &Connection, state: &mut ConnectionState) -> Result<(), Failure> {
    let checked = state.output.check();
    checked.map_err(|error| disconnected(connection, state, &error))
}

/// Send what waits at the end of a response. Fail where the leader has found that no more can be sent.
pub fn send_last(
    shared: &Shared,
    connection: &Connection,
    state: &mut ConnectionState,
) -> Result<(), Failure> {
    check_output(connection, state)?;
    if state.output.uncork() {
        flush_now(connection, state)?;
        watch(shared, connection, state);
    }
    Ok(())
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
            flush_now(connection, state)?; // nothing but this has kept it from being sent
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

/// Hold a block so that it is sent with the next ones, while the application makes them. Return true
/// if it is held.
///
/// PEP 3333 allows that where another thread is sure to send it meanwhile. The next leader does: a
/// thread that comes back from its call, or one that the stall monitor has lead, after two ticks or so
/// of its clock. A thread that leads by now would have to be woken for each block, which costs more
/// than to send it; and each block of a slow call would wait for the monitor.
pub fn hold(
    shared: &Shared,
    connection: &Arc<Connection>,
    state: &mut ConnectionState,
    path: PathHash,
    data: &[u8],
) -> bool {
    let may = shared.attended.get()
        && !shared.led.get()
        && (state.output.is_corked() || !state.output.busy())
        && state.output.size as usize + data.len() <= HELD_BYTES
        && shared.slow_paths.is_fast(path);
    if may {
        state.output.append_copy(data);
        state.output.cork();
        // Also where a thread has begun to lead just now: it looks once more before it polls, or is woken.
        shared.post(connection, state);
        if shared.led.get() {
            shared.hurry();
        }
    }
    may
}

/// Hold a complete response so that it is sent with the next one, where the client pipelines, or
/// with those to other clients (`held_answers`). Return true if it is held.
///
/// Only if the next request has arrived whole, so that its answer follows at once, and only
/// a limited number of times before other connections have their turn; or if the client has sent
/// nothing more, and no thread leads, while the poll that brought this request, the one with
/// `number`, has brought more. And only with a stall monitor: if the next call stalls, another thread
/// has to send the pending output.
pub fn cork(shared: &Shared, state: &mut ConnectionState, number: u64, data: &[u8]) -> bool {
    let next = state.carry.remaining();
    let may = shared.attended.get()
        && state.parser.state() == State::Done
        && state.exchange.fate == Fate::Keep
        && (state.output.is_corked() || !state.output.busy())
        && state.output.size as usize + data.len() <= COALESCED_BYTES
        && state.answered_in_turn < ANSWERS_PER_TURN
        && !shared.draining.get()
        && match next.is_empty() {
            true => {
                shared.held_answers.may_add(number)
                    && !shared.led.get()
                    && !state.queued
                    && next_request::is_quiet(shared, state)
            }
            false => {
                next.first().is_some_and(u8::is_ascii_alphabetic)
                    && memchr::memmem::find(next, b"\r\n\r\n").is_some()
            }
        };
    if may {
        state.output.append_copy(data);
        state.output.cork();
        state.answered_in_turn += 1;
    }
    may
}

/// Send an answer that waits, and go on to the next request of its connection.
pub fn send_held(shared: &Shared, connection: &Arc<Connection>, now: Nanos) {
    let mut state = connection.lock();
    if state.phase != Phase::Answered {
        return; // closed meanwhile
    }
    uncork(connection, &mut state);
    if next_request::is_quiet(shared, &state) && !state.output.busy() {
        state.log_finished(&shared.scoreboard, &shared.log_queue, None);
        next_request::begin_next(connection, shared, &mut state, now);
    } else {
        shared.post(connection, &mut state); // for the leader, which calls this
    }
}

/// Have the leader send what is queued, within the write deadline.
fn watch(shared: &Shared, connection: &Connection, state: &mut ConnectionState) {
    if state.output.size > 0 && connection.deadline() == NEVER {
        await_output(connection, shared, state, sys::monotonic());
    }
    if shared.exceeds_unsent() {
        shared.hurry(); // it cuts the slowest reader off
    }
}

fn flush_now(connection: &Connection, state: &mut ConnectionState) -> Result<Flushed, Failure> {
    loop {
        match state.output.flush(&*connection.stream) {
            Ok(Flushed::More) => {} // it is this thread's own time
            Ok(flushed) => return Ok(flushed),
            Err(error) => return Err(disconnected(connection, state, &error)),
        }
    }
}

pub fn disconnected(
    connection: &Connection,
    state: &mut ConnectionState,
    error: &io::Error,
) -> Failure {
    state.exchange.fate.worsen(Fate::Close);
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return Failure::FileTruncated;
    }
    if sys::is_disconnect(error) {
        connection.set_gone();
    }
    Failure::Disconnected(lost_client(error).to_owned())
}

// -- for the leader -------------------------------------------------------------------------------

/// Wait until the client takes output, within the write deadline.
pub fn await_output(
    connection: &Connection,
    shared: &Shared,
    state: &mut ConnectionState,
    now: Nanos,
) {
    connection.set_deadline(now.saturating_add(shared.options.write_timeout));
    state.progress = state.output.acknowledged(&*connection.stream);
    let kept = state.carry.remaining().len() as u64;
    shared.hold_input(state, kept);
    connection.set_heavy(true);
}

/// Send output while the application makes the next block.
pub fn drain_output(
    connection: &Arc<Connection>,
    shared: &Shared,
    leader: &mut LeaderState,
    state: &mut ConnectionState,
) {
    if state.output.size == 0 {
        return;
    }
    if connection.deadline() == NEVER {
        // Once only: an application that trickles does not put the deadline off.
        await_output(connection, shared, state, leader.now);
    }
    match flush_for_leader(connection, shared, state) {
        Ok(Flushed::Blocked | Flushed::File) => {}
        Ok(Flushed::More) => leader.defer(connection, state),
        Ok(Flushed::All) => {
            shared.hold_input(state, 0);
            connection.note_drained(true);
        }
        Err(_) => connection.note_drained(false),
    }
}

/// Send what the kernel takes now, and have another thread send what is in a file.
fn flush_for_leader(
    connection: &Arc<Connection>,
    shared: &Shared,
    state: &mut ConnectionState,
) -> io::Result<Flushed> {
    let flushed = state.output.flush(&*connection.stream)?;
    if flushed == Flushed::File {
        if let Err(error) = file_sending::ask(connection, shared, state) {
            state.output.fail(&error);
            return Err(error);
        }
    }
    Ok(flushed)
}

/// Send what is left of a response that is finished.
pub fn flush(
    connection: &Arc<Connection>,
    shared: &Shared,
    leader: &mut LeaderState,
    state: &mut ConnectionState,
) {
    match flush_for_leader(connection, shared, state) {
        Ok(Flushed::Blocked | Flushed::File) => return,
        Ok(Flushed::More) => {
            leader.defer(connection, state);
            return;
        }
        Ok(Flushed::All) => {}
        Err(error) => {
            closing::cut_off(connection, shared, state, &error);
            return;
        }
    }
    connection.set_heavy(false);
    shared.hold_input(state, 0);
    state.log_finished(&shared.scoreboard, &shared.log_queue, None);
    if state.phase == Phase::Refusing {
        closing::linger(connection, shared, leader, state);
    } else {
        next_request::after_response(connection, shared, leader, state);
    }
}

/// Send what waits. What the kernel does not take goes with what comes next, or when there is
/// room.
pub fn uncork(connection: &Connection, state: &mut ConnectionState) {
    if state.output.uncork() {
        send_rest(connection, state);
    }
}

/// Send what is left of earlier answers while the next request comes in. They are in memory.
pub fn send_rest(connection: &Connection, state: &mut ConnectionState) {
    if state.output.size > 0 && !state.output.is_corked() {
        let _ = state.output.flush(&*connection.stream); // an error is met again by the next answer
    }
}
