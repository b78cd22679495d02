"""One process that serves: a transport, a gateway, and the threads between them."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from penstock import __version__, messages
from penstock.compat.gunicorn.hooks import Config
from penstock.config.budgets import Budgets, own_budgets
from penstock.config.checks import chosen_transport
from penstock.config.settings import OPTIONS
from penstock.edge.client import compile_networks
from penstock.edge.forwarded import ForwardedPolicy, Peers
from penstock.edge.proxy_protocol import VERSIONS as PROXY_VERSIONS
from penstock.edge.rate_limit import RateLimit, RateTable
from penstock.errors import SettingsError
from penstock.http1 import ParserLimits
from penstock.telemetry.access_log import AccessLog, rules_of
from penstock.telemetry.error_log import ErrorLog, log_daemons
from penstock.telemetry.log_config import access_logger, configure, write_access_by
from penstock.telemetry.log_counts import LogCounts
from penstock.telemetry.log_sink import LogSink
from penstock.telemetry.observers import Observers
from penstock.telemetry.scoreboard import (
    COUNTED,
    DRAINING,
    READY,
    SERVING,
    STATE,
    RequestInProgress,
    Scoreboard,
    Slot,
)
from penstock.telemetry.trace import Trace
from penstock.transport.config import TransportConfig
from penstock.transport.notable import NotableRequests
from penstock.worker.deadlines import Deadlines, worker_stacks
from penstock.worker.filters import response_filters, static_files
from penstock.worker.timeouts import shortest_timeout, timeouts_by_path
from penstock.wsgi.environ import base_environ
from penstock.wsgi.errors import ErrorStream
from penstock.wsgi.gateway import Gateway

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

    from penstock.config.settings import Settings
    from penstock.edge.certificate_files import CertificateKeeper
    from penstock.edge.tls import TlsMaterial
    from penstock.listeners import Listener
    from penstock.telemetry.request_finished import Observer
    from penstock.telemetry.spans import Spans
    from penstock.transport import ApplicationCalls, Exchange, Transport
    from penstock.transport.log_lines import RequestLog
    from penstock.transport.native import NativeTransport
    from penstock.transport.python import PythonTransport
    from penstock.worker.load_title import LoadTitle

LOGS_SECONDS = 0.5
"""How long the transport may take to hand what it holds to the logs, and the access log to write
that out."""

LEAST_EXPORT_SECONDS = 0.1
"""How long the exporter of spans may take in any case: where there are none, it takes no time."""

_HTTPS_PORT = 443

PAUSE_AFTER_ERROR_SECONDS = 0.1
"""How long a thread rests after an error of the server's own, so that it does not fill the log."""


def transport_config(
    settings: Settings,
    budgets: Budgets,
    tell_notable: Callable[[str, dict[str, Any]], None] | None = None,
    **given: Any,
) -> TransportConfig:
    """Return the configuration of a transport; ``given`` are fields that are no settings.

    A field that has the name of a setting has its value. ``budgets`` are those of the server;
    ``tell_notable`` is that of `NotableRequests`.
    """
    named = {field.name for field in fields(TransportConfig)}
    given["networks"] = compile_networks(settings.allow, settings.deny)
    given["proxy_versions"] = PROXY_VERSIONS[settings.proxy_protocol]
    given["proxy_peers"] = Peers.of(settings.proxy_allow_from)
    if settings.send_keep_alive:
        # A client that closes a second before the server does not send a request just then.
        given["keep_alive_field"] = f"Keep-Alive: timeout={int(settings.keep_alive) - 1}\r\n"
    given["uwsgi_peers"] = Peers.of(settings.uwsgi_allow_from)
    given["forwarded"] = ForwardedPolicy.of(
        settings.forwarded_allow_ips,
        settings.forwarded_headers,
        drops=settings.untrusted_forwarded == "drop",
    )
    if (rate := settings.max_requests_per_client) is not None:
        given["request_rate"] = RateLimit.of(rate.interval, rate.burst)
        if given.get("rate_table") is None:
            given["rate_table"] = RateTable()
    limits = ParserLimits(
        request_line=settings.limit_request_line,
        fields=settings.limit_request_fields,
        field_size=settings.limit_request_field_size,
        head=settings.limit_request_head,
        chunk_overhead=settings.limit_chunk_overhead,
        body=budgets.max_body,
    )
    if tell_notable is not None:
        given["notable"] = NotableRequests(limits, tell_notable)
    for name in (
        "max_connections",
        "max_descriptors",
        "max_unfinished_heads",
        "max_body_memory",
        "body_memory",
        "ample_body_memory",
        "max_spool",
        "out_spool",
        "max_unsent",
    ):
        given[name] = getattr(budgets, name)
    return TransportConfig(
        **{name: getattr(settings, name) for name in OPTIONS if name in named - given.keys()},
        parser=limits,
        body_setting="max_spool" if budgets.max_body_lowered else "max_body",
        log_entries=settings.log_queue,
        log_bytes=budgets.log_queue_bytes,
        **given,
    )


