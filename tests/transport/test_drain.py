"""Stopping: accepted requests are served, responses announce the close, none is aborted."""

from __future__ import annotations

import threading
from typing import Any
from wsgiref.types import StartResponse

import pytest

import penstock
from penstock.api import RunningServer
from support.serving import (
    TEXT,
    Environ,
    Gate,
    address,
    connect,
    descriptors,
    eventually,
    get,
    post,
)
from support.wire import Client

pytestmark = pytest.mark.parametrize("threads", [1, 4])


@pytest.fixture
def settings(transport: str, threads: int) -> dict[str, Any]:
    return {"transport": transport, "threads": threads, "drain_linger": 1.0}


def begin(server: RunningServer) -> None:
    """Have the server stop, as SIGTERM does."""
    server.worker.drain()


def is_over(server: RunningServer) -> bool:
    return server.worker.join(0)


def block(server: RunningServer, gate: Gate, count: int) -> list[Client]:
    """Return clients whose requests keep ``count`` threads busy."""
    clients = [connect(server) for _ in range(count)]
    for client in clients:
        client.send(get("/wait"))
    eventually(lambda: gate.inside == count)
    return clients


def check_last(client: Client, body: bytes) -> None:
    response = client.read_response()
    assert (response.status, response.body) == (200, body)
    assert response.header("Connection") == "close"
    assert client.read_to_end() == b""
    client.close()


def test_rfc9112_9_6_a_request_in_progress_is_finished_and_says_close(
    settings: dict[str, Any], threads: int
) -> None:
    gate = Gate()
    with penstock.running(gate, **settings) as server:
        clients = block(server, gate, threads)
        begin(server)
        assert not is_over(server)
        gate.open()
        for client in clients:
            check_last(client, b"/wait")
        eventually(lambda: is_over(server))


@pytest.mark.parametrize("linger", [0, 1.0])
@pytest.mark.parametrize("cap", [2, 1000])
def test_connections_in_the_listen_queue_are_served(
    settings: dict[str, Any], threads: int, linger: float, cap: int
) -> None:
    gate = Gate()
    limits = {"drain_linger": linger, "max_connections": max(cap, threads)}
    with penstock.running(gate, **settings | limits) as server:
        blocked = block(server, gate, threads)
        waiting = [connect(server) for _ in range(50)]
        for client in waiting:
            client.send(get("/queued"))
        begin(server)
        gate.open()
        for client in blocked:
            check_last(client, b"/wait")
        for client in waiting:
            check_last(client, b"/queued")
        eventually(lambda: is_over(server))
    assert gate.seen.count("/queued") == 50


def test_a_request_that_crosses_the_stop_is_served(settings: dict[str, Any]) -> None:
    with penstock.running(Gate(), **settings) as server:
        clients = [connect(server) for _ in range(10)]
        for client in clients:
            assert client.request("GET", "/").header("Connection") is None
        begin(server)
        eventually(lambda: server.snapshot()["draining"])
        for client in clients:
            client.send(get("/racing"))
            check_last(client, b"/racing")
        eventually(lambda: is_over(server))


def test_idle_connections_are_closed_and_the_server_ends(settings: dict[str, Any]) -> None:
    with penstock.running(Gate(), **settings | {"drain_linger": 0.3}) as server:
        with connect(server) as used, connect(server) as fresh:
            assert used.request("GET", "/").status == 200
            eventually(lambda: server.snapshot()["connections"] == 2)
            begin(server)
            assert used.read_to_end() == b""
            assert fresh.read_to_end() == b""
            eventually(lambda: is_over(server))


def test_without_connections_the_server_ends_at_once(settings: dict[str, Any]) -> None:
    with penstock.running(Gate(), **settings | {"drain_linger": 5.0}) as server:
        with connect(server) as client:
            client.send(get("/", "Connection: close"))
            check_last(client, b"/")
        begin(server)
        eventually(lambda: is_over(server), timeout=4.0)


