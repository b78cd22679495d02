//! What a leader works with, and what kinds of leaders there are.

use crate::connection::{Connection, ConnectionState};
use crate::decisions;
use crate::options::Options;
use crate::sys::Nanos;
use penstock_protocol::{FieldCache, Head, HeadCopy};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// Which kind of thread runs the loop, and so what it may do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Leader {
    /// A thread that holds the GIL: nothing that takes long.
    Attached,
    /// A thread without the GIL.
    Detached,
    /// The stall monitor, which gives way to any thread that comes free.
    StallMonitor,
}

/// Where the bytes of a request's head are.
pub enum Source {
    /// In the leader's buffer, with what they say in the leader's `Head`.
    Buffer(Range<usize>),
    /// In the leader's scratch, likewise.
    Scratch,
    Copy(Box<HeadCopy>),
}

/// What bytes are read into, and what they say. A thread that takes a request takes the buffers
/// with it and leaves its own, so that it need not lead while it runs Python code.
pub struct ReadBuffers {
    pub buffer: Box<[u8]>,
    pub head: Head,
    pub scratch: Vec<u8>,
}

impl ReadBuffers {
    /// `size` is the most that one read takes: a whole head with its body, as a rule, and no
    /// client's monopoly.
    pub fn new(size: usize) -> Self {
        ReadBuffers {
            buffer: vec![0; size].into_boxed_slice(),
            head: Head::default(),
            scratch: Vec::new(),
        }
    }

    /// The head of a request, as a copy that outlives the buffers.
    pub fn own_head(&self, source: Source) -> Box<HeadCopy> {
        match source {
            Source::Copy(copy) => copy,
            source => {
                let (head, bytes) = self.head_of(&source);
                Box::new(HeadCopy {
                    bytes: bytes.into(),
                    head: head.clone(),
                })
            }
        }
    }

    /// What a request's head says, and its bytes.
    pub fn head_of<'a>(&'a self, source: &'a Source) -> (&'a Head, &'a [u8]) {
        match source {
            Source::Buffer(range) => (&self.head, self.buffer.get(range.clone()).unwrap_or(&[])),
            Source::Scratch => (&self.head, &self.scratch),
            Source::Copy(copy) => (&copy.head, &copy.bytes),
        }
    }
}

/// What the leader works with: one set for all connections, so that an idle one has none.
pub struct LeaderState {
    pub now: Nanos,
    /// When the sockets are polled again, whatever is left to do.
    pub turn_ends: Nanos,
    /// A turn was not enough, or memory is scarce: each connection has one read.
    pub shares: bool,
    /// The most bytes that one read takes.
    pub receive_bytes: usize,
    pub read: Box<ReadBuffers>,
    /// What fields mean that clients send again and again.
    pub field_cache: FieldCache,
    /// See `decisions::reads_at_once`.
    pub first_read_credit: u64,
    /// With more to do than their turn allowed: they go on with what the next poll brings.
    pub deferred: VecDeque<Arc<Connection>>,
    /// What becomes ready waits for a thread: all are with the application.
    pub queues: bool,
    /// The method of the request that is handed out is safe, and its call will be short, but not so
    /// short that it does not pay to have answers wait for it.
    pub short_call: bool,
}

impl LeaderState {
    pub fn new(options: &Options, now: Nanos) -> Self {
        let read_bytes = options.receive_bytes;
        LeaderState {
            now,
            turn_ends: Nanos::MAX, // the first poll sets it
            shares: false,
            receive_bytes: read_bytes,
            read: Box::new(ReadBuffers::new(read_bytes)),
            field_cache: FieldCache::default(),
            first_read_credit: options.first_reads,
            deferred: VecDeque::new(),
            queues: false,
            short_call: false,
        }
    }

    /// Note that a first read begins, or has `found` something.
    pub fn note_first_read(&mut self, options: &Options, found: bool) {
        let credit = &mut self.first_read_credit;
        *credit = decisions::first_read_credit(options, *credit, found);
    }

    /// Have the connection go on after the next poll: it has had its turn.
    pub fn defer(&mut self, connection: &Arc<Connection>, state: &mut ConnectionState) {
        if !std::mem::replace(&mut state.queued, true) {
            self.deferred.push_back(Arc::clone(connection));
        }
    }
}
