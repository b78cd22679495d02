//! What is to be logged, until a thread with the GIL hands it to the logs of Python.

use crate::exchange_trace::Transcript;
use crate::refusal::Refusal;
use crate::sync::{Flag, lock};
use crate::sys::{Nanos, Peer};
use penstock_protocol::HeadCopy;
use std::any::Any;
use std::sync::Mutex;

/// How a request ended: see `penstock.telemetry.request_finished.Ended`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Complete,
    Refused,
    Disconnected,
    Aborted,
}

/// When things happened to a request; 0 where they did not.
#[derive(Clone, Copy, Default)]
pub struct Times {
    pub accepted: Nanos,
    pub begun: Nanos,
    pub head: Nanos,
    pub body: Nanos,
    pub taken: Nanos,
    /// For how long the request waited for a thread; no moment, as the others are.
    pub queue: Nanos,
    pub first_byte: Nanos,
    pub finished: Nanos,
}

/// The end of a response that its thread had finished before the kernel had all of it.
pub struct End {
    /// Bytes that were never sent.
    pub unsent: u64,
    pub finished: Nanos,
    /// How and why it was cut off; None where all was sent.
    pub cut_off: Option<(Ended, String)>,
}

/// A request that was refused, or that the client broke off.
pub struct RefusalNote {
    /// The client.
    pub peer: Peer,
    /// Who is at the other end of the connection: the client, or a proxy.
    pub socket_peer: Peer,
    pub refusal: Refusal,
    pub request: Option<HeadCopy>,
    pub request_id: String,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub times: Times,
    /// For the trace, where there is one.
    pub transcript: Option<Box<Transcript>>,
}

/// A request whose target names another host than its Host field.
pub struct HostReplaced {
    pub peer: Peer,
    pub target: Vec<u8>,
    pub host: Vec<u8>,
    pub request_id: String,
}

/// A TLS handshake that was not completed.
pub struct HandshakeFailed {
    pub peer: Peer,
    pub reason: String,
}

pub enum Entry {
    /// A message of `penstock.messages`: its name there, and its arguments.
    Message(&'static str, Vec<(&'static str, String)>),
    Refused(Box<RefusalNote>),
    HostReplaced(Box<HostReplaced>),
    HandshakeFailed(Box<HandshakeFailed>),
    /// A response that was finished before the kernel had all of it: `ExchangeState::record`, and
    /// its end.
    Finished(Box<dyn Any + Send>, Box<End>),
    /// The listener of this index is to be closed.
    CloseListener(usize),
    /// What found the queue full.
    Lost(Lost),
}

/// How many entries were lost, and how many of them were requests that observers miss.
#[derive(Default, Clone, Copy)]
pub struct Lost {
    pub entries: usize,
    pub requests: usize,
}

