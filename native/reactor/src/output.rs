//! The bytes of a response that the kernel did not take at once.

use crate::decisions;
use crate::disk::DiskFile;
use crate::file_count::FileCounted;
use crate::options::Options;
use crate::spool::Spooled;
use crate::stream::Stream;
use crate::sys::{self, Nanos};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Small pieces are put together up to this size, to leave in one send.
pub const COALESCED_BYTES: usize = 64 * 1024;

/// What becomes known when the kernel finds no more of a file.
pub const FILE_TRUNCATED: &str = "the file became shorter while it was sent";

/// See `penstock.transport.log_lines`.
pub const FILE_READ_TOO_SLOWLY: &str =
    "the file could not be read in time (setting: write_timeout)";
pub const CLIENT_GONE: &str = "the client is gone";
pub const CLIENT_STALLED: &str = "the client takes no data (setting: write_timeout)";
pub const CLIENT_TOO_SLOW: &str = "the client reads too slowly (setting: max_unsent)";

/// Why the client did not get more, by the error of its socket: as
/// `penstock.transport.log_lines.lost_client`.
pub fn lost_client(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ETIMEDOUT) => CLIENT_STALLED,
        Some(libc::ENOBUFS) => CLIENT_TOO_SLOW,
        _ => CLIENT_GONE,
    }
}

/// What all responses of a transport count together.
#[derive(Clone, Default)]
pub struct OutputTotals(Arc<Totals>);

#[derive(Default)]
struct Totals {
    /// Bytes in memory, and not with the kernel.
    unsent: AtomicU64,
    /// Connections for which the kernel holds `ahead_bytes`, and how many there may be.
    ahead: AtomicU64,
    most_ahead: u64,
    ahead_bytes: u64,
}

impl OutputTotals {
    pub fn new(options: &Options) -> Self {
        OutputTotals(Arc::new(Totals {
            most_ahead: decisions::most_ahead(options),
            ahead_bytes: options.ahead_bytes,
            ..Totals::default()
        }))
    }

    /// How many bytes are in memory, and not with the kernel.
    pub fn unsent(&self) -> u64 {
        self.0.unsent.load(Ordering::Relaxed)
    }

    /// Have the kernel hold bytes ahead for one more connection, unless there are too many.
    fn hold_ahead(&self, stream: &dyn Stream) -> Option<Ahead> {
        let totals = &self.0;
        let more = |count| (count < totals.most_ahead).then_some(count + 1);
        let counted = totals
            .ahead
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        counted.ok()?;
        stream.hold_ahead(totals.ahead_bytes);
        Some(Ahead(self.clone()))
    }
}

/// Counts a connection for which the kernel holds bytes ahead.
struct Ahead(OutputTotals);

impl Drop for Ahead {
    fn drop(&mut self) {
        self.0.0.ahead.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many unsent bytes are of one response.
#[derive(Default)]
struct UnsentShare {
    bytes: u64,
    all: OutputTotals,
}

impl UnsentShare {
    fn add(&mut self, count: u64) {
        self.bytes += count;
        self.all.0.unsent.fetch_add(count, Ordering::Relaxed);
    }

    fn take_off(&mut self, count: u64) {
        self.bytes -= count;
        self.all.0.unsent.fetch_sub(count, Ordering::Relaxed);
    }
}

impl Drop for UnsentShare {
    fn drop(&mut self) {
        self.take_off(self.bytes);
    }
}

/// A part of a response.
pub enum Piece {
    /// Bytes of our own, sent up to an index.
    Owned(Vec<u8>, usize),
    /// Bytes that the application made: held, not copied.
    Held(Box<dyn AsRef<[u8]> + Send>, usize),
    Region(Region),
}

/// A part of a file. Never mapped into memory: a file that shrinks under a mapping would be a
/// SIGBUS for the whole process; sendfile just returns 0.
pub struct Region {
    pub file: RegionFile,
    pub offset: u64,
    pub count: u64,
}

/// Whose file it is. The disk's thread closes either.
pub enum RegionFile {
    Own(DiskFile<FileCounted>),
    /// The response's temporary file.
    Spooled(Arc<DiskFile<Spooled>>),
}

/// The temporary file of a response. It grows until all of it is sent.
pub struct OutputSpool {
    pub file: Arc<DiskFile<Spooled>>,
    /// Bytes that were written.
    pub size: u64,
}

impl Region {
    /// Send what is taken at once, `most` at most; return how much. Waits for the disk, also to close
    /// a file of its own that is sent: not for the leader, nor under a connection's lock.
    pub fn send(&mut self, stream: &dyn Stream, most: u64) -> io::Result<u64> {
        let file = match &self.file {
            RegionFile::Own(file) => file.file(),
            RegionFile::Spooled(file) => file.file(),
        }?;
        let most = most.min(self.count);
        let mut sent = 0;
        // A stream may take less at a time: a turn that ends with each part would cost more than it.
        while sent < most {
            let size = usize::try_from(most - sent).unwrap_or(usize::MAX);
            match stream.send_file(file, self.offset, size) {
                Ok(0) if sent > 0 => break, // found again by the next call
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, FILE_TRUNCATED)),
                Ok(part) => {
                    self.offset += part as u64;
                    self.count -= part as u64;
                    sent += part as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && sent > 0 => break,
                Err(error) => return Err(error),
            }
        }
        if let (0, RegionFile::Own(file)) = (self.count, &mut self.file) {
            file.close_here();
        }
        Ok(sent)
    }

    /// Whether it is of the response's own temporary file.
    fn is_spooled(&self) -> bool {
        matches!(self.file, RegionFile::Spooled(_))
    }
}

impl Piece {
    pub fn size(&self) -> u64 {
        match self {
            Piece::Owned(data, at) => data.len().saturating_sub(*at) as u64,
            Piece::Held(data, at) => (**data).as_ref().len().saturating_sub(*at) as u64,
            Piece::Region(region) => region.count,
        }
    }

