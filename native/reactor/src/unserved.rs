//! Requests that no thread takes: the queue is full, they have waited for too long, or their
//! clients have left.
//!
//! Each is answered in the application's place, by the thread that finds out. That needs neither
//! leadership nor the GIL.

use crate::closing;
use crate::connection::{Connection, ConnectionState};
use crate::decisions;
use crate::exchange::request_id_of;
use crate::leader::{LeaderState, Source};
use crate::next_request;
use crate::own_answers;
use crate::refusal::Refusal;
use crate::refusing::{self, Noted};
use crate::request::{Body, Ready, Waiting};
use crate::request_body::RequestBody;
use crate::responding;
use crate::scoreboard::{CLIENT_LEFT, QUEUE_TIMEOUT};
use crate::shared::Shared;
use crate::spool::HeldBody;
use crate::states::{Fate, Phase};
use crate::sys::Nanos;
use penstock_protocol::Version;
use penstock_protocol::response::ErrorResponse;
use std::sync::Arc;

/// End what has waited for too long, or whose client has left.
pub fn sweep_queue(shared: &Shared, now: Nanos) {
    let ending = shared.queue.sweep(&shared.options, &shared.scoreboard, now);
    for (waiting, status) in ending {
        end(shared, waiting, status, now);
    }
}

/// End the request of a connection whose client has left, if it waits. For the leader.
pub fn client_left(
    connection: &Connection,
    shared: &Shared,
    state: &mut ConnectionState,
    now: Nanos,
) {
    let (options, scoreboard) = (&shared.options, &shared.scoreboard);
    if let Some(waiting) = shared.queue.remove(options, scoreboard, connection, now) {
        drop_left(shared, state, waiting, now);
    }
}

/// Refuse what still waits at the end of the transport.
pub fn refuse_all(shared: &Shared, now: Nanos) {
    let options = &shared.options;
    for waiting in shared.queue.take_all(&shared.scoreboard) {
        let connection = Arc::clone(&waiting.connection);
        let mut state = connection.lock();
        state.exchange.fate.worsen(Fate::Close);
        let (told, logged) = (&options.stopping, &options.stopped_in_queue);
        let refusal = Refusal::unserved(503, told, logged, "graceful_timeout");
        refuse(shared, &mut state, waiting, refusal, now);
        if state.phase == Phase::Answered {
            closing::close_answered(&connection, shared, &mut state);
        }
    }
}

/// Refuse a request for which the queue has no room, or no longer.
///
/// Those that end without a thread leave the queue by themselves: at an event, or in the next sweep. To
/// look for them before would cost each client that is refused a look at the whole queue.
pub fn refuse_full(shared: &Shared, waiting: Waiting, now: Nanos) {
    let connection = Arc::clone(&waiting.connection);
    let (told, logged) = (&shared.options.overloaded, &shared.options.queue_full);
    let mut refusal = Refusal::unserved(503, told, logged, "queue");
    refusal.retry_after = retry_after(shared);
    refuse(shared, &mut connection.lock(), waiting, refusal, now);
}

/// Answer `OPTIONS *` while every thread is busy.
pub fn answer_whole_server(
    connection: &Arc<Connection>,
    shared: &Shared,
    leader: &LeaderState,
    state: &mut ConnectionState,
    request: (Source, Body),
) {
    let waiting = take(connection, shared, leader, state, request);
    let keeps = decide_fate(shared, state, &waiting);
    let answer = own_answers::answer_of_whole_server(shared, &*connection.stream, keeps);
    send(shared, state, waiting, Refusal::none(), answer, leader.now);
}

/// Take a request that has just become ready off its connection.
fn take(
    connection: &Arc<Connection>,
    shared: &Shared,
    leader: &LeaderState,
    state: &mut ConnectionState,
    (source, body): (Source, Body),
) -> Waiting {
    connection.set_phase(state, Phase::HandedOut);
    let ready = Ready {
        connection: Arc::clone(connection),
        number: shared.count_request(),
        source,
        body,
        forwarded: state.exchange.forwarded.take(),
    };
    ready.own(leader)
}

