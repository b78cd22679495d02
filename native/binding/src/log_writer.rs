//! Hands what the log queue holds to Python: to the error log and the observers.

use crate::access_line::{LineFormat, Outcome, address};
use crate::environ::keys;
use crate::ffi::latin1;
use crate::head_parts::{given_field, request_line};
use crate::held::Held;
use crate::record::Record;
use crate::request_finished::{Made, RequestMaker};
use crate::request_queue::RequestQueue;
use penstock_protocol::{Head, HeadCopy};
use penstock_reactor::log_queue::{Ended, Entry, HostReplaced, RefusalNote, message};
use penstock_reactor::scoreboard::{LOG_DROPPED, Scoreboard};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString};
use std::any::Any;
use std::sync::Arc;

pub struct LogWriter {
    pub logger: Py<PyAny>,
    /// The status of a client that left before there was an answer.
    pub client_left: u16,
    /// The `penstock.telemetry.observers.Observers`; None where there are none.
    pub observers: Option<Py<PyAny>>,
    /// Makes lines of the access log where that is the only observer; it gets records where only
    /// Python can make them.
    pub line_format: Option<LineFormat>,
    pub requests: Option<Py<RequestQueue>>,
    pub request_maker: Option<RequestMaker>,
    /// A `penstock.wsgi.environ.DroppedFields`.
    pub dropped_fields: Py<PyAny>,
    /// What is called when a call was slow or has failed; None where that is not noted.
    pub note_call: Option<Py<PyAny>>,
    /// A `penstock.transport.log_lines.RequestLog`.
    pub request_log: Py<PyAny>,
    pub scoreboard: Arc<Scoreboard>,
    pub listeners: Vec<Py<PyAny>>,
}

impl LogWriter {
    /// Write entries. An exception that a log raises does not reach the request.
    pub fn write_all(&self, py: Python<'_>, entries: Vec<Entry>) {
        for entry in entries {
            if let Err(error) = self.write(py, entry) {
                error.write_unraisable(py, Some(self.logger.bind(py)));
            }
        }
    }

    fn write(&self, py: Python<'_>, entry: Entry) -> PyResult<()> {
        match entry {
            Entry::Message(name, arguments) => {
                let options = PyDict::new(py);
                for (name, value) in arguments {
                    options.set_item(name, value)?;
                }
                self.log_message(py, name, &options)
            }
            Entry::Refused(note) => self.refused(py, &note),
            Entry::HostReplaced(note) => self.host_replaced(py, &note),
            Entry::HandshakeFailed(note) => {
                let arguments = (address(note.peer), &note.reason);
                let request_log = self.request_log.bind(py);
                request_log
                    .call_method1("handshake_failed", arguments)
                    .map(drop)
            }
            Entry::Finished(record, end) => match finished_record(record) {
                Some(mut record) => {
                    record.bytes_out = record.bytes_out.saturating_sub(end.unsent);
                    record.times.finished = end.finished;
                    if let Some((ended, reason)) = end.cut_off {
                        record.ended = ended;
                        record.reason = reason.into();
                    }
                    self.finished(py, &record)
                }
                None => Ok(()), // no other kind is made here
            },
            Entry::Lost(lost) => {
                let entries = lost.entries.to_string();
                self.write(py, message("LOG_ENTRIES_LOST", [("entries", entries)]))?;
                match &self.requests {
                    // The observers count them on the scoreboard, with what they lose themselves.
                    Some(requests) => self.wake(py, requests.get().count_lost(lost.requests)),
                    None => {
                        self.scoreboard.add(LOG_DROPPED, lost.requests as u64);
                        Ok(())
                    }
                }
            }
            Entry::CloseListener(index) => match self.listeners.get(index) {
                Some(listener) => listener.call_method0(py, "close").map(drop),
                None => Ok(()),
            },
        }
    }

    /// Log a message of `penstock.messages` by its name there. Clients can bring it about, so that
    /// there are a few lines and a count.
    fn log_message(
        &self,
        py: Python<'_>,
        name: &str,
        arguments: &Bound<'_, PyDict>,
    ) -> PyResult<()> {
        let message = py.import("penstock.messages")?.getattr(name)?;
        let request_log = self.request_log.bind(py);
        request_log
            .call_method("message", (message,), Some(arguments))
            .map(drop)
    }

    /// Log that the timeout of a path could not be looked up, with the exception.
    pub fn log_timeout_for_failed(&self, py: Python<'_>, path: &str, error: &PyErr) {
        let logged = || -> PyResult<()> {
            let arguments = PyDict::new(py);
            arguments.set_item("path", path)?;
            arguments.set_item("exc_info", error.value(py))?;
            self.log_message(py, "TIMEOUT_FOR_FAILED", &arguments)
        };
        if let Err(error) = logged() {
            error.write_unraisable(py, Some(self.logger.bind(py)));
        }
    }

