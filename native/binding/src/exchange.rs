//! One request that is with the application, and the means to answer it.

use crate::diary::{HeadCopy, Record};
use crate::ffi::latin1_bytes;
use crate::hub::Hub;
use crate::output::FILE_TRUNCATED;
use crate::pace::PathHash;
use crate::sys::{self, Nanos, SECOND};
use crate::tap;
use crate::transport::Core;
use crate::wire::{self, Failure, Wire};
use penstock_protocol::{Framing, Version, choose_framing, response};
use pyo3::exceptions::{PyOSError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyDict, PyList, PySequence, PyString, PyTuple};
use std::cell::Cell;
use std::sync::Arc;

pyo3::import_exception!(penstock.errors, ClientDisconnected);
pyo3::import_exception!(penstock.errors, RequestBodyError);

/// A body block up to this size is copied behind the head, so that both leave in one send; above,
/// it is sent from where it is, without the GIL.
const JOIN_BYTES: usize = 64 * 1024;

thread_local! {
    /// What the thread writes heads and small blocks into.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// `penstock.transport.Exchange`, by the thread that handles it.
#[pyclass(module = "penstock._native", freelist = 64)]
pub struct Exchange {
    #[pyo3(get)]
    pub environ: Py<PyDict>,
    #[pyo3(get)]
    pub body: Option<Py<PyAny>>,
    #[pyo3(get)]
    pub request_id: Py<PyString>,
    #[pyo3(get)]
    pub head_sent: bool,
    pub wire: Wire,
    pub core: Arc<Core>,
    pub request: Option<Box<HeadCopy>>, // for the access log
    pub is_head: bool,
    pub version: Version,
    pub keep_alive: bool,
    pub path: PathHash,
    pub handed_out_at: Nanos,
    pub status: Option<Py<PyString>>,
    pub headers: Option<Py<PyList>>,
    pub content_length: Option<u64>,
    pub framing: Framing,
    pub body_sent: u64,
    pub done: bool,
}

#[pymethods]
impl Exchange {
    fn receive<'py>(&mut self, py: Python<'py>, size: usize) -> PyResult<Bound<'py, PyBytes>> {
        self.check_process()?;
        if self.done && self.wire.awaits_more() {
            // The connection is the leader's again: what arrives may be of another request.
            return Err(PyOSError::new_err(
                "the response has ended: the request's body can no longer be read",
            ));
        }
        let (core, wire, head_sent) = (&self.core, &mut self.wire, self.head_sent);
        py.detach(|| wire.receive(&core.hub, size, head_sent))
            .map_err(raised)?;
        wire.take_unread(py, size)
    }

    fn send_informational(
        &mut self,
        py: Python<'_>,
        status: &Bound<'_, PyString>,
        headers: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        if self.version == Version::Http10 || self.head_sent {
            return Ok(()); // RFC 9110, section 15.2
        }
        self.check_process()?;
        let mut out = Vec::new();
        response::begin_head(&mut out, latin1_bytes(status)?);
        let headers = headers.cast::<PySequence>()?;
        for item in headers.try_iter()? {
            let (name, value) = item?.extract::<(Bound<'_, PyString>, Bound<'_, PyString>)>()?;
            response::encode_field(&mut out, latin1_bytes(&name)?, latin1_bytes(&value)?);
        }
        out.extend_from_slice(b"\r\n");
        self.transmit(py, &out)?;
        if self.hub().options.trace {
            let text = String::from_utf8_lossy(latin1_bytes(status)?).into_owned();
            wire::trace_interim(self.hub(), &self.wire.connection, &text);
        }
        Ok(())
    }

    fn respond(
        &mut self,
        status: Py<PyString>,
        headers: Py<PyList>,
        content_length: Option<u64>,
    ) -> PyResult<()> {
        if self.head_sent {
            return Err(PyRuntimeError::new_err(
                "the response's head has been sent already",
            ));
        }
        self.status = Some(status);
        self.headers = Some(headers);
        self.content_length = content_length;
        Ok(())
    }

    fn send(&mut self, py: Python<'_>, data: &Bound<'_, PyBytes>) -> PyResult<()> {
        let bytes = data.as_bytes();
        if bytes.is_empty() {
            return Ok(());
        }
        self.check_process()?;
        with_scratch(|out| {
            if !self.head_sent {
                self.write_head(py, out)?;
            }
            if self.framing == Framing::None {
                return if out.is_empty() {
                    Ok(())
                } else {
                    self.transmit(py, out)
                };
            }
            self.body_sent += bytes.len() as u64;
            self.tap_body(bytes);
            self.write_block(py, out, data, b"")?;
            self.apply_back_pressure(py)
        })
    }

    fn send_file(
        &mut self,
        py: Python<'_>,
        descriptor: i32,
        offset: u64,
        count: u64,
    ) -> PyResult<()> {
        if count == 0 {
            return Ok(());
        }
        self.check_process()?;
        let file = match sys::duplicate(descriptor) {
            Ok(file) => file,
            // No descriptor is left for a second one: this one has to do, while it is open.
            Err(_) => return self.send_by_reading(py, descriptor, offset, count),
        };
        with_scratch(|out| {
            if !self.head_sent {
                self.write_head(py, out)?;
            }
            if self.framing == Framing::Chunked {
                response::encode_chunk_size(out, usize::try_from(count).unwrap_or(usize::MAX));
            }
            if !out.is_empty() {
                self.transmit(py, out)?;
            }
            if self.framing == Framing::None {
                return Ok(());
            }
            self.body_sent += count;
            if self.hub().options.trace {
                let mut start = [0; tap::BODY_BYTES];
                let size = sys::read_at(file.raw(), &mut start, offset)?;
                let shown = size.min(usize::try_from(count).unwrap_or(size));
                self.tap_body(start.get(..shown).unwrap_or(&[]));
            }
            let chunk_end: &[u8] = if self.framing == Framing::Chunked {
                b"\r\n"
            } else {
                b""
            };
            let (core, wire) = (&self.core, &self.wire);
            py.detach(|| wire.send_region(&core.hub, file, offset, count, chunk_end))
                .map_err(raised)
        })
    }

    #[pyo3(signature = (data = None))]
    fn finish(&mut self, py: Python<'_>, data: Option<&Bound<'_, PyBytes>>) -> PyResult<()> {
        if self.done {
            return Ok(());
        }
        self.check_process()?;
        with_scratch(|out| {
            if self.head_sent {
                self.finish_body(py, out, data)
            } else {
                self.finish_whole(py, out, data)
            }
        })?;
        self.end(py, "");
        Ok(())
    }

    fn abort(&mut self, py: Python<'_>) {
        if self.done {
            return;
        }
        if self.core.hub.abandoned.get() {
            self.done = true;
            return;
        }
        let connection = Arc::clone(&self.wire.connection);
        {
            let mut held = connection.lock();
            held.close_after = true;
            // A body that ends with the connection would look complete; so would a connection
            // that closes in good order before any response, to a client that retries.
            let unseen = !self.head_sent || self.framing == Framing::Close;
            held.broken = connection.is_gone() || unseen;
        }
        self.end(py, "response cut off");
    }

    fn close_after_response(&mut self) {
        if !self.core.hub.abandoned.get() {
            self.wire.connection.lock().close_after = true;
        }
    }

    fn client_gone(&self) -> bool {
        if self.core.hub.abandoned.get() {
            return true;
        }
        let connection = &self.wire.connection;
        if !connection.is_gone() {
            let trouble = sys::wait_until(&connection.socket, sys::Readiness::Trouble, 0);
            if trouble.unwrap_or(true) {
                connection.set_gone();
            }
        }
        connection.is_gone()
    }
}

