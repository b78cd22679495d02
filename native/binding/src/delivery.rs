//! From a request that is ready to its exchange.

use crate::call_deadline::CallDeadline;
use crate::client_wait::ClientWait;
use crate::companion::Companion;
use crate::core::Core;
use crate::environ::{Template, http_key, keys};
use crate::exchange::Exchange;
use crate::extend_deadline::ExtendDeadline;
use crate::ffi::{bytes_of, latin1};
use crate::lock_wait::LockWait;
use crate::request_id::RequestId;
use crate::spares::Spares;
use crate::thread_slots::{ThreadSlot, ThreadSlots};
use penstock_protocol::{Framing, Head, HeadCopy};
use penstock_reactor::connection::{Connection, name_of};
use penstock_reactor::forwarded::Forwarded;
use penstock_reactor::histograms::MethodNumber;
use penstock_reactor::next_request;
use penstock_reactor::own_answers::WHOLE_SERVER;
use penstock_reactor::request::{Body, Waiting};
use penstock_reactor::request_body::RequestBody;
use penstock_reactor::slow_path_estimate::PathHash;
use penstock_reactor::spool::Spool;
use penstock_reactor::states::{Fate, ResponseState};
use penstock_reactor::sys::{self, Nanos, SECOND};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyFloat, PyList, PyString};
use std::io;
use std::sync::Arc;

/// The thread that takes a request.
pub struct Thread<'a> {
    pub slot: &'a ThreadSlot,
    pub spares: &'a mut Spares,
    /// For how long it has waited for the interpreter lock with the request that it takes next.
    pub lock_wait: Nanos,
}

/// Makes the exchanges of one transport.
pub struct Delivery {
    pub core: Arc<Core>,
    pub thread_slots: Arc<ThreadSlots>,
    /// What the requests of each listener begin with.
    pub templates: Vec<Template>,
    /// The `penstock.transport.config.TransportConfig`.
    pub config: Py<PyAny>,
    pub bytes_io: Py<PyAny>,
    /// Makes a file object of a spooled body's descriptor, which becomes its own.
    pub open_spooled: Py<PyAny>,
    /// Puts the socket into the environ of a WebSocket handshake, and returns what it offers.
    pub offer_websocket: Py<PyAny>,
}

impl Delivery {
    pub fn deliver_waiting(
        &self,
        py: Python<'_>,
        thread: &mut Thread<'_>,
        waiting: Waiting,
    ) -> PyResult<Option<Py<Exchange>>> {
        let Waiting {
            connection,
            number,
            request,
            body,
            since,
            queued,
            forwarded,
        } = waiting;
        let since = queued.then_some(since);
        let (head, bytes) = (&request.head, &request.bytes);
        self.deliver(
            py, thread, connection, number, head, bytes, body, forwarded, since,
        )
    }

    /// Make the exchange of a request; None where the server has answered it itself. `queued` is
    /// since when it has waited for a thread, None where one took it at once.
    #[expect(clippy::too_many_arguments, reason = "what a request consists of")]
    pub fn deliver(
        &self,
        py: Python<'_>,
        thread: &mut Thread<'_>,
        connection: Arc<Connection>,
        number: u64,
        head: &Head,
        bytes: &[u8],
        body: Body,
        forwarded: Option<Box<Forwarded>>,
        queued: Option<Nanos>,
    ) -> PyResult<Option<Py<Exchange>>> {
        let listener = connection.listener;
        let made = self.make_exchange(
            py,
            thread,
            &connection,
            number,
            head,
            bytes,
            body,
            forwarded,
            queued,
        );
        let exchange = match made {
            Ok(exchange) => Py::new(py, exchange)?,
            Err(error) => {
                // Memory is short: the client learns so by a reset.
                let mut state = connection.lock();
                state.exchange.fate.worsen(Fate::Reset);
                next_request::give_back(
                    &connection,
                    &self.core.shared,
                    &mut state,
                    sys::monotonic(),
                );
                return Err(error);
            }
        };
        if head.path(bytes) == WHOLE_SERVER {
            exchange.try_borrow_mut(py)?.for_application = false;
            exchange.call_method1(py, "respond", ("200 OK", PyList::empty(py), 0))?;
            if exchange.call_method0(py, "finish").is_err() {
                exchange.call_method0(py, "abort")?;
            }
            self.forget(thread);
            return Ok(None);
        }
        if self.core.shared.redirects(listener) {
            exchange.try_borrow_mut(py)?.for_application = false;
            self.redirect(py, &exchange, head, bytes)?;
            self.forget(thread);
            return Ok(None);
        }
        Ok(Some(exchange))
    }

