//! Writing the head of a response: what the application has given, and what the server adds.

use crate::exchange::Exchange;
use crate::ffi::latin1_bytes;
use crate::response_head::LINE_END;
use penstock_protocol::{Framing, Version, response};
use penstock_reactor::states::{Fate, ResponseState};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

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
