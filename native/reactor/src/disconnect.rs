//! Clients that leave before they are answered.

use crate::connection::Connection;
use crate::states::Phase;
use crate::sys::Readiness;

/// Look whether the client has left, as far as that can be known at once.
pub fn find_gone(connection: &Connection) -> bool {
    if connection.is_gone() || !connection.stream.is_ours() {
        return true;
    }
    let trouble = connection
        .stream
        .wait(Readiness::Trouble, 0)
        .unwrap_or(true);
    // Checked after the look: the descriptor may belong to another connection by now.
    if connection.phase() == Phase::Closed {
        return true;
    }
    if trouble {
        connection.set_gone();
    }
    trouble
}