    /// Take a request off the scoreboard that the application does not get.
    fn forget(&self, thread: &mut Thread<'_>) {
        if let Some(record) = &thread.slot.record {
            self.core.shared.scoreboard.forget(record);
        }
    }

    /// Answer as a listener does that redirects to https.
    fn redirect(
        &self,
        py: Python<'_>,
        exchange: &Py<Exchange>,
        head: &Head,
        bytes: &[u8],
    ) -> PyResult<()> {
        let environ = exchange.borrow(py).environ.clone_ref(py);
        let host = match environ.bind(py).get_item("HTTP_HOST")? {
            Some(host) => host,
            None => PyString::new(py, "").into_any(), // HTTP/1.0 needs none
        };
        let method = latin1(py, head.method.of(bytes))?;
        let mut target = head.path(bytes).to_vec();
        let query = head.query.of(bytes);
        if !query.is_empty() {
            target.push(b'?');
            target.extend_from_slice(query);
        }
        let target = latin1(py, &target)?;
        let given = (&self.config, &method, host, target);
        let answer = py
            .import("penstock.transport.redirect")?
            .call_method1("redirect", given)?;
        let (status, fields, body): (Py<PyAny>, Py<PyAny>, Vec<u8>) = answer.extract()?;
        exchange.call_method1(py, "respond", (status, fields, body.len()))?;
        let body = match head.method.of(bytes) {
            b"HEAD" => PyBytes::new(py, b""),
            _ => PyBytes::new(py, &body),
        };
        if exchange.call_method1(py, "finish", (body,)).is_err() {
            exchange.call_method0(py, "abort")?;
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "what a request consists of")]
    fn make_exchange(
        &self,
        py: Python<'_>,
        thread: &mut Thread<'_>,
        connection: &Arc<Connection>,
        number: u64,
        head: &Head,
        bytes: &[u8],
        body: Body,
        forwarded: Option<Box<Forwarded>>,
        queued: Option<Nanos>,
    ) -> PyResult<Exchange> {
        let options = &self.core.shared.options;
        let length = match &body {
            Body::Collected(spool) => Some(spool.size()),
            _ => head.content_length,
        };
        let Some(template) = self.templates.get(connection.listener) else {
            return Err(PyValueError::new_err("a connection of no listener"));
        };
        let header_map = options.header_map;
        let companion = Companion::of(py, connection)?;
        let (environ, underscored) =
            template.build(py, head, bytes, companion, length, header_map)?;
        if underscored {
            self.core
                .log_writer
                .report_dropped_fields(py, head, bytes)?;
        }
        if let Some(forwarded) = &forwarded {
            template.set_forwarded(py, &environ, head, bytes, forwarded)?;
        } else if head.forwarding || options.forwarded.reads_all() {
            self.drop_untrusted(py, connection, &environ, head, bytes)?;
        }
        let made = RequestId::new(&options.id_prefix, self.core.shared.id_bits(number));
        let given = forwarded.as_ref().map(|it| it.request_id.as_slice());
        let id = given.filter(|it| !it.is_empty()).unwrap_or(made.bytes());
        let request_id = latin1(py, id)?;
        environ.set_item(&keys(py).request_id, &request_id)?;
        let timeout = self
            .core
            .policy
            .timeout(py, &self.core.log_writer, head, bytes);
        let since = sys::monotonic();
        let mut queue_time = 0;
        if let Some(queued) = queued {
            queue_time = since.saturating_sub(queued);
            let seconds = queue_time as f64 / SECOND as f64;
            environ.set_item(&keys(py).queue_time, PyFloat::new(py, seconds))?;
            // As nginx's "t=${msec}" makes it, which monitoring agents read.
            let start = format!("t={:.3}", sys::wall() - seconds);
            environ.set_item(&keys(py).request_start, start)?;
        }
        let deadline = self.set_deadline(&environ, thread, number, since, timeout)?;
        if let Some(record) = &thread.slot.record {
            let (method, target) = (head.method.of(bytes), head.target.of(bytes));
            let named = forwarded.as_ref().and_then(|it| it.peer()).map(name_of);
            let client = named.as_deref().unwrap_or_else(|| connection.name());
            let texts = [method, client, id, target];
            self.core
                .shared
                .scoreboard
                .describe(record, texts, since, deadline);
        }
        let mut websocket = None;
        if head.upgrade && !head.body_expected {
            let offered = self.offer_websocket.call1(py, (&environ,))?;
            websocket = (!offered.is_none(py)).then_some(offered);
        }
        let is_forwarded = forwarded.is_some();
        let (body, request_body) = self.body(py, connection, head, body)?;
        let request = options.observed.then(|| {
            Box::new(HeadCopy {
                bytes: bytes.into(),
                head: head.clone(),
            })
        });
        Ok(Exchange {
            environ: environ.unbind(),
            body,
            websocket,
            request_id: request_id.unbind(),
            forwarded,
            number,
            request_body,
            core: Arc::clone(&self.core),
            request,
            is_head: head.method.of(bytes) == b"HEAD",
            method: MethodNumber::of(head.method.of(bytes)),
            version: head.version,
            keep_alive: head.keep_alive,
            path: PathHash::of(head.path(bytes)),
            handed_out_at: since,
            queue_time,
            for_application: true,
            may_be_outside: template.is_mounted() || is_forwarded,
            first_byte_at: 0,
            client_wait: ClientWait::default(),
            lock_wait: LockWait::new(std::mem::take(&mut thread.lock_wait)),
            head: None,
            content_length: None,
            framing: Framing::None,
            body_sent: 0,
            response: ResponseState::Waiting,
            io_bound: false,
            deadline: CallDeadline::new(thread.slot.record, timeout),
            reason: String::new(),
        })
    }

