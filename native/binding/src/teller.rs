//! Writes the diary into Python's logs: the error log, the access log, the trace.

use crate::access_line::{LineFormat, address, request_line};
use crate::environ::keys;
use crate::ffi::latin1;
use crate::line_queue::LineQueue;
use crate::record::Record;
use penstock_protocol::Head;
use penstock_reactor::log_queue::{
    CLIENT_LEFT, Entry, HeadCopy, RefusalNote, TracedRequest, TracedResponse,
};
use penstock_reactor::sys::{self, Peer};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString};

pub struct Teller {
    pub logger: Py<PyAny>,
    pub access_log: Option<Py<PyAny>>,
    /// Makes the lines of plain responses; None where only Python can make the log's lines.
    pub line_format: Option<LineFormat>,
    pub lines: Option<Py<LineQueue>>,
    pub trace: Option<Py<PyAny>>,
    /// A `penstock.wsgi.environ.DroppedFields`.
    pub dropped_fields: Py<PyAny>,
    /// The class `penstock.telemetry.access_log.Transaction`.
    pub transaction: Py<PyAny>,
    pub listeners: Vec<Py<PyAny>>,
}

impl Teller {
    /// Write entries. What a log raises is its own affair, and no request's.
    pub fn tell(&self, py: Python<'_>, entries: Vec<Entry>) {
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
            Entry::Settled(record, unsent, reason) => match record.downcast::<Record>() {
                Ok(mut record) => {
                    record.bytes_out = record.bytes_out.saturating_sub(unsent);
                    if !reason.is_empty() {
                        record.reason = reason.into();
                    }
                    self.settled(py, &record)
                }
                Err(_) => Ok(()), // no other kind is made here
            },
            Entry::Note(connection, text) => match &self.trace {
                Some(trace) => trace.call_method1(py, "note", (connection, text)).map(drop),
                None => Ok(()),
            },
            Entry::Request(request) => self.trace_request(py, &request),
            Entry::Response(response) => self.trace_response(py, &response),
            Entry::CloseListener(index) => match self.listeners.get(index) {
                Some(listener) => listener.call_method0(py, "close").map(drop),
                None => Ok(()),
            },
        }
    }

    fn log_info(&self, py: Python<'_>, text: &str) -> PyResult<()> {
        self.logger.call_method1(py, "info", ("%s", text)).map(drop)
    }

    /// Log a message of `penstock.messages` by its name there.
    fn log_message(
        &self,
        py: Python<'_>,
        name: &str,
        arguments: &Bound<'_, PyDict>,
    ) -> PyResult<()> {
        let message = py.import("penstock.messages")?.getattr(name)?;
        message
            .call_method("log", (&self.logger,), Some(arguments))
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

    /// Tell of the fields that were left out for the underscores in their names.
    pub fn tell_of_dropped_fields(
        &self,
        py: Python<'_>,
        head: &Head,
        bytes: &[u8],
    ) -> PyResult<()> {
        for field in &head.fields {
            let name = field.name.of(bytes);
            if name.contains(&b'_') {
                let name = latin1(py, &name.to_ascii_lowercase())?;
                self.dropped_fields.call_method1(py, "tell", (name,))?;
            }
        }
        Ok(())
    }

    /// Write the access log's line for a response.
    pub fn answered(&self, py: Python<'_>, record: &Record) -> PyResult<()> {
        let Some(log) = &self.access_log else {
            return Ok(());
        };
        if let Some(format) = &self.line_format {
            if let Some(line) = format.line(py, record)? {
                return self.queue(py, log, Some(&line));
            }
        }
        let entry = transaction_of(py, record.peer, record.request.as_ref(), &[])?;
        entry.set_item("status", record.code(py))?;
        entry.set_item("bytes_in", record.bytes_in)?;
        entry.set_item("bytes_out", record.bytes_out)?;
        entry.set_item("duration", record.seconds)?;
        entry.set_item("request_id", &record.request_id)?;
        match &record.headers {
            Some(headers) => entry.set_item("response_headers", headers)?,
            None => entry.set_item("response_headers", PyList::empty(py))?,
        }
        entry.set_item("environ", &record.environ)?;
        entry.set_item("reason", record.reason.as_ref())?;
        self.log_transaction(py, log, &entry)
    }

    /// Have Python make a line, and queue it behind the others.
    fn log_transaction(
        &self,
        py: Python<'_>,
        log: &Py<PyAny>,
        entry: &Bound<'_, PyDict>,
    ) -> PyResult<()> {
        let transaction = self.transaction.call(py, (), Some(entry))?;
        let line = log.call_method1(py, "line", (transaction,))?;
        self.queue(py, log, line.extract::<Option<String>>(py)?.as_deref())
    }

    /// Queue a line, or count one that could not be made.
    fn queue(&self, py: Python<'_>, log: &Py<PyAny>, line: Option<&str>) -> PyResult<()> {
        if self
            .lines
            .as_ref()
            .is_some_and(|lines| lines.get().push(line))
        {
            // A call that is interrupted from outside is so once, and its line is queued already.
            if log.call_method0(py, "wake").is_err() {
                log.call_method0(py, "wake")?;
            }
        }
        Ok(())
    }

    /// Tell of a response that was finished before the kernel had all of it.
    fn settled(&self, py: Python<'_>, record: &Record) -> PyResult<()> {
        self.answered(py, record)?;
        if record.reason.is_empty() {
            return Ok(());
        }
        let environ = record.environ.bind(py);
        let part = |key: &Py<PyString>| -> PyResult<String> {
            let text = environ.get_item(key)?.and_then(|text| text.str().ok());
            Ok(text.map_or(String::new(), |text| {
                text.to_string_lossy().escape_debug().to_string()
            }))
        };
        let line = match &record.request {
            Some(HeadCopy { bytes, head }) => {
                let words = [head.method.of(bytes), head.target.of(bytes)];
                String::from_utf8_lossy(&words.join(&b' ')).into_owned()
            }
            None => format!("{} {}", part(&keys(py).method)?, part(&keys(py).raw_uri)?),
        };
        let text = format!(
            "{line} (request {}) for {}: {}",
            record.request_id.bind(py).to_string_lossy(),
            client_name(record.peer),
            record.reason
        );
        self.log_info(py, &text)
    }

    fn refused(&self, py: Python<'_>, note: &RefusalNote) -> PyResult<()> {
        let refusal = &note.refusal;
        let line = match &note.request {
            Some(copy) => request_line(copy),
            None => refusal.request_line.clone(),
        };
        let mut notes = Vec::new();
        if !line.is_empty() {
            // In Latin-1, as the environ has it.
            notes.push(format!(
                "\"{}\"",
                line.iter()
                    .take(200)
                    .map(|byte| char::from(*byte))
                    .collect::<String>()
            ));
        }
        if !refusal.rule.is_empty() {
            notes.push(refusal.rule.to_owned());
        }
        if !refusal.setting.is_empty() {
            notes.push(format!("setting: {}", refusal.setting));
        }
        notes.push(format!("request {}", note.request_id));
        let what = match refusal.status {
            CLIENT_LEFT => "lost",
            _ => "refused",
        };
        let cause = refusal.cause.as_ref();
        let text = format!(
            "{what} a request from {}: {} {}{} ({})",
            client_name(note.peer),
            refusal.status,
            refusal.reason,
            cause.map_or(String::new(), |cause| format!(" {cause}.")),
            notes.join("; "),
        );
        self.log_info(py, &text)?;
        let Some(log) = &self.access_log else {
            return Ok(());
        };
        let entry = transaction_of(py, note.peer, note.request.as_ref(), &refusal.request_line)?;
        entry.set_item("status", refusal.status)?;
        entry.set_item("bytes_in", note.bytes_in)?;
        entry.set_item("bytes_out", note.bytes_out)?;
        entry.set_item("duration", note.seconds)?;
        entry.set_item("request_id", &note.request_id)?;
        if let (None, Some(copy)) = (&note.request, &refusal.head) {
            entry.set_item("request_fields", fields_of(py, copy)?)?;
        }
        entry.set_item("response_headers", PyList::empty(py))?;
        entry.set_item("environ", py.None())?;
        entry.set_item("reason", refusal.reason.as_ref())?;
        self.log_transaction(py, log, &entry)
    }

    fn trace_request(&self, py: Python<'_>, request: &TracedRequest) -> PyResult<()> {
        let Some(trace) = &self.trace else {
            return Ok(());
        };
        let arguments = (
            request.connection,
            request.number,
            &request.peer,
            PyBytes::new(py, &request.head),
            PyBytes::new(py, &request.body),
            request.length,
        );
        trace.call_method1(py, "request", arguments).map(drop)
    }

    fn trace_response(&self, py: Python<'_>, response: &TracedResponse) -> PyResult<()> {
        let Some(trace) = &self.trace else {
            return Ok(());
        };
        let headers = PyList::empty(py);
        for (name, value) in &response.headers {
            headers.append((latin1(py, name)?, latin1(py, value)?))?;
        }
        let added = PyList::empty(py);
        for line in response.added.split(|byte| *byte == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if let Some(colon) = memchr::memmem::find(line, b": ") {
                let (name, value) = line.split_at_checked(colon).unwrap_or((line, b": "));
                let value = value.get(2..).unwrap_or(&[]);
                added.append((latin1(py, name)?, latin1(py, value)?))?;
            }
        }
        let arguments = (
            response.connection,
            response.number,
            latin1(py, &response.status)?,
            headers,
            added,
            PyBytes::new(py, &response.body),
            response.length,
            &response.note,
        );
        trace.call_method1(py, "response", arguments).map(drop)
    }
}

