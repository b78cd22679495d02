//! Clients that leave before they are answered, and requests that the server itself ends: it
//! answers 504 at a deadline and at the end of a stop.

use crate::exchange::Exchange;
use penstock_reactor::connection::Connection;
use penstock_reactor::log_queue::Refusal;
use penstock_reactor::states::Fate;
use penstock_reactor::sys;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyString;
use std::any::Any;
use std::sync::{Arc, Weak};

/// `penstock.client_gone` of an environ: a connection's own, whichever of its requests asks.
#[pyclass(module = "penstock._native", frozen)]
pub struct ClientGone {
    connection: Weak<Connection>,
}

#[pymethods]
impl ClientGone {
    /// Return whether the client is known to have left. Any thread may ask, at any time.
    fn __call__(&self) -> bool {
        match self.connection.upgrade() {
            Some(connection) => connection.find_gone(),
            None => true,
        }
    }
}

/// What the requests of a connection have in their environ that is the connection's own.
pub struct Companion {
    pub client_gone: Py<ClientGone>,
    /// REMOTE_ADDR; empty for a unix socket.
    pub address: Py<PyString>,
    /// REMOTE_PORT; a unix socket has none.
    pub port: Option<Py<PyString>>,
}

impl Companion {
    /// The connection's, made for its first request.
    pub fn of<'a>(py: Python<'_>, connection: &'a Arc<Connection>) -> PyResult<&'a Self> {
        let known = connection.companion.get();
        if let Some(known) = known.and_then(|made| made.downcast_ref()) {
            return Ok(known);
        }
        let client_gone = ClientGone {
            connection: Arc::downgrade(connection),
        };
        let (address, port) = connection.peer.unzip();
        let address = address.map_or(String::new(), |ip| ip.to_string());
        let made: Box<dyn Any + Send + Sync> = Box::new(Companion {
            client_gone: Py::new(py, client_gone)?,
            address: PyString::new(py, &address).unbind(),
            port: port.map(|port| PyString::new(py, &port.to_string()).unbind()),
        });
        let made = connection.companion.get_or_init(|| made);
        made.downcast_ref().ok_or_else(|| {
            PyRuntimeError::new_err("the connection belongs to another kind of transport")
        })
    }
}

impl Exchange {
    /// End an exchange that no client waits for; return whether it was one.
    pub fn drop_if_client_gone(slf: &Bound<'_, Self>, disconnected: bool) -> PyResult<bool> {
        {
            let mut this = slf.try_borrow_mut()?;
            if !disconnected && !this.client_gone() {
                return Ok(false);
            }
            let mut state = this.wire.connection.lock();
            state.exchange.fate.worsen(Fate::Reset);
            drop(state);
            this.handed_out_at = sys::monotonic();
        }
        Self::end(slf, "the client left before a thread was free")?;
        Ok(true)
    }

    /// End an exchange whose thread does not come back; return whether it was still in progress.
    pub fn time_out(slf: &Bound<'_, Self>, reason: &str) -> PyResult<bool> {
        {
            let mut this = slf.try_borrow_mut()?;
            if this.done || this.shared().closed_in_child.get() {
                return Ok(false);
            }
            this.timed_out = true;
            reason.clone_into(&mut this.reason);
            let connection = Arc::clone(&this.wire.connection);
            let mut state = connection.lock();
            connection.uncork(&mut state); // what waited is an earlier response, and whole
            state.exchange.fate.worsen(if this.head_sent {
                Fate::Reset
            } else {
                Fate::Close
            });
            drop(state);
            if !this.head_sent && this.answer_given_up(slf.py()).is_err() {
                connection.lock().exchange.fate.worsen(Fate::Reset);
            }
        }
        Self::end(slf, reason)?;
        Ok(true)
    }

    fn answer_given_up(&mut self, py: Python<'_>) -> PyResult<()> {
        let refusal = Refusal::timed_out(&self.shared().options.timed_out);
        let answer = self.shared().error_response(&refusal, self.is_head);
        self.head_sent = true;
        self.status = Some(PyString::new(py, "504 Gateway Timeout").unbind());
        self.headers = None;
        self.transmit(&[&answer.head[..], &answer.body].concat())?;
        self.body_sent += answer.body.len() as u64;
        if let Some(trace) = &mut self.wire.connection.lock().trace {
            trace.answered(&answer);
        }
        Ok(())
    }
}
