"""A transport with threads that serve, without a worker: the test owns its slot."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.config.sources import settings_from_kwargs
from penstock.listeners import Listener, open_listeners
from penstock.telemetry.access_log import AccessLog
from penstock.telemetry.log_sink import LogSink
from penstock.telemetry.observers import Observers
from penstock.telemetry.scoreboard import SERVING, STATE, Scoreboard, Slot
from penstock.transport.config import TransportConfig
from penstock.worker.worker import transport_class
from penstock.wsgi.environ import base_environ
from penstock.wsgi.errors import ErrorStream
from penstock.wsgi.gateway import Gateway
from support.wire import DEADLINE

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

    from penstock.edge.tls import TlsMaterial
    from penstock.transport import Transport

LOGGER = logging.getLogger("penstock.tests")


@dataclass
class BareServer:
    """A transport and its threads; for `support.serving.connect` it is a server as any other."""

    host: str
    port: int
    transport: Transport
    slot: Slot
    listener: Listener
    threads: list[threading.Thread]

    def snapshot(self) -> dict[str, Any]:
        """Return what the transport counts."""
        return self.transport.snapshot()

    def word(self, name: int) -> int:
        """Return a word of the slot."""
        return int(self.slot.words[name])

    def is_over(self) -> bool:
        """Return True if all threads have ended."""
        return not any(thread.is_alive() for thread in self.threads)


@contextmanager
def serving(
    application: WSGIApplication,
    transport: str,
    *,
    threads: int = 1,
    slot: Slot | None = None,
    listener: Listener | None = None,
    access_log: Path | None = None,
    observers: Observers | None = None,
    add_thread: Callable[[], bool] | None = None,
    logger: logging.Logger = LOGGER,
    tls: TlsMaterial | None = None,
    calls_itself: bool = True,
    **config: Any,
) -> Iterator[BareServer]:
    """Serve with a transport by name; ``config`` are fields of `TransportConfig`.

    Without a ``slot`` the scoreboard has this one alone. Without a ``listener`` there is a new one.
    ``access_log`` is a file for lines of status, path and reason, in the place of ``observers``.
    With ``tls`` the new listener has TLS. Without ``calls_itself`` the gateway alone calls the
    application, whatever the transport may do.
    ``add_thread`` is the transport's; without it threads are added as a worker adds them. At the
    end all is closed.
    """
    beside = config.get("max_io_bound", 0) + config.get("max_websockets", 0)
    slot = slot or Scoreboard(1, threads, beside).take()
    assert slot is not None
    scheme = "https://" if tls is not None else ""
    listener = listener or open_listeners([f"{scheme}127.0.0.1:0"], 1024)[0]
    host, port = listener.socket.getsockname()[:2]
    if access_log is not None:
        sink = LogSink.open(str(access_log), setting="access_logfile")
        observers = Observers([AccessLog(sink, "json", LOGGER)], LOGGER)
    workers: list[threading.Thread] = []

    def start_thread() -> bool:
        thread = threading.Thread(target=_serve, args=(made, gateway, calls_itself))
        thread.start()
        workers.append(thread)
        return True

    made: Transport = transport_class(settings_from_kwargs(transport=transport))(
        [(listener, _environ(listener, threads))],
        TransportConfig(threads=threads, **config),
        slot=slot,
        logger=logger,
        observers=observers,
        add_thread=add_thread or start_thread,
    )
    if tls is not None:
        made.set_tls(tls)
    gateway = Gateway(application, logger=LOGGER, transport=made)
    slot.words[STATE] = SERVING
    for _ in range(threads):
        start_thread()
    try:
        yield BareServer(host, port, made, slot, listener, workers)
    finally:
        made.close()
        for thread in workers:  # those that were added come last
            thread.join(DEADLINE)
        if observers is not None:
            observers.close(DEADLINE)
        with suppress(OSError):
            listener.close()


def _environ(listener: Listener, threads: int) -> dict[str, Any]:
    return base_environ(
        multithread=threads > 1,
        multiprocess=False,
        server_name=listener.server_name,
        server_port=listener.server_port,
        url_scheme=listener.scheme,
        errors=ErrorStream(LOGGER.error),
        software="penstock",
    )


def _serve(transport: Transport, gateway: Gateway, calls_itself: bool) -> None:
    while True:
        try:
            transport.serve(gateway.handle, gateway.calls if calls_itself else None)
            return
        except Exception:
            LOGGER.exception("an exception in a serving thread")
