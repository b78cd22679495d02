//! One request that is with the application, and the means to answer it.

use crate::call_deadline::CallDeadline;
use crate::ffi::latin1_bytes;
use crate::record::Record;
use crate::scratch::with_scratch;
use crate::transport::Core;
use penstock_protocol::{Framing, Version, response};
use penstock_reactor::connection::Connection;
use penstock_reactor::exchange_trace::Transcript;
use penstock_reactor::log_queue::{Ended, HeadCopy, Times};
use penstock_reactor::output::FILE_TRUNCATED;
use penstock_reactor::shared::Shared;
use penstock_reactor::slow_path_estimate::PathHash;
use penstock_reactor::states::Fate;
use penstock_reactor::sys::{self, Fd, Nanos};
use penstock_reactor::wire::{self, Failure, Wire};
use pyo3::exceptions::{PyOSError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyDict, PyList, PySequence, PyString};
use std::any::Any;
use std::sync::Arc;

pyo3::import_exception!(penstock.errors, ClientDisconnected);
pyo3::import_exception!(penstock.errors, RequestAborted);
pyo3::import_exception!(penstock.errors, RequestBodyError);

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
    /// In the transport's life.
    pub number: u64,
    pub wire: Wire,
    pub core: Arc<Core>,
    pub request: Option<Box<HeadCopy>>, // for the observers
    pub is_head: bool,
    pub version: Version,
    pub keep_alive: bool,
    pub path: PathHash,
    pub handed_out_at: Nanos,
    /// When the head was sent, where a record of the request will tell it; else 0.
    pub first_byte_at: Nanos,
    pub status: Option<Py<PyString>>,
    pub headers: Option<Py<PyList>>,
    pub content_length: Option<u64>,
    pub framing: Framing,
    pub body_sent: u64,
    pub done: bool,
    /// Its thread did not come back in time, and finds it over.
    pub timed_out: bool,
    pub deadline: CallDeadline,
    /// Why its response is what it is, for the access log; empty where there is nothing to say.
    pub reason: String,
}

