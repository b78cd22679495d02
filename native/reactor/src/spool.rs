//! Request bodies on their way to the application: in memory first, then in a temporary file.

use crate::sys::{self, Fd};
use std::io;
use std::path::Path;

/// A body that is being collected, in bounded memory.
pub enum Spool {
    Memory(Vec<u8>),
    Disk(Fd, u64),
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

    /// Append all of it to `spool`; see [`Spool::write`].
    pub fn write_to(&mut self, spool: &mut Spool, memory: u64, directory: &Path) -> io::Result<()> {
        match std::mem::take(self) {
            Gathered::Nothing => Ok(()),
            Gathered::Piece(data) => spool.write(data, memory, directory),
            Gathered::Pieces(all) => spool.write(&all, memory, directory),
        }
    }
}

impl Spool {
    /// Bytes collected so far.
    pub fn size(&self) -> u64 {
        match self {
            Spool::Memory(bytes) => bytes.len() as u64,
            Spool::Disk(_, size) => *size,
        }
    }

    /// Append `data`; fails where the disk, or the memory, does not take it.
    pub fn write(&mut self, data: &[u8], memory: u64, directory: &Path) -> io::Result<()> {
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
            *self = Spool::Disk(file, size);
        }
        if let Spool::Disk(file, size) = self {
            sys::write_all(file, data)?;
            *size += data.len() as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gathered_is_written_once_and_in_order() {
        let mut spool = Spool::default();
        let mut gathered = Gathered::default();
        let directory = std::env::temp_dir();
        gathered.write_to(&mut spool, 4, &directory).unwrap();
        assert_eq!(spool.size(), 0);
        gathered.add(b"ab");
        assert!(matches!(gathered, Gathered::Piece(b"ab")));
        gathered.write_to(&mut spool, 4, &directory).unwrap();
        for piece in [b"c", b"d", b"e"] {
            gathered.add(piece);
        }
        gathered.write_to(&mut spool, 4, &directory).unwrap();
        assert!(matches!(gathered, Gathered::Nothing));
        assert_eq!(spool.size(), 5);
        let Spool::Disk(file, _) = spool else {
            panic!("more than the memory that is allowed");
        };
        let mut bytes = [0; 5];
        assert_eq!(sys::read_at(file.raw(), &mut bytes, 0).unwrap(), 5);
        assert_eq!(&bytes, b"abcde");
    }
}
