//! What the gateway calls: `penstock.transport.Exchange`.

use crate::access_line::address;
use crate::ending;
use crate::exchange::{Exchange, raised};
use crate::ffi::{WritableBuffer, latin1_bytes};
use crate::lock_wait::detached;
use crate::relaying::{self, Answer, ClientStream};
use crate::response_head::ResponseHead;
use crate::sending;
use penstock_protocol::{Version, response};
use penstock_reactor::request_body::{Received, wait_for_input};
use penstock_reactor::states::Fate;
use penstock_reactor::sys::SECOND;
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PySequence, PyString};
use std::sync::Arc;

#[pymethods]
impl Exchange {
    #[getter]
    fn head_sent(&self) -> bool {
        !self.response.is_waiting()
    }

    /// When the first byte of the request was read, in seconds.
    #[getter]
    fn began(&self) -> f64 {
        self.request_body.connection.lock().exchange.began as f64 / SECOND as f64
    }

    /// The address of the connection's peer; empty for a unix socket.
    #[getter]
    fn peer_addr(&self) -> String {
        address(self.request_body.connection.socket_peer())
    }

    fn receive_into(slf: &Bound<'_, Self>, target: &Bound<'_, PyAny>) -> PyResult<usize> {
        let py = slf.py();
        let mut target = WritableBuffer::of(target)?;
        let mut buffer = Vec::new();
        loop {
            let (connection, patience, core) = {
                let mut this = slf.try_borrow_mut()?;
                let patience = match receive_some(&mut this, target.bytes(py), &mut buffer)? {
                    Received::Bytes(size) => return Ok(size),
                    Received::Nothing(patience) => patience,
                };
                let connection = Arc::clone(&this.request_body.connection);
                (connection, patience, Arc::clone(&this.core))
            };
            let call = slf.try_borrow()?.stop_clock();
            let ((waited, ready), done) =
                detached(py, || wait_for_input(&core.shared, &connection, patience));
            let this = slf.try_borrow()?;
            this.lock_wait.add(done);
            this.go_on(py, call)?;
            drop(this);
            {
                let mut this = slf.try_borrow_mut()?;
                if !this.response.is_over() {
                    let late = !ready && waited >= patience;
                    let noted = this.request_body.note_wait(&core.shared, waited, late);
                    noted.map_err(raised)?;
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
        if self.version == Version::Http10 || self.head_sent() {
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
            if let Some(trace) = &mut self.request_body.connection.lock().trace {
                trace.sent_interim(latin1_bytes(status)?);
            }
        }
        Ok(())
    }

    fn respond(
        &mut self,
        status: &Bound<'_, PyString>,
        headers: &Bound<'_, PyList>,
        content_length: Option<u64>,
    ) -> PyResult<()> {
        let head = ResponseHead::of(status, headers)?;
        self.begin_response(Arc::new(head), content_length)
    }

    fn send(slf: &Bound<'_, Self>, data: &Bound<'_, PyBytes>) -> PyResult<()> {
        sending::send(slf, data)
    }

    fn send_file(slf: &Bound<'_, Self>, descriptor: i32, offset: u64, count: u64) -> PyResult<()> {
        sending::send_file(slf, descriptor, offset, count)
    }

    #[pyo3(signature = (data = None))]
    fn finish(slf: &Bound<'_, Self>, data: Option<&Bound<'_, PyBytes>>) -> PyResult<()> {
        sending::finish(slf, data)
    }

    fn abort(slf: &Bound<'_, Self>) -> PyResult<()> {
        ending::abort(slf)
    }

    fn take_stream(slf: &Bound<'_, Self>) -> PyResult<ClientStream> {
        relaying::take_stream(slf)
    }

    fn end_relay(
        slf: &Bound<'_, Self>,
        status: &Bound<'_, PyString>,
        headers: &Bound<'_, PyList>,
        counts: (u64, u64),
        reason: &str,
        reset: bool,
        aborted: bool,
    ) -> PyResult<()> {
        let head = match status.is_empty()? {
            true => None,
            false => Some(Arc::new(ResponseHead::of(status, headers)?)),
        };
        let answer = Answer { head, counts };
        relaying::end_relay(slf, answer, reason, reset, aborted)
    }

    fn set_reason(&mut self, reason: String) {
        self.reason = reason;
    }

    fn close_after_response(&mut self) {
        if !self.response.is_over() && !self.core.shared.closed_in_child.get() {
            self.request_body
                .connection
                .lock()
                .exchange
                .fate
                .worsen(Fate::Close);
        }
    }

    fn client_gone(&self) -> bool {
        self.is_client_gone()
    }
}

/// Look for a part of the streamed body, or its end.
fn receive_some(
    this: &mut Exchange,
    target: &mut [u8],
    buffer: &mut Vec<u8>,
) -> PyResult<Received> {
    this.check_process()?;
    if this.response.is_over() && this.request_body.awaits_more() {
        // The connection is the leader's again: what arrives may be of another request.
        return Err(PyOSError::new_err(
            "the response has ended: the request's body can no longer be read",
        ));
    }
    let head_sent = this.head_sent();
    let (core, body) = (&this.core, &mut this.request_body);
    body.receive(&core.shared, target, head_sent, buffer)
        .map_err(raised)
}
