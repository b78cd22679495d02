//! Clients that leave before they are answered, and requests that the server itself gives up.

use crate::connection::{Connection, Held, Phase};
use crate::diary::Refusal;
use crate::exchange::Exchange;
use crate::hub::Hub;
use crate::reactor::Desk;
use crate::sys::{self, Nanos, Readiness};
use pyo3::prelude::*;
use pyo3::types::PyString;
use std::sync::{Arc, Weak};

/// `penstock.client_gone` of an environ: a connection's own, whichever of its requests asks.
#[pyclass(module = "penstock._native", frozen)]
pub struct ClientGone {
    connection: Weak<Connection>,
}

#[pymethods]
impl ClientGone {
    /// Tell whether the client is known to have left. Any thread may ask, at any time.
    fn __call__(&self) -> bool {
        match self.connection.upgrade() {
            Some(connection) => connection.find_gone(),
            None => true,
        }
    }
}

impl Connection {
    /// What answers for `penstock.client_gone`.
    pub fn asker(self: &Arc<Self>, py: Python<'_>) -> PyResult<&Py<ClientGone>> {
        if let Some(asker) = self.asker.get() {
            return Ok(asker);
        }
        let connection = Arc::downgrade(self);
        let made = Py::new(py, ClientGone { connection })?;
        Ok(self.asker.get_or_init(|| made))
    }

    /// Look whether the client has left, as far as that can be known at once.
    pub fn find_gone(&self) -> bool {
        if self.is_gone() || !self.socket.is_ours() {
            return true;
        }
        let trouble = sys::wait_until(&self.socket, Readiness::Trouble, 0).unwrap_or(true);
        // Asked afterwards: another connection may have got the number of a socket that was closed.
        if self.phase() == Phase::Closed {
            return true;
        }
        if trouble {
            self.set_gone();
        }
        trouble
    }

    /// Whether the client has ended its side, and its request had waited for long before anybody
    /// looked: for a thread that was busy, in the kernel or in the listen queue.
    pub fn has_departed(&self, hub: &Hub, held: &Held, desk: &Desk) -> bool {
        if !held.ended && !desk.late {
            return false;
        }
        // Behind an earlier request of its own it has waited for that one's answer.
        let departed = hub.options.departed;
        if held.requests > 1 && desk.now.saturating_sub(held.since) < departed {
            return false;
        }
        if !held.ended && !matches!(sys::peek(&self.socket), Ok(0)) {
            return false;
        }
        match sys::since_received(&self.socket) {
            Some(time) => time >= departed,
            None => desk.late,
        }
    }

    /// Whether a request's client had ended its side at `before`, while it waited since `since`.
    pub fn had_ended(&self, before: Nanos, since: Nanos) -> bool {
        since <= before && self.lock().ended_at <= before
    }
}

impl Exchange {
    /// End an exchange that nobody waits for any more; tell whether it was one.
    pub fn drop_if_client_gone(slf: &Bound<'_, Self>, departed: bool) -> PyResult<bool> {
        {
            let mut this = slf.try_borrow_mut()?;
            if !departed && !this.client_gone() {
                return Ok(false);
            }
            let mut held = this.wire.connection.lock();
            held.broken = true;
            held.close_after = true;
            drop(held);
            this.handed_out_at = sys::monotonic();
        }
        Self::end(slf, "the client left before a thread was free")?;
        Ok(true)
    }

    /// End an exchange whose thread does not come back; tell whether it was still in progress.
    pub fn give_up(slf: &Bound<'_, Self>, reason: &str) -> PyResult<bool> {
        {
            let mut this = slf.try_borrow_mut()?;
            if this.done || this.hub().abandoned.get() {
                return Ok(false);
            }
            this.given_up = true;
            let connection = Arc::clone(&this.wire.connection);
            let mut held = connection.lock();
            connection.uncork(&mut held); // what waited is an earlier response, and whole
            held.close_after = true;
            held.broken = this.head_sent;
            drop(held);
            if !this.head_sent && this.answer_given_up(slf.py()).is_err() {
                connection.lock().broken = true;
            }
        }
        Self::end(slf, reason)?;
        Ok(true)
    }

    fn answer_given_up(&mut self, py: Python<'_>) -> PyResult<()> {
        let refusal = Refusal::given_up(&self.hub().options.given_up);
        let answer = self.hub().error_response(&refusal, self.is_head);
        self.head_sent = true;
        self.status = Some(PyString::new(py, "504 Gateway Timeout").unbind());
        self.headers = None;
        self.transmit(&[&answer.head[..], &answer.body].concat())?;
        self.count_body(&answer.body);
        Ok(())
    }
}