impl Exchange {
    fn hub(&self) -> &Hub {
        &self.core.hub
    }

    /// A child that the application forked has no client: the parent answers.
    fn check_process(&self) -> PyResult<()> {
        if self.hub().abandoned.get() {
            return Err(ClientDisconnected::new_err(
                "the connection is the parent process's",
            ));
        }
        Ok(())
    }

    /// Send head and body at once.
    fn finish_whole(
        &mut self,
        py: Python<'_>,
        out: &mut Vec<u8>,
        data: Option<&Bound<'_, PyBytes>>,
    ) -> PyResult<()> {
        let bytes = data.map_or(&[][..], |data| data.as_bytes());
        // To HEAD, and with a 304, it would be the length of what is not sent here, which nobody
        // knows (RFC 9110, section 8.6).
        if self.content_length.is_none() && !self.is_head && self.code(py)? != 304 {
            self.content_length = Some(bytes.len() as u64);
        }
        self.write_head(py, out)?;
        match data {
            Some(data) if !bytes.is_empty() && self.framing != Framing::None => {
                self.body_sent = bytes.len() as u64;
                self.tap_body(bytes);
                if bytes.len() > JOIN_BYTES {
                    return self.write_block(py, out, data, b"");
                }
                out.extend_from_slice(bytes);
                self.transmit_whole(py, out)
            }
            _ => self.transmit_whole(py, out),
        }
    }

