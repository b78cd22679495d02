//! What threads meet at: a lock that outlives a panic, a flag, an alarm.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Lock a mutex that a panic may have left behind: the panic ended one request, not the state.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A flag that any thread may set or read.
#[derive(Default)]
pub struct Flag(AtomicBool);

impl Flag {
    pub fn get(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    pub fn set(&self, value: bool) {
        self.0.store(value, Ordering::SeqCst);
    }

    pub fn swap(&self, value: bool) -> bool {
        self.0.swap(value, Ordering::SeqCst)
    }
}

/// Where a thread waits to be woken. A wake-up that comes before the wait is not lost.
#[derive(Default)]
pub struct Alarm {
    rung: Mutex<bool>,
    bell: Condvar,
}

impl Alarm {
    pub fn ring(&self) {
        *lock(&self.rung) = true;
        self.bell.notify_one();
    }

    pub fn wait(&self) {
        let mut rung = lock(&self.rung);
        while !*rung {
            rung = self.bell.wait(rung).unwrap_or_else(PoisonError::into_inner);
        }
        *rung = false;
    }

    /// Wait for `time` at most.
    pub fn wait_for(&self, time: Duration) {
        let mut rung = lock(&self.rung);
        if !*rung {
            let waited = self.bell.wait_timeout(rung, time);
            rung = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *rung = false;
    }
}
