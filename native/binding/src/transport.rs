//! The transport as Python sees it: `penstock.transport.Transport`.

use crate::access_line::LineFormat;
use crate::budgets::read_budgets;
use crate::call_deadline::CallDeadline;
use crate::disconnect::Companion;
use crate::edge;
use crate::environ::{Template, keys};
use crate::exchange::Exchange;
use crate::ffi::latin1;
use crate::log_writer::LogWriter;
use crate::policy::Policy;
use crate::request_finished::RequestMaker;
use crate::request_id::RequestId;
use crate::scoreboard::open;
use crate::thread_slots::{ThreadSlot, ThreadSlots};
use penstock_protocol::{Framing, Head, Limits};
use penstock_reactor::accepting::Acceptor;
use penstock_reactor::connection::{Body, Connection};
use penstock_reactor::decisions;
use penstock_reactor::event_loop::{EventLoop, ReadBuffers, Step};
use penstock_reactor::leader_followers::{LeaderFollowers, Turn, Waiting};
use penstock_reactor::log_queue::HeadCopy;
use penstock_reactor::own_answers::Checks;
use penstock_reactor::scoreboard;
use penstock_reactor::shared::{HeaderMap, Options, Shared};
use penstock_reactor::slow_path_estimate::PathHash;
use penstock_reactor::spool::Spool;
use penstock_reactor::states::Fate;
use penstock_reactor::sys::{self, Nanos, SECOND};
use penstock_reactor::wire::Wire;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyFloat, PyList};
use std::cell::Cell;
use std::sync::Arc;

/// What a transport and its exchanges have in common.
pub struct Core {
    pub shared: Shared,
    pub threads: LeaderFollowers,
    pub log_writer: LogWriter,
    pub policy: Policy,
    pub thread_slots: ThreadSlots,
    templates: Vec<Template>,
    bytes_io: Py<PyAny>,
    /// Makes a file object of a spooled body's descriptor, which becomes its own.
    open_spooled: Py<PyAny>,
}

thread_local! {
    /// What the thread leaves in place of the leader's buffers when it takes a request.
    static BUFFERS: Cell<Option<Box<ReadBuffers>>> = const { Cell::new(None) };
}

/// The calling thread's buffers, made with the first request that it takes.
fn take_buffers(shared: &Shared) -> Box<ReadBuffers> {
    let known = BUFFERS.take();
    known.unwrap_or_else(|| Box::new(ReadBuffers::new(shared.options.receive_bytes)))
}

#[pyclass(module = "penstock._native", frozen)]
pub struct NativeTransport {
    core: Arc<Core>,
}

