//! What is done about clients that read slowly, where the unsent bytes of all responses are too many.

use crate::closing;
use crate::connection::Connection;
use crate::leader::LeaderState;
use crate::reading;
use crate::scoreboard::SLOW_READER;
use crate::shared::Shared;
use crate::states::Phase;
use crate::sys::Nanos;
use std::io;
use std::sync::Arc;

/// Cut off the slowest readers until the unsent bytes of all responses leave some room.
pub fn cut_off(shared: &Shared, leader: &LeaderState) {
    if !shared.exceeds_unsent() {
        return;
    }
    let mut readers = by_time_to_read(shared, leader.now);
    while !shared.is_relieved() {
        let Some((_, connection)) = readers.pop() else {
            return;
        };
        let mut state = connection.lock();
        if state.output.memory() == 0 {
            continue; // it has been read meanwhile
        }
        shared.scoreboard.count(SLOW_READER);
        match state.phase {
            // The rest of earlier answers, or of 100 Continue.
            Phase::Reading | Phase::Storing | Phase::Discarding => {
                reading::lose_client(&connection, shared, leader, &mut state);
            }
            _ => {
                let too_slow = io::Error::from_raw_os_error(libc::ENOBUFS);
                closing::give_up(&connection, shared, &mut state, &too_slow);
            }
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
