"""Responses that clients read slowly, or not to the end: bounded, closed, harmless to others."""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse

import pytest

import penstock
from support.serving import (
    TEXT,
    Blocks,
    Environ,
    connect,
    descriptors,
    eventually,
    get,
    read_until,
)
from support.wire import Client

both = pytest.mark.parametrize("threads", [1, 4])

BLOCK = b"x" * 100_000
UNDER_WAY = 30_000_000
"""Bytes that may be on their way to a client that reads nothing: the kernel's buffers, mostly."""


def aside(application: Callable[[Environ, StartResponse], Iterable[bytes]]) -> Any:
    """Return an application that answers ``/small`` itself, and leaves the rest to another."""

    def choose(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/small":
            return application(environ, start_response)
        start_response("200 OK", TEXT)
        return [b"small"]

    return choose


@both
def test_a_generator_waits_for_a_slow_reader_in_bounded_memory(
    transport: str, threads: int
) -> None:
    count = 1000
    blocks = Blocks(BLOCK for _ in range(count))
    settings = {"transport": transport, "threads": threads, "out_spool": 0}
    with penstock.running(aside(blocks), **settings) as server:
        with connect(server, receive_buffer=4096) as client:
            client.send(get())
            eventually(lambda: blocks.taken >= len(BLOCK))
            if threads > 1:
                with connect(server) as other:
                    for _ in range(50):
                        assert other.request("GET", "/small").body == b"small"
            assert blocks.taken < UNDER_WAY
            response = client.read_response()
            assert response.complete
            assert response.body == BLOCK * count
    assert blocks.closed == 1


def test_as_many_slow_readers_as_there_are_threads_hold_none_below_the_bound(
    transport: str,
) -> None:
    """Responses that fit the out-buffer leave their threads free."""

    def application(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        return iter([BLOCK] * 80)

    settings = {"transport": transport, "threads": 2, "out_buffer": 10_000_000}
    with penstock.running(aside(application), **settings) as server:
        slow = [connect(server, receive_buffer=4096) for _ in range(8)]
        for client in slow:
            client.send(get())
        with connect(server) as other:
            for _ in range(20):
                assert other.request("GET", "/small").body == b"small"
        for client in slow:
            assert client.read_response().body == BLOCK * 80
            client.close()


@both
def test_pep3333_each_block_is_on_its_way_before_the_next_is_asked_for(
    transport: str, threads: int
) -> None:
    go_on = threading.Event()

    def application(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        yield BLOCK * 50  # more than the kernel takes at once
        assert go_on.wait(10)
        yield b"last"

    settings = {"transport": transport, "threads": threads}
    with penstock.running(application, **settings) as server, connect(server) as client:
        client.send(get())
        assert len(read_until(client, b"x\r\n")) > len(BLOCK) * 50
        go_on.set()
        assert read_until(client, b"0\r\n\r\n") == b"4\r\nlast\r\n0\r\n\r\n"


@both
def test_pep3333_a_block_is_sent_while_a_call_that_used_to_be_fast_waits(
    transport: str, threads: int
) -> None:
    """Another thread sends a block that waits for the next ones of a fast call."""
    go_on = threading.Event()
    go_on.set()

    def application(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        for number in range(3):
            yield b"%d" % number
            assert go_on.wait(10)

    settings = {"transport": transport, "threads": threads}
    with penstock.running(application, **settings) as server, connect(server) as client:
        for _ in range(20):
            assert client.request("GET", "/").body == b"012"
        go_on.clear()
        client.send(get())
        read_until(client, b"1\r\n0\r\n")
        go_on.set()
        assert read_until(client, b"0\r\n\r\n") == b"1\r\n1\r\n1\r\n2\r\n0\r\n\r\n"


@both
@pytest.mark.parametrize("leave", [Client.close, Client.reset], ids=["close", "reset"])
def test_pep3333_an_iterable_is_closed_once_when_its_client_leaves(
    transport: str, threads: int, leave: Callable[[Client], None]
) -> None:
    blocks = Blocks(BLOCK for _ in range(100_000))
    settings = {"transport": transport, "threads": threads}
    with penstock.running(aside(blocks), **settings) as server:
        with connect(server) as client:
            client.send(get())
            client.socket.recv(1000)
            leave(client)
        assert blocks.was_closed.wait(10)
        with connect(server) as other:
            assert other.request("GET", "/small").body == b"small"
        eventually(lambda: server.snapshot()["connections"] == 0)
    assert blocks.closed == 1


@both
def test_a_generator_that_waits_learns_from_empty_blocks_that_its_client_left(
    transport: str, threads: int
) -> None:
    def waiting() -> Iterator[bytes]:
        yield b"begun"
        while True:
            threading.Event().wait(0.01)
            yield b""

    blocks = Blocks(waiting())
    settings = {"transport": transport, "threads": threads}
    with penstock.running(blocks, **settings) as server, connect(server) as client:
        client.send(get())
        client.socket.recv(1000)
        client.reset()
        assert blocks.was_closed.wait(10)
    assert blocks.closed == 1


def test_rfc9112_8_a_response_that_ends_after_its_client_stalled_does_not_look_complete(
    transport: str,
) -> None:
    """The end of the connection is the end of the body here: it has to be a reset."""
    stalled = threading.Event()

    def application(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        yield bytes(UNDER_WAY)
        assert stalled.wait(10)

    limits = {"write_timeout": 0.2, "out_buffer": 2 * UNDER_WAY}
    with penstock.running(application, transport=transport, threads=2, **limits) as server:
        with connect(server, receive_buffer=4096) as client:
            client.send(get(version="HTTP/1.0"))
            # Not that of a connection that is idle, as this one is before it is read from.
            eventually(lambda: server.snapshot()["next_deadline"] < time.monotonic() + 5)
            eventually(lambda: server.snapshot()["next_deadline"] == math.inf)
            stalled.set()
            with pytest.raises(ConnectionResetError):
                all(iter(lambda: client.socket.recv(65536), b""))


# -- wsgi.file_wrapper ------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(250)) * 4000)  # 1,000,000 bytes
    return path


def sending(path: Path, *, offset: int = 0, length: int | None = None) -> Any:
    """Return an application that answers with a file, from ``offset``."""

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        opened = path.open("rb")
        opened.seek(offset)
        headers = [] if length is None else [("Content-Length", str(length))]
        start_response("200 OK", headers)
        wrapper: Callable[..., Iterable[bytes]] = environ["wsgi.file_wrapper"]
        return wrapper(opened, 8192)

    return aside(application)


@both
@pytest.mark.parametrize("sendfile", [True, False])
@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [
        (0, None, slice(0, None)),
        (300_007, None, slice(300_007, None)),
        (0, 500_000, slice(0, 500_000)),
        (300_007, 11, slice(300_007, 300_018)),
        (1_000_000, None, slice(0, 0)),
        (999_999, None, slice(999_999, None)),
        (0, 0, slice(0, 0)),
    ],
)
def test_pep3333_a_file_is_sent_from_its_position_to_its_end_or_its_length(
    transport: str, threads: int, sendfile: bool, version: str, file: Path,
    offset: int, length: int | None, expected: slice,
) -> None:  # fmt: skip
    application = sending(file, offset=offset, length=length)
    settings = {"transport": transport, "threads": threads, "sendfile": sendfile}
    with penstock.running(application, **settings) as server, connect(server) as client:
        client.send(get("/", "Connection: keep-alive", version=version))
        response = client.read_response()
        assert response.body == file.read_bytes()[expected]
        assert response.complete
        if response.header("Connection") != "close":
            client.send(get("/small"))
            assert client.read_response().body == b"small"


@both
def test_a_large_file_to_a_slow_reader_holds_no_thread(
    transport: str, threads: int, tmp_path: Path
) -> None:
    path = tmp_path / "large"
    path.touch()
    os.truncate(path, 20_000_000)
    # Each of the clients begins to read only when another one has read all of its file; meanwhile
    # one more is idle.
    long = {"write_timeout": 600, "keep_alive": 600}
    with penstock.running(sending(path), transport=transport, threads=threads, **long) as server:
        with ExitStack() as stack:
            connections = [connect(server, receive_buffer=4096) for _ in range(threads + 1)]
            slow = [stack.enter_context(client) for client in connections]
            for client in slow:
                client.send(get())
            with connect(server) as other:
                assert other.request("GET", "/small").body == b"small"
                before = descriptors()
                for client in slow:
                    response = client.read_response()
                    assert (len(response.body), any(response.body)) == (20_000_000, False)
                assert other.request("GET", "/small").body == b"small"
        assert descriptors() <= before


@both
def test_a_file_that_shrinks_while_it_is_sent_ends_its_connection_alone(
    transport: str, threads: int, tmp_path: Path
) -> None:
    path = tmp_path / "shrinking"
    path.touch()
    os.truncate(path, 50_000_000)
    access, errors = tmp_path / "access.log", tmp_path / "errors.log"
    with penstock.running(
        sending(path),
        transport=transport,
        threads=threads,
        access_logfile=str(access),
        access_logformat="json",
        error_logfile=str(errors),
    ) as server:
        with connect(server) as other, connect(server, receive_buffer=4096) as client:
            client.send(get())
            client.buffer += client.socket.recv(1000)
            os.truncate(path, 1000)
            response = client.read_response()
            assert response.header("Content-Length") == "50000000"
            assert not response.complete
            assert other.request("GET", "/small").body == b"small"
            eventually(lambda: server.snapshot()["connections"] == 1)
    (record,) = [
        json.loads(line) for line in access.read_text().splitlines() if "small" not in line
    ]
    assert record["reason"] == "response cut off: the file became shorter while it was sent"
    (line,) = [line for line in errors.read_text().splitlines() if "GET / " in line]
    assert "[ERROR] PEN-3060 GET / (request " in line


@both
def test_a_client_that_leaves_within_a_file_frees_its_descriptor(
    transport: str, threads: int, tmp_path: Path
) -> None:
    path = tmp_path / "left"
    path.touch()
    os.truncate(path, 50_000_000)
    with penstock.running(sending(path), transport=transport, threads=threads) as server:
        with connect(server) as other:
            assert other.request("GET", "/small").body == b"small"
            before = descriptors()
            for leave in (Client.close, Client.reset) * 5:
                with connect(server) as client:
                    client.send(get())
                    client.socket.recv(1000)
                    leave(client)
            eventually(lambda: server.snapshot()["connections"] == 1)
            eventually(lambda: descriptors() <= before)
