//! Request bodies on their way to the application: in memory first, then in a temporary file.

use crate::decisions;
use crate::disk::Disk;
use crate::file_count::{FileCount, FileCounted};
use crate::options::Options;
use crate::scoreboard::{SPOOLED, Scoreboard};
use crate::sync::lock;
use crate::sys::{self, Fd};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// A body that is being collected, in bounded memory.
pub enum Spool {
    Memory(HeldBody),
    Disk(SpooledBody),
}

impl Default for Spool {
    fn default() -> Self {
        Spool::Memory(HeldBody::default())
    }
}

/// The most memory of bodies that have ended which is kept for others, with what they have of it: that
/// may be more than they fill, and count.
const SPARE_BYTES: usize = 12 * 1024 * 1024;

/// From which size on memory is worth keeping: the system clears it page by page before it is used
/// again.
const LARGE_BYTES: usize = 128 * 1024;

/// The memory of bodies, of one transport.
#[derive(Default)]
pub struct BodyMemory {
    held: AtomicU64,
    spares: Mutex<Vec<Vec<u8>>>,
    /// The memory of bodies that was kept for them.
    lent: AtomicUsize,
}

impl BodyMemory {
    /// How many bytes of all bodies, and of requests behind unsent responses, are in memory.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Count bytes more; fewer where it wraps.
    pub fn count(&self, more: u64) {
        self.held.fetch_add(more, Ordering::Relaxed);
    }

    /// Keep what a body had, if it is large and there is room for it.
    fn keep(&self, mut spare: Vec<u8>) {
        if spare.capacity() < LARGE_BYTES {
            return;
        }
        let mut spares = lock(&self.spares);
        let kept: usize = spares.iter().map(Vec::capacity).sum();
        let kept = kept + self.lent.load(Ordering::Relaxed);
        if kept + spare.capacity() <= SPARE_BYTES {
            spare.clear();
            spares.push(spare);
        }
    }

    fn take_spare(&self) -> Option<Vec<u8>> {
        lock(&self.spares).pop()
    }

    /// Give the memory back that is kept, while there is no body.
    pub fn free_spares_unless_held(&self) {
        if self.held() == 0 {
            let spares = std::mem::take(&mut *lock(&self.spares));
            drop(spares);
        }
    }
}

/// A body in memory. It counts among the others until it is dropped.
#[derive(Default)]
pub struct HeldBody {
    bytes: Vec<u8>,
    /// How much of their memory was another body's.
    lent: usize,
    /// None until there are bytes that count.
    memory: Option<Arc<BodyMemory>>,
}

impl HeldBody {
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn add(&mut self, data: &[u8], memory: &Arc<BodyMemory>) -> io::Result<()> {
        append(&mut self.bytes, data)?;
        self.count(data.len(), memory);
        Ok(())
    }

    /// Append what is bounded by other means: one read of one thread.
    pub fn add_uncounted(&mut self, data: &[u8]) {
        self.bytes.extend_from_slice(data);
    }

    /// Have up to `size` bytes received at the end, of which `remaining` are still to come; return how
    /// many were.
    ///
    /// A body that has shown to be one gets its whole memory at once: it is not copied as it grows.
    pub fn receive(
        &mut self,
        size: usize,
        remaining: usize,
        memory: &Arc<BodyMemory>,
        receive: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let before = self.bytes.len();
        if self.lent == 0
            && self.bytes.capacity() - before < size
            && before + remaining >= LARGE_BYTES
        {
            if let Some(mut spare) = memory.take_spare() {
                if spare.capacity() >= before + size {
                    self.lent = spare.capacity();
                    memory.lent.fetch_add(self.lent, Ordering::Relaxed);
                    self.memory.get_or_insert_with(|| Arc::clone(memory));
                    spare.extend_from_slice(&self.bytes);
                    self.bytes = spare;
                }
            }
        }
        let room = match before >= size {
            true => self.bytes.try_reserve_exact(remaining),
            false => self.bytes.try_reserve(size),
        };
        room.map_err(|_| io::Error::from_raw_os_error(libc::ENOMEM))?;
        self.bytes.resize(before + size, 0);
        let received = receive(self.bytes.get_mut(before..).unwrap_or_default());
        let size = *received.as_ref().unwrap_or(&0);
        self.bytes.truncate(before + size);
        self.count(size, memory);
        received
    }

    fn count(&mut self, more: usize, memory: &Arc<BodyMemory>) {
        let memory = self.memory.get_or_insert_with(|| Arc::clone(memory));
        memory.count(more as u64);
    }

    /// The bytes, which no longer count.
    fn take(&mut self) -> Vec<u8> {
        if let Some(memory) = self.memory.take() {
            memory.count((self.bytes.len() as u64).wrapping_neg());
            let lent = std::mem::take(&mut self.lent);
            memory.lent.fetch_sub(lent, Ordering::Relaxed);
        }
        std::mem::take(&mut self.bytes)
    }
}

