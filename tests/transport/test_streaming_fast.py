"""``stream_requests=fast``, the default: the application reads the rest of what comes fast."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from wsgiref.types import StartResponse

import pytest

import penstock
from support.serving import TEXT, Environ, Place, connect, eventually, get, post
from support.wire import DEADLINE, Client, chunked

MEMORY = 64 * 1024
LONG, COME = 300_000, 200_000
"""Of so long a body so much has come: its rest is due in half the time that this has taken."""


class Application:
    """Answers with the hash of the body; notes the paths, and what the bodies were read from."""

    def __init__(self) -> None:
        self.called: list[str] = []
        self.inputs: dict[str, str] = {}

    def __call__(self, environ: Environ, start_response: StartResponse) -> list[bytes]:
        path = environ["PATH_INFO"]
        self.inputs[path] = type(environ["wsgi.input"]).__name__
        self.called.append(path)
        digest = hashlib.sha256()
        while block := environ["wsgi.input"].read(20_000):
            digest.update(block)
        start_response("200 OK", TEXT)
        return [digest.hexdigest().encode()]


def digest(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()


@contextmanager
def server_with(
    transport: str, application: Application, threads: int = 4, **settings: Any
) -> Iterator[Place]:
    settings = {"transport": transport, "threads": threads, "body_memory": MEMORY} | settings
    with penstock.running(application, **settings) as server:
        yield server


@contextmanager
def place_taken(
    transport: str, application: Application, body: bytes
) -> Iterator[tuple[Place, Client]]:
    """Have one of two threads read a body whose rest is to come: the other one is for others."""
    with server_with(transport, application, 2) as server, connect(server) as first:
        first.send(post(body[:COME], target="/first", length=LONG))
        eventually(lambda: "/first" in application.called)
        yield server, first


def test_the_application_is_called_before_a_fast_body_has_come(transport: str) -> None:
    application, body = Application(), random.randbytes(LONG)
    with server_with(transport, application) as server, connect(server) as client:
        client.send(post(body[:COME], target="/fast", length=LONG))
        eventually(lambda: "/fast" in application.called)
        assert application.inputs["/fast"] == "RequestBody"  # there is no file
        client.send(body[COME:])
        assert client.read_response().body == digest(body)
        assert client.request("GET", "/next").status == 200  # on the same connection


def test_what_fits_into_memory_comes_slowly_or_has_no_length_is_collected(transport: str) -> None:
    application = Application()
    largest = 1 << 41
    with (
        server_with(transport, application, max_body=largest) as server,
        connect(server) as short,
        connect(server) as slow,
        connect(server) as chunks,
        connect(server) as other,
    ):
        short.send(post(b"x" * 1000, target="/short", length=MEMORY))
        head = "POST /chunks HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        chunks.send(head.encode() + chunked(b"x" * LONG)[:-5])
        slow.send(post(b"x", target="/slow", length=largest))
        assert other.request("GET", "/other").status == 200
        # At this speed the rest of a terabyte takes hours.
        slow.send(b"x" * COME)
        for _ in range(3):
            assert other.request("GET", "/other").status == 200
        assert set(application.called) == {"/other"}
        short.send(b"x" * (MEMORY - 1000))
        assert short.read_response().body == digest(b"x" * MEMORY)
        chunks.send(b"0\r\n\r\n")
        assert chunks.read_response().body == digest(b"x" * LONG)
        assert application.inputs["/chunks"] == "SpooledBody"


@pytest.mark.parametrize("mode", [False, "fast"])
def test_one_thread_is_left_to_bodies_that_have_come(transport: str, mode: bool | str) -> None:
    application, body = Application(), random.randbytes(LONG)
    threads = 1 if mode else 4
    with (
        server_with(transport, application, threads, stream_requests=mode) as server,
        connect(server) as client,
        connect(server) as other,
    ):
        client.send(post(body[:COME], target="/long", length=LONG))
        for _ in range(3):
            assert other.request("GET", "/other").status == 200
        assert "/long" not in application.called
        client.send(body[COME:])
        assert client.read_response().body == digest(body)
        assert application.inputs["/long"] == "SpooledBody"


def test_a_check_with_a_long_body_is_answered_by_the_server_itself(transport: str) -> None:
    application = Application()
    with (
        server_with(transport, application, health_path="/healthz") as server,
        connect(server) as client,
    ):
        check = post(b"x" * LONG, target="/healthz").replace(b"POST", b"GET", 1)
        client.send(check + get("/next"))
        assert client.read_response().status == 200
        assert client.read_response().body == digest(b"")
        assert application.called == ["/next"]


@pytest.mark.parametrize("transport", ["native"])
def test_a_fast_body_waits_while_half_of_the_threads_read_others(transport: str) -> None:
    application, body = Application(), random.randbytes(LONG)
    with (
        place_taken(transport, application, body) as (server, first),
        connect(server) as second,
        connect(server) as other,
    ):
        second.send(post(body[:COME], target="/second", length=LONG))
        for _ in range(3):
            assert other.request("GET", "/other").status == 200
        assert "/second" not in application.called
        first.send(body[COME:])
        assert first.read_response().body == digest(body)
        eventually(lambda: "/second" in application.called)
        assert application.inputs["/second"] == "RequestBody"
        second.send(body[COME:])
        assert second.read_response().body == digest(body)


def test_no_body_waits_for_longer_than_it_takes_others_that_come_fast(transport: str) -> None:
    application, body = Application(), random.randbytes(LONG)
    with (
        place_taken(transport, application, body) as (server, first),
        connect(server) as second,
    ):
        began = time.monotonic()
        second.send(post(body, target="/second"))
        assert second.read_response().body == digest(body)
        assert time.monotonic() - began < 10
        assert application.inputs["/second"] == "SpooledBody"
        first.send(body[COME:])
        assert first.read_response().body == digest(body)


def test_a_client_that_leaves_while_its_body_waits_gives_its_place_back(transport: str) -> None:
    application, body = Application(), random.randbytes(LONG)
    with (
        place_taken(transport, application, body) as (server, first),
        connect(server) as last,
    ):
        for _ in range(3):
            with connect(server) as client:
                client.send(post(body[:COME], target="/left", length=LONG))
                client.reset()
        first.send(body[COME:])
        assert first.read_response().body == digest(body)
        last.send(post(body[:COME], target="/last", length=LONG))
        eventually(lambda: "/last" in application.called)
        last.send(body[COME:])
        assert last.read_response().body == digest(body)


def test_a_server_that_stops_does_not_wait_for_a_body_that_waits(transport: str) -> None:
    application, body = Application(), random.randbytes(LONG)
    began = time.monotonic()
    with server_with(transport, application, 2, graceful_timeout=1) as server:
        first, second = connect(server), connect(server)
        first.send(post(body[:COME], target="/first", length=LONG))
        eventually(lambda: "/first" in application.called)
        second.send(post(body[:COME], target="/second", length=LONG))
    for client in (first, second):
        client.close()
    assert time.monotonic() - began < DEADLINE
    assert application.called == ["/first"]


@pytest.mark.parametrize("mode", [False, "fast", True])
def test_bodies_of_every_length_come_as_they_were_sent(transport: str, mode: bool | str) -> None:
    randomness = random.Random(7)
    application = Application()
    lengths = [1, 4096, MEMORY - 1, MEMORY, MEMORY + 1, 2 * MEMORY, 2 * MEMORY + 1, 1 << 20]
    lengths += [(1 << 20) + 1, 3_000_000]
    for memory in (MEMORY, "auto"):
        with (
            server_with(transport, application, stream_requests=mode, body_memory=memory) as server,
            connect(server) as client,
        ):
            for length in lengths:
                body = randomness.randbytes(length)
                data = post(body) + get("/next")
                while data:
                    size = randomness.choice([1, 100, 5000, 65536, 1 << 20])
                    client.send(data[:size])
                    data = data[size:]
                assert client.read_response().body == digest(body)
                assert client.read_response().body == digest(b"")
