//! References to Python objects that a thread without the GIL may be the last to have.
//!
//! Such a thread queues them here, and the next one that has the GIL releases them. PyO3 would do the
//! same, but behind a lock that each later call from Python takes: a child that the application forks
//! while another thread holds that lock would hang. This queue is only tried.

use crate::ffi::is_attached;
use penstock_reactor::sync::lock;
use std::any::Any;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

static QUEUE: Mutex<Vec<Box<dyn Any + Send>>> = Mutex::new(Vec::new());
static FILLED: AtomicBool = AtomicBool::new(false);

/// Something that holds references to Python objects. Any thread may drop it.
pub struct Held<T: Send + 'static>(Option<T>);

impl<T: Send> Held<T> {
    pub fn new(inner: T) -> Self {
        Held(Some(inner))
    }

    /// Take it out, in a thread that has the GIL.
    pub fn take(mut self) -> Option<T> {
        self.0.take()
    }

    pub fn get(&self) -> Option<&T> {
        self.0.as_ref()
    }
}

impl<T: Send> Drop for Held<T> {
    fn drop(&mut self) {
        if let Some(inner) = self.0.take() {
            if !is_attached() {
                lock(&QUEUE).push(Box::new(inner));
                FILLED.store(true, Ordering::Release);
            }
        }
    }
}

impl<T: AsRef<[u8]> + Send> AsRef<[u8]> for Held<T> {
    fn as_ref(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], AsRef::as_ref)
    }
}

/// Release what was queued; for a thread that has the GIL, and no lock.
pub fn release_queued() {
    if FILLED.load(Ordering::Acquire) {
        release();
    }
}

#[cold]
fn release() {
    let Ok(mut queue) = QUEUE.try_lock() else {
        return; // the next call does it
    };
    FILLED.store(false, Ordering::Release);
    let queued = std::mem::take(&mut *queue);
    drop(queue); // the end of an object may run code of the application
    drop(queued);
}
