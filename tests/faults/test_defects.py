"""Defects of the server itself: they cost what they hit, and not the rest."""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pytest

import penstock
from penstock.transport.python import PythonTransport
from penstock.transport.python.exchange import PythonExchange
from penstock.transport.python.loop import Loop
from penstock.transport.python.request_queue import RequestQueue
from support.wire import Client

if TYPE_CHECKING:
    from wsgiref.types import StartResponse

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def test_fault_30_an_error_in_the_loop_leaves_the_threads_their_stall_monitor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, released, hit = threading.Semaphore(0), threading.Event(), threading.Event()

    def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        begun.release()
        released.wait(20)
        start_response("200 OK", [])
        return [b"held"]

    with (
        penstock.running(app, threads=2, transport="python") as server,
        contextlib.ExitStack() as stack,
    ):
        run = Loop.run

        def fail_once(loop: Loop) -> PythonExchange | None:
            if hit.is_set():
                return run(loop)
            hit.set()
            raise LookupError("a defect")

        address = (server.host, server.port)
        clients = [stack.enter_context(Client(address)) for _ in range(5)]
        try:
            for client in clients[:2]:
                client.send(GET)
                assert begun.acquire(timeout=10)
            # Both threads run the application, so the stall monitor has to lead and to answer this.
            clients[2].send(b"nonsense\r\n\r\n")
            assert clients[2].read_response().status == 400
            monkeypatch.setattr(Loop, "run", fail_once)
            clients[3].send(GET)  # it is queued, and the stall monitor meets the defect
            assert hit.wait(10)
            clients[4].send(b"nonsense\r\n\r\n")
            assert clients[4].read_response().status == 400
        finally:
            released.set()
        for client in (*clients[:2], clients[3]):
            assert client.read_response().body == b"held"


def test_fault_30_a_connection_that_cannot_be_watched_is_closed_and_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [b"served"]

    with penstock.running(app, threads=1, transport="python") as server:
        transport = server.worker.transport
        assert isinstance(transport, PythonTransport)
        selector = transport._loop.selector
        register = selector.register

        def fail_once(*arguments: Any) -> Any:
            monkeypatch.setattr(selector, "register", register)
            raise OSError(errno.ENOSPC, "no watch is left")

        monkeypatch.setattr(selector, "register", fail_once)
        with Client((server.host, server.port)) as unlucky:
            assert unlucky.read_to_end() == b""
        with Client((server.host, server.port)) as client:
            assert client.request("GET", "/").body == b"served"
            assert server.snapshot()["connections"] == 1


def test_fault_30_an_error_in_the_sweep_of_the_queue_leaves_the_leader_and_the_requests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    released, failed = threading.Event(), threading.Semaphore(0)

    def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        released.wait(20)
        start_response("200 OK", [])
        return [b"held"]

    def fail(_queue: RequestQueue) -> list[tuple[PythonExchange, int]]:
        failed.release()
        raise LookupError("a defect")

    with (
        penstock.running(app, threads=2, transport="python", header_timeout=1) as server,
        contextlib.ExitStack() as stack,
    ):
        stack.callback(released.set)
        address = (server.host, server.port)
        monkeypatch.setattr(RequestQueue, "sweep", fail)
        clients = [stack.enter_context(Client(address)) for _ in range(4)]
        for client in clients:
            client.send(GET)
        assert failed.acquire(timeout=10)
        assert failed.acquire(timeout=10)  # the leader goes on
        released.set()
        for client in clients:
            assert client.read_response().body == b"held"
