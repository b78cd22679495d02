//! `penstock.extend_deadline`: how an application asks for more time.

use crate::call_deadline::seconds;
use crate::thread_slots::{ThreadSlot, ThreadSlots};
use penstock_reactor::sys;
use pyo3::prelude::*;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// `penstock.extend_deadline` of the environ of one request. It keeps nothing of the request alive,
/// so that an application may keep it.
#[pyclass(module = "penstock._native", frozen, freelist = 64)]
pub struct ExtendDeadline {
    thread_slots: Weak<ThreadSlots>,
    /// The thread that answers the request.
    thread: u64,
    /// The request's, in the transport's life.
    number: AtomicU64,
}

impl ExtendDeadline {
    /// For the call of the thread of `thread_slot` that has the request with this number.
    pub fn new(thread_slots: &Arc<ThreadSlots>, thread_slot: &ThreadSlot, number: u64) -> Self {
        ExtendDeadline {
            thread_slots: Arc::downgrade(thread_slots),
            thread: thread_slot.thread,
            number: AtomicU64::new(number),
        }
    }

    /// Be that of another request of the thread, after one whose application has not kept it.
    pub fn begin(&self, number: u64) {
        self.number.store(number, Ordering::Relaxed);
    }
}

#[pymethods]
impl ExtendDeadline {
    /// Give the request's call `time` seconds from now; return the deadline on the monotonic clock,
    /// in seconds. Any thread may call it. After the call it does nothing, and returns the current
    /// time.
    fn __call__(&self, time: &Bound<'_, PyAny>) -> PyResult<f64> {
        let py = time.py();
        let over = || Ok(seconds(sys::monotonic()));
        let Some(thread_slots) = self.thread_slots.upgrade() else {
            return over();
        };
        let Some(exchange) = thread_slots.exchange_of(py, self.thread) else {
            return over();
        };
        let exchange = exchange.bind(py).try_borrow()?;
        if exchange.number != self.number.load(Ordering::Relaxed) {
            return over(); // the thread is in a later call
        }
        let core = &exchange.core;
        let most = if exchange.response.is_aborted() {
            0 // its client has been answered: the deadline stays in the past
        } else {
            core.policy.timeout_max
        };
        let environ = exchange.environ.bind(py);
        exchange.deadline.extend(
            &core.shared.scoreboard,
            core.policy.nanos(time)?,
            most,
            environ,
        )
    }
}
