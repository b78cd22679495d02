"""One process that serves: a transport, a gateway, and the threads between them."""

from __future__ import annotations

import gc
import logging
import os
import resource
import signal
import socket
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

from penstock import __version__
from penstock.access_log import AccessLog
from penstock.errors import SettingsError
from penstock.http1 import ParserLimits
from penstock.log_sink import LogSink
from penstock.logs import ErrorLog, process_logger
from penstock.settings import OPTIONS, chosen_transport
from penstock.trace import Trace
from penstock.transport.limits import Limits
from penstock.wsgi.environ import base_environ
from penstock.wsgi.errors import ErrorStream
from penstock.wsgi.gateway import Gateway

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

    from penstock.listeners import Listener
    from penstock.settings import Settings
    from penstock.transport import Transport
    from penstock.transport.native import NativeTransport
    from penstock.transport.python import PythonTransport

RESERVE_SECONDS = 2.0
"""How much of the graceful timeout is kept for what follows the drain, so that a supervisor that
kills after just this time finds nobody: the next two, and threads that return."""

LOGS_SECONDS = 0.5
"""How long the access log may take to write out what it holds."""

LEAVE_SECONDS = 1.0
"""How long the application's own threads and exit handlers may keep the process after that."""

PAUSE_AFTER_ERROR_SECONDS = 0.1
"""How long a thread rests after an error of the server's own, lest it fills a log with it."""

STOPPED = 0
"""Exit status: stopped as told, and nothing was cut off."""

CUT_OFF = 1
"""Exit status: stopped as told, but requests in progress had to be cut off."""


def limits_from(settings: Settings) -> Limits:
    """Return a transport's limits as the settings have them."""
    return Limits(
        parser=ParserLimits(
            request_line=settings.limit_request_line,
            fields=settings.limit_request_fields,
            field_size=settings.limit_request_field_size,
            head=settings.limit_request_head,
            chunk_overhead=settings.limit_chunk_overhead,
            body=settings.max_body,
        ),
        body_memory=settings.body_memory,
        out_buffer=settings.out_buffer,
        max_connections=settings.max_connections,
        header_timeout=settings.header_timeout,
        body_timeout=settings.body_timeout,
        body_min_rate=settings.body_min_rate,
        keep_alive=settings.keep_alive,
        write_timeout=settings.write_timeout,
        drain_linger=settings.drain_linger,
    )


def transport_class(settings: Settings) -> type[PythonTransport] | type[NativeTransport]:
    """Return the transport that the settings ask for; raises `SettingsError` without it."""
    if chosen_transport(settings) == "native":
        from penstock.transport.native import NativeTransport

        return NativeTransport
    from penstock.transport.python import PythonTransport

    return PythonTransport


