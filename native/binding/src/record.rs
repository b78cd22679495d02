//! One response and what it answers, for the observers.

use crate::ffi::latin1_bytes;
use penstock_protocol::HeadCopy;
use penstock_reactor::exchange_trace::Transcript;
use penstock_reactor::log_queue::{Ended, Times};
use penstock_reactor::sys::{Peer, SECOND};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString};
use std::borrow::Cow;

/// One response and what it answers, for the observers.
pub struct Record {
    /// The client.
    pub peer: Peer,
    /// Who is at the other end of the connection: the client, or a proxy.
    pub socket_peer: Peer,
    /// For the observers; None where there are none.
    pub request: Option<HeadCopy>,
    pub status: Option<Py<PyString>>,
    /// The status code where there is none: the client left before there was an answer.
    pub client_left: u16,
    pub headers: Option<Py<PyList>>,
    pub environ: Py<PyDict>,
    pub request_id: Py<PyString>,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub times: Times,
    pub ended: Ended,
    pub reason: Cow<'static, str>,
    /// For the trace, where there is one.
    pub transcript: Option<Box<Transcript>>,
}

impl Record {
    /// Seconds from the first byte of the request to the end.
    pub fn seconds(&self) -> f64 {
        self.times.finished.saturating_sub(self.times.begun) as f64 / SECOND as f64
    }

    /// Seconds for which the request waited for a thread.
    pub fn queue_seconds(&self) -> f64 {
        self.times.queue as f64 / SECOND as f64
    }

    /// The status code, also where there was no answer.
    pub fn code(&self, py: Python<'_>) -> u16 {
        status_code(py, self.status.as_ref()).unwrap_or(self.client_left)
    }
}

/// The status code that a status begins with; None where there is no status.
pub fn status_code(py: Python<'_>, status: Option<&Py<PyString>>) -> Option<u16> {
    let digits = latin1_bytes(status?.bind(py)).ok()?.get(..3)?.iter();
    digits.copied().try_fold(0, |code, digit| {
        digit
            .is_ascii_digit()
            .then(|| code * 10 + u16::from(digit - b'0'))
    })
}