    /// What it has in memory.
    pub fn bytes(&self) -> &[u8] {
        let (data, at) = match self {
            Piece::Owned(data, at) => (&data[..], *at),
            Piece::Held(data, at) => ((**data).as_ref(), *at),
            Piece::Region(_) => (&[][..], 0),
        };
        data.get(at..).unwrap_or(&[])
    }

    /// Whether its bytes are in memory.
    fn in_memory(&self) -> bool {
        !matches!(self, Piece::Region(_))
    }

    /// Send some of what it has in memory; return how much. None for a part of a file.
    fn send(&mut self, stream: &dyn Stream) -> Option<io::Result<u64>> {
        match self {
            Piece::Owned(data, at) => Some(send_from(stream, data, at)),
            Piece::Held(data, at) => Some(send_from(stream, (**data).as_ref(), at)),
            Piece::Region(_) => None,
        }
    }
}

fn send_from(stream: &dyn Stream, data: &[u8], at: &mut usize) -> io::Result<u64> {
    let sent = stream.send(data.get(*at..).unwrap_or(&[]))?;
    *at += sent;
    Ok(sent as u64)
}

/// How a flush ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flushed {
    /// All is with the kernel.
    All,
    /// The kernel takes no more: an event tells when it does.
    Blocked,
    /// The kernel would take more, but it is the turn of others: no event tells.
    More,
    /// A part of a file is next, for a thread that may wait for the disk: no event tells.
    File,
}

/// A queue of pieces. It belongs to a connection's state, and so to that one's lock.
#[derive(Default)]
pub struct Output {
    pieces: VecDeque<Piece>,
    /// The most bytes that one flush sends.
    most: u64,
    /// Bytes not yet taken by the kernel.
    pub size: u64,
    /// How many of them are in memory, and not in a file.
    memory: UnsentShare,
    /// The temporary file; None also while it is written to.
    spool: Option<OutputSpool>,
    /// Bytes in that file which the kernel has not taken.
    spool_unsent: u64,
    /// The thread that answers moves what was in memory to that file.
    moving: bool,
    /// Since when the kernel takes no more, and what it had taken by then; 0 while it takes all.
    waiting_since: Nanos,
    taken_before: u64,
    /// The kernel has taken no more since the poller has told of room.
    full: bool,
    /// There since the client has shown that it reads.
    ahead: Option<Ahead>,
    corked: bool,
    /// A thread that may wait for the disk is asked to send what there is, and has not begun.
    asked: bool,
    /// The front is a part of a file, which a thread sends without the connection's lock.
    in_flight: bool,
    /// There was room meanwhile, which is reported once.
    room_missed: bool,
    taken: u64,
    lost: u64,
    failure: Option<(i32, io::ErrorKind, String)>,
}

impl Output {
    /// `most` is how many bytes one flush sends.
    pub fn new(most: u64, totals: OutputTotals) -> Self {
        Output {
            most,
            memory: UnsentShare {
                bytes: 0,
                all: totals,
            },
            ..Output::default()
        }
    }

    /// Whether what is sent now has to wait behind something, or will fail.
    pub fn busy(&self) -> bool {
        self.size > 0 || self.failure.is_some()
    }

    pub fn append(&mut self, piece: Piece) {
        self.size += piece.size();
        if piece.in_memory() {
            self.memory.add(piece.size());
        }
        self.pieces.push_back(piece);
    }

