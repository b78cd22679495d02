//! Lines of the access log between the threads that make them and the one that writes them.

use penstock_reactor::shared::{Flag, lock};
use pyo3::prelude::*;
use pyo3::types::PyString;
use std::sync::Mutex;

#[derive(Default)]
struct Queued {
    text: String,
    lines: usize,
    dropped: usize,
}

/// What `penstock.telemetry.access_log.AccessLog` takes its lines from. Bounded: see `push`.
#[pyclass(module = "penstock._native", frozen)]
pub struct LineQueue {
    most_lines: usize,
    most_bytes: usize,
    queued: Mutex<Queued>,
    awaited: Flag, // the writer sleeps, or is about to
}

#[pymethods]
impl LineQueue {
    /// `most_lines` and `most_bytes` may wait to be taken.
    #[new]
    fn new(most_lines: usize, most_bytes: usize) -> Self {
        LineQueue {
            most_lines,
            most_bytes,
            queued: Mutex::default(),
            awaited: Flag::default(),
        }
    }

    /// Take all lines as one text; how many there are, and how many were lost for want of room.
    fn take<'py>(&self, py: Python<'py>) -> (Bound<'py, PyString>, usize, usize) {
        let taken = std::mem::take(&mut *lock(&self.queued));
        (PyString::new(py, &taken.text), taken.lines, taken.dropped)
    }

    /// Whether there is nothing to take. Then the next line has its writer woken.
    fn is_quiet(&self) -> bool {
        // The flag first, the queue second; `push` does it the other way round.
        self.awaited.set(true);
        let queued = lock(&self.queued);
        let quiet = queued.lines == 0 && queued.dropped == 0;
        if !quiet {
            self.awaited.set(false);
        }
        quiet
    }
}

impl LineQueue {
    /// Queue a line, or count it as lost; tell whether the writer has to be woken.
    pub fn push(&self, line: Option<&str>) -> bool {
        let mut queued = lock(&self.queued);
        match line {
            Some(line) if queued.lines < self.most_lines && queued.text.len() < self.most_bytes => {
                queued.text.push_str(line);
                queued.lines += 1;
            }
            _ => queued.dropped += 1,
        }
        drop(queued);
        self.awaited.get() && self.awaited.swap(false)
    }
}
