//! What happens to a connection whose deadline has passed.

use crate::closing;
use crate::connection::{Connection, ConnectionState, NEVER};
use crate::decisions;
use crate::handshaking;
use crate::leader::LeaderState;
use crate::output::FILE_READ_TOO_SLOWLY;
use crate::proxying;
use crate::refusal::Refusal;
use crate::refusing;
use crate::shared::Shared;
use crate::states::Phase;
use crate::sys::{Nanos, SECOND};
use penstock_protocol::{Input, State};
use std::io;
use std::sync::Arc;

/// Act on a deadline that has passed, with all events before it handled.
pub fn expire(connection: &Arc<Connection>, shared: &Shared, leader: &mut LeaderState) {
    let mut state = connection.lock();
    if connection.deadline() > leader.now {
        return; // put off in the meantime
    }
    match state.phase {
        Phase::Handshaking => handshaking::expire(connection, shared, &mut state),
        Phase::Reading => expire_reading(connection, shared, leader, &mut state),
        Phase::AwaitingProxy => proxying::expire(connection, shared, leader, &mut state),
        Phase::Storing => {
            let refusal = Refusal::stored_too_slowly();
            refusing::refuse(connection, shared, leader, &mut state, refusal);
        }
        // Closed without an answer: nothing more of the connection is needed.
        Phase::Discarding | Phase::Lingering => closing::close(connection, shared, &mut state),
        _ if state.output.size > 0 => expire_writing(connection, shared, leader, &mut state),
        _ => connection.set_deadline(NEVER),
    }
}

fn expire_reading(
    connection: &Arc<Connection>,
    shared: &Shared,
    leader: &mut LeaderState,
    state: &mut ConnectionState,
) {
    let options = &shared.options;
    let seconds = |time: Nanos| time as f64 / SECOND as f64;
    let refusal = match state.awaited {
        State::Head if shared.draining.get() => Some(Refusal::stopping(&options.stopping)),
        State::Head => {
            let input = Input::new(state.carry.remaining());
            let allowed = seconds(options.header_timeout);
            let text = format!("The request's head did not arrive within {allowed} s.");
            let line = state.parser.request_line(&input);
            Some(Refusal::late(text, "header_timeout", line))
        }
        State::Body => {
            let budgets = &options.budgets;
            if decisions::exceeds_body_time(budgets, connection.deadline(), state.since) {
                let allowed = seconds(budgets.body_time);
                let text = format!("The request's body did not arrive within {allowed} s.");
                Some(Refusal::late(text, "max_body_time", &[]))
            } else {
                let (allowed, rate) = (seconds(options.body_timeout), options.body_min_rate);
                let text = format!(
                    "The request's body came too slowly: {allowed} s and a second for each \
                     {rate} bytes are allowed."
                );
                Some(Refusal::late(text, "body_timeout", &[]))
            }
        }
        _ => None,
    };
    match refusal {
        Some(refusal) => refusing::refuse(connection, shared, leader, state, refusal),
        // It was waited for in the drain, and a stop does not wait again.
        None if shared.draining.get() => closing::close(connection, shared, state),
        // RFC 9112, section 9.5: an idle connection is closed without a word. A request that is on
        // its way meets the end of the connection, and no reset: nothing of it was served.
        None => closing::linger(connection, shared, leader, state),
    }
}

fn expire_writing(
    connection: &Arc<Connection>,
    shared: &Shared,
    leader: &mut LeaderState,
    state: &mut ConnectionState,
) {
    // A thread that waits for room keeps the deadline itself.
    if state.exchange.awaiting_room || is_taking_output(connection, shared, state) {
        connection.set_deadline(leader.now.saturating_add(shared.options.write_timeout));
    } else if state.phase == Phase::Flushing && state.output.awaits_file() {
        // It waits for the disk, and not for the client.
        closing::cut_off(
            connection,
            shared,
            state,
            &io::Error::other(FILE_READ_TOO_SLOWLY),
        );
    } else {
        let stalled = io::Error::from_raw_os_error(libc::ETIMEDOUT);
        closing::give_up(connection, shared, state, &stalled);
    }
}

/// Whether the client took a fair amount since the last time that this was asked.
fn is_taking_output(connection: &Connection, shared: &Shared, state: &mut ConnectionState) -> bool {
    let before = state.progress;
    state.progress = state.output.acknowledged(&*connection.stream);
    (state.progress - before) as f64 >= shared.options.least_progress()
}