#[pymethods]
impl NativeTransport {
    /// `endpoints` are listeners, each with the environ that its requests begin with; `config` is a
    /// `penstock.transport.config.TransportConfig`; `slot` is the worker's place on the scoreboard.
    #[new]
    fn new(
        py: Python<'_>,
        endpoints: Vec<(Py<PyAny>, Bound<'_, PyDict>)>,
        config: &Bound<'_, PyAny>,
        logs: &Bound<'_, PyDict>,
        slot: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        let mut acceptors = Vec::new();
        let mut templates = Vec::new();
        let mut listeners = Vec::new();
        let scoreboard = open(slot)?;
        let policy = Policy::new(config)?;
        for (listener, environ) in endpoints {
            let bound = listener.bind(py);
            let descriptor = bound.getattr("socket")?.call_method0("fileno")?.extract()?;
            let name: String = bound.getattr("name")?.extract()?;
            let unix: bool = bound.getattr("is_unix")?.extract()?;
            acceptors.push(Acceptor::new(descriptor, name));
            templates.push(Template::new(py, &environ, unix, policy.limits_calls())?);
            listeners.push(listener);
        }
        let given = |name: &str| required(logs, name).map(|log| !log.is_none());
        let mut options = read_options(config)?;
        options.observed = given("observers")?;
        options.trace = match options.observed {
            true => required(logs, "needs")?.getattr("transcript")?.extract()?,
            false => false,
        };
        options.recorded = options.observed && !given("line_format")?;
        let client_left = options.client_left;
        let shared = Shared::new(options, scoreboard)?;
        let event_loop = EventLoop::new(&shared, acceptors);
        let log = |name: &str| required(logs, name).map(Bound::unbind);
        let optional = |name: &str| log(name).map(|log| (!log.is_none(py)).then_some(log));
        let line_format = match optional("line_format")? {
            Some(format) => Some(LineFormat::new(format.bind(py))?),
            None => None,
        };
        let log_writer = LogWriter {
            logger: log("logger")?,
            client_left,
            observers: optional("observers")?,
            line_format,
            requests: required(logs, "requests")?.extract()?,
            request_maker: optional("needs")?
                .map(|needs| RequestMaker::new(py, needs.bind(py)))
                .transpose()?,
            dropped_fields: log("dropped_fields")?,
            log_lines: py.import("penstock.transport.log_lines")?.unbind(),
            listeners,
        };
        Ok(NativeTransport {
            core: Arc::new(Core {
                shared,
                threads: LeaderFollowers::new(event_loop),
                log_writer,
                policy,
                thread_slots: ThreadSlots::new(),
                templates,
                bytes_io: py.import("io")?.getattr("BytesIO")?.unbind(),
                open_spooled: log("open_spooled")?,
            }),
        })
    }

    fn next(&self, py: Python<'_>) -> PyResult<Option<Py<Exchange>>> {
        let core = &self.core;
        let (shared, threads) = (&core.shared, &core.threads);
        if shared.closed_in_child.get() {
            return Ok(None); // a forked child: the others' locks, requests and scoreboard are not its own
        }
        let thread_slot = core.come_back();
        let mut buffers = take_buffers(shared);
        let mut until = 0;
        loop {
            core.tell(py);
            if shared.closed_in_child.get() {
                return Ok(None);
            }
            if threads.is_over() {
                break;
            }
            let mut exchange = None;
            if let Some(waiting) = threads.take_ready(shared) {
                exchange = core.deliver_waiting(py, &thread_slot, waiting)?;
            } else {
                match threads.lead_attached(shared, &mut buffers, &mut until) {
                    Some(Step::Ready(ready)) => {
                        let (head, bytes) = buffers.head_of(&ready.source);
                        let (connection, number) = (ready.connection, ready.number);
                        exchange = core.deliver(
                            py,
                            &thread_slot,
                            connection,
                            number,
                            head,
                            bytes,
                            ready.body,
                        )?;
                        if let (true, Some(ready)) = (ready.disconnected, &exchange) {
                            if Exchange::drop_if_client_gone(ready.bind(py), true)? {
                                continue;
                            }
                        }
                    }
                    Some(Step::Over) => {
                        threads.end(shared);
                        break;
                    }
                    _ => {
                        core.tell(py);
                        // What the thread was with last is not kept while it waits.
                        thread_slot.keep(None);
                        match py.detach(|| threads.lead_or_park(shared)) {
                            Turn::Request(waiting) => {
                                exchange = core.deliver_waiting(py, &thread_slot, *waiting)?;
                            }
                            Turn::Again => py.check_signals()?, // where this is the main thread
                            Turn::Tell | Turn::Over => {}
                        }
                        until = 0;
                    }
                }
            }
            if let Some(exchange) = exchange {
                core.tell(py);
                core.hand_out(py, &thread_slot, &exchange);
                BUFFERS.set(Some(buffers));
                return Ok(Some(exchange));
            }
        }
        core.leave(py, &thread_slot);
        Ok(None)
    }

    /// `lasting` are the listeners, by their order, at which the kernel ignores new connections.
    fn drain(&self, py: Python<'_>, hand_over: bool, lasting: Vec<bool>) {
        if hand_over {
            self.core.shared.handing_over.set(true);
        } else {
            self.core.shared.set_lasting(lasting);
        }
        self.core.shared.draining.set(true);
        py.detach(|| self.core.threads.interrupt(&self.core.shared));
        self.core.tell(py);
    }

    /// See `penstock.transport.Transport.abort_all`.
    fn abort_all(&self, py: Python<'_>, reason: &str) -> PyResult<usize> {
        let mut count = 0;
        for exchange in self.core.thread_slots.take_all() {
            match Exchange::time_out(exchange.bind(py), reason) {
                Ok(timed_out) => count += usize::from(timed_out),
                // One that its thread uses at this moment, where there is no GIL.
                Err(error) => error.write_unraisable(py, None),
            }
        }
        py.detach(|| self.core.threads.attend(&self.core.shared));
        self.core.tell(py);
        Ok(count)
    }

    /// See `penstock.transport.Transport.expire`.
    fn expire(&self, py: Python<'_>, number: u64, reason: &str) -> PyResult<bool> {
        let core = &self.core;
        let found = core
            .thread_slots
            .find_call(py, &core.shared.scoreboard, number);
        let Some(exchange) = found else {
            return Ok(false);
        };
        let ended = Exchange::time_out(exchange.bind(py), reason)?;
        if ended {
            py.detach(|| core.threads.attend(&core.shared));
            core.tell(py);
        }
        Ok(ended)
    }

    fn close(&self, py: Python<'_>) {
        self.core.shared.closed.set(true);
        py.detach(|| self.core.threads.interrupt(&self.core.shared));
        self.core.tell(py);
    }

    fn snapshot<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let shared = &self.core.shared;
        let snapshot = PyDict::new(py);
        for (name, count) in py.detach(|| shared.counts()) {
            snapshot.set_item(name, count)?;
        }
        snapshot.set_item("draining", shared.draining.get())?;
        let share = f64::from(shared.slow_paths.slow_share());
        snapshot.set_item("slow_share", (share * 1000.0).round() / 1000.0)?;
        let next = shared.connections().iter().map(|c| c.deadline()).min();
        let next = next.filter(|deadline| *deadline != penstock_reactor::connection::NEVER);
        let next = next.map_or(f64::INFINITY, |deadline| deadline as f64 / SECOND as f64);
        snapshot.set_item("next_deadline", next)?;
        Ok(snapshot)
    }

