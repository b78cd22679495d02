"""Streamed responses that wait in a temporary file for clients that read slowly."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any
from wsgiref.types import StartResponse

import pytest

import penstock
from penstock.telemetry.scoreboard import (
    OUT_SPOOL_DISK,
    OUT_SPOOL_FILES,
    OUT_SPOOL_FULL,
    OUT_SPOOL_LIMIT,
    OUT_SPOOLED,
    SLOW_READER,
    SPOOLED,
)
from support.descriptors import links
from support.namespaces import run_in
from support.serving import (
    TEXT,
    Blocks,
    Environ,
    connect,
    descriptors,
    eventually,
    get,
)
from support.transports import BareServer, serving
from support.wire import Client

both = pytest.mark.parametrize("threads", [1, 4])

DATA = Random(1).randbytes(12_000_000)
"""More than the kernel's buffers hold for a client that does not read."""
BLOCK = 100_000
SMALL: dict[str, Any] = {"out_buffer": 200_000}


def blocks(data: bytes = DATA, size: int = BLOCK) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Answer ``/length`` with a length, ``/small`` in a word, and others in chunks."""
    path = environ["PATH_INFO"]
    if path == "/small":
        start_response("200 OK", TEXT)
        return [b"small"]
    start_response("200 OK", [("Content-Length", str(len(DATA)))] if path == "/length" else [])
    return blocks()


def reader(server: BareServer) -> Client:
    """Return a client that has little room for what it does not read."""
    return connect(server, receive_buffer=4096)


def serves(server: BareServer) -> bool:
    """Return True once a bystander has its answer."""
    with connect(server) as other:
        other.send(get("/small"))
        return other.read_response().body == b"small"


def nothing_is_left(server: BareServer) -> None:
    eventually(lambda: server.word(SPOOLED) == 0)


@both
def test_readers_that_do_not_read_hold_no_thread_and_get_all_of_it_later(
    transport: str, threads: int
) -> None:
    finished = []

    def noting(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        yield from application(environ, start_response)
        if environ["PATH_INFO"] != "/small":
            finished.append(environ["PATH_INFO"])

    with (
        serving(noting, transport, threads=threads, **SMALL) as server,
        ExitStack() as clients,
    ):
        assert serves(server)
        before = descriptors()
        slow = [clients.enter_context(reader(server)) for _ in range(2 * threads)]
        for client, path in zip(slow, ["/chunked", "/length"] * threads, strict=True):
            client.send(get(path))
        assert serves(server)
        # Each of them is finished for the application, and the client has not read any of it.
        eventually(lambda: len(finished) == 2 * threads)
        assert serves(server)
        for client in slow:
            assert client.read_response().body == DATA
            client.send(get("/small"))
            assert client.read_response().body == b"small"
        nothing_is_left(server)
        eventually(lambda: descriptors() <= before + 2 * len(slow))


@both
def test_a_client_that_reads_soon_is_waited_for_without_a_file(
    transport: str, threads: int
) -> None:
    patient: dict[str, Any] = {"out_spool_patience_seconds": 30.0}
    with serving(application, transport, threads=threads, **SMALL, **patient) as server:
        with reader(server) as client:
            client.send(get())
            assert client.read_response().body == DATA
        assert server.word(OUT_SPOOLED) == server.word(OUT_SPOOL_LIMIT) == 0


@both
def test_beyond_the_bound_of_one_response_its_thread_waits(transport: str, threads: int) -> None:
    taken = Blocks(blocks(DATA * 3))
    with serving(taken, transport, threads=threads, out_spool=2_000_000, **SMALL) as server:
        with reader(server) as client:
            client.send(get())
            eventually(lambda: server.word(SPOOLED) > 1_500_000)
            assert server.word(SPOOLED) <= 2_000_000
            eventually(lambda: server.word(OUT_SPOOL_LIMIT) > 0)
            response = client.read_response()
            assert response.body == DATA * 3
            # It was used again once it was drained.
            assert taken.taken == len(DATA) * 3
        nothing_is_left(server)


def test_without_a_bound_above_nothing_no_file_is_used(transport: str) -> None:
    taken = Blocks(blocks(DATA * 3))
    with serving(taken, transport, threads=4, out_spool=0, **SMALL) as server:
        with reader(server) as client:
            client.send(get())
            eventually(lambda: taken.taken > 2 * BLOCK)
            eventually(lambda: server.word(OUT_SPOOL_LIMIT) == 1)
            assert client.read_response().body == DATA * 3
        assert server.word(OUT_SPOOLED) == server.word(OUT_SPOOL_FULL) == 0


@both
@pytest.mark.parametrize(
    ("limits", "word"),
    [
        ({"max_spool": 3_000_000}, OUT_SPOOL_FULL),  # half of it is for bodies
        ({"max_descriptors": 1}, OUT_SPOOL_FILES),
        ({"temp_dir": "/missing"}, OUT_SPOOL_DISK),
    ],
    ids=["budget", "descriptors", "disk"],
)
def test_where_a_file_is_refused_the_thread_waits_and_nothing_is_lost(
    transport: str, threads: int, limits: dict[str, Any], word: int
) -> None:
    with serving(application, transport, threads=threads, **limits, **SMALL) as server:
        with reader(server) as client:
            client.send(get())
            eventually(lambda: server.word(word) > 0)
            assert server.word(SPOOLED) <= 1_500_000
            assert client.read_response().body == DATA
        nothing_is_left(server)


def test_a_disk_that_is_full_makes_the_thread_wait_and_loses_nothing(transport: str) -> None:
    code = f"""
