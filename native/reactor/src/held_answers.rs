//! Whole answers that wait while the application is called for the next request of the same poll.
//!
//! A system call between two calls costs the interpreter a part of what the processor's caches hold
//! of it. An answer waits only where the poll has brought more requests, for a few calls that are
//! expected to be short, and for a tick of the stall monitor at most; should a call last longer than
//! expected, the thread that leads next sends what waits.

use crate::connection::Connection;
use crate::sync::lock;
use crate::sys::Nanos;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

/// Answers that wait at a time.
const MOST_HELD: usize = 16;

/// The connections whose answers wait. Their phase is `Answered`.
#[derive(Default)]
pub struct HeldAnswers {
    /// The poll has brought more than the request that is with the application.
    expected: AtomicBool,
    count: AtomicUsize,
    /// When the first of them was held.
    since: AtomicU64,
    connections: Mutex<Vec<Arc<Connection>>>,
}

impl HeldAnswers {
    /// Say whether the answer to the request that is handed out may wait.
    pub fn expect(&self, expected: bool) {
        self.expected.store(expected, Relaxed);
    }

    /// Whether the next answer may wait.
    pub fn are_expected(&self) -> bool {
        self.expected.load(Relaxed)
    }

    /// Whether there is room for one more.
    pub fn may_add(&self) -> bool {
        self.are_expected() && self.count.load(Relaxed) < MOST_HELD
    }

    /// Have an answer sent with the others.
    pub fn add(&self, connection: &Arc<Connection>, now: Nanos) {
        let mut connections = lock(&self.connections);
        if connections.is_empty() {
            self.since.store(now, Relaxed);
        }
        connections.push(Arc::clone(connection));
        self.count.store(connections.len(), Relaxed);
    }

    /// Whether there are any.
    pub fn are_left(&self) -> bool {
        self.count.load(Relaxed) > 0
    }

    /// Whether those that are left have to be sent, with or without `more` to be looked at. `most` is
    /// for how long they may wait, but for the call that goes on then.
    pub fn are_due(&self, now: Nanos, more: bool, most: Nanos) -> bool {
        let ends = self.since.load(Relaxed).saturating_add(most);
        !more || self.count.load(Relaxed) >= MOST_HELD || now >= ends
    }

    /// Take them, to be sent.
    pub fn take(&self) -> Vec<Arc<Connection>> {
        let mut connections = lock(&self.connections);
        self.count.store(0, Relaxed);
        let taken = Vec::with_capacity(connections.len());
        std::mem::replace(&mut *connections, taken)
    }
}