    /// Give up every socket, in a child process that the application forked.
    fn close_in_child(&self) {
        self.core.shared.closed_in_child.set(true);
        self.core.shared.closed.set(true);
        self.core.shared.drained.set(true);
        self.core.threads.close_in_child();
        sys::close_all_in_child();
    }

    /// Return what a function of `decisions` returns, for the test that compares both languages.
    #[staticmethod]
    fn decide(
        config: &Bound<'_, PyAny>,
        name: &str,
        numbers: Vec<Option<f64>>,
    ) -> PyResult<Option<f64>> {
        if let Some(decided) = edge::decide(config, name, &numbers)? {
            return Ok(Some(decided));
        }
        let options = read_options(config)?;
        Ok(decisions::decide(&options, name, &numbers))
    }

    /// What the stall monitor's thread runs, until the end.
    fn watch(&self, py: Python<'_>) {
        let core = &self.core;
        py.detach(|| core.threads.watch(&core.shared));
    }

    /// The numbers of the scoreboard's layout by their names, for a test to compare.
    fn scoreboard_layout<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let layout = PyDict::new(py);
        for (name, number) in scoreboard::LAYOUT {
            layout.set_item(name, number)?;
        }
        layout.set_item("TEXTS", scoreboard::TEXTS)?;
        Ok(layout)
    }

    /// The life of the log writer's thread: it writes the log queue where every other thread is
    /// busy, and waits for the GIL in the leader's place.
    fn write_logs(&self, py: Python<'_>) {
        let core = &self.core;
        while !core.threads.is_over() {
            py.detach(|| core.shared.await_call());
            core.tell(py);
        }
    }
}