    /// Send a whole response, now or with the next.
    fn transmit_whole(&self, py: Python<'_>, data: &[u8]) -> PyResult<()> {
        let corked = wire::cork(self.hub(), &mut self.wire.connection.lock(), data);
        if corked {
            Ok(())
        } else {
            self.transmit(py, data)
        }
    }

    /// Send a file's part block by block.
    fn send_by_reading(
        &mut self,
        py: Python<'_>,
        descriptor: i32,
        mut offset: u64,
        mut count: u64,
    ) -> PyResult<()> {
        let mut buffer = vec![0; JOIN_BYTES];
        while count > 0 {
            let most = usize::try_from(count).unwrap_or(JOIN_BYTES).min(JOIN_BYTES);
            let block = buffer.get_mut(..most).unwrap_or(&mut []);
            let read = py.detach(|| sys::read_at(descriptor, block, offset))?;
            if read == 0 {
                return Err(PyOSError::new_err((libc::EIO, FILE_TRUNCATED)));
            }
            let data = PyBytes::new(py, buffer.get(..read).unwrap_or(&[]));
            self.send(py, &data)?;
            offset += read as u64;
            count -= read as u64;
        }
        Ok(())
    }

    /// Send the last block, and what ends the body.
    fn finish_body(
        &mut self,
        py: Python<'_>,
        out: &mut Vec<u8>,
        data: Option<&Bound<'_, PyBytes>>,
    ) -> PyResult<()> {
        if self.framing == Framing::None {
            return Ok(());
        }
        let end = if self.framing == Framing::Chunked {
            response::LAST_CHUNK
        } else {
            b""
        };
        match data {
            Some(data) if !data.as_bytes().is_empty() => {
                self.body_sent += data.as_bytes().len() as u64;
                self.tap_body(data.as_bytes());
                self.write_block(py, out, data, end)
            }
            _ if end.is_empty() => {
                // Nothing is sent that would fail, where the leader found that no more can be.
                let mut held = self.wire.connection.lock();
                wire::check_output(&self.wire.connection, &mut held).map_err(raised)
            }
            _ => self.transmit(py, end),
        }
    }