def test_nobody_is_accepted_any_more(settings: dict[str, Any], threads: int) -> None:
    gate = Gate()
    with penstock.running(gate, **settings) as server:
        clients = block(server, gate, threads)
        begin(server)

        def is_refused() -> bool:
            try:
                Client(address(server)).close()
            except (ConnectionRefusedError, ConnectionResetError):
                return True
            return False

        if threads == 1:  # no thread can close the listener before the call is over
            gate.open()
        eventually(is_refused)
        gate.open()
        for client in clients:
            check_last(client, b"/wait")


def test_a_head_and_a_body_under_way_are_taken_to_their_end(settings: dict[str, Any]) -> None:
    with penstock.running(Gate(), **settings | {"drain_linger": 0.2}) as server:
        with connect(server) as in_head, connect(server) as in_body:
            in_head.send(get("/head")[:-2])
            in_body.send(post(b"x", target="/body", length=3))
            eventually(lambda: server.snapshot()["connections"] == 2)
            with connect(server) as other:  # its answer shows that both have been read
                assert other.request("GET", "/").status == 200
            begin(server)
            eventually(lambda: server.snapshot()["connections"] == 2)
            threading.Event().wait(0.5)
            in_head.send(b"\r\n")
            in_body.send(b"yz")
            check_last(in_head, b"/head")
            check_last(in_body, b"/body")
        eventually(lambda: is_over(server))


def test_neither_a_lone_cr_nor_a_head_that_begins_late_holds_up_a_stop(
    settings: dict[str, Any],
) -> None:
    with penstock.running(Gate(), **settings) as server:
        with connect(server) as odd, connect(server) as late, connect(server) as other:
            for client in (odd, late, other):
                assert client.request("GET", "/").status == 200
            odd.send(b"\r")
            begin(server)
            other.send(get())
            check_last(other, b"/")
            late.send(b"GET /")
            assert late.read_response().status == 503
            eventually(lambda: is_over(server))


def test_a_large_response_is_sent_to_its_end(settings: dict[str, Any]) -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", TEXT)
        return [b"x" * 20_000_000]

    with penstock.running(application, **settings) as server:
        with connect(server, receive_buffer=4096) as client:
            client.send(get())
            eventually(lambda: server.snapshot()["requests"] == 1)
            begin(server)
            response = client.read_response()
            assert (len(response.body), response.complete) == (20_000_000, True)
            assert client.read_to_end() == b""
        eventually(lambda: is_over(server))


def test_close_cuts_off_what_is_in_progress(settings: dict[str, Any], threads: int) -> None:
    gate = Gate()
    with penstock.running(gate, **settings) as server:
        clients = block(server, gate, threads)
        clients.append(connect(server))
        server.worker.close()
        for client in clients:
            assert client.read_to_end() == b""
            client.close()
        gate.open()
        eventually(lambda: is_over(server))


def test_close_frees_what_waited_for_a_thread(settings: dict[str, Any], threads: int) -> None:
    gate = Gate()
    before = descriptors()
    with penstock.running(gate, **settings) as server:
        clients = block(server, gate, threads)
        for _ in range(5):
            clients.append(connect(server))
            clients[-1].send(get("/queued") * 2)
        if threads > 1:
            eventually(lambda: server.snapshot()["requests"] == threads + 5)
        server.worker.close()
        for client in clients[:threads]:
            assert client.read_to_end() == b""
        for client in clients[threads:]:
            answer = client.read_to_end()
            # With one thread no other has read the requests.
            assert answer.count(b"HTTP/1.1 ") == answer.count(b"HTTP/1.1 503 ") == (threads > 1)
        for client in clients:
            client.close()
        gate.open()
        eventually(lambda: is_over(server))
        eventually(lambda: server.snapshot()["connections"] == 0)
    assert descriptors() <= before
    assert "/queued" not in gate.seen
