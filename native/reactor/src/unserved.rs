//! Requests that no thread takes: the queue is full, they have waited for too long, or their
//! clients have left.
//!
//! Each is answered in the application's place, by the thread that finds out. That needs neither
//! leadership nor the GIL.

use crate::connection::{Connection, ConnectionState};
use crate::decisions;
use crate::leader::{LeaderState, Source};
use crate::next_request;
use crate::refusal::Refusal;
use crate::refusing::{self, Noted};
use crate::request::{Body, Ready, Waiting};
use crate::request_body::RequestBody;
use crate::responding;
use crate::scoreboard::{CLIENT_LEFT, QUEUE_FULL, QUEUE_TIMEOUT, WAITING};
use crate::shared::Shared;
use crate::states::{Fate, Phase};
use crate::sys::Nanos;
use std::sync::Arc;

/// Return whether another request may wait, once those have left the queue that end without a
/// thread.
pub fn make_room(shared: &Shared, now: Nanos) -> bool {
    let budgets = &shared.options.budgets;
    if shared.queue.has_room(budgets) {
        return true;
    }
    shared.queue.note_full(now);
    sweep_queue(shared, now);
    shared.queue.has_room(budgets)
}

/// End what has waited for too long, or whose client has left.
pub fn sweep_queue(shared: &Shared, now: Nanos) {
    let (ending, left) = shared.queue.sweep(&shared.options, now);
    if ending.is_empty() {
        return;
    }
    shared.scoreboard.set(WAITING, left as u64);
    for (waiting, status) in ending {
        end(shared, waiting, status, now);
    }
}

/// Refuse a request that has just become ready: the queue is full.
pub fn refuse_ready(
    connection: &Arc<Connection>,
    shared: &Shared,
    leader: &LeaderState,
    state: &mut ConnectionState,
    (source, body): (Source, Body),
) {
    shared.scoreboard.count(QUEUE_FULL);
    connection.set_phase(state, Phase::HandedOut);
    let ready = Ready {
        connection: Arc::clone(connection),
        number: shared.count_request(),
        source,
        body,
    };
    let (told, logged) = (&shared.options.overloaded, &shared.options.queue_full);
    let mut refusal = Refusal::unserved(503, told, logged, "queue");
    refusal.retry_after = retry_after(shared);
    refuse(shared, state, ready.own(leader), refusal, leader.now);
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
        shared.scoreboard.count(CLIENT_LEFT);
        let refusal = Refusal::unserved(status, "", &options.left_in_queue, "");
        state.exchange.fate.worsen(Fate::Reset);
        give_back(shared, &mut state, waiting, refusal, now, 0);
    } else {
        shared.scoreboard.count(QUEUE_TIMEOUT);
        let (told, logged) = (&options.overloaded, &options.queue_late);
        let mut refusal = Refusal::unserved(status, told, logged, "queue_timeout");
        refusal.retry_after = retry_after(shared);
        refuse(shared, &mut state, waiting, refusal, now);
    }
}

/// Answer in the application's place; keep the connection where the request was read to its end, or
/// nearly so.
fn refuse(
    shared: &Shared,
    state: &mut ConnectionState,
    waiting: Waiting,
    mut refusal: Refusal,
    now: Nanos,
) {
    let options = &shared.options;
    let connection = Arc::clone(&waiting.connection);
    let head = &waiting.request.head;
    let is_head = head.method.of(&waiting.request.bytes) == b"HEAD";
    if matches!(waiting.body, Body::Streamed) {
        RequestBody::streamed(Arc::clone(&connection), head.expect_continue)
            .decide_unread_body(options.discard_bytes, state);
    }
    if !head.keep_alive || shared.draining.get() {
        state.exchange.fate.worsen(Fate::Close);
    }
    refusal.keeps = (state.exchange.fate == Fate::Keep).then_some(head.version);
    let answer = shared.error_response(&refusal, is_head);
    if let Some(trace) = &mut state.trace {
        trace.answered(&answer);
    }
    let size = answer.body.len() as u64;
    let answer = [answer.head, answer.body].concat();
    if responding::send_small(shared, &connection, state, &answer).is_err() {
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
        ..
    } = waiting;
    state.exchange.request = Some(request);
    if let Body::Collected(spool) = body {
        state.exchange.spool = Some(spool);
    }
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