    /// Leave out the forwarding fields of a peer that is not trusted, where that is asked for.
    #[cold]
    fn drop_untrusted(
        &self,
        py: Python<'_>,
        connection: &Connection,
        environ: &Bound<'_, PyDict>,
        head: &Head,
        bytes: &[u8],
    ) -> PyResult<()> {
        let policy = &self.core.shared.options.forwarded;
        if connection.trusted() || !policy.drops {
            return Ok(());
        }
        for field in &head.fields {
            let name = field.name.of(bytes);
            if policy.names(name) {
                let key = latin1(py, &http_key(name))?;
                if environ.contains(&key)? {
                    environ.del_item(key)?;
                }
            }
        }
        Ok(())
    }

    /// Tell the application until when it has time; return that, 0 for ever.
    #[inline(always)]
    fn set_deadline(
        &self,
        environ: &Bound<'_, PyDict>,
        thread: &mut Thread<'_>,
        number: u64,
        since: Nanos,
        timeout: Nanos,
    ) -> PyResult<Nanos> {
        let py = environ.py();
        let key = &keys(py).deadline;
        if timeout > 0 {
            let deadline = since.saturating_add(timeout);
            let seconds = deadline as f64 / SECOND as f64;
            environ.set_item(key, PyFloat::new(py, seconds))?;
            let extend = match thread.spares.extend_deadline() {
                Some(extend) => {
                    extend.get().begin(number);
                    extend
                }
                None => {
                    let made = ExtendDeadline::new(&self.thread_slots, thread.slot, number);
                    thread.spares.keep_extend_deadline(Py::new(py, made)?)
                }
            };
            environ.set_item(&keys(py).extend_deadline, extend)?;
            return Ok(deadline);
        }
        if self.core.policy.limits_calls() {
            environ.del_item(key)?; // these are for other paths
            environ.del_item(&keys(py).extend_deadline)?;
        }
        Ok(0)
    }

    /// The body as a file object, where it has arrived.
    #[inline(always)]
    fn body(
        &self,
        py: Python<'_>,
        connection: &Arc<Connection>,
        head: &Head,
        body: Body,
    ) -> PyResult<(Option<Py<PyAny>>, RequestBody)> {
        let connection = Arc::clone(connection);
        let continue_owed = body.owes_continue(head.expect_continue);
        Ok(match body {
            Body::Streamed(streaming, come) => (
                None,
                RequestBody::streamed(connection, continue_owed, Some(streaming), come),
            ),
            Body::Empty => (
                Some(self.bytes_io.call0(py)?),
                RequestBody::complete(connection, 0),
            ),
            Body::Collected(Spool::Memory(collected)) => {
                let size = collected.bytes().len() as u64;
                let bytes = bytes_of(py, collected.bytes())?;
                let file = self.bytes_io.call1(py, (bytes,))?;
                (Some(file), RequestBody::complete(connection, size))
            }
            Body::Collected(Spool::Disk(spooled)) => {
                let size = spooled.size();
                let (file, counted) = spooled
                    .into_file()
                    .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
                sys::rewind(&file)?;
                let file = self.open_spooled.call1(py, (file.into_raw(),))?;
                let mut body = RequestBody::complete(connection, size);
                body.file = Some(counted);
                (Some(file), body)
            }
        })
    }
}
