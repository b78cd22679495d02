"""Large bodies over TLS: they arrive whole, or client and application see that they do not."""

from __future__ import annotations

import ssl
import threading
import zlib
from collections.abc import Iterable, Iterator
from typing import Any
from wsgiref.types import StartResponse

import pytest

from support.batches import WHOLE_MATRIX
from support.certificates import material
from support.serving import TEXT, Blocks, Environ, connect, eventually, get, post
from support.tls import MemoryClient, TlsClient
from support.transports import BareServer, serving
from support.wire import DEADLINE

MIB = 1 << 20
BLOCK = bytes(range(256)) * 1024 + b"of no round length"
MEDIUM = 40
"""Blocks of 10 MiB."""
LARGE = 400 if WHOLE_MATRIX else 60
"""Blocks of 100 MiB with `make test-all`, and of 15 MiB otherwise."""


@pytest.fixture
def settings(tls_transport: str, threads: int) -> dict[str, Any]:
    return {"transport": tls_transport, "threads": threads}


def checksum(blocks: int) -> int:
    found = 0
    for number in range(blocks):
        found = zlib.crc32(b"%06d" % number + BLOCK, found)
    return found


def numbered(blocks: int) -> Iterator[bytes]:
    """Yield the blocks, each with its number, so that none can take another one's place."""
    for number in range(blocks):
        yield b"%06d" % number + BLOCK


def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Answer a POST with the checksum of its body, a GET with as many blocks as the query says."""
    if environ["REQUEST_METHOD"] == "POST":
        found, stream = 0, environ["wsgi.input"]
        while block := stream.read(256 * 1024):
            found = zlib.crc32(block, found)
        start_response("200 OK", TEXT)
        return [b"%d" % found]
    start_response("200 OK", TEXT)
    return numbered(int(environ["QUERY_STRING"]))


def place(server: BareServer) -> tuple[str, int]:
    return server.host, server.port


def upload(client: TlsClient, blocks: int) -> bytes:
    client.send(post(b"", length=blocks * (6 + len(BLOCK))))
    for block in numbered(blocks):
        client.send(block)
    return client.read_response().body


def download(client: TlsClient, blocks: int) -> int:
    """Return the checksum of a response in chunks, without having it in memory."""
    client.send(get(f"/?{blocks}"))
    found, body = 0, client.socket.makefile("rb")
    with body:
        while body.readline().strip():
            pass
        while size := int(body.readline(), 16):
            while size > 0:
                data = body.read(min(size, MIB))
                assert data, "the response ends early"
                found = zlib.crc32(data, found)
                size -= len(data)
            body.readline()
        body.readline()
    return found


@pytest.mark.parametrize("streamed", [False, True])
def test_large_bodies_arrive_whole_beside_others_and_a_slow_reader(
    settings: dict[str, Any], streamed: bool
) -> None:
    failures: list[object] = []

    def exchange(blocks: int) -> None:
        with TlsClient(place(server)) as client:
            try:
                assert upload(client, blocks) == b"%d" % checksum(blocks)
                assert download(client, blocks) == checksum(blocks)
            except BaseException as error:
                failures.append(error)

    with serving(
        application, tls=material(), stream_requests=streamed, **settings
    ) as server, TlsClient(place(server), receive_buffer=4096) as slow:  # fmt: skip
        slow.send(get(f"/?{MEDIUM}"))
        others = [threading.Thread(target=exchange, args=(MEDIUM,)) for _ in range(2)]
        for other in others:
            other.start()
        exchange(LARGE)
        for other in others:
            other.join(DEADLINE)
        response = slow.read_response()
        assert response.complete
        assert zlib.crc32(response.body) == checksum(MEDIUM)
    assert failures == []


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("streamed", [False, True])
def test_no_application_takes_a_body_that_is_cut_off_for_a_whole_one(
    settings: dict[str, Any], streamed: bool, in_order: bool
) -> None:
    """A close_notify within a body is no better an end than none."""
    bodies: list[int] = []

    def recording(environ: Environ, start_response: StartResponse) -> list[bytes]:
        bodies.append(len(environ["wsgi.input"].read()))
        start_response("200 OK", TEXT)
        return []

    with serving(
        recording, tls=material(), stream_requests=streamed, **settings
    ) as server, connect(server) as raw:  # fmt: skip
        client = MemoryClient(raw.socket)
        client.handshake()
        whole = post(b"x" * (3 * MIB))
        raw.send(client.encrypt(whole[: 2 * MIB]) + (client.close_notify() if in_order else b""))
        raw.end_sending()
        try:
            assert not client.read().startswith(b"HTTP/1.1 2")
        except (ssl.SSLError, ConnectionError):
            pass  # an end without an answer
        raw.close()
        eventually(lambda: server.snapshot()["connections"] == 0)
    assert bodies == []


def test_a_client_that_leaves_within_a_response_ends_the_iterable(settings: dict[str, Any]) -> None:
    response = Blocks(numbered(LARGE))
    with serving(response, tls=material(), out_buffer=100_000, **settings) as server:
        with TlsClient(place(server), receive_buffer=4096) as client:
            client.send(get())
            assert client.socket.recv(100)
        assert response.was_closed.wait(DEADLINE)
        assert response.taken < LARGE * len(BLOCK)
        eventually(lambda: server.snapshot()["connections"] == 0)


def test_a_response_that_is_given_up_has_no_close_notify(settings: dict[str, Any]) -> None:
    config: dict[str, Any] = {"write_timeout": 0.2, "out_buffer": 100_000, "out_spool": 0}
    response = Blocks(numbered(LARGE))
    with serving(response, tls=material(), **config, **settings) as server:
        with TlsClient(place(server), receive_buffer=4096) as client:
            client.send(get())
            assert response.was_closed.wait(DEADLINE)
            assert not client.ends_in_order()


@pytest.mark.parametrize("in_order", [True, False])
def test_a_client_that_has_ended_its_side_gets_the_whole_of_a_large_response(
    settings: dict[str, Any], in_order: bool
) -> None:
    with serving(application, tls=material(), **settings) as server, connect(server) as raw:
        client = MemoryClient(raw.socket)
        client.handshake()
        raw.send(client.encrypt(get(f"/?{MEDIUM}", version="HTTP/1.0")))
        raw.send(client.close_notify() if in_order else b"")
        raw.end_sending()
        received = b"".join(iter(client.read, b""))  # up to the close_notify
    body = received.partition(b"\r\n\r\n")[2]
    assert zlib.crc32(body) == checksum(MEDIUM)


@pytest.mark.parametrize("size", [1000, 20_000, 200_000])
def test_what_was_decrypted_behind_an_unread_body_is_looked_at(
    settings: dict[str, Any], size: int
) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "POST":
            environ["wsgi.input"].read(100)  # and leaves the rest
        start_response("200 OK", TEXT)
        return [environ["PATH_INFO"].encode()]

    with (
        serving(app, **settings, stream_requests=True, tls=material()) as server,
        TlsClient(place(server)) as client,
    ):
        for number in range(40):
            client.send(post(b"x" * size, target=f"/{number}") + get("/next"))
            response = client.read_response()
            assert response.body == b"/%d" % number
            if response.header("Connection") == "close":
                return  # not all of it had come
            assert client.read_response().body == b"/next"
