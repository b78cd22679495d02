//! The handshake of TLS, before the first byte of HTTP. It holds no thread: the leader goes on with
//! it at each event, within a deadline.

use crate::closing;
use crate::connection::{Connection, ConnectionState, first_patience};
use crate::leader::LeaderState;
use crate::log_queue::{Entry, HandshakeFailed};
use crate::reading;
use crate::refusal::Refusal;
use crate::refusing;
use crate::request::Ready;
use crate::scoreboard::{HANDSHAKES, HANDSHAKES_FAILED, RESUMPTIONS};
use crate::shared::Shared;
use crate::states::{Input, Phase};
use crate::stream::{Handshake, Stream};
use crate::sys::Nanos;
use std::sync::Arc;

/// Why a handshake fails whose deadline has passed.
const LATE: &str = "it took too long (setting: tls_handshake_timeout)";

/// Take in a client that speaks TLS. Without certificates, which are there before anything is
/// accepted, it is closed.
pub fn begin(
    shared: &Shared,
    stream: Box<dyn Stream>,
    listener: usize,
    now: Nanos,
) -> Option<Arc<Connection>> {
    let tls = shared.tls()?;
    Some(shared.add(tls.secure(stream), listener, now))
}

/// Begin the handshake behind what a proxy has said. It goes on in the connection's next turn, without
/// the GIL.
pub fn begin_behind_proxy(
    connection: &Arc<Connection>,
    shared: &Shared,
    leader: &mut LeaderState,
    state: &mut ConnectionState,
) {
    connection.set_phase(state, Phase::Handshaking);
    connection.set_heavy(true);
    state.since = leader.now;
    let patience = shared.options.tls_handshake_timeout;
    connection.set_deadline(leader.now.saturating_add(patience));
    leader.defer(connection, state);
}

/// Go on with a handshake, and with the first request where it has come already.
pub fn advance(
    connection: &Arc<Connection>,
    shared: &Shared,
    leader: &mut LeaderState,
    state: &mut ConnectionState,
) -> Option<Ready> {
    match connection.stream.shake_hands() {
        Ok(Handshake::Pending { begun }) => {
            if begun && !state.in_head {
                state.since = leader.now;
                shared.note_head(state, true);
            }
            None
        }
        Ok(Handshake::Complete) => {
            shared.scoreboard.count(HANDSHAKES);
            if connection.stream.has_resumed() {
                shared.scoreboard.count(RESUMPTIONS);
            }
            connection.set_phase(state, Phase::Reading);
            connection.set_heavy(false);
            shared.note_head(state, false);
            state.since = leader.now;
            let patience = first_patience(&shared.options, shared.draining.get());
            connection.set_deadline(leader.now.saturating_add(patience));
            // What has come behind it may be within the stream, where no event tells of it.
            state.input = Input::Possible;
            reading::read(connection, shared, leader, state)
        }
        Ok(Handshake::PlainHttp) => {
            let refusal = Refusal::plain_http(&shared.options.plain_http);
            refusing::refuse(connection, shared, leader, state, refusal);
            None
        }
        Ok(Handshake::Left | Handshake::Over) => {
            closing::close(connection, shared, state);
            None
        }
        Err(error) => {
            note_failure(connection, shared, error.to_string());
            // The request may come already, and a reset would take the alert from the client.
            connection.stream.speak_plain();
            connection.set_heavy(false);
            shared.note_head(state, false);
            closing::linger(connection, shared, leader, state);
            None
        }
    }
}

/// Close a connection whose handshake is not complete in time. A client that has sent nothing is no
/// failure: browsers connect for requests that they then do not make.
pub fn expire(connection: &Connection, shared: &Shared, state: &mut ConnectionState) {
    match state.in_head {
        true => fail(connection, shared, state, LATE.to_owned()),
        false => closing::close(connection, shared, state),
    }
}

/// Log why a handshake is not completed, and close.
pub fn fail(connection: &Connection, shared: &Shared, state: &mut ConnectionState, reason: String) {
    note_failure(connection, shared, reason);
    closing::close(connection, shared, state);
}

fn note_failure(connection: &Connection, shared: &Shared, reason: String) {
    shared.scoreboard.count(HANDSHAKES_FAILED);
    let note = HandshakeFailed {
        peer: connection.peer(),
        reason,
    };
    let note = Entry::HandshakeFailed(Box::new(note));
    shared.log_queue.write(note);
}