    /// Send `out`, a block in the response's framing, and `end`.
    fn write_block(
        &mut self,
        py: Python<'_>,
        out: &mut Vec<u8>,
        data: &Bound<'_, PyBytes>,
        end: &'static [u8],
    ) -> PyResult<()> {
        let bytes = data.as_bytes();
        let chunked = self.framing == Framing::Chunked;
        if bytes.len() <= JOIN_BYTES {
            if chunked {
                response::encode_chunk(out, bytes);
            } else {
                out.extend_from_slice(bytes);
            }
            out.extend_from_slice(end);
            return self.transmit(py, out);
        }
        if chunked {
            response::encode_chunk_size(out, bytes.len());
        }
        // Only of the type itself: the end of a subclass's instance runs its code, and that must
        // not happen under a lock.
        let exact = match data.cast_exact::<PyBytes>() {
            Ok(exact) => exact.clone(),
            Err(_) => PyBytes::new(py, bytes),
        };
        let block = PyBackedBytes::from(exact);
        let chunk_end: &'static [u8] = if chunked { response::CHUNK_END } else { b"" };
        let (core, wire, out) = (&self.core, &self.wire, &*out);
        py.detach(|| wire.send_large(&core.hub, out, block, [chunk_end, end]))
            .map_err(raised)
    }

    /// Send bytes now where the kernel takes them, and queue the rest.
    fn transmit(&self, _py: Python<'_>, data: &[u8]) -> PyResult<()> {
        let mut held = self.wire.connection.lock();
        let result = wire::send_small(self.hub(), &self.wire.connection, &mut held, data);
        drop(held);
        result.map_err(raised)
    }

    fn apply_back_pressure(&self, py: Python<'_>) -> PyResult<()> {
        if !self.wire.connection.lock().output.busy() {
            return Ok(());
        }
        let (core, wire) = (&self.core, &self.wire);
        py.detach(|| wire.wait_for_room(&core.hub)).map_err(raised)
    }

    /// Send a response whose body is one block.
    pub fn answer(
        &mut self,
        py: Python<'_>,
        status: Py<PyString>,
        headers: Py<PyList>,
        block: &Bound<'_, PyBytes>,
    ) -> PyResult<()> {
        let size = block.as_bytes().len() as u64;
        self.respond(status, headers, Some(size))?;
        self.finish(py, Some(block))
    }

    // -- the head -------------------------------------------------------------------------------

    fn code(&self, py: Python<'_>) -> PyResult<u16> {
        // All statuses have been checked by the gateway: three digits and a space.
        let Some(status) = &self.status else {
            return Ok(0);
        };
        let digits = latin1_bytes(status.bind(py))?.iter().take(3);
        Ok(digits.fold(0, |code, digit| {
            code * 10 + u16::from(digit.wrapping_sub(b'0') % 10)
        }))
    }

    fn write_head(&mut self, py: Python<'_>, out: &mut Vec<u8>) -> PyResult<()> {
        let code = self.code(py)?;
        let method: &[u8] = if self.is_head { b"HEAD" } else { b"" };
        self.framing = choose_framing(method, self.version, code, self.content_length);
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
        self.hub().write_server_fields(date, server, out);
        match (self.framing, self.content_length) {
            (Framing::Chunked, _) => response::encode_field(out, b"Transfer-Encoding", b"chunked"),
            (Framing::Length, Some(length)) => response::encode_content_length(out, length),
            // On HEAD and 304 it tells what a GET would have got (RFC 9110, section 8.6).
            (Framing::None, Some(length)) if code != 204 => {
                response::encode_content_length(out, length);
            }
            _ => {}
        }
        self.write_connection_field(out);
        if self.hub().options.trace {
            self.tap_head(py, out.get(added..).unwrap_or(&[]))?;
        }
        out.extend_from_slice(b"\r\n");
        self.head_sent = true;
        Ok(())
    }

    fn write_connection_field(&mut self, out: &mut Vec<u8>) {
        let draining = self.hub().draining.get();
        let mut held = self.wire.connection.lock();
        self.wire.settle_request_body(&mut held);
        if held.close_after || !self.keep_alive || self.framing == Framing::Close || draining {
            held.close_after = true;
            out.extend_from_slice(b"Connection: close\r\n");
        } else if self.version == Version::Http10 {
            out.extend_from_slice(b"Connection: keep-alive\r\n");
        }
    }

