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
