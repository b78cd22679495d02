//! Whole answers that wait while the application is called for the next request of the same poll.
//!
//! A system call between two calls costs the interpreter a part of what the processor's caches hold
//! of it. An answer waits only where the poll has brought more requests, for a few calls that are
//! expected to be short, and for a tick of the stall monitor at most; should a call last longer than
//! expected, the thread that leads next sends what waits. In a turn that was not enough for all
//! (`remainder`) none waits: its requests come one by one.
//!
//! A worker that is killed takes along what waits. So only answers to safe methods do (RFC 9110,
//! section 9.2.1): a client may repeat such a request.

use crate::connection::Connection;
use crate::sync::lock;
use crate::sys::Nanos;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

/// Answers that wait at a time.
const MOST_HELD: usize = 16;

/// The connections whose answers wait. Their phase is `Answered`, and none is in the inbox.
#[derive(Default)]
pub struct HeldAnswers {
    /// The number of the request whose answer may wait; 0 for none.
    expected: AtomicU64,
    /// None may: no thread would send what waits.
    given_up: AtomicBool,
    count: AtomicUsize,
    /// When the first of them was held.
    since: AtomicU64,
    connections: Mutex<Vec<Arc<Connection>>>,
}

impl HeldAnswers {
    /// Say that the answer to the request with this number may wait, or with 0 that none may.
    pub fn expect(&self, number: u64) {
        self.expected.store(number, Relaxed);
    }

    /// Whether the answer to the request that was handed out last may wait.
    pub fn are_expected(&self) -> bool {
        self.expected.load(Relaxed) > 0 && !self.given_up.load(Relaxed)
    }

    /// Have none wait from now on.
    pub fn give_up(&self) {
        self.given_up.store(true, Relaxed);
    }

    /// Whether the answer to the request with this number may wait.
    pub fn may_add(&self, number: u64) -> bool {
        self.expected.load(Relaxed) == number && self.count.load(SeqCst) < MOST_HELD
    }

    /// Have an answer sent with the others. A leader that polls by now has to be woken.
    pub fn add(&self, connection: &Arc<Connection>, now: Nanos) {
        let mut connections = lock(&self.connections);
        if connections.is_empty() {
            self.since.store(now, Relaxed);
        }
        connections.push(Arc::clone(connection));
        self.count.store(connections.len(), SeqCst);
    }

    /// Whether there are any.
    pub fn are_left(&self) -> bool {
        self.count.load(SeqCst) > 0
    }

    /// Whether those that are left have to be sent, with or without `more` to be looked at. `most` is
    /// for how long they may wait, but for the call that goes on then.
    pub fn are_due(&self, now: Nanos, more: bool, most: Nanos) -> bool {
        let ends = self.since.load(Relaxed).saturating_add(most);
        !more || self.count.load(SeqCst) >= MOST_HELD || now >= ends
    }

    /// Take them, to be sent.
    pub fn take(&self) -> Vec<Arc<Connection>> {
        let mut connections = lock(&self.connections);
        self.count.store(0, SeqCst);
        let taken = Vec::with_capacity(connections.len());
        std::mem::replace(&mut *connections, taken)
    }
}
