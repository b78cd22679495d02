//! How many requests have a body that the application still reads, and the connections whose body
//! waits for one of these to end.
//!
//! A body that comes fast, and finds half of the threads taken, waits for a moment: writing it to a file
//! would take longer, and take the processor from those that are read.

use crate::connection::Connection;
use crate::inbox::Inbox;
use crate::sync::lock;
use crate::sys::Nanos;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Of one transport.
pub struct StreamedBodies {
    count: AtomicU64,
    /// With the time at which each waits no longer.
    waiting: Mutex<VecDeque<(Nanos, Arc<Connection>)>>,
    /// How many wait: read by threads that end a body, without the lock.
    waits: AtomicU64,
    inbox: Arc<Inbox>,
}

impl StreamedBodies {
    pub fn new(inbox: Arc<Inbox>) -> Self {
        StreamedBodies {
            count: AtomicU64::new(0),
            waiting: Mutex::default(),
            waits: AtomicU64::new(0),
            inbox,
        }
    }

    pub fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    /// Have a connection wait until there are fewer, or until the time given. One that waits again has
    /// its place by that time: before those that came after it.
    pub fn wait(&self, connection: &Arc<Connection>, until: Nanos) {
        let mut waiting = lock(&self.waiting);
        let place = waiting.partition_point(|(others, _)| *others <= until);
        waiting.insert(place, (until, Arc::clone(connection)));
        self.waits.store(waiting.len() as u64, Ordering::SeqCst);
    }

    /// Until when the first of those waits that wait; it is due at once if there are fewer than `most`.
    pub fn next_due(&self, most: u64) -> Option<Nanos> {
        if self.waits.load(Ordering::SeqCst) == 0 {
            return None;
        }
        match self.count() < most {
            true => Some(0),
            false => lock(&self.waiting).front().map(|(until, _)| *until),
        }
    }

    /// Take those that wait no longer, and one for each that there may be more.
    pub fn take_due(&self, now: Nanos, most: u64) -> Vec<Arc<Connection>> {
        if self.next_due(most).is_none_or(|due| due > now) {
            return Vec::new();
        }
        let mut waiting = lock(&self.waiting);
        let late = waiting.partition_point(|(until, _)| *until <= now);
        let free = most.saturating_sub(self.count()) as usize;
        let size = late.max(free).min(waiting.len());
        let due = waiting.drain(..size).map(|(_, connection)| connection);
        let due = due.collect();
        self.waits.store(waiting.len() as u64, Ordering::SeqCst);
        due
    }

    /// Forget those that wait.
    pub fn clear(&self) {
        lock(&self.waiting).clear();
        self.waits.store(0, Ordering::SeqCst);
    }
}

/// Counts a request as one whose body the application still reads, until it is dropped.
pub struct Streaming(Arc<StreamedBodies>);

impl Streaming {
    pub fn new(bodies: &Arc<StreamedBodies>) -> Self {
        bodies.count.fetch_add(1, Ordering::SeqCst);
        Streaming(Arc::clone(bodies))
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        let bodies = &self.0;
        bodies.count.fetch_sub(1, Ordering::SeqCst);
        // A leader has those that wait before it looks at the count: one of the two sees the other.
        if bodies.waits.load(Ordering::SeqCst) > 0 {
            bodies.inbox.hurry();
        }
    }
}
