//! The head of a response: what the application said, and what the server adds.

use crate::exchange::Exchange;
use crate::ffi::{latin1, latin1_bytes};
use penstock_protocol::{Framing, Version, response};
use penstock_reactor::shared::Added;
use penstock_reactor::states::{Fate, ResponseState};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString, PyTuple};

/// More than most heads of applications have.
const USUAL_BYTES: usize = 480;

/// What the application has said of a response before its body, as the bytes that are sent: the status
/// line, and the lines of its fields without Content-Length. All of it has been checked.
pub struct ResponseHead {
    pub code: u16,
    lines: Vec<u8>,
    status_end: usize,
    sets: Added,
}

const VERSION: &[u8] = b"HTTP/1.1 ";
const LINE_END: &[u8] = b"\r\n";

impl ResponseHead {
    pub fn new(status: &[u8], code: u16) -> Self {
        let mut lines = Vec::with_capacity(USUAL_BYTES);
        response::begin_head(&mut lines, status);
        ResponseHead {
            code,
            lines,
            status_end: VERSION.len() + status.len(),
            sets: Added::default(),
        }
    }

    /// The head of a status and of pairs of name and value, which Python code has checked. Its code is
    /// 0 where the status does not begin with three digits.
    pub fn of(status: &Bound<'_, PyString>, fields: &Bound<'_, PyList>) -> PyResult<Self> {
        let status = latin1_bytes(status)?;
        let digits = status.get(..3).unwrap_or(&[]).iter();
        let code = digits.copied().try_fold(0, |code, digit| {
            digit
                .is_ascii_digit()
                .then(|| code * 10 + u16::from(digit - b'0'))
        });
        let mut head = Self::new(status, code.unwrap_or(0));
        for item in fields.iter() {
            let item = item.cast::<PyTuple>()?;
            let (name, value) = (item.get_borrowed_item(0)?, item.get_borrowed_item(1)?);
            let (name, value) = (name.cast::<PyString>()?, value.cast::<PyString>()?);
            head.add(latin1_bytes(name)?, latin1_bytes(value)?);
        }
        Ok(head)
    }

    pub fn add(&mut self, name: &[u8], value: &[u8]) {
        let is = |other: &[u8]| name.eq_ignore_ascii_case(other);
        match name.len() {
            4 => self.sets.date |= is(b"date"),
            6 => self.sets.server |= is(b"server"),
            25 => self.sets.hsts |= is(b"strict-transport-security"),
            _ => {}
        }
        response::encode_field(&mut self.lines, name, value);
    }

    /// Code and reason.
    pub fn status(&self) -> &[u8] {
        let status = VERSION.len()..self.status_end;
        self.lines.get(status).unwrap_or(&[])
    }

    /// Names and values.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut left = self
            .lines
            .get(self.status_end + LINE_END.len()..)
            .unwrap_or(&[]);
        std::iter::from_fn(move || {
            let end = memchr::memchr(b'\r', left)?;
            let (line, after) = left.split_at_checked(end)?;
            left = after.get(LINE_END.len()..)?;
            let colon = memchr::memchr(b':', line)?; // a name has none
            Some((line.get(..colon)?, line.get(colon + 2..)?))
        })
    }

    /// The status, and the fields as Python code gives them.
    pub fn objects<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<(Bound<'py, PyString>, Bound<'py, PyList>)> {
        let fields = PyList::empty(py);
        for (name, value) in self.fields() {
            fields.append((latin1(py, name)?, latin1(py, value)?))?;
        }
        Ok((latin1(py, self.status())?, fields))
    }

    /// The value of a field, repeated ones joined (RFC 9110, section 5.3); None where there is none.
    pub fn field(&self, name: &[u8]) -> Option<Vec<u8>> {
        let mut fields = self.fields();
        let mut same = fields
            .by_ref()
            .filter(|(own, _)| own.eq_ignore_ascii_case(name));
        let mut value = same.next()?.1.to_vec();
        for (_, further) in same {
            value.extend_from_slice(b", ");
            value.extend_from_slice(further);
        }
        Some(value)
    }
}

pub fn write_head(this: &mut Exchange, py: Python<'_>, out: &mut Vec<u8>) -> PyResult<()> {
    let Some(head) = &this.head else {
        return Err(PyRuntimeError::new_err("there is no response to send"));
    };
    let shared = this.shared();
    out.extend_from_slice(&head.lines);
    let added = out.len();
    let stream = &*this.request_body.connection.stream;
    shared.write_server_fields(shared.added_to(stream).without(head.sets), out);
    if shared.options.send_request_id && head.field(b"x-request-id").is_none() {
        let id = latin1_bytes(this.request_id.bind(py))?;
        response::encode_field(out, b"X-Request-ID", id);
    }
    let (code, length) = (head.code, this.content_length);
    this.framing = response::encode_framing(out, this.is_head, this.version, code, length);
    write_connection_field(this, out);
    if this.shared().options.trace {
        trace_head(this, out.get(added..).unwrap_or(&[]));
    }
    out.extend_from_slice(LINE_END);
    this.response.move_to(ResponseState::Sending);
    Ok(())
}

fn write_connection_field(this: &mut Exchange, out: &mut Vec<u8>) {
    let draining = this.shared().draining.get();
    let mut state = this.request_body.connection.lock();
    let discard_bytes = this.shared().options.discard_bytes;
    this.request_body
        .decide_unread_body(discard_bytes, &mut state);
    if state.exchange.fate != Fate::Keep
        || !this.keep_alive
        || this.framing == Framing::Close
        || draining
    {
        state.exchange.fate.worsen(Fate::Close);
        out.extend_from_slice(b"Connection: close\r\n");
    } else {
        drop(state);
        let field = &this.shared().options.keep_alive_field;
        if this.version == Version::Http10 || !field.is_empty() {
            out.extend_from_slice(b"Connection: keep-alive\r\n");
            out.extend_from_slice(field.as_bytes());
        }
    }
}

#[cold]
fn trace_head(this: &Exchange, added: &[u8]) {
    let Some(head) = &this.head else {
        return;
    };
    let fields = head.fields();
    let fields = fields
        .map(|(name, value)| (name.to_vec(), value.to_vec()))
        .collect();
    if let Some(trace) = &mut this.request_body.connection.lock().trace {
        trace.head_sent(head.status(), fields, added);
    }
}