fn retry_after(shared: &Shared) -> u64 {
    decisions::retry_after(
        &shared.options.budgets,
        shared.queue.len() as u64,
        shared.queue.mean_service(),
        shared.options.threads,
    )
}

/// End a request of the queue with the status of `decisions::queued_status`.
pub fn end(shared: &Shared, waiting: Waiting, status: u16, now: Nanos) {
    let options = &shared.options;
    let connection = Arc::clone(&waiting.connection);
    let mut state = connection.lock();
    if status == options.client_left {
        drop_left(shared, &mut state, waiting, now);
    } else {
        shared.scoreboard.count(QUEUE_TIMEOUT);
        let (told, logged) = (&options.overloaded, &options.queue_late);
        let mut refusal = Refusal::unserved(status, told, logged, "queue_timeout");
        refusal.retry_after = retry_after(shared);
        refuse(shared, &mut state, waiting, refusal, now);
    }
}

/// End a request whose client has left.
fn drop_left(shared: &Shared, state: &mut ConnectionState, waiting: Waiting, now: Nanos) {
    let options = &shared.options;
    shared.scoreboard.count(CLIENT_LEFT);
    let refusal = Refusal::unserved(options.client_left, "", &options.left_in_queue, "");
    state.exchange.fate.worsen(Fate::Reset);
    give_back(shared, state, waiting, refusal, now, 0);
}

/// Answer with an error in the application's place.
fn refuse(
    shared: &Shared,
    state: &mut ConnectionState,
    waiting: Waiting,
    mut refusal: Refusal,
    now: Nanos,
) {
    let head = &waiting.request.head;
    let is_head = head.method.of(&waiting.request.bytes) == b"HEAD";
    refusal.keeps = decide_fate(shared, state, &waiting);
    let forwarded = waiting.forwarded.as_deref();
    let answer = shared.error_response(&refusal, is_head, &*waiting.connection.stream, || {
        request_id_of(forwarded, || shared.request_id(waiting.number))
    });
    send(shared, state, waiting, refusal, answer, now);
}

/// Decide whether the connection is kept: where the request was read to its end, or nearly so. Return
/// the client's version if it is.
fn decide_fate(shared: &Shared, state: &mut ConnectionState, waiting: &Waiting) -> Option<Version> {
    let head = &waiting.request.head;
    if matches!(waiting.body, Body::Streamed(..)) {
        let connection = Arc::clone(&waiting.connection);
        let continue_owed = waiting.body.owes_continue(head.expect_continue);
        RequestBody::streamed(connection, continue_owed, None, HeldBody::default())
            .decide_unread_body(shared.options.discard_bytes, state);
    }
    if !head.keep_alive || shared.draining.get() {
        state.exchange.fate.worsen(Fate::Close);
    }
    (state.exchange.fate == Fate::Keep).then_some(head.version)
}

fn send(
    shared: &Shared,
    state: &mut ConnectionState,
    waiting: Waiting,
    refusal: Refusal,
    answer: ErrorResponse,
    now: Nanos,
) {
    if let Some(trace) = &mut state.trace {
        trace.answered(&answer);
    }
    let size = answer.body.len() as u64;
    let answer = [answer.head, answer.body].concat();
    if responding::send_small(shared, &waiting.connection, state, &answer).is_err() {
        state.exchange.fate.worsen(Fate::Reset);
    }
    give_back(shared, state, waiting, refusal, now, size);
}

fn give_back(
    shared: &Shared,
    state: &mut ConnectionState,
    waiting: Waiting,
    refusal: Refusal,
    now: Nanos,
    bytes_out: u64,
) {
    let Waiting {
        connection,
        number,
        request,
        body,
        since,
        forwarded,
        ..
    } = waiting;
    state.exchange.request = Some(request);
    state.exchange.forwarded = forwarded;
    drop(body);
    let queued = now.saturating_sub(since);
    let note = Noted {
        id: number,
        refusal,
        bytes_out,
        queued,
    };
    refusing::note(&connection, shared, state, now, note);
    if next_request::give_back(&connection, shared, state, now) {
        shared.hurry();
    }
}
