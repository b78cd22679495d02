//! Clients that leave before they are answered.

use crate::connection::{Connection, ConnectionState};
use crate::leader::LeaderState;
use crate::shared::Shared;
use crate::states::Phase;
use crate::sys::{Nanos, Readiness};

/// Look whether the client has left, as far as that can be known at once.
pub fn find_gone(connection: &Connection) -> bool {
    if connection.is_gone() || !connection.stream.is_ours() {
        return true;
    }
    let trouble = connection
        .stream
        .wait(Readiness::Trouble, 0)
        .unwrap_or(true);
    // Asked afterwards: another connection may have got the number of a socket that was closed.
    if connection.phase() == Phase::Closed {
        return true;
    }
    if trouble {
        connection.set_gone();
    }
    trouble
}

/// Whether the client has ended its side, and its request had waited for long before a thread
/// looked: for a busy thread, in the kernel or in the accept queue.
pub fn has_disconnected(
    connection: &Connection,
    shared: &Shared,
    state: &ConnectionState,
    leader: &LeaderState,
) -> bool {
    if state.ended.is_none() && !leader.late {
        return false;
    }
    // Behind an earlier request of its own it has waited for that one's answer.
    let disconnected = shared.options.disconnected;
    if state.requests > 1 && leader.now.saturating_sub(state.since) < disconnected {
        return false;
    }
    if state.ended.is_none() && !matches!(connection.stream.peek(), Ok(0)) {
        return false;
    }
    match connection.stream.since_received() {
        Some(time) => time >= disconnected,
        None => leader.late,
    }
}

/// Whether a request's client had ended its side at `before`, while it waited since `since`.
pub fn had_ended(connection: &Connection, before: Nanos, since: Nanos) -> bool {
    since <= before && connection.lock().ended.is_some_and(|ended| ended <= before)
}