    // -- the trace ------------------------------------------------------------------------------

    fn tap_head(&self, py: Python<'_>, added: &[u8]) -> PyResult<()> {
        let status = match &self.status {
            Some(status) => latin1_bytes(status.bind(py))?.to_vec(),
            None => Vec::new(),
        };
        let headers = self.headers.as_ref().map(|headers| headers.clone_ref(py));
        if let Some(tap) = &mut self.wire.connection.lock().tap {
            tap.head_sent(&status, headers, added);
        }
        Ok(())
    }

    fn tap_body(&self, data: &[u8]) {
        if self.hub().options.trace {
            if let Some(tap) = &mut self.wire.connection.lock().tap {
                tap.body_sent(data);
            }
        }
    }

    /// End an exchange that nobody waits for any more; tell whether it was one.
    pub fn drop_if_client_gone(&mut self, py: Python<'_>) -> bool {
        if !self.client_gone() {
            return false;
        }
        {
            let mut held = self.wire.connection.lock();
            held.broken = true;
            held.close_after = true;
        }
        self.handed_out_at = sys::monotonic();
        self.end(py, "the client left before a thread was free");
        true
    }

    // -- the end --------------------------------------------------------------------------------

    fn end(&mut self, py: Python<'_>, reason: &str) {
        self.done = true;
        let now = sys::monotonic();
        let core = Arc::clone(&self.core);
        let time = now.saturating_sub(self.handed_out_at);
        core.hub.pace.note(self.path, time);
        let connection = Arc::clone(&self.wire.connection);
        let mut held = connection.lock();
        // Logged when it is known what became of it.
        let later = held.output.size > 0 && reason.is_empty() && !held.corked;
        let mut record = None;
        if self.request.is_some() || later {
            record = Some(self.record(py, now.saturating_sub(held.began), reason));
        }
        let number = held.requests;
        if let Some(tap) = &mut held.tap {
            core.hub
                .diary
                .write(tap.response(number, self.body_sent, reason));
        }
        if let Some(record) = &mut record {
            record.bytes_out = record.bytes_out.saturating_sub(held.output.lost());
        }
        if later {
            held.record = record.take();
        }
        let hurry = connection.give_back(&core.hub, &mut held, now);
        drop(held);
        if hurry {
            core.hub.hurry();
        }
        if let Some(record) = record {
            if let Err(error) = core.teller.answered(py, &record) {
                error.write_unraisable(py, None);
            }
        }
    }

    fn record(&mut self, py: Python<'_>, time: Nanos, reason: &str) -> Box<Record> {
        Box::new(Record {
            peer: self.wire.connection.peer,
            request: self.request.take().map(|copy| *copy),
            status: self.status.as_ref().map(|status| status.clone_ref(py)),
            headers: self.headers.as_ref().map(|headers| headers.clone_ref(py)),
            environ: self.environ.clone_ref(py),
            request_id: self.request_id.clone_ref(py),
            bytes_in: self.wire.received,
            bytes_out: self.body_sent,
            seconds: time as f64 / SECOND as f64,
            reason: reason.to_owned().into(),
        })
    }
}

/// Lend the thread's buffer, empty; a block that made it large does not keep it so.
fn with_scratch<T>(work: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    let mut out = SCRATCH.take();
    out.clear();
    let result = work(&mut out);
    if out.capacity() <= 4 * JOIN_BYTES {
        SCRATCH.set(out);
    }
    result
}

/// What a failure on the wire is in Python.
fn raised(failure: Failure) -> PyErr {
    match failure {
        Failure::Disconnected(text) => ClientDisconnected::new_err(text),
        Failure::BadBody(status, text) => RequestBodyError::new_err((status, text)),
    }
}
