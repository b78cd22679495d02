//! One request that is with the application: what is known of it, of its response, and of its end.
//!
//! What is done with it is in other modules: `exchange_methods` has what Python calls,
//! `response_head` and `sending` make and send a response, `ending` ends one without.

use crate::call_deadline::CallDeadline;
use crate::client_wait::ClientWait;
use crate::core::Core;
use crate::held::Held;
use crate::lock_wait::LockWait;
use crate::record::Record;
use crate::response_head::ResponseHead;
use penstock_protocol::{Framing, HeadCopy, Version};
use penstock_reactor::connection::{Connection, ConnectionState};
use penstock_reactor::disconnect::find_gone;
use penstock_reactor::exchange_trace::Transcript;
use penstock_reactor::forwarded::Forwarded;
use penstock_reactor::histograms::{self, Measured, MethodNumber};
use penstock_reactor::log_queue::{Ended, Times};
use penstock_reactor::next_request;
use penstock_reactor::output::FILE_TRUNCATED;
use penstock_reactor::request_body::RequestBody;
use penstock_reactor::responding::{self, Failure};
use penstock_reactor::scoreboard::WAITING;
use penstock_reactor::shared::Shared;
use penstock_reactor::slow_path_estimate::PathHash;
use penstock_reactor::states::{Fate, ResponseState};
use penstock_reactor::sys::{self, Nanos, Peer};
use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use std::any::Any;
use std::sync::Arc;

pyo3::import_exception!(penstock.errors, ClientDisconnected);
pyo3::import_exception!(penstock.errors, FileTruncatedError);
pyo3::import_exception!(penstock.errors, RequestAborted);
pyo3::import_exception!(penstock.errors, RequestBodyError);
pyo3::import_exception!(penstock.errors, ResponseRelayed);

/// `penstock.transport.Exchange`. It belongs to the thread that handles it.
#[pyclass(module = "penstock._native", freelist = 64)]
pub struct Exchange {
    #[pyo3(get)]
    pub environ: Py<PyDict>,
    #[pyo3(get)]
    pub body: Option<Py<PyAny>>,
    /// What it offers, if it is a WebSocket handshake.
    #[pyo3(get)]
    pub websocket: Option<Py<PyAny>>,
    #[pyo3(get)]
    pub request_id: Py<PyString>,
    /// What trusted proxies say of the request, if they do.
    pub forwarded: Option<Box<Forwarded>>,
    /// In the transport's life.
    pub number: u64,
    pub request_body: RequestBody,
    pub core: Arc<Core>,
    pub request: Option<Box<HeadCopy>>, // for the observers
    pub is_head: bool,
    pub method: MethodNumber,
    pub version: Version,
    pub keep_alive: bool,
    pub path: PathHash,
    pub handed_out_at: Nanos,
    /// The application gets it: the server does not answer it itself.
    pub for_application: bool,
    /// Its environ may say that its path is outside of the application's.
    pub may_be_outside: bool,
    /// For how long the request had waited for a thread.
    pub queue_time: Nanos,
    /// When the head was sent; 0 also where it was sent with the end, unless a record of the request
    /// tells it.
    pub first_byte_at: Nanos,
    /// For how long the application has waited for its client.
    pub client_wait: ClientWait,
    /// For how long its threads have waited for the interpreter lock.
    pub lock_wait: LockWait,
    /// What the application, or the server in its place, has answered.
    pub head: Option<Arc<ResponseHead>>,
    pub content_length: Option<u64>,
    pub framing: Framing,
    pub body_sent: u64,
    pub response: ResponseState,
    /// Its call has left the count of threads.
    pub io_bound: bool,
    pub deadline: CallDeadline,
    /// Why its response is what it is, for the access log; empty where there is nothing to say.
    pub reason: String,
}

impl Exchange {
    pub fn shared(&self) -> &Shared {
        &self.core.shared
    }

    /// Keep the head of the response that is to be sent.
    pub fn begin_response(
        &mut self,
        head: Arc<ResponseHead>,
        content_length: Option<u64>,
    ) -> PyResult<()> {
        if self.response.is_aborted() {
            self.check_process()?;
        }
        self.check_not_relaying()?;
        if !self.response.is_waiting() {
            return Err(PyRuntimeError::new_err(
                "the response's head has been sent already",
            ));
        }
        self.head = Some(head);
        self.content_length = content_length;
        Ok(())
    }

