//! What a transport and its exchanges have in common.

use crate::ffi;
use crate::held::release_queued;
use crate::log_writer::LogWriter;
use crate::policy::Policy;
use penstock_reactor::shared::Shared;
use penstock_reactor::sync::lock;
use pyo3::prelude::*;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

pub struct Core {
    pub shared: Shared,
    pub log_writer: LogWriter,
    pub policy: Policy,
    /// A `weakref.WeakMethod`, whose method starts the threads of the transport's own.
    pub start_threads: Py<PyAny>,
    /// What a leader calls that is about to wait for clients; None where there is nothing to call.
    pub when_idle: Option<Py<PyAny>>,
    /// The threads that have taken entries from the log queue, and write them.
    pub writing: Writing,
}

/// How many threads write what they have taken from the log queue.
#[derive(Default)]
pub struct Writing {
    threads: Mutex<usize>,
    done: Condvar,
}

/// That the calling thread does, for as long as this lives.
struct AtIt<'a>(&'a Writing);

impl Writing {
    fn begin(&self) -> AtIt<'_> {
        *lock(&self.threads) += 1;
        AtIt(self)
    }

    /// Wait until no thread writes, for `time` at most; return whether none does. Without the GIL.
    fn await_end(&self, time: Duration) -> bool {
        let threads = lock(&self.threads);
        let waited = self
            .done
            .wait_timeout_while(threads, time, |count| *count > 0);
        *waited.unwrap_or_else(PoisonError::into_inner).0 == 0
    }
}

impl Drop for AtIt<'_> {
    fn drop(&mut self) {
        *lock(&self.0.threads) -= 1;
        self.0.done.notify_all();
    }
}

impl Core {
    /// Have a stall monitor from now on, and return whether there is one: requests wait in the queue
    /// then, with its bounds, and not in the kernel. A single thread has none as long as its calls
    /// are fast.
    pub fn attend(&self, py: Python<'_>) -> bool {
        if !self.shared.attended.get() {
            if let Err(error) = self.start(py) {
                error.write_unraisable(py, None);
            }
        }
        self.shared.attended.get()
    }

    /// Have done what is done while no client has sent anything.
    #[inline]
    pub fn when_idle(&self, py: Python<'_>) {
        if let Some(when_idle) = &self.when_idle {
            if let Err(error) = ffi::call(when_idle.bind(py), []) {
                error.write_unraisable(py, None);
            }
        }
    }

    fn start(&self, py: Python<'_>) -> PyResult<()> {
        let start_threads = self.start_threads.bind(py).call0()?;
        if !start_threads.is_none() {
            start_threads.call0()?;
        }
        Ok(())
    }

    /// Write what the log queue holds.
    pub fn write_logs(&self, py: Python<'_>) {
        if self.shared.closed_in_child.get() {
            return;
        }
        release_queued();
        if !self.shared.log_queue.is_empty() {
            // Counted before it takes them: who waits for the end misses none.
            let _writing = self.writing.begin();
            self.log_writer.write_all(py, self.shared.log_queue.take());
        }
    }

    /// Write what the log queue holds, and wait until other threads have written what they have
    /// taken from it, for `time` at most. Return whether all is written.
    pub fn finish_logs(&self, py: Python<'_>, time: Duration) -> bool {
        self.write_logs(py);
        self.shared.closed_in_child.get() || py.detach(|| self.writing.await_end(time))
    }
}
