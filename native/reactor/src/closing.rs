//! The end of a connection: in good order, or by a reset.

use crate::connection::{Connection, ConnectionState, NEVER};
use crate::decisions;
use crate::leader::LeaderState;
use crate::log_queue::Ended;
use crate::output::lost_client;
use crate::shared::Shared;
use crate::states::{Fate, Input, Phase};
use crate::sys::{self, Nanos};
use penstock_protocol::{Carry, State};
use std::io;
use std::sync::Arc;

/// Reads of a lingering connection in one turn.
const DISCARDS_PER_TURN: usize = 16;

/// Close now, and forget everything. Not while the request is handed out.
pub fn close(connection: &Connection, shared: &Shared, state: &mut ConnectionState) {
    if state.phase == Phase::Closed {
        return;
    }
    shared.forget(connection.token); // as what the phase says that it was
    connection.set_phase(state, Phase::Closed);
    connection.set_deadline(NEVER);
    shared.note_head(state, false);
    shared.hold_input(state, 0);
    state.exchange.spool = None;
    state.exchange.request = None;
    state.output.drop_all();
    state.carry = Carry::default();
    if state.output.is_in_flight() {
        connection.stream.cut_off(); // the thread that sends closes it: `file_sending::flush_turn`
    } else {
        connection.stream.close();
    }
}

/// Close with a reset, which no client can take for a response's proper end.
pub fn reset(connection: &Connection, shared: &Shared, state: &mut ConnectionState) {
    connection.stream.reset_on_close();
    close(connection, shared, state);
}

/// Close where a finished response can no longer be sent to its end.
pub fn cut_off(
    connection: &Connection,
    shared: &Shared,
    state: &mut ConnectionState,
    error: &io::Error,
) {
    let reason = match sys::is_disconnect(error) {
        true => client_disconnected(lost_client(error)),
        false => (
            Ended::Aborted,
            format!("response cut off: {}", sys::error_text(error)),
        ),
    };
    state.log_finished(&shared.scoreboard, &shared.log_queue, Some(reason));
    reset(connection, shared, state);
}

/// Send no more of a response: its client takes no data, or not fast enough.
pub fn give_up(
    connection: &Connection,
    shared: &Shared,
    state: &mut ConnectionState,
    error: &io::Error,
) {
    connection.set_gone();
    if matches!(state.phase, Phase::Flushing | Phase::Refusing) {
        cut_off(connection, shared, state, error);
    } else {
        state.output.fail(error); // the thread that has the request finds it
        connection.set_deadline(NEVER);
    }
}

/// Close a connection whose response is finished, at the end of all.
pub fn close_answered(connection: &Connection, shared: &Shared, state: &mut ConnectionState) {
    if state.exchange.fate == Fate::Reset || state.output.size > 0 {
        state.log_finished(
            &shared.scoreboard,
            &shared.log_queue,
            Some(server_stopped()),
        );
        reset(connection, shared, state);
    } else if let Err(error) = state.output.check() {
        cut_off(connection, shared, state, &error);
    } else {
        state.log_finished(&shared.scoreboard, &shared.log_queue, None);
        close(connection, shared, state);
    }
}

/// End what a stopping server has no time for.
pub fn tear_down(connection: &Arc<Connection>, shared: &Shared) {
    let mut state = connection.lock();
    match state.phase {
        Phase::HandedOut | Phase::Answered => connection.stream.cut_off(),
        Phase::Flushing | Phase::Refusing => {
            state.log_finished(
                &shared.scoreboard,
                &shared.log_queue,
                Some(server_stopped()),
            );
            reset(connection, shared, &mut state);
        }
        _ => close(connection, shared, &mut state),
    }
}

/// Close for writing, and drop what still arrives until the client closes too.
///
/// RFC 9112, section 9.6: closing at once would reset the connection if there is unread
/// input, and the client might never see the response.
pub fn linger(
    connection: &Arc<Connection>,
    shared: &Shared,
    leader: &mut LeaderState,
    state: &mut ConnectionState,
) {
    if connection.stream.shut_down().is_err() {
        close(connection, shared, state);
        return;
    }
    connection.set_phase(state, Phase::Lingering);
    state.carry = Carry::default();
    state.since = leader.now;
    connection.set_deadline(linger_deadline(shared, leader.now, leader.now));
    // What is there already may have had its edge.
    state.input = Input::Possible;
    discard_input(connection, shared, leader, state);
}

pub fn discard_input(
    connection: &Arc<Connection>,
    shared: &Shared,
    leader: &mut LeaderState,
    state: &mut ConnectionState,
) {
    for _ in 0..DISCARDS_PER_TURN {
        if !state.input.is_possible() {
            return;
        }
        match connection.stream.receive(&mut leader.read.buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if !connection.stream.holds_input() {
                    state.input = Input::Drained;
                }
            }
            Ok(received) if received > 0 => {
                state.lingered += received as u64;
                if state.lingered > shared.options.linger_bytes {
                    close(connection, shared, state);
                    return;
                }
                connection.set_deadline(linger_deadline(shared, leader.now, state.since));
            }
            _ => {
                close(connection, shared, state);
                return;
            }
        }
    }
    leader.defer(connection, state);
}

/// Bring the deadline forward where a server that stops need not wait for long.
pub fn hurry_up(connection: &Connection, shared: &Shared, state: &ConnectionState, now: Nanos) {
    let options = &shared.options;
    let patience = match state.phase {
        Phase::Handshaking => decisions::drain_patience(options, true),
        Phase::Reading if state.awaited == State::Head => decisions::drain_patience(options, true),
        Phase::Reading | Phase::AwaitingProxy if state.awaited == State::Idle => {
            decisions::drain_patience(options, false)
        }
        Phase::Lingering => decisions::drain_patience(options, false),
        _ => return,
    };
    connection.set_deadline(connection.deadline().min(now.saturating_add(patience)));
}

fn linger_deadline(shared: &Shared, now: Nanos, since: Nanos) -> Nanos {
    decisions::linger_deadline(&shared.options, now, since, shared.draining.get())
}

/// How a response ends whose client does not take it.
pub fn client_disconnected(why: &str) -> (Ended, String) {
    (Ended::Disconnected, format!("client disconnected: {why}"))
}

/// How a response ends that a stopping server cuts off.
fn server_stopped() -> (Ended, String) {
    let text = "response cut off: the server stopped".to_owned();
    (Ended::Aborted, text)
}
