//! Answering with an error a request that the application does not get.

use crate::connection::{Connection, ConnectionState};
use crate::histograms::{self, Measured, MethodNumber, Protocol};
use crate::leader::LeaderState;
use crate::log_queue::{Entry, RefusalNote, Times};
use crate::output::Piece;
use crate::refusal::Refusal;
use crate::responding;
use crate::scoreboard::{REFUSED, SPOOL_FULL};
use crate::shared::Shared;
use crate::states::Phase;
use crate::sys::Nanos;
use penstock_protocol::{HeadCopy, State};
use std::sync::Arc;

/// Answer a request that breaks a rule or a limit, and close.
pub fn refuse(
    connection: &Arc<Connection>,
    shared: &Shared,
    leader: &mut LeaderState,
    state: &mut ConnectionState,
    mut refusal: Refusal,
) {
    if refusal.setting == "max_body" {
        refusal.setting = shared.options.body_setting; // the one that has lowered it, if one has
    }
    shared.note_head(state, false);
    let method_is_head = |copy: &HeadCopy| copy.head.method.of(&copy.bytes) == b"HEAD";
    let to_head = state
        .exchange
        .request
        .as_deref()
        .is_some_and(method_is_head)
        || refusal.request_line.starts_with(b"HEAD ");
    let id = shared.count_request();
    let answer = shared.error_response(&refusal, to_head, &*connection.stream, || {
        state.exchange.request_id(|| shared.request_id(id))
    });
    if let Some(trace) = &mut state.trace {
        trace.answered(&answer);
    }
    let noted = Noted {
        id,
        refusal,
        bytes_out: answer.body.len() as u64,
        queued: 0,
    };
    note(connection, shared, state, leader.now, noted);
    let answer = [answer.head, answer.body].concat();
    state.output.append(Piece::Owned(answer, 0));
    connection.set_phase(state, Phase::Refusing);
    responding::await_output(connection, shared, state, leader.now);
    responding::flush(connection, shared, leader, state);
}

/// Log a request that was refused, or whose client disconnected.
pub fn note_refusal(
    connection: &Connection,
    shared: &Shared,
    state: &mut ConnectionState,
    now: Nanos,
    refusal: Refusal,
    bytes_out: u64,
) {
    let noted = Noted {
        id: shared.count_request(),
        refusal,
        bytes_out,
        queued: 0,
    };
    note(connection, shared, state, now, noted);
}

/// What the logs say of a request that the application did not get.
pub struct Noted {
    /// The request's number in the transport's life.
    pub id: u64,
    pub refusal: Refusal,
    pub bytes_out: u64,
    /// For how long it waited for a thread.
    pub queued: Nanos,
}

/// Log a request that has its number already.
pub fn note(
    connection: &Connection,
    shared: &Shared,
    state: &mut ConnectionState,
    now: Nanos,
    noted: Noted,
) {
    let Noted {
        id,
        refusal,
        bytes_out,
        queued,
    } = noted;
    if state.exchange.request.is_none() {
        state.exchange.began = if state.awaited == State::Head {
            state.since
        } else {
            now
        };
    }
    if refusal.is_refusal(&shared.options) {
        shared.count_refusal();
        // Here, and not where it is logged: the log may have no room for it.
        let rules = &shared.options.refusal_rules;
        let by = match refusal.setting {
            "" => refusal.rule,
            setting => setting,
        };
        let place = rules.iter().position(|rule| rule == by);
        let place = place.unwrap_or(rules.len().saturating_sub(1));
        shared.scoreboard.count(REFUSED + place);
    }
    if refusal.status == 507 {
        shared.scoreboard.count(SPOOL_FULL);
    }
    state.exchange.spool = None;
    let measured = measured(shared, state, &refusal, now, queued);
    histograms::count_request(&shared.scoreboard, &measured, now);
    // One that is refused in its head has not been counted.
    let number = state.requests + u64::from(state.exchange.request.is_none());
    shared.log_queue.write(Entry::Refused(Box::new(RefusalNote {
        peer: state.exchange.client(connection.peer()),
        socket_peer: connection.socket_peer(),
        refusal,
        request: state.exchange.request.take().map(|copy| *copy),
        request_id: state.exchange.request_id(|| shared.request_id(id)),
        bytes_in: state.exchange.body_received,
        bytes_out,
        times: Times {
            queue: queued,
            ..state.exchange.times(connection.accepted_at, now)
        },
        transcript: state.trace.as_mut().map(|trace| trace.take(number)),
    })));
}

/// What is counted of a request that the server answers itself, or whose client left.
fn measured(
    shared: &Shared,
    state: &ConnectionState,
    refusal: &Refusal,
    now: Nanos,
    queued: Nanos,
) -> Measured {
    let (method, protocol) = match state.exchange.request.as_deref() {
        Some(copy) => (copy.head.method.of(&copy.bytes), copy.head.version.into()),
        None => {
            let line = &refusal.request_line[..];
            let method = line.split(|byte| *byte == b' ').next();
            (method.unwrap_or_default(), Protocol::of_line(line))
        }
    };
    let answered = refusal.status != shared.options.client_left;
    Measured {
        method: MethodNumber::of(method),
        status: refusal.status,
        protocol,
        began: state.exchange.began,
        first_byte: answered.then_some(now),
        queue: (queued > 0).then_some(queued),
        application: None,
        lock_wait: 0,
    }
}