class Worker:
    """Everything that serves in one process; usable more than once in it.

    `start`, then `drain` and `join`, or `close`. The listeners become the worker's own.
    """

    def __init__(
        self,
        application: WSGIApplication,
        settings: Settings,
        listeners: Sequence[Listener],
        logger: logging.Logger | None = None,
    ) -> None:
        """Open the logs and take the listeners; ``logger`` is for `ErrorLog`.

        Raises `SettingsError`, and has nothing open then.
        """
        self.settings = settings
        self.error_log = ErrorLog(settings.error_logfile, settings.log_level, logger)
        self.logger = self.error_log.logger
        self.access_log: AccessLog | None = None
        self._trace: Trace | None = None
        try:
            self.access_log = self._open_access_log()
            self._trace = Trace.to_stderr() if settings.trace else None
            self.transport = self._open_transport(listeners)
        except BaseException:
            self.close_logs()
            self.error_log.close()
            raise
        self._gateway = Gateway(
            application,
            logger=self.logger,
            sendfile=settings.sendfile,
            transport=self.transport,
        )
        self._threads = [
            threading.Thread(target=self._serve, name=f"penstock-{number}", daemon=True)
            for number in range(1, settings.threads + 1)
        ]

    def _open_transport(self, listeners: Sequence[Listener]) -> Transport:
        settings = self.settings
        return transport_class(settings)(
            [(listener, self._base_environ(listener)) for listener in listeners],
            threads=settings.threads,
            limits=limits_from(settings),
            logger=self.logger,
            access_log=self.access_log,
            trace=self._trace,
            server_header=settings.server_header or None,
            header_map=settings.header_map,
            stream_requests=settings.stream_requests,
            temp_dir=settings.temp_dir,
            id_prefix=f"{os.getpid():x}-{int(time.time()) & 0xFFFFFF:x}-",
        )

    def _open_access_log(self) -> AccessLog | None:
        settings = self.settings
        if settings.access_logfile is None:
            return None
        sink = LogSink.open(settings.access_logfile, setting="access_logfile", stream=1)
        try:
            return AccessLog(sink, settings.access_logformat, self.logger)
        except SettingsError:
            sink.close()
            raise

    def _base_environ(self, listener: Listener) -> dict[str, Any]:
        return base_environ(
            multithread=self.settings.threads > 1,
            multiprocess=False,
            server_name=listener.server_name,
            server_port=listener.server_port,
            script_name=self.settings.script_name,
            errors=ErrorStream(self.logger),
            software=f"penstock/{__version__}",
        )

    def start(self) -> None:
        """Begin to serve."""
        _workers.add(self)
        for thread in self._threads:
            thread.start()

    def _serve(self) -> None:
        """The loop of one thread."""
        process = os.getpid()
        next_exchange, handle = self.transport.next, self._gateway.handle
        while True:
            try:
                while (exchange := next_exchange()) is not None:
                    handle(exchange)
                break
            except BaseException:
                # A defect of ours, or memory that ran out in the wrong place. The other
                # connections must not pay for it: the thread goes on, but it does not spin.
                self.logger.critical("internal error in a serving thread", exc_info=True)
                threading.Event().wait(PAUSE_AFTER_ERROR_SECONDS)
        if os.getpid() != process:
            # A view forked, and the child came back here with the parent's view of the world.
            os._exit(0)

    def drain(self) -> None:
        """Accept what waits in the listen queues, then no more; finish what is in progress."""
        self.transport.drain()

    def close(self) -> None:
        """Cut off what is in progress."""
        self.transport.close()

    def join(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds for the threads; tell whether all have returned."""
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def reopen_logs(self) -> None:
        """Open the log files again by their names, after a rotation."""
        for kind, log in (("error", self.error_log), ("access", self.access_log)):
            if log is not None:
                try:
                    log.reopen()
                    self.logger.debug("the %s log has been opened again", kind)
                except OSError as error:
                    self.logger.error("the %s log goes on in the old file: %s", kind, error)

    def close_logs(self) -> None:
        """Write out what the access log still holds, and tell what it lost."""
        if self.access_log is not None:
            self.access_log.close(LOGS_SECONDS)
            if lost := self.access_log.dropped:
                lines = "line" if lost == 1 else "lines"
                self.logger.warning("%d %s of the access log were lost", lost, lines)
        if self._trace is not None:
            self._trace.close()


STOP_GRACEFULLY = frozenset({signal.SIGTERM, signal.SIGHUP})
STOP_AT_ONCE = frozenset({signal.SIGINT, signal.SIGQUIT})
REOPEN_LOGS = signal.SIGUSR1
WITHOUT_MEANING = frozenset({signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU})
"""What gunicorn's users send to a server with several processes. By default the first would end
this one, and the next two would suspend it."""


_workers: weakref.WeakSet[Worker] = weakref.WeakSet()
"""The workers of this process, for the children that an application forks."""


_mask_before = threading.local()


def _hold_signals() -> None:
    """Put signals off over a fork: one to the child must not find the server's handlers there."""
    if _Signals.installed:
        _mask_before.fork = signal.pthread_sigmask(signal.SIG_BLOCK, _Signals.HANDLED)


def _let_signals_in() -> None:
    mask = vars(_mask_before).pop("fork", None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _forget_in_child() -> None:
    """Make a forked child of an application a process of its own.

    It must not hold on to the clients' connections, and SIGTERM is to end it as any other.
    """
    for worker in list(_workers):
        worker.transport.abandon()
    _workers.clear()
    if _Signals.installed:
        signal.set_wakeup_fd(-1)
        for number in _Signals.HANDLED:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
    _let_signals_in()


os.register_at_fork(
    before=_hold_signals, after_in_parent=_let_signals_in, after_in_child=_forget_in_child
)


class _Signals:
    """Signals as values that the main thread waits for.

    The handlers only enqueue; the byte that Python writes to the wake-up descriptor ends the wait.
    """

    HANDLED = (*STOP_GRACEFULLY, *STOP_AT_ONCE, REOPEN_LOGS, *WITHOUT_MEANING)
    installed = False

    def __init__(self) -> None:
        self._received: list[int] = []
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(True)
        self._writer.setblocking(False)
        self._descriptor_before = signal.set_wakeup_fd(
            self._writer.fileno(), warn_on_full_buffer=False
        )
        # One that was ignored when the process began stays so: that is what nohup does.
        self._handlers_before = {
            number: signal.signal(number, self._enqueue)
            for number in self.HANDLED
            if signal.getsignal(number) != signal.SIG_IGN
        }
        _Signals.installed = True

    def restore(self) -> None:
        """Put back the handlers and the wake-up descriptor that were there before."""
        for number, handler in self._handlers_before.items():
            # None is a handler that is not Python's, and cannot be put back from here.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        try:
            signal.set_wakeup_fd(self._descriptor_before)
        except (OSError, ValueError):  # it was closed meanwhile
            signal.set_wakeup_fd(-1)
        _Signals.installed = False
        self._reader.close()
        self._writer.close()

    def _enqueue(self, number: int, _frame: object) -> None:
        self._received.append(number)

    def wait(self, timeout: float | None = None) -> int | None:
        """Return the next signal, or None after ``timeout`` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._received:
            remaining = None if deadline is None else deadline - time.monotonic()
            if remaining is not None and remaining <= 0:
                return None
            self._reader.settimeout(remaining)
            try:
                self._reader.recv(64)
            except TimeoutError:
                return None
            except BlockingIOError:
                pass  # no byte after all: the list tells
        return self._received.pop(0)


def serve_until_stopped(
    application: WSGIApplication,
    settings: Settings,
    listeners: Sequence[Listener],
    name: str,
    *,
    own_process: bool = False,
) -> int:
    """Serve in the main thread's process until a signal; return the exit status.

    ``name`` is what the start-up line calls the application. Afterwards the process is as it was,
    unless it is the server's own: then nothing may follow but its end, which is certain to come.
    Raises `SettingsError` where a log cannot be opened, `ValueError` outside of the main thread.
    """
    with ExitStack() as undo:
        worker = Worker(application, settings, listeners, process_logger())
        undo.callback(worker.error_log.close)
        # After the application was loaded: what it did to these signals while it was imported
        # would otherwise keep the server from stopping.
        signals = _Signals()
        undo.callback(signals.restore)
        undo.callback(_limit_files, *resource.getrlimit(resource.RLIMIT_NOFILE))
        if own_process:
            # Handlers and log have to last: signals may still come, and threads that were cut
            # off may have something to say.
            undo.pop_all()
            gc.freeze()  # what was imported lives as long as the process: not looked at again
        _start(worker, listeners, name)
        received = None
        while received is None:
            received = told_to_stop(worker, signals.wait())
        graceful = received in STOP_GRACEFULLY
        return shut_down(
            worker, graceful=graceful, interrupted=signals.wait, own_process=own_process
        )


def _start(worker: Worker, listeners: Sequence[Listener], name: str) -> None:
    logger, settings = worker.logger, worker.settings
    for warning in settings.warnings:
        logger.warning("%s", warning)
    for option in OPTIONS.values():
        if (source := settings.source_of(option.name)) != "default":
            shown = option.show(getattr(settings, option.name))
            logger.debug("setting %s = %s (from %s)", option.name, shown, source)
    check_room_for_files(settings, logger)
    check_temp_dir(settings, logger)
    worker.start()
    count = settings.threads
    logger.info(
        "penstock %s serving %s on %s (%s transport, %d %s)",
        __version__,
        name,
        ", ".join(listener.name for listener in listeners),
        chosen_transport(settings),
        count,
        "thread" if count == 1 else "threads",
    )


def told_to_stop(worker: Worker, received: int | None) -> int | None:
    """Act on a signal that does not stop the server; return one that does."""
    if received is None:
        return None
    name = signal.Signals(received).name
    worker.logger.debug("received %s", name)
    if received == REOPEN_LOGS:
        worker.reopen_logs()
        return None
    if received in WITHOUT_MEANING:
        worker.logger.warning("%s has no meaning yet: there is one worker process", name)
        return None
    return received


def shut_down(
    worker: Worker,
    *,
    graceful: bool,
    interrupted: Callable[[float], int | None],
    own_process: bool,
) -> int:
    """End a worker, and the process if it is its own; return the exit status.

    ``interrupted`` waits for another signal.
    """
    logger, limit = worker.logger, worker.settings.graceful_timeout
    drained = False
    if graceful:
        # 1. Accept what waits in the listen queues, then no more. Idle connections get a moment
        #    for requests that are under way, and each response says that it is the last.
        logger.info("stopping: finishing the requests in progress, for up to %g s", limit)
        worker.drain()
        # 2. Wait until nothing is in progress, for as long as that may take, or until a second
        #    signal says that it need not.
        deadline = time.monotonic() + limit - min(RESERVE_SECONDS, limit / 4)
        while not (drained := worker.join(0)) and time.monotonic() < deadline:
            received = interrupted(min(0.05, max(0.0, deadline - time.monotonic())))
            if told_to_stop(worker, received) is not None:
                logger.info("stopping at once: a second signal")
                graceful = False
                break
    # 3. Cut off what is left.
    if not drained:
        in_progress = worker.transport.snapshot()["requests_in_progress"]
        if in_progress:
            logger.warning(
                "cutting off %d %s in progress%s",
                in_progress,
                "request" if in_progress == 1 else "requests",
                " (setting: graceful_timeout)" if graceful else "",
            )
        worker.close()
        drained = worker.join(0.2) and not in_progress
    # 4. Write out the logs.
    worker.close_logs()
    logger.info("stopped")
    status = STOPPED if drained or not graceful else CUT_OFF
    # 5. Leave. Threads and exit handlers of the application get a moment, and no more.
    if own_process:
        leave_for_certain(status)
    return status


def leave_for_certain(status: int) -> None:
    """End the process soon, even if a thread or exit handler of the application never returns."""

    def leave() -> None:
        threading.Event().wait(LEAVE_SECONDS)
        os._exit(status)

    threading.Thread(target=leave, name="penstock-leave", daemon=True).start()


def _limit_files(soft: int, hard: int) -> None:
    with suppress(OSError, ValueError):  # that it could be raised says nothing about this
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def check_room_for_files(settings: Settings, logger: logging.Logger) -> None:
    """Raise the limit on open files to what max_connections needs, or warn that it is too low."""
    # Idle connections have a socket and nothing else; those that a thread is busy with may have
    # a spooled body and a file to send, and the application opens files of its own.
    beside = 32 + 4 * settings.threads
    wanted = settings.max_connections + beside
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    possible = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (possible, hard))
    except (OSError, ValueError):
        possible = soft
    if possible < wanted:
        logger.warning(
            "the limit on open files is %d, so that about %d connections fit at a time; "
            "raise it (ulimit -n) or lower max_connections (%d)",
            possible,
            max(possible - beside, possible // 2),
            settings.max_connections,
        )


def check_temp_dir(settings: Settings, logger: logging.Logger) -> None:
    """Warn where large request bodies could not be stored. Small ones need no disk."""
    try:
        tempfile.TemporaryFile(dir=settings.temp_dir).close()
    except OSError as error:
        logger.warning(
            "request bodies over %d bytes will be answered with 507: no temporary file can be "
            "made in %s: %s (setting: temp_dir)",
            settings.body_memory,
            settings.temp_dir or "any of the system's directories for them",
            error.strerror,
        )
