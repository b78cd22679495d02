//! Finished requests, between the threads that serve and the log writer's thread of Python.

use penstock_reactor::sync::{Flag, lock};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString};
use std::sync::Mutex;

/// What the log writer gets.
enum Item {
    /// Whole lines of the access log.
    Lines(String),
    /// A `penstock.telemetry.request_finished.RequestFinished`.
    Request(Py<PyAny>),
}

#[derive(Default)]
struct Queued {
    items: Vec<Item>,
    requests: usize,
    bytes: usize,
    lost: usize,
}

/// A `penstock.telemetry.observers.RequestQueue`. Bounded: see `push_line`.
#[pyclass(module = "penstock._native", frozen)]
pub struct RequestQueue {
    most_requests: usize,
    most_bytes: usize,
    queued: Mutex<Queued>,
    awaited: Flag, // the log writer sleeps, or is about to
}

#[pymethods]
impl RequestQueue {
    /// `most_requests`, with `most_bytes` of text, may wait to be taken.
    #[new]
    fn new(most_requests: usize, most_bytes: usize) -> Self {
        RequestQueue {
            most_requests,
            most_bytes,
            queued: Mutex::default(),
            awaited: Flag::default(),
        }
    }

    /// Take all that is queued, and how many requests were lost for want of room.
    fn take<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyList>, usize)> {
        let taken = std::mem::take(&mut *lock(&self.queued));
        let items = PyList::empty(py);
        for item in taken.items {
            match item {
                Item::Lines(text) => items.append(PyString::new(py, &text))?,
                Item::Request(request) => items.append(request)?,
            }
        }
        Ok((items, taken.lost))
    }

    /// Whether there is nothing to take. Then the next request wakes the log writer.
    fn is_quiet(&self) -> bool {
        // The flag first, the queue second; `add` does it the other way round.
        self.awaited.set(true);
        let queued = lock(&self.queued);
        let quiet = queued.requests == 0 && queued.lost == 0;
        if !quiet {
            self.awaited.set(false);
        }
        quiet
    }
}

impl RequestQueue {
    /// Queue a line, or count its request as lost; return whether to wake the log writer.
    pub fn push_line(&self, line: &str) -> bool {
        self.add(line.len(), |items| match items.last_mut() {
            Some(Item::Lines(text)) => text.push_str(line),
            _ => items.push(Item::Lines(line.to_owned())),
        })
    }

    /// Queue a request with `bytes` of text, or count it as lost; return as `push_line` does.
    pub fn push_request(&self, request: Py<PyAny>, bytes: usize) -> bool {
        self.add(bytes, |items| items.push(Item::Request(request)))
    }

    /// Count requests that were lost before they came here; return as `push_line` does.
    pub fn count_lost(&self, requests: usize) -> bool {
        lock(&self.queued).lost += requests;
        self.is_awaited()
    }

    fn add(&self, bytes: usize, push: impl FnOnce(&mut Vec<Item>)) -> bool {
        let mut queued = lock(&self.queued);
        if queued.requests < self.most_requests && queued.bytes < self.most_bytes {
            push(&mut queued.items);
            queued.requests += 1;
            queued.bytes += bytes;
        } else {
            queued.lost += 1;
        }
        drop(queued);
        self.is_awaited()
    }

    fn is_awaited(&self) -> bool {
        self.awaited.get() && self.awaited.swap(false)
    }
}