#[pymethods]
impl Exchange {
    fn receive<'py>(slf: &Bound<'py, Self>, size: usize) -> PyResult<Bound<'py, PyBytes>> {
        let py = slf.py();
        let mut buffer = Vec::new();
        loop {
            let (connection, patience, core) = {
                let mut this = slf.try_borrow_mut()?;
                let Some(patience) = this.receive_some(size, &mut buffer)? else {
                    return Ok(PyBytes::new(py, &this.wire.take_unread(size)));
                };
                let connection = Arc::clone(&this.wire.connection);
                (connection, patience, Arc::clone(&this.core))
            };
            let call = slf.try_borrow()?.stop_clock();
            let (waited, ready) =
                py.detach(|| wire::wait_for_input(&core.shared, &connection, patience));
            slf.try_borrow()?.go_on(py, call)?;
            {
                let mut this = slf.try_borrow_mut()?;
                if !this.done {
                    let late = !ready && waited >= patience;
                    this.wire.note_wait(waited, late).map_err(raised)?;
                }
            }
            if !ready {
                py.check_signals()?; // where this is the main thread
            }
        }
    }

    fn send_informational(
        &mut self,
        status: &Bound<'_, PyString>,
        headers: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        if self.version == Version::Http10 || self.head_sent {
            return Ok(()); // RFC 9110, section 15.2
        }
        self.check_may_send()?;
        let mut out = Vec::new();
        response::begin_head(&mut out, latin1_bytes(status)?);
        let headers = headers.cast::<PySequence>()?;
        for item in headers.try_iter()? {
            let (name, value) = item?.extract::<(Bound<'_, PyString>, Bound<'_, PyString>)>()?;
            response::encode_field(&mut out, latin1_bytes(&name)?, latin1_bytes(&value)?);
        }
        out.extend_from_slice(b"\r\n");
        self.transmit(&out)?;
        if self.shared().options.trace {
            if let Some(trace) = &mut self.wire.connection.lock().trace {
                trace.sent_interim(latin1_bytes(status)?);
            }
        }
        Ok(())
    }

    pub fn respond(
        &mut self,
        status: Py<PyString>,
        headers: Py<PyList>,
        content_length: Option<u64>,
    ) -> PyResult<()> {
        if self.timed_out {
            self.check_process()?;
        }
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

    fn send(slf: &Bound<'_, Self>, data: &Bound<'_, PyBytes>) -> PyResult<()> {
        let bytes = data.as_bytes();
        if bytes.is_empty() {
            return Ok(());
        }
        with_scratch(|out| {
            {
                let mut this = slf.try_borrow_mut()?;
                this.check_may_send()?;
                if !this.head_sent {
                    this.write_head(slf.py(), out)?;
                }
                if this.framing == Framing::None {
                    return if out.is_empty() {
                        Ok(())
                    } else {
                        this.transmit(out)
                    };
                }
            }
            Self::write_counted(slf, out, data, b"")?;
            slf.try_borrow()?.note_progress(slf.py())?;
            Self::apply_back_pressure(slf)
        })
    }

    fn send_file(slf: &Bound<'_, Self>, descriptor: i32, offset: u64, count: u64) -> PyResult<()> {
        if count == 0 {
            return Ok(());
        }
        let file = match sys::duplicate(descriptor) {
            Ok(file) => file,
            // No descriptor is left for a second one: this one has to do, while it is open.
            Err(_) => return Self::send_by_reading(slf, descriptor, offset, count),
        };
        let outlet = {
            let mut this = slf.try_borrow_mut()?;
            this.check_may_send()?;
            with_scratch(|out| this.begin_region(slf.py(), out, &file, offset, count))?;
            this.note_progress(slf.py())?;
            if this.framing == Framing::None {
                return Ok(());
            }
            this.outlet()
        };
        let chunk_end: &[u8] = if outlet.chunked { b"\r\n" } else { b"" };
        slf.py()
            .detach(|| {
                wire::send_region(
                    outlet.shared(),
                    &outlet.connection,
                    file,
                    offset,
                    count,
                    chunk_end,
                )
            })
            .map_err(raised)
    }

    #[pyo3(signature = (data = None))]
    pub fn finish(slf: &Bound<'_, Self>, data: Option<&Bound<'_, PyBytes>>) -> PyResult<()> {
        let head_sent = {
            let this = slf.try_borrow()?;
            if this.done && !this.timed_out {
                return Ok(());
            }
            this.check_process()?;
            this.head_sent
        };
        with_scratch(|out| {
            if head_sent {
                Self::finish_body(slf, out, data)
            } else {
                Self::finish_whole(slf, out, data)
            }
        })?;
        Self::end(slf, "")
    }

    pub fn abort(slf: &Bound<'_, Self>) -> PyResult<()> {
        {
            let mut this = slf.try_borrow_mut()?;
            if this.done {
                return Ok(());
            }
            if this.core.shared.closed_in_child.get() {
                this.done = true;
                return Ok(());
            }
            let connection = &this.wire.connection;
            let mut state = connection.lock();
            connection.uncork(&mut state); // what waited is an earlier response, and whole
            // A body that ends with the connection would look complete; so would a connection
            // that closes in good order before any response, to a client that retries.
            let unseen = !this.head_sent || this.framing == Framing::Close;
            let reset = connection.is_gone() || unseen;
            state
                .exchange
                .fate
                .worsen(if reset { Fate::Reset } else { Fate::Close });
        }
        let reason = std::mem::take(&mut slf.try_borrow_mut()?.reason);
        if reason.is_empty() {
            return Self::end(slf, "response cut off");
        }
        Self::end(slf, &reason)
    }

    fn set_reason(&mut self, reason: String) {
        self.reason = reason;
    }

    fn close_after_response(&mut self) {
        if !self.done && !self.core.shared.closed_in_child.get() {
            self.wire
                .connection
                .lock()
                .exchange
                .fate
                .worsen(Fate::Close);
        }
    }

    pub fn client_gone(&self) -> bool {
        self.timed_out || self.core.shared.closed_in_child.get() || self.wire.connection.find_gone()
    }
}

impl Exchange {
    pub fn shared(&self) -> &Shared {
        &self.core.shared
    }

    /// A child that the application forked has no client: the parent answers.
    fn check_process(&self) -> PyResult<()> {
        if self.timed_out {
            let text = format!("the server ended the request: {}", self.reason);
            return Err(RequestAborted::new_err(text));
        }
        if self.shared().closed_in_child.get() {
            return Err(ClientDisconnected::new_err(
                "the connection is the parent process's",
            ));
        }
        Ok(())
    }

    /// A response that has ended takes nothing more: the connection may be at its next request.
    fn check_may_send(&self) -> PyResult<()> {
        self.check_process()?;
        if self.done {
            return Err(PyRuntimeError::new_err("the response has ended"));
        }
        Ok(())
    }

