//! What there is to tell, kept until somebody holds the GIL: Python's logs do the writing.

use crate::shared::{Flag, lock};
use crate::sys::{Nanos, Peer};
use penstock_protocol::Head;
use std::any::Any;
use std::borrow::Cow;
use std::sync::Mutex;

/// nginx's status, in logs alone, for a client that left before there was an answer.
pub const CLIENT_LEFT: u16 = 499;

/// A request's head on its own, for when the buffer that it came in is used again.
#[derive(Clone)]
pub struct HeadCopy {
    pub bytes: Box<[u8]>,
    pub head: Head,
}

/// Why a request is not handed to the application, and what to answer.
pub struct Refusal {
    pub status: u16,
    pub reason: Cow<'static, str>,
    /// The section of the standard, and the option that moves the limit; empty where none is.
    pub rule: &'static str,
    pub setting: &'static str,
    /// The head, where each line of it was sound: for its fields.
    pub head: Option<HeadCopy>,
    /// What the client asked for, where that much had arrived; unchecked.
    pub request_line: Vec<u8>,
    /// The system's word for why, where it had one.
    pub cause: Option<String>,
}

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

/// A request that was refused, or lost with its client, for the logs.
pub struct RefusalNote {
    pub peer: Peer,
    pub refusal: Refusal,
    pub request: Option<HeadCopy>,
    pub request_id: String,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub times: Times,
}

/// A request as the trace prints it.
pub struct TracedRequest {
    pub connection: u64,
    pub number: u64,
    pub peer: String,
    pub head: Vec<u8>,
    pub body: Vec<u8>,
    pub length: u64,
}

/// A response as the trace prints it.
pub struct TracedResponse {
    pub connection: u64,
    pub number: u64,
    pub status: Vec<u8>,
    /// The application's fields: names and values in Latin-1.
    pub headers: Vec<(Vec<u8>, Vec<u8>)>,
    pub added: Vec<u8>,
    pub body: Vec<u8>,
    pub length: u64,
    pub note: String,
}

pub enum Entry {
    /// A message of `penstock.messages`: its name there, and its arguments.
    Message(&'static str, Vec<(&'static str, String)>),
    Refused(Box<RefusalNote>),
    /// A response that was finished before the kernel had all of it: `Held::record`, and its end.
    Settled(Box<dyn Any + Send>, Box<End>),
    /// What the trace says of a connection, by its number.
    Note(u64, String),
    Request(Box<TracedRequest>),
    Response(Box<TracedResponse>),
    /// The listener of this index is to be closed.
    CloseListener(usize),
}

/// A message of level WARNING or above: its name in `penstock.messages`, and its arguments.
pub fn message<const N: usize>(
    name: &'static str,
    arguments: [(&'static str, String); N],
) -> Entry {
    Entry::Message(name, arguments.into())
}

/// A queue of entries. Any thread may write; whoever holds the GIL reads.
#[derive(Default)]
pub struct Diary {
    entries: Mutex<Vec<Entry>>,
    filled: Flag,
}

impl Diary {
    pub fn write(&self, entry: Entry) {
        lock(&self.entries).push(entry);
        self.filled.set(true);
    }

    pub fn is_empty(&self) -> bool {
        !self.filled.get()
    }

    /// Take all entries. They may hold the last reference to Python objects, whose end runs
    /// code of the application: never let go of them under a lock.
    pub fn take(&self) -> Vec<Entry> {
        if self.filled.swap(false) {
            std::mem::take(&mut *lock(&self.entries))
        } else {
            Vec::new()
        }
    }
}
