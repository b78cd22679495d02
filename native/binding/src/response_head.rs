//! The head of a response: what the application said, and what the server adds.

use crate::exchange::Exchange;
use crate::ffi::latin1_bytes;
use penstock_protocol::{Framing, Version, response};
use penstock_reactor::states::Fate;
use penstock_reactor::sys;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

impl Exchange {
    pub fn code(&self, py: Python<'_>) -> PyResult<u16> {
        // All statuses have been checked by the gateway: three digits and a space.
        let Some(status) = &self.status else {
            return Ok(0);
        };
        let digits = latin1_bytes(status.bind(py))?.iter().take(3);
        Ok(digits.fold(0, |code, digit| {
            code * 10 + u16::from(digit.wrapping_sub(b'0') % 10)
        }))
    }

    pub fn write_head(&mut self, py: Python<'_>, out: &mut Vec<u8>) -> PyResult<()> {
        let code = self.code(py)?;
        let Some(status) = &self.status else {
            return Err(PyRuntimeError::new_err("there is no response to send"));
        };
        let status = status.bind(py);
        response::begin_head(out, latin1_bytes(status)?);
        let (mut date, mut server) = (true, true);
        if let Some(headers) = &self.headers {
            for item in headers.bind(py).iter() {
                let item = item.cast::<PyTuple>()?;
                let (name, value) = (item.get_borrowed_item(0)?, item.get_borrowed_item(1)?);
                let (name, value) = (name.cast::<PyString>()?, value.cast::<PyString>()?);
                let name = latin1_bytes(name)?;
                date &= !name.eq_ignore_ascii_case(b"date");
                server &= !name.eq_ignore_ascii_case(b"server");
                response::encode_field(out, name, latin1_bytes(value)?);
            }
        }
        let added = out.len();
        self.shared().write_server_fields(date, server, out);
        let length = self.content_length;
        self.framing = response::encode_framing(out, self.is_head, self.version, code, length);
        self.write_connection_field(out);
        if self.shared().options.trace {
            self.trace_head(py, out.get(added..).unwrap_or(&[]))?;
        }
        out.extend_from_slice(b"\r\n");
        self.head_sent = true;
        if self.shared().options.recorded {
            self.first_byte_at = sys::monotonic();
        }
        Ok(())
    }

    fn write_connection_field(&mut self, out: &mut Vec<u8>) {
        let draining = self.shared().draining.get();
        let mut state = self.wire.connection.lock();
        let discard_bytes = self.shared().options.discard_bytes;
        self.wire.decide_unread_body(discard_bytes, &mut state);
        if state.exchange.fate != Fate::Keep
            || !self.keep_alive
            || self.framing == Framing::Close
            || draining
        {
            state.exchange.fate.worsen(Fate::Close);
            out.extend_from_slice(b"Connection: close\r\n");
        } else if self.version == Version::Http10 {
            out.extend_from_slice(b"Connection: keep-alive\r\n");
        }
    }

    /// The application's fields, copied.
    fn fields(&self, py: Python<'_>) -> PyResult<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut fields = Vec::new();
        for item in self
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

    fn trace_head(&self, py: Python<'_>, added: &[u8]) -> PyResult<()> {
        let status = match &self.status {
            Some(status) => latin1_bytes(status.bind(py))?.to_vec(),
            None => Vec::new(),
        };
        let headers = self.fields(py)?;
        if let Some(trace) = &mut self.wire.connection.lock().trace {
            trace.head_sent(&status, headers, added);
        }
        Ok(())
    }

    pub fn trace_body(&self, data: &[u8]) {
        if self.shared().options.trace {
            if let Some(trace) = &mut self.wire.connection.lock().trace {
                trace.body_sent(data);
            }
        }
    }
}