    fn note_progress(&self, py: Python<'_>) -> PyResult<()> {
        let environ = self.environ.bind(py);
        self.deadline.progress(&self.shared().scoreboard, environ)
    }

    fn stop_clock(&self) -> u64 {
        self.deadline.stop_clock(&self.shared().scoreboard)
    }

    fn go_on(&self, py: Python<'_>, call: u64) -> PyResult<()> {
        let environ = self.environ.bind(py);
        self.deadline
            .go_on(&self.shared().scoreboard, call, environ)
    }

    /// Look for a part of the streamed body; None where there is one, or its end, else for how
    /// long to wait for input.
    fn receive_some(&mut self, size: usize, buffer: &mut Vec<u8>) -> PyResult<Option<Nanos>> {
        self.check_process()?;
        if self.done && self.wire.awaits_more() {
            // The connection is the leader's again: what arrives may be of another request.
            return Err(PyOSError::new_err(
                "the response has ended: the request's body can no longer be read",
            ));
        }
        let (core, wire, head_sent) = (&self.core, &mut self.wire, self.head_sent);
        wire.receive(&core.shared, size, head_sent, buffer)
            .map_err(raised)
    }

    /// What sending needs without the GIL. The exchange must not stay borrowed then: another
    /// thread of the application may be about to read the request's body.
    fn outlet(&self) -> Outlet {
        Outlet {
            core: Arc::clone(&self.core),
            connection: Arc::clone(&self.wire.connection),
            chunked: self.framing == Framing::Chunked,
        }
    }

    /// Send a block, and count it as far as it has left.
    fn write_counted(
        slf: &Bound<'_, Self>,
        out: &mut Vec<u8>,
        data: &Bound<'_, PyBytes>,
        end: &'static [u8],
    ) -> PyResult<()> {
        let lost = slf.try_borrow()?.wire.connection.lock().output.lost();
        let written = Self::write_block(slf, out, data, end);
        let mut this = slf.try_borrow_mut()?;
        // A part of a large block may have left before the rest was lost, and what was lost is taken
        // off in the end.
        if written.is_ok() || this.wire.connection.lock().output.lost() > lost {
            this.count_body(data.as_bytes());
        }
        written
    }

    pub fn count_body(&mut self, sent: &[u8]) {
        self.body_sent += sent.len() as u64;
        self.trace_body(sent);
    }

    /// Send head and body at once.
    #[inline(always)]
    fn finish_whole(
        slf: &Bound<'_, Self>,
        out: &mut Vec<u8>,
        data: Option<&Bound<'_, PyBytes>>,
    ) -> PyResult<()> {
        let py = slf.py();
        let mut this = slf.try_borrow_mut()?;
        let bytes = data.map_or(&[][..], |data| data.as_bytes());
        // Without a body, `data` does not tell what its length would be (RFC 9110, section 8.6).
        if this.content_length.is_none() && response::has_body(this.is_head, this.code(py)?) {
            this.content_length = Some(bytes.len() as u64);
        }
        this.write_head(py, out)?;
        match data {
            Some(data) if !bytes.is_empty() && this.framing != Framing::None => {
                if bytes.len() > this.shared().options.join_bytes {
                    drop(this);
                    Self::write_counted(slf, out, data, b"")?;
                } else {
                    out.extend_from_slice(bytes);
                    this.transmit_whole(out)?;
                    this.count_body(bytes);
                }
                Ok(())
            }
            _ => this.transmit_whole(out),
        }
    }

    /// Send a whole response, now or with the next.
    fn transmit_whole(&self, data: &[u8]) -> PyResult<()> {
        let corked = wire::cork(self.shared(), &mut self.wire.connection.lock(), data);
        if corked { Ok(()) } else { self.transmit(data) }
    }

    /// Send what precedes a part of a file.
    fn begin_region(
        &mut self,
        py: Python<'_>,
        out: &mut Vec<u8>,
        file: &Fd,
        offset: u64,
        count: u64,
    ) -> PyResult<()> {
        if !self.head_sent {
            self.write_head(py, out)?;
        }
        if self.framing == Framing::Chunked {
            response::encode_chunk_size(out, usize::try_from(count).unwrap_or(usize::MAX));
        }
        if !out.is_empty() {
            self.transmit(out)?;
        }
        if self.framing == Framing::None {
            return Ok(());
        }
        self.body_sent += count;
        if self.shared().options.trace {
            let mut start = vec![0; self.shared().options.trace_body];
            let size = sys::read_at(file.raw(), &mut start, offset)?;
            let shown = size.min(usize::try_from(count).unwrap_or(size));
            self.trace_body(start.get(..shown).unwrap_or(&[]));
        }
        Ok(())
    }