    /// Queue a copy of some bytes behind the others, together with them where that is possible.
    pub fn append_copy(&mut self, data: &[u8]) {
        self.size += data.len() as u64;
        self.memory.add(data.len() as u64);
        match self.pieces.back_mut() {
            Some(Piece::Owned(last, _)) if last.len() + data.len() <= COALESCED_BYTES => {
                last.extend_from_slice(data);
            }
            _ => self.pieces.push_back(Piece::Owned(data.to_vec(), 0)),
        }
    }

    /// Bytes in memory that the kernel has not taken.
    pub fn memory(&self) -> u64 {
        self.memory.bytes
    }

    /// How long the client needs for what is unsent, at its pace so far. What the kernel has not
    /// refused yet waits for no client.
    pub fn time_to_read(&self, now: Nanos) -> Nanos {
        let waited = match self.waiting_since {
            0 => 0,
            since => now.saturating_sub(since),
        };
        decisions::time_to_read(self.size, self.taken - self.taken_before, waited)
    }

    /// Note that the kernel takes no more, so that an event tells when it does.
    pub fn blocked(&mut self) -> Flushed {
        self.full = true;
        if self.waiting_since == 0 {
            self.waiting_since = sys::monotonic();
            self.taken_before = self.taken;
        }
        Flushed::Blocked
    }

    /// Note that the kernel takes something. Where it did not for a while, the client reads: from then on
    /// the kernel holds more of what is unsent, so that fewer calls send it.
    fn accepted(&mut self, stream: &dyn Stream) {
        self.full = false;
        if self.waiting_since != 0 && self.ahead.is_none() {
            self.ahead = self.memory.all.hold_ahead(stream);
        }
    }

    /// Note that the poller has told of room, or of an error that the next call meets.
    pub fn note_room(&mut self) {
        self.full = false;
    }

    /// Whether sending waits for an event that tells of room.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Keep all of it back, until something is flushed: it leaves with what follows.
    pub fn cork(&mut self) {
        self.corked = self.size > 0;
    }

    /// Whether all of it is kept back. Then there is something to send.
    pub fn is_corked(&self) -> bool {
        self.corked
    }

    /// Keep nothing back; return whether something was.
    pub fn uncork(&mut self) -> bool {
        std::mem::take(&mut self.corked)
    }

    /// Send what the kernel takes now, up to the most for one turn, or to a part of a file: that is
    /// for [`Output::take_region`].
    ///
    /// An error (the connection is lost, a file became shorter) comes again at each later call.
    pub fn flush(&mut self, stream: &dyn Stream) -> io::Result<Flushed> {
        self.corked = false;
        self.check()?;
        if self.in_flight {
            self.room_missed = true;
            return Ok(Flushed::Blocked);
        }
        let mut budget = self.most;
        while budget > 0 {
            let Some(piece) = self.pieces.front_mut() else {
                return Ok(self.at_end());
            };
            let Some(sent) = piece.send(stream) else {
                return Ok(Flushed::File);
            };
            match sent {
                Ok(sent) => {
                    self.memory.take_off(sent);
                    if piece.size() == 0 {
                        self.pieces.pop_front();
                    }
                    self.size -= sent;
                    self.taken += sent;
                    budget = budget.saturating_sub(sent);
                    self.accepted(stream);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(self.blocked());
                }
                Err(error) => {
                    self.fail(&error);
                    return Err(error);
                }
            }
        }
        Ok(if self.pieces.is_empty() {
            self.at_end()
        } else {
            Flushed::More
        })
    }

    /// Nothing more is in the queue.
    fn at_end(&mut self) -> Flushed {
        if self.moving {
            return Flushed::Blocked; // what is moved is sent by the thread that moves it
        }
        self.waiting_since = 0;
        self.full = false;
        Flushed::All
    }

    // -- the temporary file ---------------------------------------------------------------------

    /// How many bytes were written to the temporary file; 0 where there is none.
    pub fn spool_size(&self) -> u64 {
        self.spool.as_ref().map_or(0, |spool| spool.size)
    }

    /// Take what is in memory, behind all files, to move it to the temporary file, which comes with
    /// it. [`Output::end_move`] has to follow. None where there is nothing.
    pub fn begin_move(&mut self) -> Option<(Vec<Piece>, Option<OutputSpool>)> {
        let at = self.pieces.iter().rposition(|piece| !piece.in_memory());
        let moved = self.pieces.split_off(at.map_or(0, |at| at + 1));
        if moved.is_empty() {
            return None;
        }
        self.moving = true;
        Some((moved.into(), self.spool.take()))
    }

