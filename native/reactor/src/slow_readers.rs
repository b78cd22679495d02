//! What is done about clients that read slowly, where too many bytes of responses are unsent.

use crate::closing;
use crate::connection::Connection;
use crate::leader::LeaderState;
use crate::reading;
use crate::scoreboard::SLOW_READER;
use crate::shared::Shared;
use crate::states::Phase;
use crate::sys::{self, Nanos};
use std::io;
use std::sync::Arc;

/// Cuts the slowest readers off, over several turns of the loop. Only the leader uses it.
///
/// The kernel takes up to half a millisecond to close a connection that has much to send: many of
/// them in one turn would hold up all others.
#[derive(Default)]
pub struct SlowReaders {
    slowest_last: Vec<(Nanos, Arc<Connection>)>,
}

impl SlowReaders {
    /// Whether the next turn goes on with it.
    pub fn are_left(&self) -> bool {
        !self.slowest_last.is_empty()
    }

    /// Cut off the slowest readers until the unsent bytes of all responses leave some room. What takes
    /// longer than a turn is left to the next one, unless the bytes are far too many.
    pub fn cut_off(&mut self, shared: &Shared, leader: &LeaderState) {
        if self.slowest_last.is_empty() {
            if !shared.exceeds_unsent() {
                return;
            }
            self.slowest_last = by_time_to_read(shared, leader.now);
        }
        let turn_ends = sys::monotonic().saturating_add(shared.options.shared_turn);
        while !shared.is_relieved() {
            let Some((_, connection)) = self.slowest_last.pop() else {
                return;
            };
            cut_off(&connection, shared, leader);
            if sys::monotonic() >= turn_ends && !shared.far_exceeds_unsent() {
                return;
            }
        }
        self.slowest_last = Vec::new();
    }
}

fn cut_off(connection: &Arc<Connection>, shared: &Shared, leader: &LeaderState) {
    let mut state = connection.lock();
    if state.output.memory() == 0 {
        return; // it has been read meanwhile, or the client has left
    }
    shared.scoreboard.count(SLOW_READER);
    match state.phase {
        // The rest of earlier answers, or of 100 Continue.
        Phase::Reading | Phase::Storing | Phase::Discarding => {
            reading::lose_client(connection, shared, leader, &mut state);
        }
        _ => {
            let too_slow = io::Error::from_raw_os_error(libc::ENOBUFS);
            closing::give_up(connection, shared, &mut state, &too_slow);
        }
    }
}

/// The clients that have not read all of what is in memory for them, the slowest last.
fn by_time_to_read(shared: &Shared, now: Nanos) -> Vec<(Nanos, Arc<Connection>)> {
    let mut readers = Vec::new();
    for connection in shared.connections() {
        let state = connection.lock();
        if state.output.memory() > 0 {
            let time = state.output.time_to_read(now);
            drop(state);
            readers.push((time, connection));
        }
    }
    readers.sort_by_key(|(time, _)| *time);
    readers
}
