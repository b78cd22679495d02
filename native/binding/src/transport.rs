//! The transport as Python sees it: `penstock.transport.Transport`.

use crate::access_line::LineFormat;
use crate::application_calls::ApplicationCalls;
use crate::core::{Core, Writing};
use crate::delivery::{Delivery, Thread};
use crate::edge;
use crate::ending;
use crate::environ::{Template, forget_cache};
use crate::exchange::Exchange;
use crate::ffi;
use crate::lock_wait::{detached, time_since};
use crate::log_writer::LogWriter;
use crate::options::read_options;
use crate::policy::Policy;
use crate::request_finished::RequestMaker;
use crate::scoreboard::open;
use crate::spares::Serving;
use crate::thread_slots::{ThreadSlot, ThreadSlots};
use penstock_reactor::accepting::Acceptor;
use penstock_reactor::connection::NEVER;
use penstock_reactor::decisions;
use penstock_reactor::event_loop::{EventLoop, Step};
use penstock_reactor::histograms::{self, MethodNumber, Protocol, Series};
use penstock_reactor::leader::ReadBuffers;
use penstock_reactor::leader_followers::{LeaderFollowers, Turn};
use penstock_reactor::scoreboard;
use penstock_reactor::shared::Shared;
use penstock_reactor::sys::{self, Nanos, SECOND};
use penstock_reactor::thread_count::Leave;
use penstock_reactor::unserved;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

thread_local! {
    /// What the thread leaves in place of the leader's buffers when it takes a request.
    static BUFFERS: Cell<Option<Box<ReadBuffers>>> = const { Cell::new(None) };
}