    /// Queue what was moved: as a part of the file where it was `written`, or as it was.
    pub fn end_move(&mut self, pieces: Vec<Piece>, spool: Option<OutputSpool>, written: bool) {
        if !std::mem::take(&mut self.moving) {
            return; // all was dropped meanwhile
        }
        match &spool {
            Some(spool) if written => {
                let count = pieces.iter().map(Piece::size).sum();
                self.memory.take_off(count);
                self.spool_unsent += count;
                match self.pieces.back_mut() {
                    // It ends where this begins.
                    Some(Piece::Region(last)) if last.is_spooled() => last.count += count,
                    _ => self.pieces.push_back(Piece::Region(Region {
                        file: RegionFile::Spooled(Arc::clone(&spool.file)),
                        offset: spool.size - count,
                        count,
                    })),
                }
            }
            _ => self.pieces.extend(pieces),
        }
        self.spool = spool.filter(|_| self.spool_unsent > 0);
    }

    fn note_spool_sent(&mut self, sent: u64) {
        self.spool_unsent -= sent;
        if self.spool_unsent == 0 {
            self.spool = None; // what comes next begins in memory
        }
    }

    /// Note that a thread is asked to send what there is. Return false where one is already: also
    /// where another thread has sent since what it was asked for.
    pub fn ask(&mut self) -> bool {
        !std::mem::replace(&mut self.asked, true)
    }

    /// Note that the thread that was asked begins. Return whether there is something to send.
    pub fn begin_asked(&mut self) -> bool {
        self.asked = false;
        self.size > 0
    }

    /// Whether the next that is to be sent is a part of a file, and a thread sends it or is asked to.
    pub fn awaits_file(&self) -> bool {
        self.in_flight || (self.asked && matches!(self.pieces.front(), Some(Piece::Region(_))))
    }

    /// Take the part of a file that is at the front, and the most to send of it, to send it without
    /// the connection's lock: a disk may take its time. [`Output::put_back`] has to follow.
    pub fn take_region(&mut self) -> Option<(Region, u64)> {
        if self.in_flight || !matches!(self.pieces.front(), Some(Piece::Region(_))) {
            return None;
        }
        let Some(Piece::Region(region)) = self.pieces.pop_front() else {
            return None;
        };
        self.in_flight = true;
        self.room_missed = false;
        Some((region, self.most))
    }

    /// Put back what is left of it; `sent` is what sending it returned.
    pub fn put_back(
        &mut self,
        region: Region,
        sent: io::Result<u64>,
        stream: &dyn Stream,
    ) -> io::Result<Flushed> {
        self.in_flight = false;
        self.check()?; // it may have failed meanwhile, for another thread
        match sent {
            Ok(sent) => {
                self.size -= sent;
                self.taken += sent;
                self.accepted(stream);
                if region.is_spooled() {
                    self.note_spool_sent(sent);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.pieces.push_front(Piece::Region(region));
                return Ok(if self.room_missed {
                    Flushed::More
                } else {
                    self.blocked()
                });
            }
            Err(error) => {
                self.fail(&error);
                return Err(error);
            }
        }
        if region.count > 0 {
            self.pieces.push_front(Piece::Region(region));
        }
        Ok(if self.pieces.is_empty() {
            self.at_end()
        } else {
            Flushed::More
        })
    }

    /// Whether a thread sends a part of a file, without the connection's lock. The stream must not
    /// be closed then: its number might become another one's.
    pub fn is_in_flight(&self) -> bool {
        self.in_flight
    }

    /// Fail where an earlier flush has failed.
    pub fn check(&self) -> io::Result<()> {
        match &self.failure {
            None => Ok(()),
            Some((0, kind, text)) => Err(io::Error::new(*kind, text.clone())),
            Some((number, ..)) => Err(io::Error::from_raw_os_error(*number)),
        }
    }

    /// Give up: drop what is queued, and have each later flush fail.
    pub fn fail(&mut self, error: &io::Error) {
        self.failure = Some((
            error.raw_os_error().unwrap_or(0),
            error.kind(),
            error.to_string(),
        ));
        self.lost += self.size;
        self.drop_all();
    }

    /// Bytes that were dropped, and never taken by the kernel.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Bytes that the kernel has not taken.
    pub fn unsent(&self) -> u64 {
        self.size + self.lost
    }

    pub fn drop_all(&mut self) {
        self.pieces.clear();
        self.memory.take_off(self.memory.bytes);
        self.size = 0;
        self.spool = None;
        self.spool_unsent = 0;
        self.moving = false;
        self.waiting_since = 0;
        self.corked = false;
    }

    /// How many bytes the client's side has taken, as far as the kernel can tell.
    ///
    /// The send buffer reports room in large steps, so that a slow reader seems to stand still
    /// for minutes; what is acknowledged shows it moving.
    pub fn acknowledged(&self, stream: &dyn Stream) -> i64 {
        self.taken as i64 - stream.unacknowledged() as i64
    }
}
