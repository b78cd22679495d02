"""Every wait for a client has an end: heads, bodies, idle connections, answers not read."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from wsgiref.types import StartResponse

import pytest

import penstock
from support import applications
from support.serving import TEXT, Blocks, Environ, Gate, connect, eventually, get, post
from support.wire import Client, unacknowledged

pytestmark = pytest.mark.parametrize("threads", [1, 4])

LONG = 60.0


@pytest.mark.parametrize("part", [b"G", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n"])
def test_rfc9110_15_5_9_an_unfinished_head_is_a_408(
    transport: str, threads: int, part: bytes
) -> None:
    settings = {"transport": transport, "threads": threads, "header_timeout": 0.2}
    with penstock.running(applications.hello, **settings) as server, connect(server) as client:
        client.send(part)
        response = client.read_response()
        assert (response.status, response.header("Connection")) == (408, "close")
        assert client.read_to_end() == b""


def test_rfc9110_15_5_9_the_head_behind_an_answered_request_has_a_deadline_too(
    transport: str, threads: int
) -> None:
    settings = {"transport": transport, "threads": threads, "header_timeout": 0.2}
    with penstock.running(applications.hello, **settings) as server, connect(server) as client:
        client.send(get() + get()[:-2])
        assert client.read_response().status == 200
        assert client.read_response().status == 408


@pytest.mark.parametrize("framing", ["Content-Length: 10", "Transfer-Encoding: chunked"])
def test_rfc9110_15_5_9_an_unfinished_body_is_a_408(
    transport: str, threads: int, framing: str
) -> None:
    settings = {"transport": transport, "threads": threads, "body_timeout": 0.2}
    with penstock.running(applications.echo, **settings) as server, connect(server) as client:
        client.send(f"POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n5".encode())
        response = client.read_response()
        assert (response.status, response.header("Connection")) == (408, "close")
        assert client.read_to_end() == b""


def pace(client: Client, seconds: float) -> None:
    """Send some bytes again and again for a while: slowly, and steadily."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        client.send(b"x" * 100)
        threading.Event().wait(0.02)


def test_a_slow_body_that_keeps_the_least_rate_is_taken_past_the_timeout(
    transport: str, threads: int
) -> None:
    settings = {"transport": transport, "threads": threads, "body_timeout": 0.2}
    with penstock.running(applications.echo, **settings, body_min_rate=500) as server:
        with connect(server) as client:
            client.send(post(b"x" * 2000, length=1_000_000))
            pace(client, 1.0)
            assert server.snapshot()["connections"] == 1
            assert server.snapshot()["requests_refused"] == 0


def test_rfc9112_9_5_an_idle_connection_is_closed_without_a_word(
    transport: str, threads: int
) -> None:
    settings = {"transport": transport, "threads": threads, "keep_alive": 0.2}
    with penstock.running(applications.hello, **settings) as server:
        with connect(server) as fresh, connect(server) as used:
            assert used.request("GET", "/").status == 200
            assert used.read_to_end() == b""
            assert fresh.read_to_end() == b""


def test_a_request_that_meets_the_end_of_an_idle_connection_is_not_reset(
    transport: str, threads: int
) -> None:
    settings = {"transport": transport, "threads": threads, "keep_alive": 0.2}
    with penstock.running(applications.hello, **settings) as server:
        with connect(server) as client:
            assert client.request("GET", "/").status == 200
            assert client.read_to_end() == b""
            client.send(get())  # as if it had crossed the end on its way
            eventually(lambda: unacknowledged(client) == 0)
            assert client.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
            assert client.socket.recv(1) == b""
        eventually(lambda: server.snapshot()["connections"] == 0)
        assert server.snapshot()["requests"] == 1


