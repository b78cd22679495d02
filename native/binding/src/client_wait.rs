//! For how long the application has waited for its client.

use penstock_reactor::sys::{self, Nanos};
use std::sync::atomic::{AtomicU64, Ordering};

/// The waits of one call. One thread of the call waits at a time; another one may be the one that
/// ends the exchange.
#[derive(Default)]
pub struct ClientWait {
    /// Since when it waits; 0 while it does not.
    since: AtomicU64,
    time: AtomicU64,
}

impl ClientWait {
    pub fn begin(&self) {
        self.since.store(sys::monotonic(), Ordering::Relaxed);
    }

    pub fn end(&self) {
        let since = self.since.swap(0, Ordering::Relaxed);
        if since > 0 {
            let time = sys::monotonic().saturating_sub(since);
            self.time.fetch_add(time, Ordering::Relaxed);
        }
    }

    /// The sum of all waits that have ended.
    pub fn time(&self) -> Nanos {
        self.time.load(Ordering::Relaxed)
    }
}