    /// Whether the client is known to have left, or the server has answered it.
    pub fn is_client_gone(&self) -> bool {
        self.response.is_aborted()
            || self.core.shared.closed_in_child.get()
            || find_gone(&self.request_body.connection)
    }

    /// A child that the application forked has no client: the parent answers.
    pub fn check_process(&self) -> PyResult<()> {
        if self.response.is_aborted() {
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
    pub fn check_may_send(&self) -> PyResult<()> {
        self.check_process()?;
        if self.response.is_over() {
            return Err(PyRuntimeError::new_err("the response has ended"));
        }
        self.check_not_relaying()
    }

    fn check_not_relaying(&self) -> PyResult<()> {
        match self.response.is_relaying() {
            true => Err(ResponseRelayed::new_err(
                "the application has taken the socket of this request",
            )),
            false => Ok(()),
        }
    }

    pub fn note_progress(&self, py: Python<'_>) -> PyResult<()> {
        let environ = self.environ.bind(py);
        self.deadline.progress(&self.shared().scoreboard, environ)
    }

    pub fn stop_clock(&self) -> u64 {
        self.client_wait.begin();
        self.deadline.stop_clock(&self.shared().scoreboard)
    }

    pub fn go_on(&self, py: Python<'_>, call: u64) -> PyResult<()> {
        self.client_wait.end();
        let environ = self.environ.bind(py);
        self.deadline
            .go_on(&self.shared().scoreboard, call, environ)
    }

    /// The client, as far as the proxies tell.
    fn client(&self) -> Peer {
        let named = self.forwarded.as_ref().and_then(|it| it.peer());
        named.unwrap_or_else(|| self.request_body.connection.peer())
    }

    /// What sending needs without the GIL. The exchange must not stay borrowed then: another
    /// thread of the application may be about to read the request's body.
    pub fn outlet(&self) -> Outlet {
        Outlet {
            core: Arc::clone(&self.core),
            connection: Arc::clone(&self.request_body.connection),
            chunked: self.framing == Framing::Chunked,
        }
    }

    pub fn trace_body(&self, data: &[u8]) {
        if self.shared().options.trace {
            if let Some(trace) = &mut self.request_body.connection.lock().trace {
                trace.body_sent(data);
            }
        }
    }

    pub fn count_body(&mut self, sent: &[u8]) {
        self.body_sent += sent.len() as u64;
        self.trace_body(sent);
    }

    /// Send bytes now where the kernel takes them, and queue the rest.
    pub fn transmit(&self, data: &[u8]) -> PyResult<()> {
        let mut state = self.request_body.connection.lock();
        let result = responding::send_small(
            self.shared(),
            &self.request_body.connection,
            &mut state,
            data,
        );
        drop(state);
        result.map_err(raised)
    }

    /// The same, or hold them until more of the response follows.
    pub fn hold_or_transmit(&self, data: &[u8]) -> PyResult<()> {
        let connection = &self.request_body.connection;
        let state = &mut connection.lock();
        if responding::hold(self.shared(), connection, state, self.path, data) {
            return Ok(());
        }
        let sent = responding::send_small(self.shared(), connection, state, data);
        sent.map_err(raised)
    }

    // -- the end --------------------------------------------------------------------------------

    pub fn end(slf: &Bound<'_, Self>, reason: &str) -> PyResult<()> {
        Self::end_as(slf, ResponseState::Ended, reason)
    }

    /// End the response with `state`, unless it is over.
    pub fn end_as(slf: &Bound<'_, Self>, state: ResponseState, reason: &str) -> PyResult<()> {
        let (core, record, noted) = {
            let mut this = slf.try_borrow_mut()?;
            let now = sys::monotonic();
            let code = this.head.as_ref().map(|head| head.code);
            let noted = this.note_end(slf.py(), state, reason, code, now);
            (
                Arc::clone(&this.core),
                this.give_back(slf.py(), state, reason, code, now),
                noted,
            )
        };
        if let Some(noted) = noted {
            noted.tell(slf.py(), &core);
        }
        if let Some(record) = record {
            let py = slf.py();
            if let Err(error) = core.log_writer.answered(py, &record) {
                error.write_unraisable(py, None);
            }
        }
        Ok(())
    }

    /// Note on the scoreboard how the call has ended; return what is worth a look of it.
    #[inline]
    fn note_end(
        &self,
        py: Python<'_>,
        state: ResponseState,
        reason: &str,
        code: Option<u16>,
        now: Nanos,
    ) -> Option<Box<NotedCall>> {
        if self.response.is_over() {
            return None;
        }
        let record = self.deadline.record.as_ref()?;
        let shared = self.shared();
        let took = now.saturating_sub(self.handed_out_at);
        let status = code.unwrap_or(0);
        shared.scoreboard.note_end(record, took, status);
        let notable = took >= shared.options.notable_call || status >= 500 || !reason.is_empty();
        if !notable || self.core.log_writer.note_call.is_none() {
            return None;
        }
        // As `Exchange::record` decides it.
        let left = self.head.is_none() || self.request_body.connection.is_gone();
        Some(Box::new(NotedCall {
            record: record.index,
            protocol: self.version.as_str(),
            trace_id: self.trace_id(py),
            took,
            duration: self.duration(reason, now),
            status,
            reason: match reason {
                "" => self.reason.clone(),
                reason => reason.to_owned(),
            },
            aborted: !reason.is_empty() && (state.is_aborted() || !left),
        }))
    }

    /// What the environ has as `penstock.trace_id`, where an application may put anything.
    #[cold]
    fn trace_id(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let found = self
            .environ
            .bind(py)
            .get_item(intern!(py, "penstock.trace_id"));
        found.ok().flatten().map(Bound::unbind)
    }

    /// Seconds from the first byte of the request to the last one of its response, as histograms
    /// count them; 0.0 where the client has yet to read some of that.
    #[cold]
    fn duration(&self, reason: &str, now: Nanos) -> f64 {
        let state = self.request_body.connection.lock();
        match is_sent_later(self.shared(), &state, reason) {
            true => 0.0,
            false => now.saturating_sub(state.exchange.began) as f64 / 1e9,
        }
    }

    /// Give up the connection; return what is to be logged now.
    fn give_back(
        &mut self,
        py: Python<'_>,
        state: ResponseState,
        reason: &str,
        code: Option<u16>,
        now: Nanos,
    ) -> Option<Box<Record>> {
        if self.response.is_over() {
            return None; // the connection may be at its next request already
        }
        self.response.move_to(state);
        self.request_body.streaming = None;
        let core = Arc::clone(&self.core);
        let time = now.saturating_sub(self.handed_out_at);
        core.shared.slow_paths.note(self.path, time);
        if core.shared.scoreboard.get(WAITING) > 0 && !self.io_bound {
            core.shared.queue.served(time); // it is for those that wait
        }
        let connection = Arc::clone(&self.request_body.connection);
        let mut state = connection.lock();
        let fields = self.head.as_ref().map_or(0, |head| head.fields_size());
        state.exchange.sent = self.body_sent + fields as u64;
        // Meanwhile the client may have sent more, which no thread has seen yet.
        state.exchange.is_last &= time <= core.shared.options.slow_call;
        // Logged when it is known how it ended. The leader, which sends the rest, may have found
        // already that the client is gone.
        let later = is_sent_later(&core.shared, &state, reason);
        let mut record = None;
        let measured = self.measured(code, state.exchange.began, now);
        if later {
            state.exchange.measured = Some(measured);
        } else {
            histograms::count_request(&core.shared.scoreboard, &measured, now);
        }
        // Where nothing reports requests, one that only waits for others is as one that is sent at once.
        let tells_of_cut = later && !state.output.is_corked();
        if self.request.is_some() || tells_of_cut {
            let times = Times {
                taken: self.handed_out_at,
                first_byte: self.first_byte_at,
                queue: self.queue_time,
                ..state.exchange.times(connection.accepted_at, now)
            };
            let number = state.requests;
            let transcript = state.trace.as_mut().map(|trace| trace.take(number));
            record = Some(self.record(py, times, reason, transcript));
        }
        if let Some(record) = record.as_mut().filter(|_| !later) {
            record.bytes_out = record.bytes_out.saturating_sub(state.output.lost());
        }
        if later {
            state.exchange.record = record
                .take()
                .map(|record| Box::new(Held::new(record)) as Box<dyn Any + Send>);
        }
        let hurry = next_request::give_back(&connection, &core.shared, &mut state, now);
        drop(state);
        if hurry {
            core.shared.hurry();
        }
        record
    }

    /// What is counted of the request, whose thread is done with it at `now`.
    fn measured(&self, code: Option<u16>, began: Nanos, now: Nanos) -> Measured {
        let sent = match self.first_byte_at {
            0 => now,
            at => at,
        };
        let called = now.saturating_sub(self.handed_out_at);
        Measured {
            method: self.method,
            status: code.unwrap_or(self.shared().options.client_left),
            protocol: self.version.into(),
            began,
            first_byte: self.head.as_ref().map(|_| sent),
            queue: self.for_application.then_some(self.queue_time),
            application: self
                .for_application
                .then(|| called.saturating_sub(self.client_wait.time())),
            lock_wait: self.lock_wait.time(),
        }
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
            false if self.head.is_none() || self.request_body.connection.is_gone() => {
                Ended::Disconnected
            }
            false => Ended::Aborted,
        };
        Box::new(Record {
            peer: self.client(),
            socket_peer: self.request_body.connection.socket_peer(),
            request: self.request.take().map(|copy| *copy),
            head: self.head.clone(),
            client_left: self.shared().options.client_left,
            environ: self.environ.clone_ref(py),
            request_id: self.request_id.clone_ref(py),
            bytes_in: self.request_body.received,
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
    /// ran out, or where the handler of a signal raised outside of the application's call. Its client,
    /// and a server that drains, would wait for it for ever.
    fn drop(&mut self) {
        if self.response.is_over() || self.shared().closed_in_child.get() {
            return;
        }
        let connection = Arc::clone(&self.request_body.connection);
        let mut state = connection.lock();
        state.exchange.fate.worsen(Fate::Reset);
        next_request::give_back(&connection, self.shared(), &mut state, sys::monotonic());
        drop(state);
        self.shared().hurry();
    }
}

/// The leader sends a response that has ended, or the rest of it.
fn is_sent_later(shared: &Shared, state: &ConnectionState, reason: &str) -> bool {
    let leaves_with_next = || state.output.is_corked() && !next_request::waits(shared, state);
    state.output.busy() && reason.is_empty() && !leaves_with_next()
}

/// A call that took long, or has failed.
struct NotedCall {
    /// Which record of the scoreboard has the request.
    record: usize,
    protocol: &'static str,
    trace_id: Option<Py<PyAny>>,
    took: Nanos,
    duration: f64,
    status: u16,
    reason: String,
    /// The server has ended it.
    aborted: bool,
}

impl NotedCall {
    #[cold]
    fn tell(&self, py: Python<'_>, core: &Core) {
        let Some(note_call) = &core.log_writer.note_call else {
            return;
        };
        let arguments = (
            self.record,
            self.protocol,
            self.trace_id.as_ref(),
            self.took,
            self.duration,
            self.status,
            self.reason.as_str(),
            self.aborted,
        );
        if let Err(error) = note_call.call1(py, arguments) {
            error.write_unraisable(py, None);
        }
    }
}

/// What sending takes without the GIL.
pub struct Outlet {
    core: Arc<Core>,
    pub connection: Arc<Connection>,
    pub chunked: bool,
}

impl Outlet {
    pub fn shared(&self) -> &Shared {
        &self.core.shared
    }

    /// Have a stall monitor from now on; return whether there is one.
    pub fn attend(&self, py: Python<'_>) -> bool {
        self.core.attend(py)
    }
}

/// What a failure on the wire is in Python.
pub fn raised(failure: Failure) -> PyErr {
    match failure {
        Failure::Disconnected(text) => ClientDisconnected::new_err(text),
        Failure::FileTruncated => FileTruncatedError::new_err((libc::EIO, FILE_TRUNCATED)),
        Failure::BadBody(status, text) => RequestBodyError::new_err((status, text)),
    }
}
