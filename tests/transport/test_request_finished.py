"""The record of a finished request says the same on both transports."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest

from penstock.telemetry.observers import Observers
from penstock.telemetry.request_finished import Needs, RequestFinished
from support.serving import eventually
from support.transports import serving
from support.wire import Client

DEADLINE = 30.0

BODY = (
    b"POST /a?b=1 HTTP/1.1\r\nHost: h\r\nX-Id: 7\r\nX-Other: 8\r\nX-Empty:\r\n"
    b"Content-Length: 3\r\n\r\nabc"
)


class Recorder:
    """An observer that hands what it gets to a test."""

    line_format = None
    needs = Needs(
        request_fields=frozenset({"x-id", "x-empty", "x-missing"}),
        response_fields=frozenset({"x-a"}),
        environ=frozenset({"app.thing", "app.missing"}),
    )

    def __init__(self) -> None:
        self.finished: queue.SimpleQueue[RequestFinished] = queue.SimpleQueue()

    def requests_finished(self, batch: Sequence[RequestFinished], patience: float) -> None:
        for request in batch:
            self.finished.put(request)

    def requests_lost(self, count: int) -> None:
        raise AssertionError("nothing is lost here")

    def close(self) -> None:
        pass

    def next(self) -> RequestFinished:
        return self.finished.get(timeout=DEADLINE)


def application(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    environ["app.thing"] = 5
    start_response("201 Created", [("X-A", "1"), ("X-B", "2"), ("x-a", "3")])
    return [environ["PATH_INFO"].encode()]


def failing(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    write = start_response("200 OK", [])
    write(b"begun")
    raise RuntimeError("no")


def test_the_record_has_what_the_observer_needs_and_nothing_else(transport: str) -> None:
    recorder = Recorder()
    begin = time.monotonic()
    with serving(application, transport, observers=Observers([recorder])) as server:
        with Client((server.host, server.port)) as client:
            client.send(BODY)
            assert client.read_response().status == 201
            request = recorder.next()
            port = str(client.socket.getsockname()[1])
    assert (request.client_addr, request.client_port) == ("127.0.0.1", port)
    assert (request.method, request.target, request.protocol) == ("POST", "/a?b=1", "HTTP/1.1")
    assert request.request_line == "POST /a?b=1 HTTP/1.1"
    assert (request.status, request.bytes_in, request.bytes_out) == (201, 3, 2)
    assert (request.ended, request.reason) == ("complete", "")
    assert request.request_fields == {"x-id": "7", "x-empty": ""}
    assert request.response_fields == {"x-a": "1, 3"}
    assert request.environ == {"app.thing": "5"}
    times = [
        begin,
        request.accepted_at,
        request.begun_at,
        request.head_at,
        request.body_at,
        request.taken_at,
        request.first_byte_at,
        request.finished_at,
        time.monotonic(),
    ]
    known = [moment for moment in times if moment is not None]
    assert len(known) == len(times)
    assert known == sorted(known)
    assert abs(request.wall_time - time.time()) < DEADLINE


def test_the_record_of_a_refused_request_has_no_times_of_the_application(transport: str) -> None:
    recorder = Recorder()
    with serving(application, transport, observers=Observers([recorder])) as server:
        with Client((server.host, server.port)) as client:
            client.send(BODY)
            assert client.read_response().status == 201
            before = recorder.next()
            client.send(b"GET /a HTTP/1.1\r\nHost: h\r\nX-Id: 7\r\nContent-Length: x\r\n\r\n")
            assert client.read_response().status == 400
            request = recorder.next()
    assert (request.ended, request.status) == ("refused", 400)
    assert request.reason
    # Nor has it any time of the request before it.
    assert before.finished_at <= request.begun_at <= request.finished_at
    assert (request.head_at, request.body_at) == (None, None)
    assert (request.taken_at, request.first_byte_at) == (None, None)
    assert (request.response_fields, request.environ) == ({}, {})


@pytest.mark.parametrize(
    "refused",
    [
        b"GET /a b HTTP/1.1\r\n\r\n",
        b"GET /a HTTP/1.1\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: h\r\nX-Id: " + b"x" * 100_000 + b"\r\n\r\n",
    ],
    ids=["400-line", "400-host", "431"],
)
@pytest.mark.parametrize("before", [b"", b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"])
def test_a_request_that_is_refused_in_its_head_has_no_time_of_the_end_of_its_head(
    transport: str, before: bytes, refused: bytes
) -> None:
    recorder = Recorder()
    with serving(application, transport, observers=Observers([recorder])) as server:
        with Client((server.host, server.port)) as client:
            client.send(before + refused)
            if before:
                assert client.read_response().status == 201
                assert recorder.next().ended == "complete"
            assert client.read_response().status in (400, 431)
            request = recorder.next()
    assert (request.ended, request.head_at) == ("refused", None)
    assert request.accepted_at is not None
    assert request.accepted_at <= request.begun_at <= request.finished_at


def test_a_response_that_the_application_breaks_off_ends_aborted(transport: str) -> None:
    recorder = Recorder()
    with serving(failing, transport, observers=Observers([recorder])) as server:
        with Client((server.host, server.port)) as client:
            client.send(b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n")
            client.read_to_end()
            request = recorder.next()
    assert (request.ended, request.status, request.bytes_out) == ("aborted", 200, 5)
    assert request.reason


class OneBlock(list[bytes]):
    """A response of one block; ``close`` is called when it has been handed to the transport."""

    def __init__(self, block: bytes, close: Callable[[], None]) -> None:
        super().__init__([block])
        self.close = close


@pytest.mark.parametrize("end", ["the write deadline", "the server's close"])
def test_bytes_that_a_client_never_took_are_not_in_the_record(transport: str, end: str) -> None:
    size = 32 * 1024 * 1024  # more than a socket holds
    recorder = Recorder()
    finished = threading.Event()

    def large(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return OneBlock(bytes(size), finished.set)

    deadline = 0.2 if end == "the write deadline" else DEADLINE
    observers = Observers([recorder])
    with serving(large, transport, observers=observers, write_timeout=deadline) as server:
        with Client((server.host, server.port), receive_buffer=8192) as client:
            client.send(b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n")
            assert finished.wait(DEADLINE)
            if end == "the server's close":
                server.transport.close()
            request = recorder.next()
    ended = "aborted" if end == "the server's close" else "disconnected"
    assert (request.ended, request.status) == (ended, 200)
    assert 0 < request.bytes_out < size


def test_a_request_whose_client_resets_the_connection_within_it_ends_disconnected(
    transport: str,
) -> None:
    recorder = Recorder()
    with serving(application, transport, observers=Observers([recorder])) as server:
        with Client((server.host, server.port)) as client:
            client.send(BODY.replace(b"Host: h", b"Host: h\r\nExpect: 100-continue")[:-3])
            assert client.read_response().status == 100
            client.reset()
        request = recorder.next()
    assert (request.ended, request.status) == ("disconnected", 499)
    assert request.request_line == "POST /a?b=1 HTTP/1.1"


def test_bytes_that_a_stalled_client_never_took_are_not_counted_as_sent(transport: str) -> None:
    size = 20_000_000

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [])
        return [b"x" * size]

    recorder = Recorder()
    observers = Observers([recorder])
    with serving(application, transport, observers=observers, write_timeout=0.3) as server:
        with Client((server.host, server.port), receive_buffer=4096) as client:
            client.send(b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n")
            request = recorder.next()
    assert (request.ended, request.status) == ("disconnected", 200)
    assert 0 < request.bytes_out < size


def test_a_reset_that_the_server_notices_before_the_application_reads_is_no_bad_body(
    transport: str,
) -> None:
    recorder = Recorder()
    inside = threading.Event()

    def reading(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        inside.set()
        eventually(environ["penstock.client_gone"])
        # The transport answers this after it has handled what came before on its sockets.
        with Client(("127.0.0.1", int(environ["SERVER_PORT"]))) as other:
            other.request("GET", "/health")
        environ["wsgi.input"].read()
        raise AssertionError("the read has to fail")

    observers = Observers([recorder])
    with serving(
        reading,
        transport,
        threads=2,
        observers=observers,
        stream_requests=True,
        health_path="/health",
    ) as server:
        with Client((server.host, server.port)) as client:
            client.send(BODY[:-1])
            assert inside.wait(DEADLINE)
            client.reset()
        request = recorder.next()
    assert (request.ended, request.status, request.bytes_in) == ("disconnected", 499, 2)