fn client_name(peer: Peer) -> String {
    peer.map_or("a unix socket".to_owned(), |(ip, _)| ip.to_string())
}

/// The arguments of a `Transaction` that tell of the client and its request.
fn transaction_of<'py>(
    py: Python<'py>,
    peer: Peer,
    request: Option<&HeadCopy>,
    line: &[u8],
) -> PyResult<Bound<'py, PyDict>> {
    let entry = PyDict::new(py);
    entry.set_item("client_addr", address(peer))?;
    let port = peer.map_or(String::new(), |(_, port)| port.to_string());
    entry.set_item("client_port", port)?;
    let (line, fields) = match request {
        Some(copy) => (request_line(copy), fields_of(py, copy)?),
        None => (line.to_vec(), PyDict::new(py)),
    };
    let parts: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let (method, target, version) = match parts.as_slice() {
        [method, target, version] => (*method, *target, *version),
        _ => (&b"-"[..], &b"-"[..], &b"-"[..]),
    };
    entry.set_item("method", latin1(py, method)?)?;
    entry.set_item("target", latin1(py, target)?)?;
    entry.set_item("version", latin1(py, version)?)?;
    let whole: Bound<'_, PyString> = if line.is_empty() {
        latin1(py, b"-")?
    } else {
        latin1(py, &line)?
    };
    entry.set_item("request_line", whole)?;
    entry.set_item("finished_at", sys::wall())?;
    entry.set_item("request_fields", fields)?;
    Ok(entry)
}

/// The fields by their lower-case names.
fn fields_of<'py>(py: Python<'py>, copy: &HeadCopy) -> PyResult<Bound<'py, PyDict>> {
    let fields = PyDict::new(py);
    for (name, value) in copy.head.joined_fields(&copy.bytes) {
        fields.set_item(latin1(py, &name)?, latin1(py, &value)?)?;
    }
    Ok(fields)
}
