"""Requests whose client left before a thread was free: dropped, and told of as 499."""

from __future__ import annotations

import threading

import pytest

from support.serving import Gate, connect, eventually, get
from support.transports import serving
from support.wire import Client

LONG = 0.8
"""Seconds after which a client that has ended its side still waits for its answer."""


@pytest.mark.parametrize("threads", [1, 3])
def test_a_half_closed_client_that_does_not_wait_long_is_answered(
    transport: str, threads: int
) -> None:
    gate = Gate()
    with serving(gate, transport, threads=threads) as server:
        busy = [connect(server) for _ in range(threads)]
        for client in busy:
            client.send(get("/wait"))
        eventually(lambda: gate.inside == threads)
        halves = [connect(server) for _ in range(3)]
        for client in halves:
            client.send(get("/half"))
            client.end_sending()
        gate.open()
        for client in halves:
            assert client.read_response().body == b"/half"
            assert client.read_to_end() == b""
            client.close()
        for client in busy:
            assert client.read_response().status == 200
            client.close()


@pytest.mark.parametrize("threads", [1, 3])
def test_a_half_closed_client_whose_call_takes_long_is_answered(
    transport: str, threads: int
) -> None:
    gate = Gate()
    with serving(gate, transport, threads=threads) as server, connect(server) as client:
        client.send(get("/wait"))
        client.end_sending()
        eventually(lambda: gate.inside == 1)
        threading.Event().wait(LONG)
        gate.open()
        assert client.read_response().body == b"/wait"


@pytest.mark.parametrize("threads", [1, 3])
def test_what_is_pipelined_before_a_half_close_is_answered(transport: str, threads: int) -> None:
    gate = Gate()
    with serving(gate, transport, threads=threads) as server, connect(server) as client:
        client.send(get("/wait") + get("/second") + get("/third"))
        client.end_sending()
        eventually(lambda: gate.inside == 1)
        threading.Event().wait(LONG)
        gate.open()
        for body in (b"/wait", b"/second", b"/third"):
            assert client.read_response().body == body


@pytest.mark.parametrize("threads", [1, 3])
def test_after_an_idle_time_a_half_closed_client_is_answered(transport: str, threads: int) -> None:
    """That the server slept until the request came does not make it old."""
    with serving(Gate(), transport, threads=threads) as server:
        for _ in range(2):
            with Client((server.host, server.port)) as client:
                client.send(get("/half"))
                client.end_sending()
                assert client.read_response().body == b"/half"
            threading.Event().wait(LONG)
