//! Having the disk's thread write what has come of a body, or waiting for those that are read by the
//! application. Meanwhile its connection is not read.

use crate::body_clock::BodyClock;
use crate::connection::{Connection, ConnectionState};
use crate::disk;
use crate::inbox::Inbox;
use crate::refusal::Refusal;
use crate::responding;
use crate::shared::Shared;
use crate::spool::Spool;
use crate::states::Phase;
use crate::sys::Nanos;
use penstock_protocol::State;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// How many bytes of a body may be read now: all that come, unless the disk falls behind. Then only
/// as many as the memory takes that the connection may have for itself.
pub fn room(shared: &Shared, state: &ConnectionState) -> usize {
    match &state.exchange.spool {
        Some(spool) if shared.spooling.disk.is_full(&shared.options) => {
            let left = shared.spooling.room(&shared.options, spool);
            usize::try_from(left).unwrap_or(usize::MAX)
        }
        _ => usize::MAX,
    }
}

/// Have written what is not written yet, and wait for that. With nothing to write, the connection
/// waits for its turn behind what others have the thread write.
pub fn store(
    connection: &Arc<Connection>,
    shared: &Shared,
    state: &mut ConnectionState,
    now: Nanos,
) -> Result<(), Box<Refusal>> {
    if !shared
        .spooling
        .disk
        .has_room(shared.options.max_connections)
    {
        return Err(Box::new(Refusal::no_room(&disk::fallen_behind())));
    }
    let Some(mut spool) = state.exchange.spool.take() else {
        return Ok(());
    };
    suspend(connection, shared, state, now);
    let (mine, inbox) = (Arc::clone(connection), Arc::clone(&shared.inbox));
    let directory: PathBuf = shared.options.temp_dir.clone();
    let asked = shared.spooling.disk.run(spool.unwritten(), move || {
        let written = spool.write_out(&directory);
        give_back(&mine, &inbox, spool, written);
    });
    asked.map_err(|error| Box::new(Refusal::no_room(&error)))
}

/// Read no more of a body until `reading::go_on_stored`.
pub fn suspend(
    connection: &Arc<Connection>,
    shared: &Shared,
    state: &mut ConnectionState,
    now: Nanos,
) {
    responding::uncork(connection, state);
    if state.awaited != State::Body {
        // All that has come of the body came together with the head.
        state.awaited = State::Body;
        state.since = now;
        state.body_clock = BodyClock::new(&shared.options, now);
        shared.note_head(state, false);
    }
    connection.set_phase(state, Phase::Storing);
    state.exchange.storing_since = now;
    // The client is not blamed for the server's time, and yet no body lasts for ever.
    connection.set_deadline(state.since.saturating_add(shared.options.budgets.body_time));
}

/// Give a body back to its connection, unless that has no more use for it.
fn give_back(connection: &Arc<Connection>, inbox: &Inbox, spool: Spool, written: io::Result<()>) {
    let mut state = connection.lock();
    if state.phase != Phase::Storing {
        drop(state);
        drop(spool); // closed here, and not by the leader
        return;
    }
    state.exchange.spool = Some(spool);
    state.exchange.store_error = written.err();
    inbox.post(connection, &mut state);
    drop(state);
    inbox.hurry();
}