impl Core {
    /// Write what the log queue holds.
    fn tell(&self, py: Python<'_>) {
        if !self.shared.log_queue.is_empty() && !self.shared.closed_in_child.get() {
            self.log_writer.write_all(py, self.shared.log_queue.take());
        }
    }

    /// Note that the calling thread is with nothing.
    fn come_back(&self) -> Arc<ThreadSlot> {
        let scoreboard = &self.shared.scoreboard;
        let thread_slot = self.thread_slots.mine(scoreboard);
        if let Some(record) = &thread_slot.record {
            scoreboard.end(record);
        }
        thread_slot.keep(None);
        thread_slot
    }

    /// Keep account of what the calling thread takes to the application.
    fn hand_out(&self, py: Python<'_>, thread_slot: &ThreadSlot, exchange: &Py<Exchange>) {
        let number = self.threads.count(&self.shared);
        thread_slot.keep(Some(exchange.clone_ref(py)));
        if let Some(record) = &thread_slot.record {
            self.shared.scoreboard.begin(record, number);
        }
        if self.shared.options.attended {
            let path = exchange.borrow(py).path;
            self.threads.look_after(&self.shared, path);
        }
    }

    /// Finish what is left at the end, for a thread that goes home.
    fn leave(self: &Arc<Self>, py: Python<'_>, thread_slot: &ThreadSlot) {
        while let Some(waiting) = self.threads.take_ready(&self.shared) {
            // Where the end was not waited for.
            let ready = self.deliver_waiting(py, thread_slot, waiting);
            if let Ok(Some(exchange)) = ready {
                let _ = exchange.call_method0(py, "abort");
            }
        }
        thread_slot.keep(None);
        py.detach(|| self.threads.lead_last(&self.shared));
        self.tell(py);
    }

    fn deliver_waiting(
        self: &Arc<Self>,
        py: Python<'_>,
        thread_slot: &ThreadSlot,
        waiting: Waiting,
    ) -> PyResult<Option<Py<Exchange>>> {
        let Waiting {
            connection,
            number,
            request,
            body,
            since,
            disconnected,
        } = waiting;
        let client = Arc::clone(&connection);
        let (head, bytes) = (&request.head, &request.bytes);
        let exchange = self.deliver(py, thread_slot, connection, number, head, bytes, body)?;
        if let Some(exchange) = &exchange {
            let before = sys::monotonic().saturating_sub(self.shared.options.disconnected);
            let disconnected = disconnected || client.had_ended(before, since);
            if Exchange::drop_if_client_gone(exchange.bind(py), disconnected)? {
                return Ok(None); // it waited for a thread, and no client waits for it
            }
        }
        Ok(exchange)
    }

    /// Make the exchange of a request; None where the server has answered it itself.
    #[expect(clippy::too_many_arguments, reason = "what a request consists of")]
    fn deliver(
        self: &Arc<Self>,
        py: Python<'_>,
        thread_slot: &ThreadSlot,
        connection: Arc<Connection>,
        number: u64,
        head: &Head,
        bytes: &[u8],
        body: Body,
    ) -> PyResult<Option<Py<Exchange>>> {
        let made = self.make_exchange(py, thread_slot, &connection, number, head, bytes, body);
        let exchange = match made {
            Ok(exchange) => Py::new(py, exchange)?,
            Err(error) => {
                // Memory is short: the client learns so by a reset.
                let mut state = connection.lock();
                state.exchange.fate.worsen(Fate::Reset);
                connection.give_back(&self.shared, &mut state, sys::monotonic());
                return Err(error);
            }
        };
        if head.path(bytes) == b"*" {
            // OPTIONS * is about the server as a whole (RFC 9110, section 9.3.7).
            exchange.call_method1(py, "respond", ("200 OK", PyList::empty(py), 0))?;
            if exchange.call_method0(py, "finish").is_err() {
                exchange.call_method0(py, "abort")?;
            }
            return Ok(None);
        }
        Ok(Some(exchange))
    }

