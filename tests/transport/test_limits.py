"""What a request may cost, and what a connection may: the answers beyond each limit."""

from __future__ import annotations

import select
import threading

import pytest

import penstock
from support import applications
from support.serving import Gate, Recorder, connect, eventually, get, post
from support.wire import Client, chunked

both = pytest.mark.parametrize("threads", [1, 4])

SMALL = {
    "limit_request_line": 100,
    "limit_request_fields": 3,
    "limit_request_field_size": 80,
    "limit_request_head": 256,
    "max_body": 1000,
}


def chunked_post(body: bytes) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + body


@both
@pytest.mark.parametrize(
    ("data", "status"),
    [
        pytest.param(get("/" + "x" * 86), 200, id="request line of 100"),
        pytest.param(get("/" + "x" * 87), 414, id="request line of 101"),
        pytest.param(get("/", "a: 1", "b: 2"), 200, id="3 fields"),
        pytest.param(get("/", "a: 1", "b: 2", "c: 3"), 431, id="4 fields"),
        pytest.param(get("/", "a: " + "x" * 77), 200, id="field of 80"),
        pytest.param(get("/", "a: " + "x" * 78), 431, id="field of 81"),
        pytest.param(get("/" + "x" * 80, "a: " + "x" * 77, "b: " + "x" * 77), 431, id="head"),
        pytest.param(post(b"x" * 1000), 200, id="body of 1000"),
        pytest.param(post(b"", length=1001), 413, id="body of 1001"),
        pytest.param(chunked_post(chunked(b"x" * 500, b"x" * 500)), 200, id="chunks of 1000"),
        pytest.param(chunked_post(chunked(b"x" * 500, b"x" * 501)), 413, id="chunks of 1001"),
    ],
)
def test_rfc9110_15_5_a_limit_holds_to_the_byte(
    transport: str, threads: int, data: bytes, status: int
) -> None:
    recorder = Recorder()
    with penstock.running(recorder, transport=transport, threads=threads, **SMALL) as server:
        with connect(server) as client:
            client.send(data)
            response = client.read_response()
            assert response.status == status
            if status != 200:
                assert response.header("Connection") == "close"
                assert client.read_to_end() == b""
    assert len(recorder.targets) == (status == 200)


@both
@pytest.mark.parametrize("status", [413, 414, 431])
def test_rfc9112_9_6_a_client_that_sends_on_can_still_read_why_it_was_refused(
    transport: str, threads: int, status: int
) -> None:
    data = {
        413: post(b"x" * 5_000_000),
        414: get("/" + "x" * 5_000_000),
        431: get("/", "a: " + "x" * 5_000_000),
    }[status]
    with penstock.running(
        applications.hello, transport=transport, threads=threads, max_body=1000
    ) as server:
        with connect(server) as client:
            client.send(data)  # all of it is taken, so that no reset overtakes the answer
            assert client.read_response().status == status
            assert client.read_to_end() == b""


def is_answered(client: Client, seconds: float) -> bool:
    return bool(select.select([client.socket], [], [], seconds)[0])


def test_calls_of_the_application_never_make_room(transport: str) -> None:
    gate = Gate()
    settings = {"transport": transport, "threads": 4, "max_connections": 3}
    with penstock.running(gate, **settings) as server:
        busy = [connect(server) for _ in range(3)]
        for client in busy:
            client.send(get("/wait"))
        eventually(lambda: gate.inside == 3)
        with connect(server) as waiting:
            waiting.send(get("/waiting"))
            assert not is_answered(waiting, 1.5)
            gate.open()
            for client in busy:
                assert client.read_response().status == 200
            # They are idle now, and one of them makes room.
            assert waiting.read_response().body == b"/waiting"
        for client in busy:
            client.close()


@both
def test_at_max_connections_short_lived_ones_follow_each_other_at_once(
    transport: str, threads: int
) -> None:
    settings = {"transport": transport, "threads": threads, "max_connections": 2}
    with penstock.running(applications.hello, **settings) as server:
        clients = [connect(server) for _ in range(50)]
        for client in clients:
            client.send(get("/", "Connection: close"))
        # With a wait for the next sweep between them this would take half a minute.
        for client in clients:
            assert client.read_response().status == 200
            client.close()


@both
def test_at_max_connections_the_longest_idle_one_makes_room(transport: str, threads: int) -> None:
    settings = {"transport": transport, "threads": threads, "max_connections": 3}
    with penstock.running(applications.hello, **settings) as server:
        idle = [connect(server) for _ in range(3)]
        eventually(lambda: server.snapshot()["connections"] == 3)
        with connect(server) as newcomer:  # before any of them has been idle for long
            newcomer.send(get())
            assert newcomer.read_response().status == 200
        assert any(is_answered(client, 0) for client in idle)
        for client in idle:
            client.close()


@both
def test_an_idle_connection_stays_where_the_newcomer_takes_the_last_place(
    transport: str, threads: int
) -> None:
    settings = {"transport": transport, "threads": threads, "max_connections": 2}
    with penstock.running(applications.hello, **settings) as server:
        with connect(server) as idle:
            assert idle.request("GET", "/").status == 200
            threading.Event().wait(1.2)  # long enough to be taken for idle
            with connect(server) as newcomer:
                assert newcomer.request("GET", "/").status == 200
                assert idle.request("GET", "/").status == 200


def test_a_connection_whose_request_has_just_come_does_not_make_room(transport: str) -> None:
    gate = Gate()
    settings = {"transport": transport, "threads": 1, "max_connections": 2}
    with penstock.running(gate, **settings) as server:
        with connect(server) as busy, connect(server) as idle:
            assert idle.request("GET", "/").status == 200
            threading.Event().wait(1.2)  # long enough to be taken for idle
            # Not before: while a call lasts for longer than a second, another thread looks at the
            # sockets, and may find the newcomer alone.
            busy.send(get("/wait"))
            eventually(lambda: gate.inside)
            with connect(server) as newcomer:  # first in line, and there is no room
                newcomer.send(get("/newcomer"))
                idle.send(get("/in-time"))
                gate.open()
                assert idle.read_response().body == b"/in-time"
                assert busy.read_response().body == b"/wait"
                assert newcomer.read_response().body == b"/newcomer"