    /// Send a file's part block by block.
    fn send_by_reading(
        slf: &Bound<'_, Self>,
        descriptor: i32,
        mut offset: u64,
        mut count: u64,
    ) -> PyResult<()> {
        let py = slf.py();
        let join_bytes = slf.try_borrow()?.shared().options.join_bytes;
        let mut buffer = vec![0; join_bytes];
        while count > 0 {
            let most = usize::try_from(count).unwrap_or(join_bytes).min(join_bytes);
            let block = buffer.get_mut(..most).unwrap_or(&mut []);
            let read = py.detach(|| sys::read_at(descriptor, block, offset))?;
            if read == 0 {
                return Err(PyOSError::new_err((libc::EIO, FILE_TRUNCATED)));
            }
            let data = PyBytes::new(py, buffer.get(..read).unwrap_or(&[]));
            Self::send(slf, &data)?;
            offset += read as u64;
            count -= read as u64;
        }
        Ok(())
    }

    /// Send the last block, and what ends the body.
    fn finish_body(
        slf: &Bound<'_, Self>,
        out: &mut Vec<u8>,
        data: Option<&Bound<'_, PyBytes>>,
    ) -> PyResult<()> {
        let this = slf.try_borrow()?;
        let end = match this.framing {
            Framing::None => return Ok(()),
            Framing::Chunked => response::LAST_CHUNK,
            _ => b"",
        };
        match data {
            Some(data) if !data.as_bytes().is_empty() => {
                drop(this);
                Self::write_counted(slf, out, data, end)
            }
            _ if end.is_empty() => {
                // Nothing is sent that would fail, where the leader found that no more can be.
                let mut state = this.wire.connection.lock();
                wire::check_output(&this.wire.connection, &mut state).map_err(raised)
            }
            _ => this.transmit(end),
        }
    }

    /// Send `out`, a block in the response's framing, and `end`.
    fn write_block(
        slf: &Bound<'_, Self>,
        out: &mut Vec<u8>,
        data: &Bound<'_, PyBytes>,
        end: &'static [u8],
    ) -> PyResult<()> {
        let bytes = data.as_bytes();
        let this = slf.try_borrow()?;
        let chunked = this.framing == Framing::Chunked;
        if bytes.len() <= this.shared().options.join_bytes {
            if chunked {
                response::encode_chunk(out, bytes);
            } else {
                out.extend_from_slice(bytes);
            }
            out.extend_from_slice(end);
            return this.transmit(out);
        }
        if chunked {
            response::encode_chunk_size(out, bytes.len());
        }
        // Only of the type itself: the end of a subclass's instance runs its code, and that must
        // not happen under a lock.
        let exact = match data.cast_exact::<PyBytes>() {
            Ok(exact) => exact.clone(),
            Err(_) => PyBytes::new(slf.py(), bytes),
        };
        let block = PyBackedBytes::from(exact);
        let chunk_end: &'static [u8] = if chunked { response::CHUNK_END } else { b"" };
        let outlet = this.outlet();
        drop(this);
        let out = &*out;
        slf.py()
            .detach(|| {
                let ends = [chunk_end, end];
                wire::send_large(outlet.shared(), &outlet.connection, out, block, ends)
            })
            .map_err(raised)
    }

    /// Send bytes now where the kernel takes them, and queue the rest.
    pub fn transmit(&self, data: &[u8]) -> PyResult<()> {
        let mut state = self.wire.connection.lock();
        let result = wire::send_small(self.shared(), &self.wire.connection, &mut state, data);
        drop(state);
        result.map_err(raised)
    }

    fn apply_back_pressure(slf: &Bound<'_, Self>) -> PyResult<()> {
        let outlet = {
            let this = slf.try_borrow()?;
            if !this.wire.connection.lock().output.busy() {
                return Ok(());
            }
            this.outlet()
        };
        let py = slf.py();
        let mut awaited = wire::RoomAwaited::new(outlet.shared(), &outlet.connection);
        let call = slf.try_borrow()?.stop_clock();
        let result = loop {
            match py.detach(|| awaited.wait()) {
                Ok(true) => break Ok(()),
                // Where this is the main thread.
                Ok(false) => {
                    if let Err(error) = py.check_signals() {
                        break Err(error);
                    }
                }
                Err(failure) => break Err(raised(failure)),
            }
        };
        slf.try_borrow()?.go_on(py, call)?;
        result
    }

