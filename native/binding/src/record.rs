//! One response and what it answers, for the observers.

use crate::response_head::ResponseHead;
use penstock_protocol::HeadCopy;
use penstock_reactor::exchange_trace::Transcript;
use penstock_reactor::log_queue::{Ended, Times};
use penstock_reactor::sys::{Peer, SECOND};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use std::borrow::Cow;
use std::sync::Arc;

/// One response and what it answers, for the observers.
pub struct Record {
    /// The client.
    pub peer: Peer,
    /// Who is at the other end of the connection: the client, or a proxy.
    pub socket_peer: Peer,
    /// For the observers; None where there are none.
    pub request: Option<HeadCopy>,
    pub head: Option<Arc<ResponseHead>>,
    /// The status code where there is none: the client left before there was an answer.
    pub client_left: u16,
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
    pub fn code(&self) -> u16 {
        self.head
            .as_ref()
            .map_or(self.client_left, |head| head.code)
    }
}
