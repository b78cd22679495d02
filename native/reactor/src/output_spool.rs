//! The temporary file of a streamed response whose client reads slowly.

use crate::connection::Connection;
use crate::decisions::{self, SpoolRefusal};
use crate::disk::DiskFile;
use crate::output::{OutputSpool, Piece};
use crate::scoreboard::{OUT_SPOOL_DISK, OUT_SPOOL_FILES, OUT_SPOOL_FULL, OUT_SPOOLED};
use crate::shared::Shared;
use crate::spool::Spooled;
use crate::sys;
use std::io;
use std::sync::Arc;

/// Move what a response has in memory, behind all files, to its temporary file; return false where
/// a budget or the disk does not allow it. For the thread that answers.
///
/// The connection is not locked meanwhile: no other thread waits for a disk.
pub fn move_to_spool(shared: &Shared, connection: &Connection) -> bool {
    let Some((pieces, mut spool)) = connection.lock().output.begin_move() else {
        return false; // it was given up meanwhile, or what is in memory is in front of a file
    };
    let written = write(shared, &pieces, &mut spool);
    connection.lock().output.end_move(pieces, spool, written);
    written
}

/// Append the pieces to the file, which is made where there is none; return whether they are there.
fn write(shared: &Shared, pieces: &[Piece], spool: &mut Option<OutputSpool>) -> bool {
    let more = pieces.iter().map(Piece::size).sum();
    let descriptors = spool.is_none().then(|| shared.descriptor_count());
    let spooled = shared.scoreboard.spooled();
    let budgets = &shared.options.budgets;
    match decisions::out_spool_refusal(budgets, spooled, more, descriptors) {
        SpoolRefusal::None => {}
        SpoolRefusal::Full => {
            shared.scoreboard.count(OUT_SPOOL_FULL);
            return false;
        }
        SpoolRefusal::Files => {
            shared.scoreboard.count(OUT_SPOOL_FILES);
            return false;
        }
    }
    let result = match spool {
        Some(spool) => append(spool, pieces, more),
        None => begin(shared, pieces, more).map(|made| *spool = Some(made)),
    };
    if let Err(error) = &result {
        let no_descriptor = matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
        shared.scoreboard.count(match no_descriptor {
            true => OUT_SPOOL_FILES,
            false => OUT_SPOOL_DISK,
        });
    }
    result.is_ok()
}

/// Make a file with these pieces.
fn begin(shared: &Shared, pieces: &[Piece], more: u64) -> io::Result<OutputSpool> {
    let mut spool = OutputSpool {
        file: Arc::new(DiskFile::new(
            sys::temporary_file(&shared.options.temp_dir)?,
            Spooled::new(&shared.spooling, 0),
            &shared.spooling.disk,
        )),
        size: 0,
    };
    append(&mut spool, pieces, more)?;
    shared.scoreboard.count(OUT_SPOOLED);
    Ok(spool)
}

fn append(spool: &mut OutputSpool, pieces: &[Piece], more: u64) -> io::Result<()> {
    let (file, share) = (spool.file.file()?, spool.file.given_back());
    // First: other responses look at it meanwhile.
    share.inspect(|share| share.add(more));
    let mut offset = spool.size;
    for piece in pieces {
        if let Err(error) = sys::write_all_at(file, piece.bytes(), offset) {
            share.inspect(|share| share.take_off(more));
            return Err(error);
        }
        offset += piece.size();
    }
    spool.size = offset;
    Ok(())
}