    /// Report the fields that were dropped for the underscores in their names.
    pub fn report_dropped_fields(&self, py: Python<'_>, head: &Head, bytes: &[u8]) -> PyResult<()> {
        for field in &head.fields {
            let name = field.name.of(bytes);
            if name.contains(&b'_') {
                let name = latin1(py, &name.to_ascii_lowercase())?;
                self.dropped_fields.call_method1(py, "report", (name,))?;
            }
        }
        Ok(())
    }

    /// Report a finished request to the observers.
    pub fn answered(&self, py: Python<'_>, record: &Record) -> PyResult<()> {
        let Some(requests) = &self.requests else {
            return Ok(());
        };
        if let Some(format) = &self.line_format {
            match format.line(py, record)? {
                Outcome::Line(line) => return self.wake(py, requests.get().push_line(&line)),
                Outcome::Nothing => return Ok(()),
                Outcome::Python => {}
            }
        }
        let Some(maker) = &self.request_maker else {
            return Ok(());
        };
        self.queue(py, requests, maker.answered(py, record))
    }

    /// Queue a record, or count one that could not be made as lost.
    fn queue(
        &self,
        py: Python<'_>,
        requests: &Py<RequestQueue>,
        made: PyResult<Made>,
    ) -> PyResult<()> {
        match made {
            Ok((request, bytes)) => self.wake(py, requests.get().push_request(request, bytes)),
            Err(error) => {
                self.wake(py, requests.get().count_lost(1))?;
                Err(error)
            }
        }
    }

    fn wake(&self, py: Python<'_>, awaited: bool) -> PyResult<()> {
        if let (Some(observers), true) = (&self.observers, awaited) {
            // The handler of a signal may raise in it; the request is queued already.
            if observers.call_method0(py, "wake").is_err() {
                observers.call_method0(py, "wake")?;
            }
        }
        Ok(())
    }

    /// Report a response that was finished before the kernel had all of it.
    fn finished(&self, py: Python<'_>, record: &Record) -> PyResult<()> {
        self.answered(py, record)?;
        if record.ended == Ended::Complete {
            return Ok(());
        }
        let environ = record.environ.bind(py);
        let part = |key: &Py<PyString>| environ.get_item(key)?.map(|text| text.str()).transpose();
        let (method, target) = match &record.request {
            Some(HeadCopy { bytes, head }) => (
                Some(latin1(py, head.method.of(bytes))?),
                Some(latin1(py, head.target.of(bytes))?),
            ),
            None => (part(&keys(py).method)?, part(&keys(py).raw_uri)?),
        };
        let arguments = (method, target, &record.request_id, record.reason.as_ref());
        let request_log = self.request_log.bind(py);
        request_log.call_method1("cut_off", arguments).map(drop)
    }

    fn host_replaced(&self, py: Python<'_>, note: &HostReplaced) -> PyResult<()> {
        let (target, host) = (latin1(py, &note.target)?, latin1(py, &note.host)?);
        let arguments = (address(note.peer), target, host, &note.request_id);
        let request_log = self.request_log.bind(py);
        request_log
            .call_method1("host_replaced", arguments)
            .map(drop)
    }

    fn refused(&self, py: Python<'_>, note: &RefusalNote) -> PyResult<()> {
        let refusal = &note.refusal;
        let request_line = match &note.request {
            Some(copy) => request_line(copy),
            None => refusal.request_line.clone(),
        };
        let left = refusal.status == self.client_left;
        if !refusal.reason.is_empty() {
            self.log_refusal(py, note, &request_line, left)?;
        }
        let (Some(requests), Some(maker)) = (&self.requests, &self.request_maker) else {
            return Ok(());
        };
        let ended = match refusal.status {
            _ if left => Ended::Disconnected,
            ..400 => Ended::Complete, // `OPTIONS *`
            _ => Ended::Refused,
        };
        self.queue(py, requests, maker.refused(py, note, ended))
    }

    fn log_refusal(
        &self,
        py: Python<'_>,
        note: &RefusalNote,
        request_line: &[u8],
        left: bool,
    ) -> PyResult<()> {
        let refusal = &note.refusal;
        let options = PyDict::new(py);
        options.set_item("cause", refusal.cause.as_deref().unwrap_or(""))?;
        options.set_item("rule", refusal.rule)?;
        options.set_item("setting", refusal.setting)?;
        let head = note.request.as_ref().or(refusal.head.as_ref());
        let host = head.and_then(|copy| given_field(copy, b"host"));
        options.set_item("host", latin1(py, &host.unwrap_or_default())?)?;
        options.set_item("disconnected", left)?;
        let received = head.map_or(refusal.received.as_slice(), |copy| &copy.bytes);
        options.set_item("received", PyBytes::new(py, received))?;
        let arguments = (
            address(note.peer),
            latin1(py, request_line)?,
            &note.request_id,
            refusal.status,
            refusal.reason.as_ref(),
        );
        let request_log = self.request_log.bind(py);
        request_log
            .call_method("refused", arguments, Some(&options))
            .map(drop)
    }
}

/// The record that `Exchange::give_back` left with its connection.
fn finished_record(record: Box<dyn Any + Send>) -> Option<Box<Record>> {
    record.downcast::<Held<Box<Record>>>().ok()?.take()
}
