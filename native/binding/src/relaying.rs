//! An exchange whose application has a WebSocket: its connection's stream, without HTTP, and the end.
//! `penstock.transport.relay` passes the bytes on.

use crate::core::Core;
use crate::exchange::{Exchange, ResponseRelayed};
use crate::response_head::ResponseHead;
use penstock_protocol::Carry;
use penstock_reactor::connection::Connection;
use penstock_reactor::responding;
use penstock_reactor::states::{Fate, ResponseState};
use penstock_reactor::sync::lock;
use penstock_reactor::sys;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::io;
use std::sync::{Arc, Mutex};

/// Where input is received, before it is Python's. The first is received under the thread of the
/// call: with a buffer for each of those the allocator kept 45 KiB more for each WebSocket. Locked
/// with the GIL held, and never where Python code may run.
static RECEIVED: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// `penstock.transport.ClientStream`.
#[pyclass(module = "penstock._native", frozen)]
pub struct ClientStream {
    core: Arc<Core>,
    connection: Arc<Connection>,
    early: Py<PyBytes>,
}

#[pymethods]
impl ClientStream {
    #[getter]
    fn early(&self, py: Python<'_>) -> Py<PyBytes> {
        self.early.clone_ref(py)
    }

    #[getter]
    fn descriptor(&self) -> i32 {
        self.connection.stream.descriptor().unwrap_or(-1)
    }

    #[getter]
    fn secure(&self) -> bool {
        self.connection.stream.is_secure()
    }

    #[getter]
    fn holds_input(&self) -> bool {
        self.connection.stream.holds_input()
    }

    fn receive<'py>(&self, py: Python<'py>, size: usize) -> PyResult<Bound<'py, PyBytes>> {
        self.check_process()?;
        let mut buffer = lock(&RECEIVED);
        if buffer.len() < size {
            buffer.resize(size, 0);
        }
        let room = buffer.get_mut(..size).unwrap_or_default();
        let received = self.connection.stream.receive(room)?;
        Ok(PyBytes::new(py, buffer.get(..received).unwrap_or_default()))
    }

    fn send(&self, data: &Bound<'_, PyBytes>) -> PyResult<usize> {
        self.check_process()?;
        let mut state = self.connection.lock();
        if state.output.busy() {
            // The rest of an interim response, or of an earlier answer, goes first.
            state.output.flush(&*self.connection.stream)?;
            if state.output.busy() {
                return Ok(0);
            }
        }
        Ok(self.connection.stream.send(data.as_bytes())?)
    }

    fn shut_down(&self) -> PyResult<()> {
        self.check_process()?;
        Ok(self.connection.stream.shut_down()?)
    }

    fn lose(&self) {
        self.connection.set_gone();
    }
}

impl ClientStream {
    /// In a child that the application forked the stream is the parent's.
    fn check_process(&self) -> io::Result<()> {
        match self.core.shared.closed_in_child.get() {
            true => Err(io::ErrorKind::ConnectionReset.into()),
            false => Ok(()),
        }
    }
}

/// What the application has answered, and how many bytes were received and sent then.
pub struct Answer {
    /// None where it has answered nothing.
    pub head: Option<Arc<ResponseHead>>,
    pub counts: (u64, u64),
}

/// Give the connection up: see `penstock.transport.Exchange.take_stream`.
pub fn take_stream(slf: &Bound<'_, Exchange>) -> PyResult<ClientStream> {
    let mut this = slf.try_borrow_mut()?;
    this.check_may_send()?;
    if !this.response.is_waiting() {
        return Err(ResponseRelayed::new_err("the response has begun"));
    }
    this.response.move_to(ResponseState::Relaying);
    this.first_byte_at = sys::monotonic(); // what answers the handshake follows at once
    let connection = Arc::clone(&this.request_body.connection);
    let mut state = connection.lock();
    responding::uncork(&connection, &mut state); // what waited is an earlier response
    state.exchange.fate.worsen(Fate::Close);
    state.exchange.is_last = false; // its client goes on sending
    state.unwatched = false;
    let early = std::mem::take(&mut state.carry);
    drop(state);
    // The relay has a poller of its own: for each message the leader would wake in vain.
    if let Some(descriptor) = connection.stream.descriptor() {
        this.shared().poller.remove(descriptor);
    }
    Ok(ClientStream {
        core: Arc::clone(&this.core),
        early: PyBytes::new(slf.py(), Carry::remaining(&early)).unbind(),
        connection,
    })
}

/// Take it back: see `penstock.transport.Exchange.end_relay`.
pub fn end_relay(
    slf: &Bound<'_, Exchange>,
    answer: Answer,
    reason: &str,
    reset: bool,
    aborted: bool,
) -> PyResult<()> {
    {
        let mut this = slf.try_borrow_mut()?;
        if this.response.is_over() {
            return Ok(());
        }
        if this.shared().closed_in_child.get() {
            this.response.move_to(ResponseState::Ended);
            return Ok(());
        }
        this.head = answer.head;
        (this.request_body.received, this.body_sent) = answer.counts;
        if aborted {
            reason.clone_into(&mut this.reason);
        }
        let connection = Arc::clone(&this.request_body.connection);
        if reset {
            connection.lock().exchange.fate.worsen(Fate::Reset);
        }
        if let Some(descriptor) = connection.stream.descriptor() {
            if this
                .shared()
                .poller
                .add(descriptor, connection.token)
                .is_err()
            {
                // No memory for it: without events it could not linger.
                connection.lock().exchange.fate.worsen(Fate::Reset);
            }
        }
    }
    let state = match aborted {
        true => ResponseState::Aborted,
        false => ResponseState::Ended,
    };
    Exchange::end_as(slf, state, reason)
}
