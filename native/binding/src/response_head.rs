//! The head of a response: what the application said, and what the server adds.

use crate::exchange::Exchange;
use crate::ffi::latin1_bytes;
use crate::record::status_code;
use penstock_protocol::{Framing, Version, response};
use penstock_reactor::states::{Fate, ResponseState};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

/// The status code; 0 before there is one.
pub fn code(this: &Exchange, py: Python<'_>) -> u16 {
    status_code(py, this.status.as_ref()).unwrap_or(0)
}

pub fn write_head(this: &mut Exchange, py: Python<'_>, out: &mut Vec<u8>) -> PyResult<()> {
    let code = code(this, py);
    let Some(status) = &this.status else {
        return Err(PyRuntimeError::new_err("there is no response to send"));
    };
    let status = status.bind(py);
    response::begin_head(out, latin1_bytes(status)?);
    let mut lines = this
        .shared()
        .added_to(&*this.request_body.connection.stream);
    if let Some(headers) = &this.headers {
        for item in headers.bind(py).iter() {
            let item = item.cast::<PyTuple>()?;
            let (name, value) = (item.get_borrowed_item(0)?, item.get_borrowed_item(1)?);
            let (name, value) = (name.cast::<PyString>()?, value.cast::<PyString>()?);
            let name = latin1_bytes(name)?;
            lines.date &= !name.eq_ignore_ascii_case(b"date");
            lines.server &= !name.eq_ignore_ascii_case(b"server");
            lines.hsts = lines.hsts && !name.eq_ignore_ascii_case(b"strict-transport-security");
            response::encode_field(out, name, latin1_bytes(value)?);
        }
    }
    let added = out.len();
    this.shared().write_server_fields(lines, out);
    if this.shared().options.send_request_id {
        write_request_id(this, py, out)?;
    }
    let length = this.content_length;
    this.framing = response::encode_framing(out, this.is_head, this.version, code, length);
    write_connection_field(this, out);
    if this.shared().options.trace {
        trace_head(this, py, out.get(added..).unwrap_or(&[]))?;
    }
    out.extend_from_slice(b"\r\n");
    this.response.move_to(ResponseState::Sending);
    Ok(())
}

/// Write the field with the id of the request, unless the application has set it.
#[cold]
fn write_request_id(this: &Exchange, py: Python<'_>, out: &mut Vec<u8>) -> PyResult<()> {
    let own = fields(this, py)?;
    if !own
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case(b"x-request-id"))
    {
        let id = latin1_bytes(this.request_id.bind(py))?;
        response::encode_field(out, b"X-Request-ID", id);
    }
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

/// The application's fields, copied.
fn fields(this: &Exchange, py: Python<'_>) -> PyResult<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut fields = Vec::new();
    for item in this
        .headers
        .iter()
        .flat_map(|headers| headers.bind(py).iter())
    {
        let item = item.cast::<PyTuple>()?;
        let (name, value) = (item.get_borrowed_item(0)?, item.get_borrowed_item(1)?);
        let (name, value) = (name.cast::<PyString>()?, value.cast::<PyString>()?);
        fields.push((latin1_bytes(name)?.to_vec(), latin1_bytes(value)?.to_vec()));
    }
    Ok(fields)
}

fn trace_head(this: &Exchange, py: Python<'_>, added: &[u8]) -> PyResult<()> {
    let status = match &this.status {
        Some(status) => latin1_bytes(status.bind(py))?.to_vec(),
        None => Vec::new(),
    };
    let headers = fields(this, py)?;
    if let Some(trace) = &mut this.request_body.connection.lock().trace {
        trace.head_sent(&status, headers, added);
    }
    Ok(())
}
