//! What follows a response: the next request, or the end of the connection.

use crate::closing;
use crate::connection::{Connection, ConnectionState};
use crate::decisions;
use crate::exchange::ExchangeState;
use crate::leader::LeaderState;
use crate::shared::Shared;
use crate::states::{Fate, Input, Phase};
use crate::sys::Nanos;
use penstock_protocol::State;
use std::sync::Arc;

/// The thread that answers is done: go on to the next request, or have the leader do so.
///
/// Returns whether the leader should hurry. Where it need not, the client's next request is
/// what wakes it up anyway.
pub fn give_back(
    connection: &Arc<Connection>,
    shared: &Shared,
    state: &mut ConnectionState,
    now: Nanos,
) -> bool {
    shared.tell_of_input(connection, state);
    let quiet = is_quiet(shared, state);
    if quiet && state.output.size == 0 {
        shared.withdraw(connection, state); // it had a block that waited
        begin_next(connection, shared, state, now);
        return false;
    }
    connection.set_phase(state, Phase::Answered);
    if waits(shared, state) {
        shared.held_answers.add(connection, now);
        return shared.led.get();
    }
    shared.post(connection, state);
    true
}

/// Whether the answer that has ended is sent with those to others. One whose connection was posted is
/// sent by the next leader: a connection is in the inbox or among the held answers.
pub fn waits(shared: &Shared, state: &ConnectionState) -> bool {
    state.output.is_corked() && !state.queued && is_quiet(shared, state)
}

/// Whether a client that is answered has nothing more for the server, and the connection is kept.
#[inline(always)]
pub fn is_quiet(shared: &Shared, state: &ConnectionState) -> bool {
    state.exchange.fate == Fate::Keep
        && state.input == Input::Drained
        && state.parser.state() == State::Done
        && state.carry.remaining().is_empty()
        && !shared.draining.get()
        && !shared.closed.get()
}

/// Go on to the next request, or end the connection, once all of the response is with the kernel.
pub fn after_response(
    connection: &Arc<Connection>,
    shared: &Shared,
    leader: &mut LeaderState,
    state: &mut ConnectionState,
) {
    if state.exchange.fate == Fate::Keep {
        begin_next(connection, shared, state, leader.now);
        if state.input.is_possible() || state.left_over {
            leader.defer(connection, state);
        }
        return;
    }
    let unread =
        state.left_over || state.input.is_possible() || !state.carry.remaining().is_empty();
    let lingers = decisions::lingers(
        &shared.options,
        state.exchange.is_last,
        state.requests,
        unread,
        state.exchange.sent,
        connection.stream.is_secure(),
    );
    if lingers {
        closing::linger(connection, shared, leader, state);
    } else {
        closing::close(connection, shared, state);
    }
}

/// Make ready for the next request, once the current one is answered.
pub fn begin_next(
    connection: &Connection,
    shared: &Shared,
    state: &mut ConnectionState,
    now: Nanos,
) {
    let options = &shared.options;
    let kept = state.parser.start_next_request().is_ok();
    connection.set_phase(
        state,
        if kept {
            Phase::Reading
        } else {
            Phase::Discarding
        },
    );
    state.since = now;
    state.left_over = !state.carry.remaining().is_empty();
    connection.set_heavy(false);
    if !kept {
        // A streamed body that the application did not read to its end, and that is short
        // enough to be dropped: what follows is the next request. All of it may have come, so
        // that no further event would make the leader look.
        state.left_over = true;
        state.awaited = State::Body;
        connection.set_deadline(now.saturating_add(options.body_timeout));
        return;
    }
    if let Some(trace) = &mut state.trace {
        trace.message_over(state.carry.remaining().len());
    }
    state.exchange = ExchangeState::default();
    state.awaited = State::Idle;
    let allowed = if shared.draining.get() {
        options.drain_linger
    } else {
        options.keep_alive
    };
    connection.set_deadline(now.saturating_add(allowed));
}
