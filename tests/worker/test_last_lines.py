"""What is logged of requests right before a worker ends."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

import penstock
from penstock.config.sources import settings_from_kwargs
from penstock.listeners import open_listeners
from penstock.worker.worker import Worker
from support.serving import Recorder, eventually
from support.wire import DEADLINE, Client

REFUSED = b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"

HALTED_SECONDS = 0.1
"""Much less than `penstock.worker.worker.LOGS_SECONDS`."""


class HaltingHandler(logging.Handler):
    """Halts the transport's own thread in its first message, until the worker closes its logs."""

    def __init__(self) -> None:
        super().__init__()
        self.halted = threading.Event()

    def handle(self, record: logging.LogRecord) -> bool:
        self.emit(record)  # without the lock, so that the other threads log on
        return True

    def emit(self, record: logging.LogRecord) -> None:
        if threading.current_thread().name != "penstock-log-queue" or self.halted.is_set():
            return
        self.halted.set()
        named = {thread.name: thread for thread in threading.enumerate()}
        named["penstock-deadlines"].join(DEADLINE)  # the first that ends there
        named["penstock-log-writer"].join(HALTED_SECONDS)


def test_a_worker_waits_for_the_lines_that_a_thread_of_its_transport_is_about_to_write(
    transport: str, tmp_path: Path
) -> None:
    if transport == "python":
        pytest.skip("each thread reports by itself what it ends")
    log = tmp_path / "access.log"
    settings = settings_from_kwargs(
        bind=["127.0.0.1:0"], transport=transport, threads=2, drain_linger=0,
        access_logfile=str(log),
    )  # fmt: skip
    listeners = open_listeners(settings.bind, 10)
    address = listeners[0].socket.getsockname()
    worker = Worker(settings, listeners)
    handler = HaltingHandler()
    worker.logger.addHandler(handler)
    worker.start(Recorder())
    answers = 0

    def halted() -> bool:
        nonlocal answers
        answers += is_refused(address)
        return handler.halted.is_set()

    try:
        eventually(halted)
    finally:
        worker.drain()
        assert worker.join(DEADLINE)
        worker.close_logs()
        worker.error_log.close()
        worker.logger.removeHandler(handler)
    assert log.read_text().count("\n") == answers


def test_what_was_refused_right_before_a_stop_is_in_the_access_log(
    transport: str, threads: int, tmp_path: Path
) -> None:
    log = tmp_path / "access.log"
    with penstock.running(
        Recorder(), transport=transport, threads=threads, access_logfile=str(log)
    ) as server:
        clients = [Client((server.host, server.port)) for _ in range(50)]
        for client in clients:
            client.send(REFUSED)
        for client in clients:
            with client:
                assert client.read_response().status == 400
    assert log.read_text().count("\n") == len(clients)


def is_refused(address: tuple[str, int]) -> bool:
    """Have a request refused; return True for the whole answer."""
    with Client(address) as client:
        client.send(REFUSED)
        return client.read_response().status == 400