    #[expect(clippy::too_many_arguments, reason = "what a request consists of")]
    fn make_exchange(
        self: &Arc<Self>,
        py: Python<'_>,
        thread_slot: &ThreadSlot,
        connection: &Arc<Connection>,
        number: u64,
        head: &Head,
        bytes: &[u8],
        body: Body,
    ) -> PyResult<Exchange> {
        let options = &self.shared.options;
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
            self.log_writer.report_dropped_fields(py, head, bytes)?;
        }
        let id = RequestId::new(&options.id_prefix, number);
        let request_id = latin1(py, id.bytes())?;
        environ.set_item(&keys(py).request_id, &request_id)?;
        let timeout = self.policy.timeout(py, &self.log_writer, head, bytes);
        let since = sys::monotonic();
        let deadline = self.set_deadline(&environ, thread_slot, number, since, timeout)?;
        if let Some(record) = &thread_slot.record {
            let (method, target) = (head.method.of(bytes), head.target.of(bytes));
            let texts = [method, connection.name(), id.bytes(), target];
            self.shared
                .scoreboard
                .describe(record, texts, since, deadline);
        }
        let (body, wire) = self.body(py, connection, head, body)?;
        let request = options.observed.then(|| {
            Box::new(HeadCopy {
                bytes: bytes.into(),
                head: head.clone(),
            })
        });
        Ok(Exchange {
            environ: environ.unbind(),
            body,
            request_id: request_id.unbind(),
            head_sent: false,
            number,
            wire,
            core: Arc::clone(self),
            request,
            is_head: head.method.of(bytes) == b"HEAD",
            version: head.version,
            keep_alive: head.keep_alive,
            path: PathHash::of(head.path(bytes)),
            handed_out_at: since,
            first_byte_at: 0,
            status: None,
            headers: None,
            content_length: None,
            framing: Framing::None,
            body_sent: 0,
            done: false,
            timed_out: false,
            deadline: CallDeadline::new(thread_slot.record, timeout),
            reason: String::new(),
        })
    }

    /// Tell the application until when it has time; return that, 0 for ever.
    #[inline(always)]
    fn set_deadline(
        self: &Arc<Self>,
        environ: &Bound<'_, PyDict>,
        thread_slot: &ThreadSlot,
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
            let extend = Py::new(py, thread_slot.extend_deadline(self, number))?;
            environ.set_item(&keys(py).extend_deadline, extend)?;
            return Ok(deadline);
        }
        if self.policy.limits_calls() {
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
    ) -> PyResult<(Option<Py<PyAny>>, Wire)> {
        let connection = Arc::clone(connection);
        Ok(match body {
            Body::Streamed => (None, Wire::streamed(connection, head.expect_continue)),
            Body::Empty => (
                Some(self.bytes_io.call0(py)?),
                Wire::complete(connection, 0),
            ),
            Body::Collected(Spool::Memory(collected)) => {
                let bytes = PyBytes::new_with(py, collected.len(), |bytes| {
                    bytes.copy_from_slice(&collected);
                    Ok(())
                })?;
                let file = self.bytes_io.call1(py, (bytes,))?;
                (
                    Some(file),
                    Wire::complete(connection, collected.len() as u64),
                )
            }
            Body::Collected(Spool::Disk(file, size)) => {
                sys::rewind(&file)?;
                let file = self.open_spooled.call1(py, (file.into_raw(),))?;
                (Some(file), Wire::complete(connection, size))
            }
        })
    }
}

fn required<'py>(given: &Bound<'py, PyDict>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    given
        .get_item(name)?
        .ok_or_else(|| PyValueError::new_err(format!("{name} is missing")))
}