def transport_class(settings: Settings) -> type[PythonTransport] | type[NativeTransport]:
    """Return the transport that the settings ask for; raises `SettingsError` without it."""
    if chosen_transport(settings) == "native":
        from penstock.transport.native import NativeTransport

        return NativeTransport
    from penstock.transport.python import PythonTransport

    return PythonTransport


def _slot_of_its_own(settings: Settings) -> Slot:
    slot = Scoreboard(1, settings.threads, settings.most_beside, settings.recent_requests).take()
    assert slot is not None  # the only one of a new scoreboard
    return slot


class Worker:
    """Everything that serves in one process. A process may have several, one after the other.

    Call `start`, then `drain` and `join`, or `close`. The worker closes the listeners.
    """

    def __init__(
        self,
        settings: Settings,
        listeners: Sequence[Listener],
        logger: logging.Logger | None = None,
        *,
        slot: Slot | None = None,
        multiprocess: bool = False,
        on_stuck: Callable[[RequestInProgress | None, int], None] | None = None,
        budgets: Budgets | None = None,
        rate_table: RateTable | None = None,
        logs: Mapping[str, int] | None = None,
        tls: TlsMaterial | None = None,
        tell_notable: Callable[[str, dict[str, Any]], None] | None = None,
    ) -> None:
        """Open the logs; ``logger`` is for `ErrorLog`.

        ``slot`` is its place on a scoreboard that it shares with others; without one it makes a
        scoreboard for itself. ``multiprocess`` is True if there may be other workers.
        ``on_stuck`` is `Deadlines`'s. ``budgets`` and ``rate_table`` are those of all workers;
        without them it has its own. ``logs`` has a descriptor for each setting of a log file that
        the supervisor has opened. ``tls`` is what the supervisor has read; without a supervisor the
        worker reads it by itself, in `start`. ``tell_notable`` is that of `NotableRequests`;
        without it there are none. Raises `SettingsError`, and has nothing open then.
        """
        self.settings = settings
        self.slot = slot if slot is not None else _slot_of_its_own(settings)
        self.transport: Transport
        self._request_log: RequestLog | None = None  # the transport's, once there is one
        self._listeners = listeners
        self._multiprocess = multiprocess
        self._budgets = budgets or own_budgets(settings)
        self._rate_table = rate_table
        self._timeout_for = timeouts_by_path(settings)
        self._tell_notable = tell_notable
        self._when_idle: Callable[[], None] | None = None
        self.tls = tls
        self._keeper: CertificateKeeper | None = None
        self._challenges: Mapping[str, str] = {}
        passed = logs or {}
        self.error_log = ErrorLog(
            settings.error_logfile,
            settings.log_level,
            logger,
            passed=passed.get("error_logfile"),
            format=settings.error_logformat,
            daemons=log_daemons(settings),
        )
        self.logger = self.error_log.logger
        self._deadlines = Deadlines(
            self.slot,
            shortest=shortest_timeout(settings),
            grace=settings.timeout_grace,
            logger=self.logger,
            expire=self._expire,
            on_stuck=on_stuck,
            at_each_look=self._look,
        )
        self.load_title: LoadTitle | None = None
        """Of a process of the server's own, under a supervisor: its title, with the load."""
        self._captures_output = False
        self.access_log: AccessLog | None = None
        self._spans: Spans | None = None
        self._observers: Observers | None = None
        observers: list[Observer] = []
        try:
            self.access_log = self._open_access_log(passed.get("access_logfile"))
            if self.access_log is not None:
                observers.append(self.access_log)
            if settings.trace:
                observers.append(Trace.to_stderr())
            if settings.otel:
                observers.append(self._make_spans())
            if observers:
                self._observers = Observers(
                    observers, self.logger, settings.log_queue, self._budgets.log_queue_bytes
                )
                self._observers.count_lost_in(self.slot.words)
        except BaseException:
            if self._observers is None:
                for observer in observers:
                    observer.close()
            self.close_logs()
            self.error_log.close()
            raise
        self._handle: Callable[[Exchange], None]
        self._calls: ApplicationCalls | None
        self._lent: threading.Event | None = None  # set once a thread that was lent has come back
        self._threads = [
            threading.Thread(target=self._serve, name=f"penstock-{number}", daemon=True)
            for number in range(1, settings.threads + 1)
        ]
        self._more_threads = count(settings.threads + 1)
        self._thread_missing = False  # the last that was to be added could not be started

    def _make_spans(self) -> Spans:
        from penstock.telemetry.spans import Spans

        self._spans = Spans(Peers.of(self.settings.trust_traceparent).trusts, self.logger)
        return self._spans

    def set_up_spans(self) -> None:
        """Import and set up OpenTelemetry where the settings want it. Raises `SettingsError`.

        To be called once the application is loaded: what it has set up is used. `start` does so,
        where it has not been done before.
        """
        if self._spans is not None:
            self._spans.set_up()

    def _open_transport(self, listeners: Sequence[Listener]) -> Transport:
        settings = self.settings
        config = transport_config(
            settings,
            self._budgets,
            self._tell_notable,
            rate_table=self._rate_table,
            server_header=settings.server_header or None,
            timeout_for=self._timeout_for,
            redirect_https_port=self._redirect_https_port(),
            challenges=lambda: self._challenges,
            ssl_context=self._ssl_context_hook(),
            when_idle=self._when_idle,
            id_prefix=f"{os.getpid():x}-{int(time.time()) & 0xFFFFFF:x}-",
        )
        made = transport_class(settings)(
            [(listener, self._base_environ(listener)) for listener in listeners],
            config,
            slot=self.slot,
            logger=self.logger,
            observers=self._observers,
            add_thread=self._add_thread,
        )
        if any(listener.tls for listener in listeners):
            if self.tls is None:
                from penstock.edge.certificate_files import CertificateKeeper

                self._keeper = CertificateKeeper(settings, self.logger, self.renew_tls)
                self.tls = self._keeper.material
            made.set_tls(self.tls)
            self._challenges = dict(self.tls.challenges)
        return made

    def renew_tls(self, material: TlsMaterial) -> bool:
        """Serve new connections with other certificates; return False where they cannot be used."""
        self._challenges = dict(material.challenges)
        try:
            self.transport.set_tls(material)
        except Exception as error:  # also what gunicorn's hook raises
            messages.WORKER_CERTIFICATES_REFUSED.log(self.logger, error=error)
            return False
        self.tls = material
        return True

    def _redirect_https_port(self) -> int:
        port = self.settings.redirect_https_port
        if port != "auto":
            return port
        secure = [each for each in self._listeners if each.tls and not each.is_unix]
        return int(secure[0].server_port) if secure else _HTTPS_PORT

    def _ssl_context_hook(self) -> Callable[[Callable[[], Any]], Any] | None:
        """Return gunicorn's hook that makes the context of TLS, without its first argument."""
        hook = self.settings.hooks.get("ssl_context")
        if hook is None:
            return None
        return partial(hook, Config(self.settings, self.settings.gunicorn))

    def _add_thread(self) -> bool:
        """Start another thread, in the place of one whose call has left the count of `threads`.

        Return False if the system starts no more. The transport bounds how many there are.
        """
        name = f"penstock-{next(self._more_threads)}"
        thread = threading.Thread(target=self._serve, name=name, daemon=True)
        try:
            thread.start()
        except (RuntimeError, MemoryError) as error:
            if not self._thread_missing:
                self._thread_missing = True
                messages.THREAD_NOT_STARTED.log(self.logger, error=error)
            return False
        self._thread_missing = False
        self._threads.append(thread)
        return True

    def _open_access_log(self, passed: int | None) -> AccessLog | None:
        settings = self.settings
        path = settings.access_logfile
        daemons = self.error_log.daemons
        if path is None:
            configured = settings.log_config is not None or settings.gunicorn.get("logconfig_dict")
            if not configured and not any(each.takes_access_log for each in daemons):
                return None
            path = os.devnull  # the configuration may have a logger for the lines
        sink = LogSink.open(path, setting="access_logfile", stream=1, passed=passed)
        try:
            return AccessLog(
                sink,
                settings.access_logformat,
                self.logger,
                rules_of(settings),
                daemons,
                traced=settings.otel,
            )
        except SettingsError:
            sink.close()
            raise

    def _base_environ(self, listener: Listener) -> dict[str, Any]:
        return base_environ(
            multithread=self.settings.threads > 1,
            multiprocess=self._multiprocess,
            server_name=listener.server_name,
            server_port=listener.server_port,
            url_scheme=listener.scheme,
            script_name=self.settings.script_name,
            errors=ErrorStream(self.error_log.write_text),
            software=f"penstock/{__version__}",
        )

    def configure_logging(self) -> None:
        """Set up what is for the whole process: loggers, and where the application prints to.

        For a process of the server's own, as the user that it serves as, before the application is
        loaded. Raises `SettingsError`.
        """
        configure(self.settings)
        self.logger.addHandler(LogCounts(self._count_message))
        if self.access_log is not None:
            write_access_by(self.access_log.write_text)
        self._captures_output = self.settings.capture_output
        if self._captures_output:
            self.error_log.capture_output()

    def choose_access_logger(self) -> None:
        """Have a logger take the lines of the access log, where one is configured or has filters.

        For a process of the server's own, once the application is loaded, and before `start`.
        """
        if self.access_log is not None:
            self.access_log.log_to = access_logger(has_daemons=self.access_log.has_daemons)

    def manage_garbage(self) -> None:
        """Have Python's garbage collector run when the settings want it.

        For a process of the server's own, once the application is loaded, and before `start`.
        """
        mode = self.settings.gc
        if mode == "default":
            return
        from penstock.worker.garbage import Collections

        collections = Collections(mode, self.slot)
        if collections.collects_when_idle:
            self._when_idle = collections.when_idle

    def start(self, application: WSGIApplication, *, lent: bool = False) -> None:
        """Begin to serve the application: from here on the worker accepts clients.

        With ``lent`` a thread of the caller's takes the place of one of the worker's: it has to
        call `serve`. Raises `RuntimeError` where Python starts no thread; what was accepted by
        then is answered.
        """
        if lent:
            self._threads.pop()
            self._lent = threading.Event()
        try:
            self.set_up_spans()
            self.transport = self._open_transport(self._listeners)
            self._request_log = self.transport.request_log
        except BaseException:
            self.close_logs()
            self.error_log.close()
            raise
        log_message = self.transport.request_log.message
        self._gateway = Gateway(
            application,
            logger=self.logger,
            sendfile=self.settings.sendfile,
            transport=self.transport,
            log_ended=self.transport.request_log.ended,
            filters=response_filters(self.settings, self.logger, log_message),
            note_failure=self._spans.note_failure if self._spans is not None else None,
        )
        self._handle, self._calls = self._gateway.handle, self._gateway.calls
        if (files := static_files(self.settings, log_message)) is not None:
            self._gateway.ask_first(files)
            self._handle = self._gateway.handle_unless_first
        if self._spans is not None:
            self._handle, self._calls = self._spans.around(self._handle), None
        self.slot.words[STATE] = SERVING
        self.slot.words[READY] = 1
        _workers.add(self)
        try:
            self._deadlines.start()
            for thread in list(self._threads):  # without those that calls of the first ones add
                thread.start()
        except RuntimeError:
            # A limit of processes; or the main thread has ended: Python 3.12 starts none then.
            self._threads = [thread for thread in self._threads if thread.ident is not None]
            self.stop()
            raise

    def serve(self) -> None:
        """Serve in the calling thread, in place of one of its own, until the worker stops."""
        assert self._lent is not None
        while not self._lent.is_set():
            try:
                self._serve()
                self._lent.set()
            except BaseException:
                continue  # the handler of a signal raised between two steps of the loop

    def _serve(self) -> None:
        """Serve in one thread until the transport has no more requests."""
        process = os.getpid()
        over = False
        while not over:
            try:
                over = self._serve_until_error()
            except BaseException:
                continue  # the handler of a signal raised again, while the thread rested
        if os.getpid() != process:
            # A view forked, and the child returned to here: the sockets are the parent's.
            os._exit(0)

    def _serve_until_error(self) -> bool:
        """Run the loop of one thread; return True at its end, False after an error."""
        try:
            self.transport.serve(self._handle, self._calls)
            return True
        except BaseException:
            # A defect of ours, memory that ran out in the wrong place, or the handler of a signal
            # that raised outside of a call. The other connections must not pay for it: the thread
            # goes on, but it does not spin.
            messages.SERVING_THREAD_DEFECT.log(self.logger, exc_info=True)
            threading.Event().wait(PAUSE_AFTER_ERROR_SECONDS)
        return False

    def drain(self, *, hand_over: bool = False) -> None:
        """Accept what waits in the accept queues, then no more; finish what is in progress.

        With ``hand_over`` others accept on the same sockets, and their queues are left to them.
        """
        self.slot.words[READY] = 0
        self.transport.drain(hand_over=hand_over)
        self.slot.words[STATE] = DRAINING  # the supervisor may wait for that

    def close_in_child(self) -> None:
        """Close every socket, in a forked child."""
        self.transport.close_in_child()

    def only_stuck_left(self) -> bool:
        """Return True if nothing is left but calls that did not return after their deadlines.

        The clients of such calls have their answers, and the transport closes their connections. So
        any connection that is open is another client's, and its request is still to be served;
        unless no thread is left, to serve it or to close the connections.
        """
        stuck = self._deadlines.count_stuck()
        if not stuck or stuck < sum(1 for _ in self.slot.requests()):
            return False
        open_for_stuck = 0 if self._deadlines.count_free() else stuck
        return int(self.transport.snapshot()["connections"]) <= open_for_stuck

    def abort_all(self, reason: str) -> int:
        """Answer the requests that the application still has; return how many there were.

        ``reason`` is for the access log.
        """
        return self.transport.abort_all(reason)

    def _count_message(self, name: str) -> None:
        self.slot.words[COUNTED[name]] += 1

    def _look(self) -> None:
        """Do what is due once a second."""
        self.transport.look_at_calls()
        self.transport.look_for_clients()
        self.transport.publish()
        if self.error_log.is_waiting:
            self.error_log.pump()
        if self.load_title is not None:
            self.load_title.update()
        if self._keeper is not None:
            self._keeper.tick()
        if self._request_log is not None:
            self._request_log.report()

    def _expire(self, number: int, reason: str) -> bool:
        return self.transport.expire(number, reason)

    def close(self) -> None:
        """Close every connection now, with the requests in progress."""
        self.transport.close()

    def join(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds for the threads; return True if all have returned."""
        deadline = time.monotonic() + timeout
        for thread in self._threads:  # one that a call adds meanwhile comes last
            thread.join(max(0.0, deadline - time.monotonic()))
        if self._lent is not None and not self._lent.wait(max(0.0, deadline - time.monotonic())):
            return False
        return not any(thread.is_alive() for thread in self._threads)

    def stop(self) -> None:
        """Finish what is in progress, for up to ``graceful_timeout`` seconds, and end the threads.

        The logs are closed then.
        """
        self.drain()
        if not self.join(self.settings.graceful_timeout):
            self.close()
            self.join(1.0)
        self.close_logs()
        self.error_log.close()

    def describe_stacks(self) -> str:
        """Return the Python stacks of all threads, with the request that each is in."""
        return worker_stacks(self.slot)

    def reopen_logs(self, passed: Mapping[str, int] | None = None) -> None:
        """Open the log files again, after a rotation.

        ``passed`` has descriptors of the new files, where the supervisor has opened them.
        """
        logs: tuple[tuple[str, ErrorLog | AccessLog | None], ...]
        logs = (("error", self.error_log), ("access", self.access_log))
        for kind, log in logs:
            if log is not None and (passed is None or f"{kind}_logfile" in passed):
                try:
                    log.reopen(passed[f"{kind}_logfile"] if passed is not None else None)
                    self.logger.debug("the %s log has been opened again", kind)
                except OSError as error:
                    messages.LOG_FILE_NOT_REOPENED.log(
                        self.logger, kind=kind, error=error, setting=f"{kind}_logfile"
                    )
        if self._captures_output:
            self.error_log.capture_output()

    def close_logs(self, end_by: float = math.inf) -> None:
        """Write out what the logs have, report what was lost, and stop keeping deadlines.

        Spans that the collector does not take are given up by ``end_by``, on the monotonic clock.
        """
        self._deadlines.stop()
        if self._request_log is not None:
            self.transport.finish_logs(LOGS_SECONDS)
            self.transport.publish()
            self._request_log.close()
        if self._spans is not None:
            left = end_by - time.monotonic() - LOGS_SECONDS
            self._spans.patience = max(LEAST_EXPORT_SECONDS, min(self._spans.patience, left))
        if self._observers is not None:
            self._observers.close(LOGS_SECONDS)
        if self.access_log is not None and (lost := self.access_log.dropped):
            messages.ACCESS_LOG_LINES_LOST_IN_ALL.log(self.logger, lines=lost)
        self.error_log.pump(LOGS_SECONDS)
        for daemon in self.error_log.daemons:
            if daemon.dropped:
                messages.LOG_DAEMON_LOST_IN_ALL.log(
                    self.logger, count=daemon.dropped, setting=daemon.setting
                )


_workers: weakref.WeakSet[Worker] = weakref.WeakSet()
"""The workers of this process, for the children that an application forks."""


def _close_in_child() -> None:
    """Close the clients' connections in a child that the application forked."""
    for worker in list(_workers):
        worker.close_in_child()
    _workers.clear()


os.register_at_fork(after_in_child=_close_in_child)
