"""Defects of the server itself: they cost what they hit, and not the rest."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import penstock
from penstock.transport.python import PythonTransport
from support.wire import Client

if TYPE_CHECKING:
    from wsgiref.types import StartResponse


def test_fault_30_an_error_in_the_loop_leaves_the_crew_its_tender() -> None:
    begun, released, hit = threading.Semaphore(0), threading.Event(), threading.Event()

    def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        begun.release()
        released.wait(20)
        start_response("200 OK", [])
        return [b"held"]

    def fail() -> None:
        hit.set()
        raise LookupError("a defect")

    with penstock.running(app, threads=2) as server:
        address = (server.host, server.port)
        with contextlib.ExitStack() as stack:
            first, second, third, fourth = [stack.enter_context(Client(address)) for _ in range(4)]
            for client in (first, second):
                client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                assert begun.acquire(timeout=10)
            # Both threads are with the application: it is the tender that leads now.
            transport = server.worker.transport
            assert isinstance(transport, PythonTransport)
            transport._loop.post(fail)
            transport._loop.hurry()
            try:
                for client in (third, fourth):
                    client.send(b"nonsense\r\n\r\n")
                    assert client.read_response().status == 400
                assert hit.is_set()
            finally:
                released.set()
            assert first.read_response().body == b"held"
            assert second.read_response().body == b"held"
