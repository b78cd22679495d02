"""A disk that stands still under uploads and responses: it stops these, and nothing else."""

from __future__ import annotations

import json
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from pathlib import Path
from random import Random
from typing import Any
from wsgiref.types import StartResponse

import pytest

import penstock
from penstock.telemetry.scoreboard import SPOOLED
from support.descriptors import links
from support.server_process import BUSY_SECONDS, ServerProcess
from support.serving import TEXT, Environ, connect, descriptors, eventually, get, post
from support.stopping_disk import StoppingDisk
from support.stopping_mount import StoppingMount, stopping_mount
from support.transports import BareServer, serving
from support.wire import DEADLINE, Client

LIMIT = 1000
BODY = bytes(range(251)) * 2400
FIRST = 200_000
"""How much of the body is on the disk when that stops."""

both = pytest.mark.parametrize("threads", [1, 4])


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[StoppingDisk]:
    made = StoppingDisk(str(tmp_path))
    yield made
    made.close()


def settings(transport: str, threads: int, tmp_path: Path) -> dict[str, Any]:
    return {
        "transport": transport,
        "threads": threads,
        "body_memory": LIMIT,
        "temp_dir": str(tmp_path),
        "stream_requests": False,
    }


def begin_upload(
    client: Client, disk: StoppingDisk, *, behind: bytes = b"", missing: int = 0
) -> None:
    """Send a body of which the disk takes the first part, and then stands still.

    The last ``missing`` bytes are not sent, or ``behind`` comes after them.
    """
    before = disk.sizes()
    request = post(BODY, target="/upload")
    head = len(request) - len(BODY)
    client.send(request[: head + FIRST])
    eventually(lambda: disk.sizes() == sorted([*before, FIRST]))
    assert disk.stop()
    client.send(request[head + FIRST : len(request) - missing] + behind)


def is_served(client: Client) -> None:
    """Check that a client gets its answers. They come after what was sent before was looked at."""
    for request in [get(), post(b"x" * LIMIT)] * 5:
        client.send(request)
        assert client.read_response().status == 200


@both
def test_fault_43_a_disk_that_stands_still_stops_its_uploads_and_no_other_connection(
    transport: str, threads: int, tmp_path: Path, disk: StoppingDisk
) -> None:
    with (
        penstock.running(disk, **settings(transport, threads, tmp_path)) as server,
        connect(server) as other,
        connect(server) as client,
    ):
        begin_upload(client, disk, behind=get())
        is_served(other)
        with connect(server) as newcomer:
            is_served(newcomer)
        disk.start()
        # The upload has its answer, and the request behind it, too.
        assert json.loads(client.read_response().body) == [len(BODY), sum(BODY)]
        assert client.read_response().status == 200


@both
def test_fault_43_uploads_that_end_while_the_disk_stands_still_leave_nothing_behind(
    transport: str, threads: int, tmp_path: Path, disk: StoppingDisk
) -> None:
    with (
        penstock.running(disk, **settings(transport, threads, tmp_path)) as server,
        connect(server) as other,
    ):
        is_served(other)
        before = descriptors()
        with connect(server) as client:
            begin_upload(client, disk, missing=1)
            is_served(other)
            client.reset()
        is_served(other)
        disk.start()
        disk.close()
        eventually(lambda: server.snapshot()["connections"] == 1)
        eventually(lambda: descriptors() <= before)
        assert disk.sizes() == []


@both
def test_fault_43_a_server_in_this_process_stops_with_the_disk_standing_still(
    transport: str, threads: int, tmp_path: Path, disk: StoppingDisk
) -> None:
    made = settings(transport, threads, tmp_path) | {"graceful_timeout": 1.0}
    try:
        with penstock.running(disk, **made) as server, connect(server) as client:
            begin_upload(client, disk)
            with connect(server) as other:
                is_served(other)
    finally:
        disk.start()  # the thread that waits for it would be left behind


@pytest.mark.parametrize("mode", ["--workers=1", "--no-supervisor"])
def test_fault_43_the_process_ends_in_time_with_the_disk_standing_still(
    transport: str, mode: str, tmp_path: Path
) -> None:
    arguments = ["stopping_disk:app", "--transport", transport, mode, "--graceful-timeout", "2"]
    arguments += ["--body-memory", str(LIMIT), "--temp-dir", str(tmp_path), "--no-stream-requests"]
    here = Path(__file__).parents[1] / "support"
    with ServerProcess(*arguments, cwd=here, environ={"STOPPING_DISK": str(tmp_path)}) as server:

        def ask(path: str) -> Any:
            other.send(get(path))
            return json.loads(other.read_response().body)

        with Client(server.address) as client, Client(server.address) as other:
            client.send(post(BODY[:FIRST], length=len(BODY)))
            eventually(lambda: ask("/sizes") == [FIRST])
            assert ask("/stop") == 1
            client.send(BODY[FIRST:])
            is_served(other)
            began = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - began < 2 + BUSY_SECONDS


# -- responses --------------------------------------------------------------------------------

DATA = Random(1).randbytes(12_000_000)
"""More than the kernel's buffers hold for a client that does not read."""


class Streaming:
    """An application that answers with blocks, with a file, or with a word."""

    def __init__(self) -> None:
        self.finished = threading.Event()
        """It has made all of a response, and the server has closed what it came from."""

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/":
            environ["wsgi.input"].read()
            start_response("200 OK", TEXT)
            return [b"small"]
        start_response("200 OK", [("Content-Length", str(len(DATA)))])
        if path == "/blocks":
            return self._blocks()
        wrapper: Callable[..., Iterable[bytes]] = environ["wsgi.file_wrapper"]
        file = FileIO(path)  # and of no class of our own: the kernel sends no others
        weakref.finalize(file, self.finished.set)
        return wrapper(file, 8192)

    def _blocks(self) -> Iterator[bytes]:
        try:
            yield from (DATA[at : at + 100_000] for at in range(0, len(DATA), 100_000))
        finally:
            self.finished.set()


