//! Which part goes on with a connection: at an event, in its turn, after its thread has answered.

use crate::closing;
use crate::connection::{Connection, ConnectionState};
use crate::handshaking;
use crate::leader::LeaderState;
use crate::next_request;
use crate::poller::Event;
use crate::proxying;
use crate::reading;
use crate::request::Ready;
use crate::responding;
use crate::shared::Shared;
use crate::states::{Fate, Input, Phase};
use crate::unserved;
use std::io;
use std::sync::Arc;

/// Do what the socket is ready for; return a request that became ready.
pub fn handle_event(
    connection: &Arc<Connection>,
    shared: &Shared,
    leader: &mut LeaderState,
    event: Event,
) -> Option<Ready> {
    let event = event.events;
    let mut state = connection.lock();
    if event.input || event.ended || event.broken {
        state.input = Input::Announced;
        if (event.ended || event.broken) && state.ended.is_none() {
            state.ended = Some(leader.now);
        }
    }
    if event.broken {
        connection.set_gone();
    }
    if event.room || event.broken {
        state.output.note_room(); // also for the leader that goes on with it after its answer
    }
    match state.phase {
        Phase::Handshaking => handshaking::advance(connection, shared, leader, &mut state),
        Phase::Reading | Phase::Discarding => {
            if event.room {
                responding::send_rest(connection, &mut state);
            }
            if state.queued {
                // Its turn comes. A second event before it, such as kqueue's for the other direction,
                // is no turn more than other connections have.
                return None;
            }
            state.answered_in_turn = 0;
            reading::read(connection, shared, leader, &mut state)
        }
        Phase::AwaitingProxy => proxying::read_header(connection, shared, leader, &mut state),
        Phase::Storing => {
            if event.room {
                responding::send_rest(connection, &mut state);
            }
            None
        }
        Phase::HandedOut => {
            if event.input && state.exchange.is_streamed() {
                shared.ignore_input(connection, &mut state);
            }
            if event.room || event.broken {
                responding::drain_output(connection, shared, leader, &mut state);
            }
            if event.broken {
                unserved::client_left(connection, shared, &mut state, leader.now);
            }
            None
        }
        Phase::Flushing if event.broken => {
            // Not by sending: from a file another thread sends, which may wait for the disk first.
            let gone = io::Error::from_raw_os_error(libc::ECONNRESET);
            closing::cut_off(connection, shared, &mut state, &gone);
            None
        }
        Phase::Flushing | Phase::Refusing => {
            if event.room || event.broken {
                responding::flush(connection, shared, leader, &mut state);
            }
            None
        }
        Phase::Lingering => {
            if event.room && connection.stream.is_secure() {
                state.input = Input::Possible; // what waits of its end is sent with the next read
            }
            closing::discard_input(connection, shared, leader, &mut state);
            None
        }
        Phase::Answered => None, // the leader goes on with it soon
        Phase::Closed => None,   // the event was older than the closing
    }
}

/// Go on with a connection that was handed back, or that has more to read or to send.
pub fn proceed(
    connection: &Arc<Connection>,
    shared: &Shared,
    leader: &mut LeaderState,
) -> Option<Ready> {
    let mut state = connection.lock();
    state.queued = false;
    match state.phase {
        Phase::Answered => resume(connection, shared, leader, &mut state),
        Phase::AwaitingProxy => proxying::read_header(connection, shared, leader, &mut state),
        Phase::Handshaking => handshaking::advance(connection, shared, leader, &mut state),
        Phase::Storing => reading::go_on_stored(connection, shared, leader, &mut state),
        Phase::HandedOut => {
            responding::drain_output(connection, shared, leader, &mut state);
            None
        }
        Phase::Reading | Phase::Discarding => {
            state.answered_in_turn = 0;
            reading::read(connection, shared, leader, &mut state)
        }
        Phase::Flushing | Phase::Refusing => {
            responding::flush(connection, shared, leader, &mut state);
            None
        }
        Phase::Lingering => {
            closing::discard_input(connection, shared, leader, &mut state);
            None
        }
        Phase::Closed => None,
    }
}

/// Take the connection back from the thread that has answered its request.
pub fn resume(
    connection: &Arc<Connection>,
    shared: &Shared,
    leader: &mut LeaderState,
    state: &mut ConnectionState,
) -> Option<Ready> {
    if state.carry.remaining().is_empty() {
        responding::uncork(connection, state); // it waited for others, or for what has not come
    }
    if shared.drained.get() {
        closing::close_answered(connection, shared, state); // it came back after all else was torn down
    } else if state.output.is_corked() && state.exchange.fate != Fate::Reset {
        // The next request is here: it is still this connection's turn.
        next_request::begin_next(connection, shared, state, leader.now);
        return reading::read(connection, shared, leader, state);
    } else if state.exchange.fate == Fate::Reset {
        closing::reset(connection, shared, state);
    } else if let Err(error) = state.output.check() {
        closing::cut_off(connection, shared, state, &error); // after its thread had ended the response
    } else if state.output.size > 0 {
        connection.set_phase(state, Phase::Flushing);
        responding::await_output(connection, shared, state, leader.now);
        if !state.output.is_full() {
            responding::flush(connection, shared, leader, state);
        }
    } else {
        state.log_finished(&shared.scoreboard, &shared.log_queue, None); // what was unsent has left since
        next_request::after_response(connection, shared, leader, state);
    }
    None
}