impl Drop for HeldBody {
    fn drop(&mut self) {
        let memory = self.memory.clone();
        let bytes = self.take();
        if let Some(memory) = memory {
            memory.keep(bytes);
        }
    }
}

/// Append bytes, or fail: a limit larger than the memory must end the request, not the process.
fn append(bytes: &mut Vec<u8>, data: &[u8]) -> io::Result<()> {
    let room = bytes.try_reserve(data.len());
    room.map_err(|_| io::Error::from_raw_os_error(libc::ENOMEM))?;
    bytes.extend_from_slice(data);
    Ok(())
}

/// The content in one block of input, to be kept at once.
///
/// A body with a length has one piece in a block, which is not copied. One in chunks has as many as
/// its client likes: a call for each would cost the server more than the client.
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

    /// Append all of it to `spool`; see [`Spool::add`].
    pub fn add_to(&mut self, spool: &mut Spool, held: bool, spooling: &Spooling) -> io::Result<()> {
        match std::mem::take(self) {
            Gathered::Nothing => Ok(()),
            Gathered::Piece(data) => spool.add(data, held, spooling),
            Gathered::Pieces(all) => spool.add(&all, held, spooling),
        }
    }
}

/// What all bodies take: memory, descriptors, and bytes of the disk.
#[derive(Clone)]
pub struct Spooling {
    pub scoreboard: Arc<Scoreboard>,
    pub files: FileCount,
    pub memory: Arc<BodyMemory>,
    /// Opens, writes and closes their files.
    pub disk: Disk,
}

impl Spooling {
    /// How many more bytes of a body may be held in memory; none once it is in a file.
    pub fn room(&self, options: &Options, spool: &Spool) -> u64 {
        match spool {
            Spool::Memory(_) => {
                let held = self.memory.held();
                decisions::body_room(options, spool.size(), held)
            }
            Spool::Disk(_) => 0,
        }
    }

    /// Whether each read of a socket takes little.
    pub fn is_input_scarce(&self, options: &Options) -> bool {
        decisions::input_is_scarce(options, self.memory.held(), self.disk.held())
    }

    /// Return the status that refuses `more` bytes of a body for its file; 0 if they may come.
    pub fn admit(&self, options: &Options, spool: &Spool, more: usize) -> u16 {
        let more = more as u64;
        let body = spool.size() + more;
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
    bytes: AtomicU64,
    process: sys::Process,
    _file: FileCounted,
}

impl Spooled {
    pub fn new(spooling: &Spooling, bytes: u64) -> Self {
        let share = Spooled {
            scoreboard: Arc::clone(&spooling.scoreboard),
            bytes: AtomicU64::new(0),
            process: sys::Process::current(),
            _file: spooling.files.take(),
        };
        share.add(bytes);
        share
    }

