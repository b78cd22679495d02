//! Request bodies on their way to the application: in memory first, then in a temporary file.

use crate::decisions;
use crate::file_count::{FileCount, FileCounted};
use crate::options::Options;
use crate::scoreboard::{SPOOLED, Scoreboard};
use crate::sys::{self, Fd};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A body that is being collected, in bounded memory.
pub enum Spool {
    Memory(Vec<u8>),
    /// The file, its size, and its share of the budgets.
    Disk(Fd, u64, Spooled),
}

impl Default for Spool {
    fn default() -> Self {
        Spool::Memory(Vec::new())
    }
}

/// The content in one block of input, to be written at once.
///
/// A body with a length has one piece in a block, which is not copied. One in chunks has as many as
/// its client likes: a system call for each would cost the server more than the client.
#[derive(Default)]
pub enum Gathered<'a> {
    #[default]
    Nothing,
    Piece(&'a [u8]),
    Pieces(Vec<u8>),
}

impl<'a> Gathered<'a> {
    /// Add what comes behind the others.
    pub fn add(&mut self, data: &'a [u8]) {
        match self {
            Gathered::Nothing => *self = Gathered::Piece(data),
            Gathered::Piece(first) => *self = Gathered::Pieces([first, data].concat()),
            Gathered::Pieces(all) => all.extend_from_slice(data),
        }
    }

    /// How many bytes there are.
    pub fn size(&self) -> usize {
        match self {
            Gathered::Nothing => 0,
            Gathered::Piece(data) => data.len(),
            Gathered::Pieces(all) => all.len(),
        }
    }

    /// Append all of it to `spool`; see [`Spool::write`].
    pub fn write_to(
        &mut self,
        spool: &mut Spool,
        memory: u64,
        directory: &Path,
        spooling: &Spooling,
    ) -> io::Result<()> {
        match std::mem::take(self) {
            Gathered::Nothing => Ok(()),
            Gathered::Piece(data) => spool.write(data, memory, directory, spooling),
            Gathered::Pieces(all) => spool.write(&all, memory, directory, spooling),
        }
    }
}

/// What all temporary files take: descriptors, and bytes of the disk.
#[derive(Clone)]
pub struct Spooling {
    pub scoreboard: Arc<Scoreboard>,
    pub files: FileCount,
}

impl Spooling {
    /// Return the status that refuses `more` bytes of a body; 0 if they may come.
    pub fn admit(&self, options: &Options, spool: &Spool, more: usize) -> u16 {
        let more = more as u64;
        let body = spool.size() + more;
        if more == 0 || body <= options.body_memory {
            return 0;
        }
        let more = match spool {
            Spool::Memory(_) => body,
            Spool::Disk(..) => more,
        };
        // Other workers may add bytes meanwhile: the sum may exceed the limit by a read of each.
        decisions::spool_status(options, body, self.scoreboard.spooled(), more)
    }
}

/// The share of one temporary file, which its end gives back.
pub struct Spooled {
    scoreboard: Arc<Scoreboard>,
    bytes: u64,
    process: sys::Process,
    _file: FileCounted,
}

impl Spooled {
    pub fn new(spooling: &Spooling, bytes: u64) -> Self {
        let mut share = Spooled {
            scoreboard: Arc::clone(&spooling.scoreboard),
            bytes: 0,
            process: sys::Process::current(),
            _file: spooling.files.take(),
        };
        share.add(bytes);
        share
    }

    pub fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        let word = self.scoreboard.word(SPOOLED);
        word.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Give back what was added, and not written.
    pub fn take_off(&mut self, bytes: u64) {
        self.bytes -= bytes;
        let word = self.scoreboard.word(SPOOLED);
        word.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Spooled {
    fn drop(&mut self) {
        // The scoreboard of a child that the application forked is its parent's.
        if self.process.is_current() {
            let word = self.scoreboard.word(SPOOLED);
            word.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

impl Spool {
    /// Bytes collected so far.
    pub fn size(&self) -> u64 {
        match self {
            Spool::Memory(bytes) => bytes.len() as u64,
            Spool::Disk(_, size, _) => *size,
        }
    }

    /// Append `data`; fails where the disk, or the memory, does not take it.
    pub fn write(
        &mut self,
        data: &[u8],
        memory: u64,
        directory: &Path,
        spooling: &Spooling,
    ) -> io::Result<()> {
        if let Spool::Memory(bytes) = self {
            if bytes.len() as u64 + data.len() as u64 <= memory {
                // A limit larger than the memory must end the request, not the process.
                let room = bytes.try_reserve(data.len());
                room.map_err(|_| io::Error::from_raw_os_error(libc::ENOMEM))?;
                bytes.extend_from_slice(data);
                return Ok(());
            }
            let file = sys::temporary_file(directory)?;
            sys::write_all(&file, bytes)?;
            let size = bytes.len() as u64;
            *self = Spool::Disk(file, size, Spooled::new(spooling, size));
        }
        if let Spool::Disk(file, size, share) = self {
            sys::write_all(file, data)?;
            *size += data.len() as u64;
            share.add(data.len() as u64);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::bench::scoreboard;

    fn spooling() -> Spooling {
        Spooling {
            scoreboard: Arc::new(scoreboard(1)),
            files: FileCount::default(),
        }
    }

    #[test]
    fn what_is_gathered_is_written_once_and_in_order() {
        let mut spool = Spool::default();
        let mut gathered = Gathered::default();
        let directory = std::env::temp_dir();
        gathered
            .write_to(&mut spool, 4, &directory, &spooling())
            .unwrap();
        assert_eq!(spool.size(), 0);
        gathered.add(b"ab");
        assert!(matches!(gathered, Gathered::Piece(b"ab")));
        gathered
            .write_to(&mut spool, 4, &directory, &spooling())
            .unwrap();
        for piece in [b"c", b"d", b"e"] {
            gathered.add(piece);
        }
        gathered
            .write_to(&mut spool, 4, &directory, &spooling())
            .unwrap();
        assert!(matches!(gathered, Gathered::Nothing));
        assert_eq!(spool.size(), 5);
        let Spool::Disk(file, _, _) = spool else {
            panic!("more than the memory that is allowed");
        };
        let mut bytes = [0; 5];
        assert_eq!(sys::read_at(file.raw(), &mut bytes, 0).unwrap(), 5);
        assert_eq!(&bytes, b"abcde");
    }
}