/// The options that `config` gives; the observers of requests are none of them.
fn read_options(config: &Bound<'_, PyAny>) -> PyResult<Options> {
    let get = |name: &str| config.getattr(name);
    let size = |name: &str| get(name)?.extract::<usize>();
    let large = |name: &str| get(name)?.extract::<u64>();
    let number = |name: &str| get(name)?.extract::<f64>();
    let text = |name: &str| get(name)?.extract::<String>();
    let time = |name: &str| number(name).map(|seconds| (seconds * SECOND as f64) as Nanos);
    let path = |name: &str| -> PyResult<Option<Vec<u8>>> {
        let path = get(name)?;
        if path.is_none() {
            return Ok(None);
        }
        path.call_method1("encode", ("latin-1",))?
            .extract()
            .map(Some)
    };
    let parser = get("parser")?;
    let most = |name: &str| parser.getattr(name)?.extract::<usize>();
    Ok(Options {
        parser: Limits {
            request_line: most("request_line")?,
            fields: most("fields")?,
            field_size: most("field_size")?,
            head: most("head")?,
            chunk_overhead: most("chunk_overhead")?,
            body: parser.getattr("body")?.extract()?,
        },
        body_memory: large("body_memory")?,
        out_buffer: large("unsent_limit")?,
        max_connections: size("max_connections")?,
        budgets: read_budgets(config)?,
        header_timeout: time("header_timeout")?,
        body_timeout: time("body_timeout")?,
        body_min_rate: number("body_min_rate")?,
        body_stall: time("body_stall_seconds")?,
        keep_alive: time("keep_alive")?,
        write_timeout: time("write_timeout")?,
        drain_linger: time("drain_linger")?,
        sweep_interval: time("sweep_interval")?,
        server_header: get("server_header")?.extract()?,
        header_map: match text("header_map")?.as_str() {
            "refuse" => HeaderMap::Refuse,
            "dangerous" => HeaderMap::Dangerous,
            _ => HeaderMap::Drop,
        },
        stream_requests: get("stream_requests")?.extract()?,
        temp_dir: text("spool_dir")?.into(),
        id_prefix: text("id_prefix")?,
        trace: false,
        observed: false,
        recorded: false,
        attended: get("has_stall_monitor")?.extract()?,
        timed_out: text("timed_out")?,
        checks: Checks {
            health_path: path("health_path")?,
            ready_path: path("ready_path")?,
            healthy: get("healthy")?.extract()?,
            unhealthy: get("unhealthy")?.extract()?,
            stale_beat: time("stale_beat_seconds")?,
        },
        disconnected: time("disconnect_seconds")?,
        idle_wait: get("idle_wait")?
            .extract::<Option<f64>>()?
            .map(|seconds| (seconds * SECOND as f64) as Nanos),
        accept_batch: size("accept_batch")?,
        max_backlog: size("max_backlog")?,
        accept_pause: time("accept_pause_seconds")?,
        evict_idle: time("evict_idle_seconds")?,
        balance_batch: size("balance_batch")?,
        balance_slack: large("balance_slack")?,
        balance_share: large("balance_share")?,
        balance_deferrals: get("balance_deferrals")?.extract()?,
        balance_doublings: get("balance_doublings")?.extract()?,
        balance_pause: time("balance_pause_seconds")?,
        busy_pause: time("busy_pause_seconds")?,
        responsive: time("responsive_seconds")?,
        receive_bytes: size("receive_bytes")?,
        discard_bytes: large("discard_bytes")?,
        wait_slice: time("wait_slice_seconds")?,
        flush_bytes: large("flush_bytes")?,
        join_bytes: size("join_bytes")?,
        linger: time("linger_seconds")?,
        linger_idle: time("linger_idle_seconds")?,
        linger_bytes: large("linger_bytes")?,
        drain_head: time("drain_head_seconds")?,
        drain_handshake: time("drain_handshake_seconds")?,
        drain_sweep: time("drain_sweep_seconds")?,
        drain_accepted: time("drain_accepted_seconds")?,
        slow_call: time("slow_call_seconds")?,
        slow_share: number("slow_share")?,
        monitor_idle: time("monitor_idle_seconds")?,
        client_left: get("client_left_status")?.extract()?,
        trace_body: size("trace_body_bytes")?,
        trace_head: size("trace_head_bytes")?,
        log_entries: size("log_entries")?,
    })
}
