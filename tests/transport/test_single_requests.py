"""Connections for one request each: read from as they are accepted, and closed at once."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication

import pytest

from penstock.listeners import Listener, open_listeners
from penstock.transport.config import TransportConfig
from support.serving import TEXT, Environ, Gate, Recorder, connect, eventually, get, post
from support.transports import BareServer, serving
from support.wire import DEADLINE, Client

LAST = get("/last", "Connection: close")
UNTIL_THE_END: dict[str, Any] = {"linger_seconds": 60.0, "linger_idle_seconds": 60.0}
NONE_SLOW: dict[str, Any] = {"slow_call_seconds": 60.0}
"""On a busy machine any call may take long."""
MOST = TransportConfig().unlingered_bytes
USUAL = MOST - 100  # there are fields, too


def sized(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with as many bytes as the query says."""
    body = b"x" * int(environ["QUERY_STRING"] or 2)
    start_response("200 OK", [*TEXT, ("Content-Length", str(len(body)))])
    return [body]


def many_fields(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("X-Field", "x" * 1000)] * (1 + MOST // 1000))
    return [b"short"]


def asking(size: int, *fields: str) -> bytes:
    return get(f"/?{size}", "Connection: close", *fields)


def listener_at(place: str, folder: Path) -> Listener:
    address = f"unix:{folder / 'socket'}" if place == "unix" else place
    [listener] = open_listeners([address], 16)
    return listener


def connections(server: BareServer) -> int:
    return int(server.snapshot()["connections"])


def await_end(client: Client) -> None:
    """Wait, without reading anything, until the kernel has the connection's end, or a reset."""
    poller = select.poll()
    poller.register(client.socket, select.POLLRDHUP)
    assert poller.poll(DEADLINE * 1000)


def await_reset(client: Client) -> None:
    """Wait, without reading anything, until the kernel has a reset."""
    poller = select.poll()
    poller.register(client.socket, 0)
    assert poller.poll(DEADLINE * 1000)


@pytest.mark.parametrize(
    "request_",
    [LAST, get("/", version="HTTP/1.0"), asking(USUAL), get("/healthy", "Connection: close")],
    ids=["Connection: close", "HTTP/1.0", "as much as leaves at once", "health"],
)
def test_rfc9112_9_6_a_connection_whose_client_asked_for_it_is_closed_at_once(
    transport: str, request_: bytes
) -> None:
    config = {"health_path": "/healthy", **UNTIL_THE_END, **NONE_SLOW}
    with serving(sized, transport, **config) as server, connect(server) as client:
        client.send(request_)
        assert client.read_response().status in (200, 503)
        assert client.is_closed_by_server()
        eventually(lambda: connections(server) == 0)  # though the client has not closed


@pytest.mark.parametrize(
    "request_",
    [
        post(b"x", "Connection: close"),  # old clients send CRLF behind it
        LAST + b"\r\n",
        asking(MOST + 1),
        get() + LAST,
    ],
    ids=["a body", "more", "a long response", "two requests"],
)
def test_rfc9112_9_6_a_connection_lingers_where_a_reset_could_take_a_response(
    transport: str, request_: bytes
) -> None:
    assert_lingers(sized, transport, request_)


def test_rfc9112_9_6_a_connection_lingers_behind_long_fields(transport: str) -> None:
    assert_lingers(many_fields, transport, LAST)


def assert_lingers(application: WSGIApplication, transport: str, request_: bytes) -> None:
    with serving(application, transport, **UNTIL_THE_END) as server, connect(server) as client:
        client.send(request_)
        await_end(client)
        client.send(b"more")  # which the server reads
        assert client.read_response().status == 200
        client.read_to_end()
        assert connections(server) == 1
        client.close()
        eventually(lambda: connections(server) == 0)


@pytest.mark.parametrize("place", ["127.0.0.1:0", "unix"])
@pytest.mark.parametrize("size", [2, USUAL])
def test_rfc9112_9_6_a_client_that_sends_more_behind_the_end_has_the_response(
    transport: str, place: str, size: int, tmp_path: Path
) -> None:
    """It must not send more, and a reset answers it. What it has received it can still read."""
    listener = listener_at(place, tmp_path)
    with (
        serving(sized, transport, listener=listener, **NONE_SLOW) as server,
        Client(listener.socket.getsockname()) as client,
    ):
        client.send(asking(size))
        await_end(client)
        eventually(lambda: connections(server) == 0)
        if listener.is_unix:
            with pytest.raises(BrokenPipeError):
                client.send(b"more")
        else:
            client.send(b"more")
            await_reset(client)
        assert client.read_response().body == b"x" * size


@pytest.mark.parametrize("place", ["127.0.0.1:0", "unix"])
@pytest.mark.parametrize("threads", [1, 4])
def test_rfc9112_9_6_a_client_that_sends_more_before_the_response_has_it(
    transport: str, place: str, threads: int, tmp_path: Path
) -> None:
    """With one thread the server has not seen it. The window is smaller than the response."""
    listener = listener_at(place, tmp_path)
    entered, go_on = threading.Event(), threading.Event()

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        begun = time.monotonic()
        entered.set()
        assert go_on.wait(DEADLINE)
        while time.monotonic() <= begun + TransportConfig().slow_call_seconds:
            pass  # a shorter call gives the client no time for it
        return sized(environ, start_response)

    with (
        serving(application, transport, threads=threads, listener=listener),
        Client(listener.socket.getsockname(), receive_buffer=1024) as client,
    ):
        client.send(asking(USUAL))
        assert entered.wait(DEADLINE)
        client.send(b"\r\n")
        go_on.set()
        assert client.read_response().body == b"x" * USUAL


def test_what_has_come_before_the_accepting_is_read_at_once_and_all_is_answered(
    transport: str,
) -> None:
    """A single thread is held, so that all that follows is in the accept queue when it returns."""
    gate = Gate()
    with serving(gate, transport, threads=1, **UNTIL_THE_END) as server, ExitStack() as clients:

        def client_of(data: bytes) -> Client:
            client = clients.enter_context(connect(server))
            client.send(data)
            return client

        held = client_of(get("/wait"))
        eventually(lambda: gate.inside == 1)
        half = client_of(b"GET /half HTTP/1.1\r\n")
        silent = client_of(b"")
        kept = client_of(get("/kept"))
        last = client_of(LAST)
        body = client_of(post(b"body", "Connection: close"))
        part = client_of(post(b"body")[:-2])
        two = client_of(get("/first") + LAST)
        ended = client_of(get("/ended"))
        ended.end_sending()
        bad = client_of(b"bad\r\n\r\n")
        client_of(LAST).reset()
        client_of(b"").close()
        gate.open()
        half.send(b"Host: a\r\n\r\n")
        silent.send(get("/silent"))
        part.send(b"dy")
        wanted = {held: "/wait", half: "/half", silent: "/silent", kept: "/kept", last: "/last"}
        wanted |= {body: "/", part: "/", two: "/first", ended: "/ended"}
        for client, target in wanted.items():
            response = client.read_response()
            assert (response.status, response.body) == (200, target.encode())
        assert two.read_response().body == b"/last"
        assert bad.read_response().status == 400
        for client in (last, body, two, ended, bad):
            assert client.is_closed_by_server()
        for client in (held, half, silent, kept, part):
            assert client.request("GET", "/again").body == b"/again"


def test_clients_that_send_nothing_with_the_connection_are_served_when_they_do(
    transport: str,
) -> None:
    """They use up the reads that may find nothing: then a connection is watched first."""
    number = TransportConfig().first_reads + 10
    with serving(Recorder(), transport) as server, ExitStack() as clients:
        silent = [clients.enter_context(connect(server)) for _ in range(number)]
        eventually(lambda: connections(server) == number)
        for client in silent:
            client.send(get("/late"))
            assert client.read_response().status == 200
        for _ in range(3):
            with connect(server) as client:
                client.send(LAST)
                assert client.read_response().status == 200
                assert client.is_closed_by_server()