@contextmanager
def responding_from(
    mount: StoppingMount, source: str, transport: str, threads: int, **limits: Any
) -> Iterator[tuple[BareServer, Client]]:
    """Serve a client that has not read a response which is finished for the application."""
    path = mount.path / "file"
    path.write_bytes(DATA)
    target = "/blocks" if source == "spool" else str(path)
    app = Streaming()
    small: dict[str, Any] = {"out_buffer": 200_000, "temp_dir": str(mount.path)}
    with (
        serving(app, transport, threads=threads, **small, **limits) as server,
        connect(server, receive_buffer=4096) as client,
    ):
        client.send(get(target))
        assert app.finished.wait(DEADLINE)
        assert bool(server.word(SPOOLED)) is (source == "spool")
        yield server, client


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[StoppingMount]:
    with stopping_mount(tmp_path) as made:
        yield made


sources = pytest.mark.parametrize("source", ["spool", "file"])


@both
@sources
def test_fault_43_a_disk_that_stands_still_under_a_response_stops_no_other_connection(
    transport: str, threads: int, source: str, mount: StoppingMount
) -> None:
    with responding_from(mount, source, transport, threads) as (server, client):
        mount.stop()
        received: list[bytes] = []
        reading = threading.Thread(target=lambda: received.append(client.read_response().body))
        reading.start()  # there is room again, which the leader sees
        try:
            for _ in range(20):
                is_there(server)
        finally:
            mount.start()
        reading.join(DEADLINE)
        assert received == [DATA]
        client.send(get())
        assert client.read_response().body == b"small"


@both
@sources
@pytest.mark.parametrize("end", ["left", "left in the middle", "timeout", "close"])
def test_fault_43_a_response_that_ends_while_the_disk_stands_still_leaves_nothing_behind(
    transport: str, threads: int, source: str, end: str, mount: StoppingMount
) -> None:
    limits: dict[str, Any] = {"write_timeout": 0.3} if end == "timeout" else {}
    with responding_from(mount, source, transport, threads, **limits) as (server, client):
        mount.stop()
        try:
            if end == "left in the middle":
                client.socket.settimeout(0.1)
                while has_received(client):
                    is_there(server)
            if end.startswith("left"):
                client.reset()
            if end == "close":
                server.transport.close()
                eventually(server.is_over)
            else:
                for _ in range(10):
                    is_there(server)
                eventually(lambda: server.snapshot()["connections"] == 0)
        finally:
            mount.start()
        eventually(lambda: server.snapshot()["connections"] == 0)
        eventually(lambda: server.word(SPOOLED) == 0)
        eventually(lambda: not open_on(mount))


@sources
def test_fault_43_a_response_that_waits_for_the_disk_too_long_is_cut_off_and_says_so(
    transport: str, source: str, mount: StoppingMount, tmp_path_factory: pytest.TempPathFactory
) -> None:
    log = tmp_path_factory.mktemp("logs") / "access"
    limits: dict[str, Any] = {"write_timeout": 2.0, "access_log": log}

    def cut_off() -> list[dict[str, Any]]:
        with suppress(OSError):
            while client.socket.recv(65536):
                pass  # so that it is the disk that keeps it waiting
        records = map(json.loads, log.read_text().splitlines()) if log.exists() else []
        return [record for record in records if "reason" in record]

    with responding_from(mount, source, transport, 4, **limits) as (_, client):
        client.socket.settimeout(0.05)
        mount.stop()
        try:
            eventually(cut_off)
        finally:
            mount.start()
    (record,) = cut_off()
    assert record["reason"] == (
        "response cut off: the file could not be read in time (setting: write_timeout)"
    )
    assert record["http.response.body.size"] < len(DATA)


def test_fault_43_a_response_whose_turn_with_the_disk_does_not_come_does_not_blame_the_client(
    transport: str, mount: StoppingMount, tmp_path_factory: pytest.TempPathFactory
) -> None:
    log = tmp_path_factory.mktemp("logs") / "access"
    path = mount.path / "file"
    path.write_bytes(DATA)
    app = Streaming()
    limits: dict[str, Any] = {"send_threads": 1, "write_timeout": 2.0, "access_log": log}
    with serving(app, transport, threads=4, **limits) as server, ExitStack() as clients:
        both_clients = [
            clients.enter_context(connect(server, receive_buffer=4096)) for _ in range(2)
        ]
        for client in both_clients:
            client.socket.settimeout(0.05)
            client.send(get(str(path)))
            assert app.finished.wait(DEADLINE)
            app.finished.clear()

        def reasons() -> list[str]:
            for client in both_clients:
                with suppress(OSError):
                    while client.socket.recv(65536):
                        pass  # so that it is the disk that keeps it waiting
            lines = log.read_text().splitlines() if log.exists() else []
            return [record["reason"] for record in map(json.loads, lines) if "reason" in record]

        mount.stop()
        try:
            eventually(lambda: len(reasons()) == 2)
        finally:
            mount.start()
        assert set(reasons()) == {
            "response cut off: the file could not be read in time (setting: write_timeout)"
        }


def has_received(client: Client) -> bool:
    """Take what has come; return False where no more is on its way."""
    try:
        return bool(client.socket.recv(65536))
    except TimeoutError:
        return False


def is_there(server: BareServer) -> None:
    """Check that a new client is served."""
    with connect(server) as other:
        is_served(other)


def open_on(mount: StoppingMount) -> list[str]:
    """Return the files of the mount that this process has open."""
    return [link for link in links().values() if link.startswith(f"{mount.path}/")]
