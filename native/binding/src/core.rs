//! What a transport and its exchanges have in common.

use crate::held::release_queued;
use crate::log_writer::LogWriter;
use crate::policy::Policy;
use penstock_reactor::shared::Shared;
use pyo3::prelude::*;

pub struct Core {
    pub shared: Shared,
    pub log_writer: LogWriter,
    pub policy: Policy,
    /// A `weakref.WeakMethod`, whose method starts the threads of the transport's own.
    pub start_threads: Py<PyAny>,
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
            self.log_writer.write_all(py, self.shared.log_queue.take());
        }
    }
}
