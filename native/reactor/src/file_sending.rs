//! Sending parts of files for the leader, by threads that may wait for a disk.
//!
//! The thread that answers sends from a file in its own time, as far as the kernel takes it. The
//! leader sends what is left, and must wait for no disk: it asks one of a few threads
//! (`Disk::senders`) to send what the kernel takes now, which is what it would have done itself. A
//! connection is asked for once at a time, however often another thread sends meanwhile: senders that
//! wait for a disk have each connection in their queue once.

use crate::connection::{Connection, ConnectionState};
use crate::disk;
use crate::output::Flushed;
use crate::shared::{Senders, Shared};
use crate::states::Phase;
use std::io;
use std::sync::{Arc, MutexGuard};

/// Have a thread send what there is; fails where there can be none, or too many wait for one.
pub fn ask(
    connection: &Arc<Connection>,
    shared: &Shared,
    state: &mut ConnectionState,
) -> io::Result<()> {
    if !state.output.ask() {
        return Ok(());
    }
    // Those of connections that were closed meanwhile stay while the disk is stuck.
    if !shared
        .senders
        .threads
        .has_room(shared.options.max_connections)
    {
        return Err(disk::fallen_behind());
    }
    run(connection, &shared.senders)
}

fn run(connection: &Arc<Connection>, senders: &Senders) -> io::Result<()> {
    let (connection, mine) = (Arc::clone(connection), senders.clone());
    senders.threads.run(0, move || send(&connection, &mine))
}

/// Send what the kernel takes, up to the most for one turn. For a thread that was asked.
fn send(connection: &Arc<Connection>, senders: &Senders) {
    let mut state = connection.lock();
    if !state.output.begin_asked() || state.phase == Phase::Closed {
        return;
    }
    let (mut state, mut flushed) = flush_turn(connection, state);
    if state.phase == Phase::Closed {
        return;
    }
    if matches!(flushed, Ok(Flushed::More | Flushed::File)) && state.output.ask() {
        match run(connection, senders) {
            Ok(()) => return, // behind others that wait
            Err(error) => {
                state.output.fail(&error);
                flushed = Err(error);
            }
        }
    }
    match (state.phase, flushed) {
        (_, Ok(Flushed::Blocked)) => {} // an event tells when there is room
        (Phase::HandedOut, flushed) => connection.note_drained(flushed.is_ok()),
        _ => {
            senders.inbox.post(connection, &mut state);
            drop(state);
            senders.inbox.hurry();
        }
    }
}

/// Send what the kernel takes now, up to the most for one turn: a part of a file without the lock,
/// so that no other thread waits for a disk.
pub fn flush_turn<'a>(
    connection: &'a Arc<Connection>,
    mut state: MutexGuard<'a, ConnectionState>,
) -> (MutexGuard<'a, ConnectionState>, io::Result<Flushed>) {
    let Some((mut region, most)) = state.output.take_region() else {
        let flushed = state.output.flush(&*connection.stream);
        return (state, flushed);
    };
    drop(state);
    let sent = region.send(&*connection.stream, most);
    let mut state = connection.lock();
    connection.flight_over.notify_all();
    if state.phase == Phase::Closed {
        connection.stream.close(); // the leader could not
        let closed = io::Error::from_raw_os_error(libc::ECONNRESET);
        return (state, Err(closed));
    }
    let flushed = state.output.put_back(region, sent, &*connection.stream);
    (state, flushed)
}
