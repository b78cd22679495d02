"""``stream_requests=auto``: bodies that are worth it are read as the application reads them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from wsgiref.types import StartResponse

import pytest

import penstock
from support.serving import TEXT, Environ, Place, connect, eventually, get, post
from support.wire import DEADLINE, chunked

LONG = 100_000  # above `body_memory`
EXPECT = "Expect: 100-continue"


class Application:
    """Answers with the length of the body; refuses it unread at ``/refused``."""

    def __init__(self) -> None:
        self.called: list[str] = []
        self.lengths: list[str | None] = []

    def __call__(self, environ: Environ, start_response: StartResponse) -> list[bytes]:
        self.called.append(environ["PATH_INFO"])
        self.lengths.append(environ.get("CONTENT_LENGTH"))
        if environ["PATH_INFO"] == "/refused":
            start_response("403 Forbidden", TEXT)
            return [b"no"]
        body = environ["wsgi.input"].read()
        start_response("200 OK", TEXT)
        return [b"%d" % len(body)]


@contextmanager
def server_with(
    transport: str, application: Application, threads: int = 4, **settings: Any
) -> Iterator[Place]:
    settings |= {"transport": transport, "threads": threads, "stream_requests": "auto"}
    with penstock.running(application, **settings) as server:
        yield server


def test_a_long_upload_is_refused_before_it_is_sent(transport: str) -> None:
    application = Application()
    with server_with(transport, application) as server:
        for fields in ([], [EXPECT]):
            with connect(server) as client:
                client.send(post(b"", *fields, target="/refused", length=1 << 29))
                response = client.read_response()
                assert (response.status, response.body) == (403, b"no")
                assert response.header("Connection") == "close"
        with connect(server) as client:  # and it is taken, where the application reads it
            client.send(post(b"x" * LONG))
            assert client.read_response().body == b"%d" % LONG
            assert client.request("GET", "/next").status == 200  # on the same connection


def test_the_application_decides_where_the_client_waits_for_100_Continue(transport: str) -> None:
    with server_with(transport, Application()) as server, connect(server) as client:
        client.send(post(b"", EXPECT, length=5))
        assert client.read_response().status == 100
        client.send(b"hello")
        assert client.read_response().body == b"5"
        client.send(post(b"", EXPECT, target="/refused", length=5))
        assert client.read_response().status == 403


def test_short_bodies_and_chunks_are_collected(transport: str) -> None:
    application = Application()
    with server_with(transport, application) as server:
        with connect(server) as short, connect(server) as chunks, connect(server) as other:
            short.send(post(b"x", target="/short", length=2))
            head = "POST /chunks HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            data = chunked(b"x" * LONG)
            chunks.send(head.encode() + data[:-5])
            for _ in range(3):
                assert other.request("GET", "/other").status == 200
            assert set(application.called) == {"/other"}
            short.send(b"y")
            assert short.read_response().body == b"2"
            chunks.send(data[-5:])
            assert chunks.read_response().body == b"%d" % LONG
            assert application.lengths[-1] == str(LONG)


@pytest.mark.parametrize("threads", [1, 4, 5])
def test_half_of_the_threads_are_left_to_others(transport: str, threads: int) -> None:
    application = Application()
    uploads = threads // 2
    with server_with(transport, application, threads) as server, ExitStack() as stack:
        clients = [stack.enter_context(connect(server)) for _ in range(uploads + 1)]
        other = stack.enter_context(connect(server))
        for number, client in enumerate(clients):
            client.send(post(b"x", target=f"/{number}", length=LONG))
            if number < uploads:
                eventually(lambda number=number: f"/{number}" in application.called)  # type: ignore[misc]
        for _ in range(3):
            assert other.request("GET", "/other").status == 200
        assert f"/{uploads}" not in application.called  # it is collected
        for client in clients:
            client.send(b"x" * (LONG - 1))
            assert client.read_response().body == b"%d" % LONG
        if uploads:  # their places are free again
            other.send(post(b"", target="/refused", length=LONG))
            assert other.read_response().status == 403


def test_a_client_that_leaves_gives_its_place_back(transport: str) -> None:
    application = Application()
    with server_with(transport, application, 2) as server:
        for _ in range(3):
            with connect(server) as client:
                client.send(post(b"x", target="/read", length=LONG))
                before = len(application.called)
                eventually(lambda before=before: len(application.called) >= before)  # type: ignore[misc]
                client.reset()

        def is_refused_at_once() -> bool:
            with connect(server) as client:
                client.socket.settimeout(1)
                client.send(post(b"", target="/refused", length=LONG))
                try:
                    return client.read_response().status == 403
                except TimeoutError:
                    return False

        eventually(is_refused_at_once)


def test_a_request_that_has_been_read_no_longer_counts(transport: str) -> None:
    read, go_on = threading.Event(), threading.Event()

    class Waiting(Application):
        def __call__(self, environ: Environ, start_response: StartResponse) -> list[bytes]:
            answer = super().__call__(environ, start_response)
            if environ["PATH_INFO"] == "/wait":
                read.set()
                assert go_on.wait(DEADLINE)
            return answer

    with server_with(transport, Waiting(), 2) as server:
        with connect(server) as first, connect(server) as second:
            first.send(post(b"x" * LONG, target="/wait"))
            assert read.wait(DEADLINE)
            second.send(post(b"", target="/refused", length=LONG))
            assert second.read_response().status == 403
            go_on.set()
            assert first.read_response().status == 200
            first.send(get())
            assert first.read_response().status == 200