#[pyclass(module = "penstock._native", frozen)]
pub struct NativeTransport {
    core: Arc<Core>,
    threads: LeaderFollowers,
    thread_slots: Arc<ThreadSlots>,
    delivery: Delivery,
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
        let mut redirecting = Vec::new();
        let mut packets = Vec::new();
        let scoreboard = open(slot)?;
        let policy = Policy::new(config)?;
        for (listener, environ) in endpoints {
            let bound = listener.bind(py);
            let descriptor = bound.getattr("socket")?.call_method0("fileno")?.extract()?;
            let name: String = bound.getattr("name")?.extract()?;
            let unix: bool = bound.getattr("is_unix")?.extract()?;
            let tls: bool = bound.getattr("tls")?.extract()?;
            acceptors.push(Acceptor::new(descriptor, name, tls));
            redirecting.push(bound.getattr("redirects")?.extract()?);
            let uwsgi: bool = bound.getattr("uwsgi")?.extract()?;
            packets.push(uwsgi);
            let portless = unix || uwsgi; // a packet may name a client without its port
            templates.push(Template::new(
                py,
                &environ,
                portless,
                policy.limits_calls(),
            )?);
            listeners.push(listener);
        }
        let given = |name: &str| required(logs, name).map(|log| !log.is_none());
        let mut options = read_options(config)?;
        options.redirecting = redirecting;
        options.packets = packets;
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
            note_call: optional("note_call")?,
            request_log: log("request_log")?,
            scoreboard: Arc::clone(&shared.scoreboard),
            listeners,
        };
        let core = Arc::new(Core {
            shared,
            log_writer,
            policy,
            start_threads: log("attend")?,
            when_idle: optional("when_idle")?,
            writing: Writing::default(),
        });
        let thread_slots = Arc::new(ThreadSlots::new());
        Ok(NativeTransport {
            core: Arc::clone(&core),
            threads: LeaderFollowers::new(event_loop, Arc::clone(&core.shared.led)),
            thread_slots: Arc::clone(&thread_slots),
            delivery: Delivery {
                core,
                thread_slots,
                templates,
                config: config.clone().unbind(),
                bytes_io: py.import("io")?.getattr("BytesIO")?.unbind(),
                open_spooled: log("open_spooled")?,
                offer_websocket: log("offer_websocket")?,
            },
        })
    }

    fn next(&self, py: Python<'_>) -> PyResult<Option<Py<Exchange>>> {
        self.take(py, &mut Serving::default())
    }

    /// See `penstock.transport.Transport.serve`.
    #[pyo3(signature = (handle, calls = None))]
    fn serve(
        &self,
        py: Python<'_>,
        handle: &Bound<'_, PyAny>,
        calls: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let calls = calls.map(ApplicationCalls::of).transpose()?;
        let mut serving = Serving::default();
        while let Some(exchange) = self.take(py, &mut serving)? {
            let exchange = exchange.into_bound(py);
            let handled = match &calls {
                // An error is one of the server's own: the gateway would have answered.
                Some(calls) => calls.handle(&exchange, &mut serving).or_else(|error| {
                    ending::abort(&exchange)?;
                    Err(error)
                })?,
                None => false,
            };
            if !handled {
                ffi::call(handle, [exchange.as_any()])?;
            }
        }
        Ok(())
    }

    /// `lasting` are the listeners, by their order, at which the kernel ignores new connections.
    fn drain(&self, py: Python<'_>, hand_over: bool, lasting: Vec<bool>) {
        if hand_over {
            self.core.shared.handing_over.set(true);
        } else {
            self.core.shared.set_lasting(lasting);
        }
        self.core.shared.draining.set(true);
        py.detach(|| self.threads.interrupt(&self.core.shared));
        self.core.write_logs(py);
    }

    /// See `penstock.transport.Transport.set_tls`.
    #[cfg(feature = "tls")]
    fn set_tls(&self, py: Python<'_>, material: &Bound<'_, PyAny>) -> PyResult<()> {
        let server = crate::tls::server_of(py, material)?;
        self.core.shared.set_tls(Arc::new(server));
        Ok(())
    }

    /// Raise what `set_tls` would raise: the supervisor asks before it passes anything on.
    #[cfg(feature = "tls")]
    #[staticmethod]
    fn check_tls(py: Python<'_>, material: &Bound<'_, PyAny>) -> PyResult<()> {
        crate::tls::server_of(py, material).map(drop)
    }

    /// Return the names of an OpenSSL list of ciphers that are not known here; empty if all are.
    #[cfg(feature = "tls")]
    #[staticmethod]
    fn unknown_ciphers(names: &str) -> String {
        penstock_reactor::tls::unknown_ciphers(names)
    }

    /// See `penstock.transport.Transport.current_exchange`.
    fn current_exchange(&self, py: Python<'_>) -> Option<Py<Exchange>> {
        self.thread_slots.known()?.exchange(py)
    }

    /// See `penstock.transport.Transport.leave_count`. `add_thread` starts a thread that calls
    /// `next`, and returns whether it could.
    fn leave_count(
        &self,
        py: Python<'_>,
        add_thread: &Bound<'_, PyAny>,
        websocket: bool,
    ) -> PyResult<bool> {
        let shared = &self.core.shared;
        if shared.closed_in_child.get() {
            return Ok(false); // the others' locks are not the child's
        }
        let Some(thread_slot) = self.thread_slots.known() else {
            return Ok(false);
        };
        let place = &thread_slot.place;
        if place.has_left() && !websocket {
            return Ok(true);
        }
        let Some(exchange) = thread_slot.exchange(py) else {
            return Ok(false);
        };
        let left = match self.threads.leave_count(shared, place, websocket) {
            Leave::Refused => false,
            Leave::Replaced => true,
            Leave::NeedsThread => {
                let started = add_thread.call0().and_then(|it| it.is_truthy());
                let replaced =
                    matches!(started, Ok(true)) || self.threads.replace_otherwise(shared, place);
                started?;
                replaced
            }
        };
        if left {
            // Where another thread uses it at this moment, its time counts as a mean call's.
            if let Ok(mut exchange) = exchange.try_borrow_mut(py) {
                exchange.io_bound = true;
            }
        }
        Ok(left)
    }

    /// See `penstock.transport.Transport.abort_all`.
    fn abort_all(&self, py: Python<'_>, reason: &str) -> PyResult<usize> {
        let mut count = 0;
        for exchange in self.thread_slots.take_all() {
            match ending::time_out(exchange.bind(py), reason) {
                Ok(timed_out) => count += usize::from(timed_out),
                // One that its thread uses at this moment, where there is no GIL.
                Err(error) => error.write_unraisable(py, None),
            }
        }
        py.detach(|| self.threads.attend(&self.core.shared));
        self.core.write_logs(py);
        Ok(count)
    }

    /// See `penstock.transport.Transport.expire`.
    fn expire(&self, py: Python<'_>, number: u64, reason: &str) -> PyResult<bool> {
        let core = &self.core;
        let found = self
            .thread_slots
            .find_call(py, &core.shared.scoreboard, number);
        let Some(exchange) = found else {
            return Ok(false);
        };
        let ended = ending::time_out(exchange.bind(py), reason)?;
        if ended {
            py.detach(|| self.threads.attend(&core.shared));
            core.write_logs(py);
        }
        Ok(ended)
    }

    fn close(&self, py: Python<'_>) {
        self.core.shared.closed.set(true);
        py.detach(|| self.threads.interrupt(&self.core.shared));
        self.core.write_logs(py);
    }

    /// See `penstock.transport.Transport.finish_logs`.
    fn finish_logs(&self, py: Python<'_>, timeout: f64) -> bool {
        let time = Duration::try_from_secs_f64(timeout).unwrap_or_default();
        self.core.finish_logs(py, time)
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
        let next = next.filter(|deadline| *deadline != NEVER);
        let next = next.map_or(f64::INFINITY, |deadline| deadline as f64 / SECOND as f64);
        snapshot.set_item("next_deadline", next)?;
        Ok(snapshot)
    }

    /// Give up every socket, in a child process that the application forked.
    fn close_in_child(&self) {
        self.core.shared.closed_in_child.set(true);
        self.core.shared.closed.set(true);
        self.core.shared.drained.set(true);
        self.threads.close_in_child();
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

    /// Return what `edge::read_proxy_header` does, for the test that compares both languages.
    #[staticmethod]
    fn read_proxy_header<'py>(
        py: Python<'py>,
        config: &Bound<'py, PyAny>,
        data: &[u8],
    ) -> PyResult<Bound<'py, PyAny>> {
        edge::read_proxy_header(py, config, data)
    }

    /// Return what `edge::read_packet` does, for the test that compares both languages.
    #[staticmethod]
    fn read_packet<'py>(
        py: Python<'py>,
        config: &Bound<'py, PyAny>,
        data: &[u8],
    ) -> PyResult<Bound<'py, PyAny>> {
        edge::read_packet(py, config, data)
    }

    /// Return what `edge::read_forwarded` does, for the test that compares both languages.
    #[staticmethod]
    fn read_forwarded<'py>(
        py: Python<'py>,
        config: &Bound<'py, PyAny>,
        head: &[u8],
    ) -> PyResult<Bound<'py, PyAny>> {
        edge::read_forwarded(py, config, head)
    }

    /// Have the leader look whether a client waits that no other worker knows of.
    fn look_for_clients(&self) {
        self.core.shared.look_for_clients.set(true);
        self.core.shared.poller.wake();
    }

    /// Note that the threads of the transport's own run.
    fn note_attended(&self) {
        self.core.shared.attended.set(true);
    }

    /// What the stall monitor's thread runs, until the end.
    fn watch(&self, py: Python<'_>) {
        let core = &self.core;
        py.detach(|| self.threads.watch(&core.shared));
    }

    /// Write to the slot what is not kept up to date there all the time.
    fn publish(&self, py: Python<'_>) {
        let core = &self.core;
        py.detach(|| core.shared.publish_connections());
    }

    /// The bounds of the histograms' buckets in nanoseconds, for a test to compare.
    #[staticmethod]
    fn histogram_bounds() -> [Nanos; 14] {
        histograms::BOUNDS
    }

    /// The number of a series of the histograms, for a test to compare. `line` is a request line.
    #[staticmethod]
    fn histogram_series(method: &[u8], status: u16, line: &[u8]) -> usize {
        let protocol = Protocol::of_line(line);
        Series::new(MethodNumber::of(method), status, protocol).number()
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
        while !self.threads.is_over() {
            py.detach(|| core.shared.await_call());
            core.write_logs(py);
        }
    }
}

