"""Requests that a review showed to be answered too kindly: targets, early answers, tiny chunks."""

from __future__ import annotations

import errno
import re
import threading
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse

import pytest

import penstock
from support.buffers import BufferServer
from support.serving import TEXT, Environ, connect, eventually, get, post
from support.wire import DEADLINE, unacknowledged

CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
EXPECT = "Expect: 100-continue"


@pytest.fixture
def settings(transport: str, threads: int) -> dict[str, Any]:
    return {"transport": transport, "threads": threads}


def host_of(environ: Environ, start_response: StartResponse) -> list[bytes]:
    """Answer with what an application makes its own URL of."""
    start_response("200 OK", TEXT)
    names = ("HTTP_HOST", "SERVER_NAME", "wsgi.url_scheme", "PATH_INFO")
    return [" ".join(environ[name] for name in names).encode()]


def length(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", TEXT)
    return [b"%d" % len(environ["wsgi.input"].read())]


def refusing(environ: Environ, start_response: StartResponse) -> list[bytes]:
    """Answer without a look at the body."""
    start_response("403 Forbidden", TEXT)
    return [b"no"]


# -- the target -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "host", "logged"),
    [
        ("http://a/p", "b", True),
        ("http://a:8080/p", "a", True),
        ("http://a/p", "A:80", False),
        ("http://A:/p", "a", False),
        ("/p", "b", False),
    ],
)
def test_rfc9112_3_2_2_the_authority_of_the_target_replaces_Host_and_the_log_tells(
    settings: dict[str, Any], tmp_path: Path, target: str, host: str, logged: bool
) -> None:
    log = tmp_path / "error.log"
    authority = target.split("/")[2] if "://" in target else host
    data = f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    with penstock.running(host_of, error_logfile=str(log), **settings) as server:
        with connect(server) as client:
            for _ in range(2):  # the fields of the second come from a cache
                client.send(data)
                body = client.read_response().body
                assert body == f"{authority} 127.0.0.1 http /p".encode()
    line = re.compile(
        rf'the host in the target "{re.escape(target)}" replaces the Host field '
        rf'"{host}" \(request [-0-9a-f]+\) for 127\.0\.0\.1'
    )
    assert len(line.findall(log.read_text())) == 2 * logged


@pytest.mark.parametrize("target", ["https://a/", "HTTPS://a", "https://a:443/?q"])
@pytest.mark.parametrize("stream_requests", [False, True])
def test_rfc9110_7_4_an_https_target_is_refused_where_the_connection_is_not_secure(
    settings: dict[str, Any], target: str, stream_requests: bool
) -> None:
    with penstock.running(host_of, stream_requests=stream_requests, **settings) as server:
        for data in (get(target), get(target, EXPECT, "Content-Length: 5")):
            with connect(server) as client:
                client.send(data + get("/smuggled"))
                response = client.read_response()
                assert response.status == 400
                assert response.body == b"The target is https, but the connection is not secure.\n"
                assert client.read_to_end() == b""


# -- an answer before the body --------------------------------------------------------------------


def answer_early(settings: dict[str, Any], data: bytes) -> str | None:
    """Return the Connection field of the answer to ``data``, which may be only a part of it."""
    with penstock.running(refusing, stream_requests=True, **settings) as server:
        with connect(server) as client:
            client.send(data)
            response = client.read_response()
            assert (response.status, response.body) == (403, b"no")
            if response.header("Connection") is None:
                client.send(get("/afterwards"))
                assert client.read_response().status == 403
            else:
                assert client.read_to_end() == b""
            return response.header("Connection")


def test_early_response_gadget_a_body_that_has_not_arrived_is_not_waited_for(
    settings: dict[str, Any],
) -> None:
    # A proxy that takes the request for one without a body sends the next client's request here.
    assert answer_early(settings, post(b"", length=50)) == "close"
    assert answer_early(settings, post(b"x" * 49, length=50)) == "close"
    # Not even where it is complete: where a chunked body ends is what two parsers may not agree on.
    assert answer_early(settings, CHUNKED + b"1\r\nx\r\n0\r\n\r\n") == "close"


def test_a_small_body_that_has_arrived_is_dropped_and_the_connection_stays(
    settings: dict[str, Any],
) -> None:
    """The counterpart: what is safe does not cost the connection."""
    assert answer_early(settings, post(b"x" * 50)) is None