    // -- the end --------------------------------------------------------------------------------

    pub fn end(slf: &Bound<'_, Self>, reason: &str) -> PyResult<()> {
        let (core, record) = {
            let mut this = slf.try_borrow_mut()?;
            (Arc::clone(&this.core), this.give_back(slf.py(), reason))
        };
        if let Some(record) = record {
            let py = slf.py();
            if let Err(error) = core.log_writer.answered(py, &record) {
                error.write_unraisable(py, None);
            }
        }
        Ok(())
    }

    /// Give up the connection; return what is to be logged now.
    fn give_back(&mut self, py: Python<'_>, reason: &str) -> Option<Box<Record>> {
        if std::mem::replace(&mut self.done, true) {
            return None; // the connection may be at its next request already
        }
        let now = sys::monotonic();
        let core = Arc::clone(&self.core);
        let time = now.saturating_sub(self.handed_out_at);
        core.shared.slow_paths.note(self.path, time);
        let connection = Arc::clone(&self.wire.connection);
        let mut state = connection.lock();
        // Logged when it is known how it ended.
        let later = state.output.size > 0 && reason.is_empty() && !state.output.is_corked();
        let mut record = None;
        if self.request.is_some() || later {
            let times = Times {
                taken: self.handed_out_at,
                first_byte: self.first_byte_at,
                ..state.exchange.times(connection.accepted_at, now)
            };
            let number = state.requests;
            let transcript = state.trace.as_mut().map(|trace| trace.take(number));
            record = Some(self.record(py, times, reason, transcript));
        }
        if let Some(record) = &mut record {
            record.bytes_out = record.bytes_out.saturating_sub(state.output.lost());
        }
        if later {
            state.exchange.record = record.take().map(|record| record as Box<dyn Any + Send>);
        }
        let hurry = connection.give_back(&core.shared, &mut state, now);
        drop(state);
        if hurry {
            core.shared.hurry();
        }
        record
    }

    fn record(
        &mut self,
        py: Python<'_>,
        times: Times,
        reason: &str,
        transcript: Option<Box<Transcript>>,
    ) -> Box<Record> {
        let ended = match reason.is_empty() {
            true => Ended::Complete,
            false if self.status.is_none() || self.wire.connection.is_gone() => Ended::Disconnected,
            false => Ended::Aborted,
        };
        Box::new(Record {
            peer: self.wire.connection.peer,
            request: self.request.take().map(|copy| *copy),
            status: self.status.as_ref().map(|status| status.clone_ref(py)),
            client_left: self.shared().options.client_left,
            headers: self.headers.as_ref().map(|headers| headers.clone_ref(py)),
            environ: self.environ.clone_ref(py),
            request_id: self.request_id.clone_ref(py),
            bytes_in: self.wire.received,
            bytes_out: self.body_sent,
            times,
            ended,
            reason: if reason.is_empty() {
                std::mem::take(&mut self.reason).into()
            } else {
                reason.to_owned().into()
            },
            transcript,
        })
    }
}

impl Drop for Exchange {
    /// Reset the connection of an exchange that was never ended: after a defect of ours, where memory
    /// ran out, or where the handler of a signal raised outside of the application's call. Its client, and a server that drains, would wait for it for ever.
    fn drop(&mut self) {
        if self.done || self.shared().closed_in_child.get() {
            return;
        }
        let connection = Arc::clone(&self.wire.connection);
        let mut state = connection.lock();
        state.exchange.fate.worsen(Fate::Reset);
        connection.give_back(self.shared(), &mut state, sys::monotonic());
        drop(state);
        self.shared().hurry();
    }
}

/// What sending takes without the GIL.
struct Outlet {
    core: Arc<Core>,
    connection: Arc<Connection>,
    chunked: bool,
}

impl Outlet {
    fn shared(&self) -> &Shared {
        &self.core.shared
    }
}

/// What a failure on the wire is in Python.
fn raised(failure: Failure) -> PyErr {
    match failure {
        Failure::Disconnected(text) => ClientDisconnected::new_err(text),
        Failure::BadBody(status, text) => RequestBodyError::new_err((status, text)),
    }
}