impl NativeTransport {
    /// Block until a request is ready for the application; None once drained. `serving` is what the
    /// calling thread has.
    fn take(&self, py: Python<'_>, serving: &mut Serving) -> PyResult<Option<Py<Exchange>>> {
        let core = &self.core;
        let (shared, threads) = (&core.shared, &self.threads);
        if shared.closed_in_child.get() {
            return Ok(None); // a forked child: the others' locks, requests and scoreboard are not its own
        }
        let thread_slot = self.come_back();
        serving.spares.tidy(py);
        serving.give_way(py);
        let mut thread = Thread {
            slot: &thread_slot,
            spares: &mut serving.spares,
            lock_wait: 0,
        };
        threads.come_back(shared, &thread_slot.place);
        if thread_slot.place.is_missing() {
            core.write_logs(py);
            py.detach(|| threads.await_place(shared, &thread_slot.place));
        }
        let mut buffers = BUFFERS.take();
        let mut until = 0;
        loop {
            core.write_logs(py);
            if shared.closed_in_child.get() {
                return Ok(None);
            }
            if threads.is_over() {
                break;
            }
            let mut exchange = None;
            if let Some(waiting) = threads.take_ready(shared) {
                exchange = self.delivery.deliver_waiting(py, &mut thread, waiting)?;
            } else {
                match threads.lead_attached(shared, &mut buffers, &mut until) {
                    Some(Step::Ready(ready)) => {
                        let Some(read) = &buffers else {
                            continue; // never: what is ready is in them
                        };
                        let (head, bytes) = read.head_of(&ready.source);
                        let (connection, number) = (ready.connection, ready.number);
                        exchange = self.delivery.deliver(
                            py,
                            &mut thread,
                            connection,
                            number,
                            head,
                            bytes,
                            ready.body,
                            ready.forwarded,
                            None,
                        )?;
                    }
                    Some(Step::Over) => {
                        threads.end(shared);
                        break;
                    }
                    step => {
                        core.write_logs(py);
                        // What the thread was with last is not kept while it waits.
                        thread_slot.keep(None);
                        // Or another thread leads, and waits since before this one came back.
                        if matches!(step, Some(Step::Idle) | None) {
                            core.when_idle(py);
                        }
                        let (turn, done) = detached(py, || {
                            let turn = threads.lead_or_park(shared);
                            shared.attaching.fetch_add(1, Ordering::Relaxed);
                            turn
                        });
                        shared.attaching.fetch_sub(1, Ordering::Relaxed);
                        match turn {
                            Turn::Request(waiting) => {
                                thread.lock_wait = time_since(done);
                                exchange =
                                    self.delivery.deliver_waiting(py, &mut thread, *waiting)?;
                            }
                            Turn::Again => py.check_signals()?, // where this is the main thread
                            Turn::Queued | Turn::WriteLogs | Turn::Over => {}
                        }
                        until = 0;
                    }
                }
            }
            if let Some(exchange) = exchange {
                core.write_logs(py);
                self.hand_out(py, &thread_slot, &exchange);
                BUFFERS.set(buffers);
                return Ok(Some(exchange));
            }
        }
        self.leave(py, &thread_slot);
        Ok(None)
    }