from support.transports import serving
from support.serving import connect, eventually, get
from penstock.telemetry.scoreboard import OUT_SPOOLED, OUT_SPOOL_DISK, SPOOLED
from random import Random
DATA = Random(1).randbytes(12_000_000)
def application(environ, start_response):
    start_response("200 OK", [])
    return (DATA[at : at + 100_000] for at in range(0, len(DATA), 100_000))
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", "/mnt"], check=True)
limits = dict(out_buffer=200_000, temp_dir="/mnt")
with serving(application, {transport!r}, threads=4, **limits) as server:
    with connect(server, receive_buffer=4096) as client:
        client.send(get())
        eventually(lambda: server.word(OUT_SPOOL_DISK) > 0)
        assert server.word(OUT_SPOOLED) > 0
        assert server.word(SPOOLED) <= 1 << 20
        assert client.read_response().body == DATA
    eventually(lambda: server.word(SPOOLED) == 0)
    assert os.statvfs("/mnt").f_bfree == os.statvfs("/mnt").f_blocks
"""
    run_in(code, "--mount", "--propagation", "private")


@both
@pytest.mark.parametrize("finished", [False, True])
def test_the_file_is_given_back_when_its_client_leaves(
    transport: str, threads: int, finished: bool
) -> None:
    go_on = threading.Event()
    ended = threading.Event()

    def streaming(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            yield from blocks()
            while not finished and not go_on.wait(0.01):
                yield b"more"
        finally:
            ended.set()

    with serving(streaming, transport, threads=threads, **SMALL) as server, ExitStack() as last:
        last.callback(go_on.set)
        before = descriptors()
        for leave in (Client.reset, Client.close):
            ended.clear()
            with reader(server) as client:
                client.send(get())
                eventually(lambda: server.word(SPOOLED) > 4_000_000)
                assert not finished or ended.wait(10)
                leave(client)
            assert ended.wait(10)
            nothing_is_left(server)
            eventually(lambda: descriptors() <= before)


def test_the_file_is_given_back_when_the_server_ends_the_request(transport: str) -> None:
    go_on = threading.Event()

    def streaming(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield from blocks()
        go_on.wait(10)
        yield from blocks()

    with serving(streaming, transport, threads=2, **SMALL) as server, ExitStack() as last:
        last.callback(go_on.set)
        before = descriptors()
        with reader(server) as client:
            client.send(get())
            eventually(lambda: server.word(SPOOLED) > 4_000_000)
            assert server.transport.abort_all("the server stops") == 1
            nothing_is_left(server)
            go_on.set()
            eventually(lambda: server.snapshot()["connections"] == 0)
        eventually(lambda: descriptors() <= before)
        assert server.word(SPOOLED) == 0


def test_the_file_is_given_back_when_the_server_is_closed(transport: str) -> None:
    with serving(application, transport, threads=2, **SMALL) as server:
        with reader(server) as client:
            client.send(get())
            eventually(lambda: server.word(SPOOLED) > 4_000_000)
            server.transport.close()
            eventually(server.is_over)
        nothing_is_left(server)


def test_a_client_that_reads_nothing_of_a_finished_response_is_cut_off_in_time(
    transport: str, tmp_path: Path
) -> None:
    log = tmp_path / "access"
    limits: dict[str, Any] = {"write_timeout": 0.5, "access_log": log, **SMALL}
    with serving(application, transport, threads=2, **limits) as server:
        with reader(server) as client:
            client.send(get())
            eventually(lambda: server.word(OUT_SPOOLED) > 0)
            nothing_is_left(server)
        eventually(lambda: log.exists() and log.read_text())
    (line,) = log.read_text().splitlines()
    record = json.loads(line)
    assert record["reason"] == (
        "client disconnected: the client takes no data (setting: write_timeout)"
    )
    assert record["http.response.body.size"] < len(DATA) / 2


def test_what_is_in_a_file_does_not_count_as_unsent_in_memory(transport: str) -> None:
    limits: dict[str, Any] = {"max_unsent": 2_000_000, **SMALL}
    with serving(application, transport, threads=2, **limits) as server, ExitStack() as clients:
        slow = [clients.enter_context(reader(server)) for _ in range(10)]
        for client in slow:
            client.send(get())
        eventually(lambda: server.word(OUT_SPOOLED) >= 10)
        for client in slow:
            assert client.read_response().body == DATA
        assert server.word(SLOW_READER) == 0


@both
@pytest.mark.parametrize(
    ("version", "size"), [("HTTP/1.0", 7_000), ("HTTP/1.1", BLOCK), ("HTTP/1.1", 5_000_000)]
)
def test_the_order_is_kept_also_of_files_behind_what_was_spooled(
    transport: str, threads: int, version: str, size: int, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(DATA[:1_000_000])

    def writing(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", [])
        for block in blocks(size=size):
            write(block)
        wrapper: Callable[..., Iterable[bytes]] = environ["wsgi.file_wrapper"]
        return wrapper(path.open("rb"), 8192)

    with serving(writing, transport, threads=threads, **SMALL) as server, reader(server) as client:
        client.send(get(version=version))
        eventually(lambda: server.word(OUT_SPOOLED) > 0)
        response = client.read_response()
        assert response.body == DATA + DATA[:1_000_000]
        assert response.complete
        nothing_is_left(server)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_that_a_view_forks_does_not_keep_the_file(transport: str, tmp_path: Path) -> None:
    def files() -> int:
        return sum(link.startswith(str(tmp_path)) for link in links().values())

    def forking(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/fork":
            return application(environ, start_response)
        start_response("200 OK", TEXT)
        child = os.fork()
        if not child:
            os._exit(10 + files())
        return [b"%d" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])]

    settings = {"transport": transport, "threads": 2, "temp_dir": str(tmp_path), **SMALL}
    with penstock.running(forking, **settings) as server, connect(server) as other:
        with connect(server, receive_buffer=4096) as client:
            client.send(get())
            eventually(lambda: files() == 1)
            # A child that is forked while the file is being made may have it, until it ends.
            eventually(lambda: other.request("GET", "/fork").body == b"10")
            assert client.read_response().body == DATA
        eventually(lambda: files() == 0)