def test_a_small_body_that_waits_in_the_kernel_has_arrived(settings: dict[str, Any]) -> None:
    called, arrived = threading.Event(), threading.Event()

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        called.set()
        assert arrived.wait(DEADLINE)
        return refusing(environ, start_response)

    with penstock.running(application, stream_requests=True, **settings) as server:
        with connect(server) as client:
            client.send(post(b"", length=40_000))
            assert called.wait(DEADLINE)
            client.send(b"x" * 40_000)
            eventually(lambda: unacknowledged(client) == 0)
            arrived.set()
            response = client.read_response()
            assert (response.status, response.header("Connection")) == (403, None)
            client.send(get("/afterwards"))
            assert client.read_response().status == 403


# -- 100 Continue ---------------------------------------------------------------------------------


def continue_with_room(room: int, *, stream_requests: bool) -> bytes:
    """Return what a client is sent whose side took ``room`` bytes at first, and later all."""
    server = BufferServer(length, stream_requests=stream_requests)
    client = server.connect()
    client.stream.room = room

    def wait_writable(seconds: float) -> bool:
        client.stream.room = None
        client.stream.incoming += b"hello"
        return True

    # With `stream_requests` the one thread is inside the application meanwhile.
    client.stream.wait_writable = wait_writable  # type: ignore[method-assign]
    client.send(post(b"", EXPECT, length=5))
    if not stream_requests:
        assert bytes(client.stream.outgoing) == CONTINUE[:room]
        client.stream.room = None
        client.send(b"hello")
    sent = bytes(client.stream.outgoing)
    server.close()
    return sent


@pytest.mark.parametrize("stream_requests", [False, True])
def test_rfc9110_15_2_1_a_100_Continue_of_which_the_kernel_takes_a_part_is_sent_to_its_end(
    stream_requests: bool,
) -> None:
    # For native code, `native/reactor/src/tests/connections.rs` has the same test.
    for room in range(len(CONTINUE)):
        sent = continue_with_room(room, stream_requests=stream_requests)
        assert sent.startswith(CONTINUE + b"HTTP/1.1 200 OK\r\n"), room
        assert sent.endswith(b"\r\n\r\n5"), room


def test_rfc9110_15_2_1_a_refusal_comes_behind_what_is_left_of_a_100_Continue() -> None:
    server = BufferServer(length)
    client = server.connect()
    client.stream.room = 10
    client.send(CHUNKED.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
    client.send(b"no chunk\r\n")
    client.stream.room = None
    server.serve()
    sent = bytes(client.stream.outgoing)
    assert sent.startswith(CONTINUE + b"HTTP/1.1 400 Bad Request\r\n")
    server.close()


def test_a_client_that_leaves_within_its_100_Continue_harms_nothing() -> None:
    server = BufferServer(length)
    client = server.connect()
    client.stream.room = 10
    client.send(post(b"", EXPECT, length=5))

    def send(data: bytes | memoryview, flags: int = 0) -> int:
        raise BrokenPipeError(errno.EPIPE, "gone")

    client.stream.send = send
    client.stream.room = None
    server.serve()
    client.close()
    assert not server.loop.connections
    server.close()


# -- chunks that are mostly framing ---------------------------------------------------------------


@pytest.mark.parametrize("stream_requests", [False, True])
def test_one_byte_chunks_beyond_the_allowance_are_refused(
    settings: dict[str, Any], stream_requests: bool
) -> None:
    fits, too_many = 16_000, 17_000
    with penstock.running(length, stream_requests=stream_requests, **settings) as server:
        with connect(server) as client:
            client.send(CHUNKED + b"1\r\nx\r\n" * fits + b"0\r\n\r\n")
            assert client.read_response().body == b"%d" % fits
            client.send(CHUNKED + b"1\r\nx\r\n" * too_many + b"0\r\n\r\n")
            response = client.read_response()
            assert response.status == 400
            assert response.header("Connection") == "close"


def test_chunks_of_two_bytes_are_within_the_ratio_however_many_there_are(
    settings: dict[str, Any],
) -> None:
    """The counterpart: applications that stream line by line send such chunks."""
    count = 100_000
    with penstock.running(length, **settings) as server, connect(server) as client:
        client.send(CHUNKED + b"2\r\nxy\r\n" * count + b"0\r\n\r\n")
        assert client.read_response().body == b"%d" % (2 * count)
