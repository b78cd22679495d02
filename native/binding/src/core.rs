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
}

impl Core {
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