    /// Note that the calling thread is with nothing.
    fn come_back(&self) -> Arc<ThreadSlot> {
        let scoreboard = &self.core.shared.scoreboard;
        let thread_slot = self.thread_slots.mine(scoreboard);
        if let Some(record) = &thread_slot.record {
            scoreboard.end(record);
        }
        thread_slot.keep(None);
        thread_slot
    }

    /// Keep account of what the calling thread takes to the application.
    fn hand_out(&self, py: Python<'_>, thread_slot: &ThreadSlot, exchange: &Py<Exchange>) {
        let number = self.threads.count(&self.core.shared);
        thread_slot.keep(Some(exchange.clone_ref(py)));
        if let Some(record) = &thread_slot.record {
            self.core.shared.scoreboard.begin(record, number);
        }
        let shared = &self.core.shared;
        if shared.attended.get() {
            let path = exchange.borrow(py).path;
            self.threads.look_after(shared, path);
        } else if shared.slow_paths.stalls() >= shared.options.stalled_calls {
            self.core.attend(py);
        } else if shared.held_answers.are_expected() && !self.core.attend(py) {
            shared.held_answers.give_up(); // and not for each request anew
        }
    }

    /// Finish what is left at the end, for a thread that goes home.
    fn leave(&self, py: Python<'_>, thread_slot: &ThreadSlot) {
        // What the stall monitor has queued since the sockets were closed.
        unserved::refuse_all(&self.core.shared, sys::monotonic());
        thread_slot.keep(None);
        forget_cache();
        py.detach(|| self.threads.lead_last(&self.core.shared));
        self.core.write_logs(py);
    }
}

fn required<'py>(given: &Bound<'py, PyDict>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    given
        .get_item(name)?
        .ok_or_else(|| PyValueError::new_err(format!("{name} is missing")))
}