    pub fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let word = self.scoreboard.word(SPOOLED);
        word.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Give back what was added, and not written.
    pub fn take_off(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        let word = self.scoreboard.word(SPOOLED);
        word.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Spooled {
    fn drop(&mut self) {
        // The scoreboard of a child that the application forked is its parent's.
        if self.process.is_current() {
            let word = self.scoreboard.word(SPOOLED);
            word.fetch_sub(*self.bytes.get_mut(), Ordering::Relaxed);
        }
    }
}

impl Spool {
    /// Bytes collected so far.
    pub fn size(&self) -> u64 {
        match self {
            Spool::Memory(body) => body.bytes.len() as u64,
            Spool::Disk(body) => body.size,
        }
    }

    /// Bytes that are to be written to the file.
    pub fn unwritten(&self) -> usize {
        match self {
            Spool::Memory(_) => 0,
            Spool::Disk(body) => body.unwritten.len(),
        }
    }

    /// Append `data`; unless it is `held` in memory, the whole body is to be written. Fails where
    /// there is not enough memory for it.
    pub fn add(&mut self, data: &[u8], held: bool, spooling: &Spooling) -> io::Result<()> {
        if let Spool::Memory(body) = self {
            if held {
                return body.add(data, &spooling.memory);
            }
            *self = Spool::Disk(SpooledBody::new(body.take(), spooling));
        }
        if let Spool::Disk(body) = self {
            body.size += data.len() as u64;
            if let Some(share) = &body.share {
                share.add(data.len() as u64);
            }
            append(&mut body.unwritten, data)?;
        }
        Ok(())
    }

    /// Write what is to be written. For the disk's thread: it waits for the disk.
    pub fn write_out(&mut self, directory: &Path) -> io::Result<()> {
        match self {
            Spool::Memory(_) => Ok(()),
            Spool::Disk(body) => body.write_out(directory),
        }
    }

    /// Free the room for what is to be written: nothing is.
    pub fn free_room(&mut self) {
        if let Spool::Disk(body) = self {
            if body.unwritten.is_empty() {
                body.unwritten = Vec::new();
            }
        }
    }
}

/// A body in a temporary file, but for the last of it. The disk's thread closes the file.
pub struct SpooledBody {
    /// None until the first of it is written.
    file: Option<Fd>,
    size: u64,
    unwritten: Vec<u8>,
    /// Its share of the budgets.
    share: Option<Spooled>,
    disk: Disk,
}

impl SpooledBody {
    fn new(unwritten: Vec<u8>, spooling: &Spooling) -> Self {
        let size = unwritten.len() as u64;
        SpooledBody {
            file: None,
            size,
            unwritten,
            share: Some(Spooled::new(spooling, size)),
            disk: spooling.disk.clone(),
        }
    }

    fn write_out(&mut self, directory: &Path) -> io::Result<()> {
        if self.unwritten.is_empty() {
            return Ok(());
        }
        let file = match self.file.take() {
            Some(file) => file,
            None => sys::temporary_file(directory)?,
        };
        let written = sys::write_all(&file, &self.unwritten);
        self.file = Some(file);
        self.unwritten.clear();
        written
    }

    /// Bytes collected so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    #[cfg(test)]
    pub fn descriptor(&self) -> Option<std::os::fd::RawFd> {
        self.file.as_ref().map(Fd::raw)
    }

    /// The file of a body that is written, and the body's share of the budgets.
    pub fn into_file(mut self) -> Option<(Fd, Spooled)> {
        self.file.take().zip(self.share.take())
    }
}

impl Drop for SpooledBody {
    fn drop(&mut self) {
        if let (Some(file), Some(share)) = (self.file.take(), self.share.take()) {
            self.disk.close(file, share);
        }
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
            memory: Arc::default(),
            disk: Disk::new(&crate::tests::bench::options()),
        }
    }

    /// A body of which `size` bytes have come, of `length`.
    fn come(memory: &Arc<BodyMemory>, size: usize, length: usize) -> HeldBody {
        let mut body = HeldBody::default();
        body.receive(length, length, memory, |_| Ok(size)).unwrap();
        body
    }

    #[test]
    fn bodies_that_come_slowly_do_not_take_the_memory_of_those_that_have_ended() {
        let size = SPARE_BYTES / 12;
        let memory = Arc::<BodyMemory>::default();
        let mut slow = Vec::new();
        for _ in 0..4 {
            let ended: Vec<_> = (0..12).map(|_| come(&memory, size, size)).collect();
            drop(ended);
            slow.extend((0..12).map(|_| come(&memory, 1, 100)));
            slow.extend((0..12).map(|_| come(&memory, 1, size)));
        }
        assert_eq!(memory.held(), slow.len() as u64);
        let lent: usize = slow.iter().map(|body| body.lent).sum();
        assert_eq!(lent, SPARE_BYTES);
        assert_eq!(memory.take_spare(), None);
        drop(slow);
        assert_eq!(memory.lent.load(Ordering::Relaxed), 0);
        assert_eq!(memory.held(), 0);
        memory.free_spares_unless_held();
        assert_eq!(memory.take_spare(), None);
    }

    #[test]
    fn what_is_gathered_is_written_once_and_in_order() {
        let mut spool = Spool::default();
        let mut gathered = Gathered::default();
        let spooling = spooling();
        gathered.add_to(&mut spool, true, &spooling).unwrap();
        assert_eq!(spool.size(), 0);
        gathered.add(b"ab");
        assert!(matches!(gathered, Gathered::Piece(b"ab")));
        gathered.add_to(&mut spool, true, &spooling).unwrap();
        assert_eq!((spool.size(), spool.unwritten()), (2, 0));
        assert_eq!(spooling.memory.held(), 2);
        for piece in [b"c", b"d", b"e"] {
            gathered.add(piece);
        }
        gathered.add_to(&mut spool, false, &spooling).unwrap();
        assert_eq!(spooling.memory.held(), 0);
        assert!(matches!(gathered, Gathered::Nothing));
        assert_eq!((spool.size(), spool.unwritten()), (5, 5));
        spool.write_out(&std::env::temp_dir()).unwrap();
        assert_eq!((spool.size(), spool.unwritten()), (5, 0));
        let Spool::Disk(body) = spool else {
            panic!("more than the memory that is allowed");
        };
        let (file, _) = body.into_file().unwrap();
        let mut bytes = [0; 5];
        assert_eq!(sys::read_at(file.raw(), &mut bytes, 0).unwrap(), 5);
        assert_eq!(&bytes, b"abcde");
    }

    #[test]
    fn a_body_that_is_dropped_is_closed_by_the_disks_thread_and_gives_its_share_back_then() {
        let spooling = spooling();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let mut spool = Spool::default();
        spool.add(b"abcde", false, &spooling).unwrap();
        spool.write_out(&std::env::temp_dir()).unwrap();
        let disk = &spooling.disk;
        disk.run(0, move || wait.recv().unwrap()).unwrap();
        drop(spool);
        let counts = || (spooling.scoreboard.get(SPOOLED), spooling.files.get());
        assert_eq!(counts(), (5, 1));
        go.send(()).unwrap();
        disk.catch_up();
        assert_eq!(counts(), (0, 0));
    }
}