/// A message of level WARNING or above: its name in `penstock.messages`, and its arguments.
pub fn message<const N: usize>(
    name: &'static str,
    arguments: [(&'static str, String); N],
) -> Entry {
    Entry::Message(name, arguments.into())
}

impl Entry {
    /// About how many bytes of memory an entry takes that may be lost: clients decide about it.
    fn size(&self) -> usize {
        size_of::<Entry>()
            + match self {
                Entry::Refused(note) => note.size(),
                Entry::HostReplaced(note) => {
                    size_of::<HostReplaced>() + note.target.capacity() + note.host.capacity()
                }
                Entry::HandshakeFailed(note) => {
                    size_of::<HandshakeFailed>() + note.reason.capacity()
                }
                _ => 0,
            }
    }

    /// Whether only logs miss it, and clients decide how many there are.
    fn may_be_lost(&self) -> bool {
        match self {
            Entry::Refused(_) | Entry::HostReplaced(_) | Entry::HandshakeFailed(_) => true,
            // At most one for each connection, listener or defect.
            Entry::Message(..) | Entry::Finished(..) | Entry::CloseListener(_) => false,
            Entry::Lost(_) => false,
        }
    }
}

impl RefusalNote {
    fn size(&self) -> usize {
        let heads = self.request.iter().chain(&self.refusal.head);
        size_of::<RefusalNote>()
            + heads.map(HeadCopy::size).sum::<usize>()
            + self.refusal.request_line.capacity()
            + self.refusal.received.capacity()
            + self.refusal.logged.capacity()
            + self.request_id.capacity()
            + self.transcript.as_deref().map_or(0, Transcript::size)
    }
}

#[derive(Default)]
struct Queued {
    entries: Vec<Entry>,
    /// What the entries take that may be lost.
    bytes: usize,
    lost: Lost,
}

/// A queue of entries. Any thread may write; the log writer reads, with the GIL. It is bounded:
/// what finds it full is counted instead.
pub struct LogQueue {
    /// How many entries may wait, and how many bytes they may take. The leader goes on while the
    /// application holds the GIL, so clients decide how many refusals there are until the log
    /// writer gets it, and how long these are.
    most: usize,
    most_bytes: usize,
    queued: Mutex<Queued>,
    filled: Flag,
}

impl LogQueue {
    pub fn new(most: usize, most_bytes: usize) -> Self {
        LogQueue {
            most,
            most_bytes,
            queued: Mutex::default(),
            filled: Flag::default(),
        }
    }

    pub fn write(&self, entry: Entry) {
        let mut queued = lock(&self.queued);
        let size = if entry.may_be_lost() { entry.size() } else { 0 };
        let full = queued.entries.len() >= self.most || queued.bytes + size > self.most_bytes;
        let lost = if size > 0 && full {
            queued.lost.entries += 1;
            queued.lost.requests += usize::from(matches!(entry, Entry::Refused(_)));
            Some(entry)
        } else {
            queued.bytes += size;
            queued.entries.push(entry);
            None
        };
        drop(queued);
        drop(lost); // with its memory, and without the lock
        self.filled.set(true);
    }

    pub fn is_empty(&self) -> bool {
        !self.filled.get()
    }

    /// Take all entries, and what was lost as the last of them. They may hold the last reference to
    /// Python objects, whose end runs code of the application: never drop them under a lock.
    pub fn take(&self) -> Vec<Entry> {
        if !self.filled.swap(false) {
            return Vec::new();
        }
        let Queued {
            mut entries, lost, ..
        } = std::mem::take(&mut *lock(&self.queued));
        if lost.entries > 0 {
            entries.push(Entry::Lost(lost));
        }
        entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_ENTRIES: usize = 5;
    const PLENTY: usize = 7_000_000;

    fn refused() -> Entry {
        refused_with(0)
    }

    /// One that takes `bytes` more.
    fn refused_with(bytes: usize) -> Entry {
        Entry::Refused(Box::new(RefusalNote {
            peer: None,
            socket_peer: None,
            refusal: Refusal {
                request_line: vec![b'x'; bytes],
                ..Refusal::timed_out("")
            },
            request: None,
            request_id: String::new(),
            bytes_in: 0,
            bytes_out: 0,
            times: Times::default(),
            transcript: None,
        }))
    }

    #[test]
    fn what_finds_the_queue_full_is_counted_but_for_what_must_not_be_lost() {
        let queue = LogQueue::new(MAX_ENTRIES, PLENTY);
        for _ in 0..MAX_ENTRIES + 3 {
            queue.write(refused());
        }
        queue.write(Entry::CloseListener(7));
        let mut entries = queue.take();
        assert!(matches!(
            entries.pop(),
            Some(Entry::Lost(Lost {
                entries: 3,
                requests: 3
            }))
        ));
        assert!(matches!(entries.pop(), Some(Entry::CloseListener(7))));
        assert_eq!(entries.len(), MAX_ENTRIES);
        assert!(queue.is_empty());
        assert!(queue.take().is_empty());
    }

    #[test]
    fn what_would_take_too_many_bytes_is_counted_however_few_entries_there_are() {
        let own = refused().size();
        let queue = LogQueue::new(1000, 3 * own + 300);
        for bytes in [100, 100, 101, 100] {
            queue.write(refused_with(bytes));
        }
        let lost = |entries: &[Entry]| match entries.last() {
            Some(Entry::Lost(lost)) => (lost.entries, lost.requests),
            _ => (0, 0),
        };
        let entries = queue.take();
        assert_eq!((entries.len(), lost(&entries)), (4, (1, 1)));
        queue.write(refused_with(300 + 2 * own));
        assert_eq!(queue.take().len(), 1); // it was emptied
    }

    #[test]
    fn a_queue_that_was_emptied_takes_entries_again() {
        let queue = LogQueue::new(MAX_ENTRIES, PLENTY);
        for _ in 0..=MAX_ENTRIES {
            queue.write(refused());
        }
        queue.take();
        queue.write(refused());
        assert_eq!(queue.take().len(), 1);
    }
}
