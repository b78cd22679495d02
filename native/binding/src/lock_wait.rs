//! For how long the thread of a request has waited for the interpreter lock, as far as native code
//! can see: each time that it had to take the lock again. Within the application the interpreter
//! gives the lock up and takes it by itself.

use penstock_reactor::sys::{self, Nanos};
use pyo3::prelude::*;
use std::sync::atomic::{AtomicU64, Ordering};

/// The waits of one call. Any thread of the call may add one.
pub struct LockWait(AtomicU64);

impl LockWait {
    /// `time` is the wait before the call.
    pub fn new(time: Nanos) -> Self {
        LockWait(AtomicU64::new(time))
    }

    /// Add the wait of a thread that has the lock now, and has asked for it at `since`.
    pub fn add(&self, since: Nanos) {
        self.0.fetch_add(time_since(since), Ordering::Relaxed);
    }

    pub fn time(&self) -> Nanos {
        self.0.load(Ordering::Relaxed)
    }
}

pub fn time_since(since: Nanos) -> Nanos {
    sys::monotonic().saturating_sub(since)
}

/// Do `work` without the lock. Also return when it was done: since then the thread has waited for
/// the lock.
pub fn detached<T: Send>(py: Python<'_>, work: impl Send + FnOnce() -> T) -> (T, Nanos) {
    py.detach(|| {
        let done = work();
        (done, sys::monotonic())
    })
}
