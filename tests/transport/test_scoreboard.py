"""What a transport writes on the scoreboard: what each thread is in, and counts."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from wsgiref.types import StartResponse

import pytest

from penstock.listeners import open_listeners
from penstock.telemetry.scoreboard import (
    ACCEPTED,
    ACCEPTING,
    CONNECTIONS,
    POLLED,
    STARTED,
    WAITING,
    Scoreboard,
)
from support.serving import Environ, Gate, connect, eventually, get
from support.transports import serving
from support.wire import Client


def test_what_is_with_the_application_is_on_the_scoreboard(transport: str) -> None:
    gate = Gate()
    idents: list[int] = []

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        idents.append(threading.get_ident())
        return gate(environ, start_response)

    before = time.monotonic()
    with serving(application, transport, timeout=60.0) as server, connect(server) as client:
        client.send(get("/wait/here?x=%20y"))
        eventually(lambda: gate.inside == 1)
        (request,) = server.slot.requests()
        assert (request.method, request.target) == ("GET", "/wait/here?x=%20y")
        host, port = client.socket.getsockname()
        assert request.client == f"{host}:{port}"
        assert request.ident == idents[0]
        assert request.number == 1
        assert request.request_id
        assert before <= request.since <= time.monotonic()
        assert request.deadline is not None
        assert abs(request.deadline - request.since - 60.0) < 1e-3
        gate.open()
        assert client.read_response().status == 200
        eventually(lambda: not list(server.slot.requests()))


def test_the_request_id_is_the_environs(transport: str) -> None:
    gate = Gate()
    seen: list[str] = []

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        seen.append(environ["penstock.request_id"])
        return gate(environ, start_response)

    with serving(application, transport) as server, connect(server) as client:
        client.send(get("/wait"))
        eventually(lambda: gate.inside == 1)
        (request,) = server.slot.requests()
        assert [request.request_id] == seen
        assert request.deadline is None
        gate.open()
        assert client.read_response().status == 200


def test_each_thread_has_a_record_of_its_own(transport: str) -> None:
    gate = Gate()
    with serving(gate, transport, threads=3) as server:
        clients = [connect(server) for _ in range(3)]
        for number, client in enumerate(clients):
            client.send(get(f"/wait/{number}"))
        eventually(lambda: gate.inside == 3)
        requests = list(server.slot.requests())
        assert {r.thread for r in requests} == {0, 1, 2}
        assert {r.target for r in requests} == {"/wait/0", "/wait/1", "/wait/2"}
        assert len({r.ident for r in requests}) == 3
        assert sorted(r.number for r in requests) == [1, 2, 3]
        gate.open()
        for client in clients:
            assert client.read_response().status == 200
            client.close()
        eventually(lambda: not list(server.slot.requests()))


def test_threads_beyond_the_boards_records_serve_as_well(transport: str) -> None:
    gate = Gate()
    slot = Scoreboard(1, 1).take()
    with serving(gate, transport, threads=3, slot=slot) as server:
        clients = [connect(server) for _ in range(3)]
        for client in clients:
            client.send(get("/wait"))
        eventually(lambda: gate.inside == 3)
        assert len(list(server.slot.requests())) == 1
        gate.open()
        for client in clients:
            assert client.read_response().status == 200
            client.close()


def test_a_long_target_is_cut_off(transport: str) -> None:
    gate = Gate()
    with serving(gate, transport) as server, connect(server) as client:
        client.send(get("/wait" + "x" * 2000))
        eventually(lambda: gate.inside == 1)
        (request,) = server.slot.requests()
        assert request.target == ("/wait" + "x" * 2000)[:304]
        gate.open()
        assert client.read_response().status == 200


def test_a_client_over_a_unix_socket_has_no_address(transport: str) -> None:
    gate = Gate()
    (listener,) = open_listeners([f"unix:@penstock-test-{time.monotonic_ns()}"], 16)
    with serving(gate, transport, listener=listener) as server:
        with Client("\0" + listener.name.removeprefix("unix:@")) as client:
            client.send(get("/wait"))
            eventually(lambda: gate.inside == 1)
            (request,) = server.slot.requests()
            assert request.client == ""
            gate.open()
            assert client.read_response().status == 200


@pytest.mark.parametrize("threads", [1, 4])
def test_connections_and_requests_are_counted(transport: str, threads: int) -> None:
    gate = Gate()
    with serving(gate, transport, threads=threads) as server:
        eventually(lambda: server.word(ACCEPTING) == 1)
        clients = [connect(server) for _ in range(5)]
        for client in clients:
            for _ in range(3):
                assert client.request("GET", "/").status == 200
        assert server.word(STARTED) == 15
        assert server.word(CONNECTIONS) == 5
        assert server.word(ACCEPTED) == 5
        for client in clients[:3]:
            client.close()
        eventually(lambda: server.word(CONNECTIONS) == 2)
        for client in clients[3:]:
            client.close()
        eventually(lambda: server.word(CONNECTIONS) == 0)
        assert server.word(ACCEPTED) == 5


def test_requests_that_wait_for_a_thread_are_counted(transport: str) -> None:
    gate = Gate()
    with serving(gate, transport, threads=2) as server:
        clients = [connect(server) for _ in range(7)]
        for client in clients:
            client.send(get("/wait"))
        eventually(lambda: server.word(WAITING) == 5)
        eventually(lambda: server.word(STARTED) == 2)
        gate.open()
        for client in clients:
            assert client.read_response().status == 200
            client.close()
        eventually(lambda: server.word(WAITING) == 0)
        assert server.word(STARTED) == 7


@pytest.mark.parametrize("threads", [1, 4])
def test_an_idle_transport_waits_in_its_poll(transport: str, threads: int) -> None:
    with serving(Gate(), transport, threads=threads) as server:
        eventually(lambda: server.word(POLLED) == 1)
        with connect(server) as client:
            assert client.request("GET", "/").status == 200
            eventually(lambda: server.word(POLLED) == 1)


def test_the_last_look_at_the_sockets_is_told(transport: str) -> None:
    """With one thread, none looks at the sockets while the application runs."""
    gate = Gate()
    before = time.monotonic_ns()
    with serving(gate, transport) as server, connect(server) as client:
        client.send(get("/wait"))
        eventually(lambda: gate.inside == 1)
        polled = server.word(POLLED)
        assert before <= polled <= time.monotonic_ns()
        gate.open()
        assert client.read_response().status == 200


def test_nothing_is_accepting_once_it_drains(transport: str) -> None:
    with serving(Gate(), transport) as server, connect(server) as client:
        assert client.request("GET", "/").status == 200
        eventually(lambda: server.word(ACCEPTING) == 1)
        server.transport.drain()
        eventually(lambda: server.word(ACCEPTING) == 0)


def test_the_last_requests_of_a_thread_stay_with_their_status_and_time(transport: str) -> None:
    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response(f"{environ['PATH_INFO'][1:]} Status", [("Content-Length", "1")])
        return [b"x"]

    slot = Scoreboard(1, 1, past=3).take()
    with serving(application, transport, slot=slot, health_path="/healthz") as server:
        with connect(server) as client:
            for status in (200, 201, 404, 500, 203):
                client.send(get(f"/{status}"))
                assert client.read_response().status == status
                client.send(get("/healthz"))  # the server's own answers are none of them
                client.read_response()
        eventually(lambda: not list(server.slot.requests()))
        past = list(server.slot.past_requests())
    assert [(each.target, each.status) for each in past] == [
        ("/203", 203),
        ("/500", 500),
        ("/404", 404),
        ("/201", 201),
    ]
    # The Python transport writes the time of a call down that was slow, or no 200.
    least = 0 if transport == "python" else 1e-9
    assert all(least <= each.took < 30 for each in past)
    assert all(each.took > 0 for each in past if each.status != 200)
    assert all(each.request_id and each.client for each in past)


def test_a_call_that_the_server_has_ended_has_its_status(transport: str) -> None:
    gate = Gate()
    slot = Scoreboard(1, 2, past=3).take()
    with serving(gate, transport, threads=2, slot=slot) as server, connect(server) as client:
        client.send(get("/wait"))
        eventually(lambda: gate.inside == 1)
        assert list(server.slot.past_requests()) == []
        (request,) = server.slot.requests()
        server.transport.expire(request.number, "timeout")
        assert client.read_response().status == 504
        gate.open()
        eventually(lambda: list(server.slot.past_requests()))
        (past,) = server.slot.past_requests()
    assert (past.target, past.status) == ("/wait", 504)
