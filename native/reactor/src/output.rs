//! The bytes of a response that the kernel did not take at once.

use crate::sys::{self, Fd};
use std::collections::VecDeque;
use std::io;

/// Small pieces are put together up to this size, to leave in one send.
pub const COALESCED_BYTES: usize = 64 * 1024;

/// What becomes known when the kernel finds no more of a file.
pub const FILE_TRUNCATED: &str = "the file became shorter while it was sent";

/// A part of a response.
pub enum Piece {
    /// Bytes of our own, sent up to an index.
    Owned(Vec<u8>, usize),
    /// Bytes that the application made: held, not copied.
    Held(Box<dyn AsRef<[u8]> + Send>, usize),
    /// A part of a file. Never mapped into memory: a file that shrinks under a mapping would be
    /// a SIGBUS for the whole process; sendfile just returns 0.
    Region { file: Fd, offset: u64, count: u64 },
}

impl Piece {
    fn size(&self) -> u64 {
        match self {
            Piece::Owned(data, at) => data.len().saturating_sub(*at) as u64,
            Piece::Held(data, at) => (**data).as_ref().len().saturating_sub(*at) as u64,
            Piece::Region { count, .. } => *count,
        }
    }

    /// Send some of it, `most` at most; return how much.
    fn send(&mut self, socket: &Fd, most: u64) -> io::Result<u64> {
        match self {
            Piece::Owned(data, at) => send_from(socket, data, at),
            Piece::Held(data, at) => send_from(socket, (**data).as_ref(), at),
            Piece::Region {
                file,
                offset,
                count,
            } => {
                let size = usize::try_from(most.min(*count)).unwrap_or(usize::MAX);
                let sent = sys::send_file(socket, file, *offset, size)? as u64;
                if sent == 0 {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, FILE_TRUNCATED));
                }
                *offset += sent;
                *count -= sent;
                Ok(sent)
            }
        }
    }
}

fn send_from(socket: &Fd, data: &[u8], at: &mut usize) -> io::Result<u64> {
    let sent = sys::send(socket, data.get(*at..).unwrap_or(&[]))?;
    *at += sent;
    Ok(sent as u64)
}

/// What a flush came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flushed {
    /// All is with the kernel.
    All,
    /// The kernel takes no more: an event tells when it does.
    Blocked,
    /// The kernel would take more, but it is others' turn: no event tells.
    More,
}

/// A queue of pieces. It belongs to a connection's state, and so to that one's lock.
#[derive(Default)]
pub struct Output {
    pieces: VecDeque<Piece>,
    /// The most bytes that one flush sends.
    most: u64,
    /// Bytes not yet taken by the kernel.
    pub size: u64,
    corked: bool,
    taken: u64,
    lost: u64,
    failure: Option<(i32, String)>,
}

impl Output {
    /// `most` is how many bytes one flush sends.
    pub fn new(most: u64) -> Self {
        Output {
            most,
            ..Output::default()
        }
    }

    /// Whether what is sent now has to wait behind something, or will fail.
    pub fn busy(&self) -> bool {
        self.size > 0 || self.failure.is_some()
    }

    pub fn append(&mut self, piece: Piece) {
        self.size += piece.size();
        self.pieces.push_back(piece);
    }

    /// Queue a copy of some bytes behind the others, together with them where that is possible.
    pub fn append_copy(&mut self, data: &[u8]) {
        self.size += data.len() as u64;
        match self.pieces.back_mut() {
            Some(Piece::Owned(last, _)) if last.len() + data.len() <= COALESCED_BYTES => {
                last.extend_from_slice(data);
            }
            _ => self.pieces.push_back(Piece::Owned(data.to_vec(), 0)),
        }
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

    /// Send what the kernel takes now, up to the most for one turn.
    ///
    /// An error (the connection is lost, a file became shorter) comes again at each later call.
    pub fn flush(&mut self, socket: &Fd) -> io::Result<Flushed> {
        self.corked = false;
        self.check()?;
        let mut budget = self.most;
        while budget > 0 {
            let Some(piece) = self.pieces.front_mut() else {
                return Ok(Flushed::All);
            };
            match piece.send(socket, budget) {
                Ok(sent) => {
                    let done = piece.size() == 0;
                    self.size -= sent;
                    self.taken += sent;
                    budget = budget.saturating_sub(sent);
                    if done {
                        self.pieces.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Flushed::Blocked);
                }
                Err(error) => {
                    self.fail(&error);
                    return Err(error);
                }
            }
        }
        Ok(if self.pieces.is_empty() {
            Flushed::All
        } else {
            Flushed::More
        })
    }

    /// Fail where an earlier flush has failed.
    pub fn check(&self) -> io::Result<()> {
        match &self.failure {
            None => Ok(()),
            Some((0, text)) => Err(io::Error::other(text.clone())),
            Some((number, _)) => Err(io::Error::from_raw_os_error(*number)),
        }
    }

    /// Give up: drop what is queued, and have each later flush fail.
    pub fn fail(&mut self, error: &io::Error) {
        self.failure = Some((error.raw_os_error().unwrap_or(0), error.to_string()));
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
        self.size = 0;
        self.corked = false;
    }

    /// How many bytes the client's side has taken, as far as the kernel can tell.
    ///
    /// The send buffer reports room in large steps, so that a slow reader seems to stand still
    /// for minutes; what is acknowledged shows it moving.
    pub fn acknowledged(&self, socket: &Fd) -> i64 {
        self.taken as i64 - sys::unacknowledged(socket) as i64
    }
}