def test_clients_are_told_for_how_long_a_connection_may_be_idle(
    transport: str, threads: int
) -> None:
    settings = {"transport": transport, "threads": threads, "keep_alive": 20,
                "health_path": "/health"}  # fmt: skip
    with penstock.running(applications.hello, send_keep_alive=True, **settings) as server:
        with connect(server) as client:
            for target, version in [("/", "1.1"), ("/health", "1.1"), ("/", "1.0")]:
                fields = ["Connection: keep-alive"]
                client.send(get(target, *fields, version=f"HTTP/{version}"))
                response = client.read_response()
                assert response.header("Keep-Alive") == "timeout=19"
                assert response.header("Connection") == "keep-alive"
            client.send(get("/", "Connection: close"))
            response = client.read_response()
            assert response.header("Keep-Alive") is None
            assert response.header("Connection") == "close"
    with penstock.running(applications.hello, **settings) as server, connect(server) as client:
        assert client.request("GET", "/").header("Keep-Alive") is None


def test_no_deadline_of_the_client_runs_while_the_application_works(
    transport: str, threads: int
) -> None:
    gate = Gate()
    short = dict.fromkeys(("keep_alive", "header_timeout", "body_timeout", "write_timeout"), 0.1)
    with penstock.running(gate, transport=transport, threads=threads, **short) as server:
        with connect(server) as client:
            client.send(post(b"hello", target="/wait"))
            eventually(lambda: gate.inside)
            threading.Event().wait(0.4)
            gate.open()
            assert client.read_response().status == 200


def test_a_stalled_reader_of_a_whole_response_is_cut_off(transport: str, threads: int) -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", TEXT)
        return [b"x" * 20_000_000]

    settings = {"transport": transport, "threads": threads, "write_timeout": 0.3}
    with penstock.running(application, **settings) as server:
        with connect(server, receive_buffer=4096) as client:
            client.send(get())
            eventually(lambda: server.snapshot()["requests"] == 1)
            eventually(lambda: server.snapshot()["connections"] == 0)
            assert not client.read_response().complete


def test_a_stalled_reader_of_a_generator_is_cut_off_and_the_generator_closed(
    transport: str, threads: int
) -> None:
    blocks = Blocks(b"x" * 65536 for _ in range(10_000))
    settings = {"transport": transport, "threads": threads, "write_timeout": 0.3}
    with penstock.running(blocks, **settings) as server:
        with connect(server, receive_buffer=4096) as client:
            client.send(get())
            assert blocks.was_closed.wait(10)
            eventually(lambda: server.snapshot()["connections"] == 0)
            assert not client.read_response().complete
    assert blocks.closed == 1


def test_a_stalled_reader_is_cut_off_while_the_application_trickles(
    transport: str, threads: int
) -> None:
    """Each small block is taken by the out-buffer: it must not set the deadline anew."""

    def trickle() -> Iterator[bytes]:
        yield b"x" * 8_000_000
        while True:
            yield b"y"
            threading.Event().wait(0.02)

    blocks = Blocks(trickle())
    settings = {"transport": transport, "threads": threads, "write_timeout": 0.4}
    with penstock.running(blocks, **settings, out_buffer=16 << 20) as server:
        with connect(server, receive_buffer=4096) as client:
            client.send(get())
            assert blocks.was_closed.wait(10)


@pytest.mark.parametrize("kind", ["whole", "generator"])
def test_a_slow_reader_that_moves_is_served_past_the_write_deadline(
    transport: str, threads: int, kind: str
) -> None:
    size = 8_000_000
    blocks = [b"x" * size] if kind == "whole" else [b"x" * 50_000] * (size // 50_000)

    def application(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Length", str(size))])
        return iter(blocks)

    settings = {"transport": transport, "threads": threads, "write_timeout": 0.4}
    rate = {"body_min_rate": 20_000}  # a tenth of what the client takes
    with penstock.running(application, **settings, **rate, out_buffer=16 << 10) as server:
        with connect(server, receive_buffer=4096) as client:
            client.send(get())
            end = time.monotonic() + 2.5
            while time.monotonic() < end:
                client.buffer += client.socket.recv(1024)
                threading.Event().wait(0.005)
            response = client.read_response()
            assert response.complete
            assert len(response.body) == size
