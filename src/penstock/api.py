"""The Python API behind `penstock.serve` and `penstock.running`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from penstock.config.checks import check_places, chosen_transport
from penstock.config.settings import Settings
from penstock.config.sources import settings_from_kwargs
from penstock.errors import PenstockError
from penstock.listeners import Listener, addresses_of, close_all, open_listeners
from penstock.records import dataclass
from penstock.system.greenlet_patches import greenlet_patches
from penstock.telemetry.access_log_format import compile_format
from penstock.telemetry.error_log import process_logger
from penstock.worker.main import STOPPED, serve_until_stopped, tell_serving
from penstock.worker.worker import Worker

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication


@dataclass(frozen=True)
class RunningServer:
    """A server in the background. Its address is that of its first listener."""

    url: str
    """Such as ``http://127.0.0.1:41231``; for a unix socket ``unix:PATH``."""
    host: str
    """The address on which the server listens; for a unix socket its path."""
    port: int
    """The TCP port; 0 for a unix socket."""
    worker: Worker

    def snapshot(self) -> dict[str, Any]:
        """Return the counts of the transport: connections, requests and more."""
        return self.worker.transport.snapshot()


def serve_application(application: WSGIApplication, by_name: dict[str, object]) -> int:
    """See `penstock.serve`."""
    settings = _settings(application, by_name)
    name = getattr(application, "__name__", type(application).__name__)
    if threading.current_thread() is not threading.main_thread():
        # Python handles signals in the main thread, and leaves them to the program there.
        try:
            with _served(application, settings, process_logger()) as (worker, listeners):
                tell_serving(settings, worker.logger, listeners, name)
                threading.main_thread().join()
        except RuntimeError:
            # Python 3.12 starts no thread once the main thread has ended. Where it has ended during
            # the start, the program is over, and that is no error.
            if threading.main_thread().is_alive():
                raise
        return STOPPED
    listeners = open_listeners(addresses_of(settings), settings.backlog)
    try:
        return serve_until_stopped(application, settings, listeners, name)
    finally:
        close_all(listeners)


@contextmanager
def run_in_background(
    application: WSGIApplication, by_name: dict[str, object]
) -> Iterator[RunningServer]:
    """See `penstock.running`."""
    defaults = {"bind": ["127.0.0.1:0"], "drain_linger": 0, "access_logfile": None}
    settings = _settings(application, {**defaults, **by_name})
    with _served(application, settings) as (worker, listeners):
        yield _describe(listeners[0], worker)


def _settings(application: WSGIApplication, by_name: dict[str, object]) -> Settings:
    _check_application(application)
    settings = settings_from_kwargs(**by_name)
    compile_format(settings.access_logformat)
    check_places(settings)
    if settings.log_syslog:
        from penstock.telemetry.syslog import look_up

        look_up(settings)
    chosen_transport(settings)
    return settings


@contextmanager
def _served(
    application: WSGIApplication, settings: Settings, logger: logging.Logger | None = None
) -> Iterator[tuple[Worker, list[Listener]]]:
    """Serve by threads of the worker's; ``logger`` is `Worker`'s."""
    listeners = open_listeners(addresses_of(settings), settings.backlog)
    try:
        worker = Worker(settings, listeners, logger)
        worker.start(application)
        try:
            yield worker, listeners
        finally:
            worker.stop()
    finally:
        close_all(listeners)


def _check_application(application: object) -> None:
    if patches := greenlet_patches():
        raise PenstockError(patches)
    if callable(application):
        return
    hint = ""
    if isinstance(application, str):
        hint = "; text such as 'module:callable' is for the penstock command"
    kind = type(application).__name__
    raise TypeError(
        f"an application object is needed, which is a callable: its type {kind!r} is none{hint}"
    )


def _describe(listener: Listener, worker: Worker) -> RunningServer:
    if listener.is_unix:
        path = listener.name.removeprefix("uwsgi://").removeprefix("unix:")
        return RunningServer(listener.name, path, 0, worker)
    host, port = listener.socket.getsockname()[:2]
    return RunningServer(listener.name, host, port, worker)
