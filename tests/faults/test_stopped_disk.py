"""A disk that stands still under uploads: it stops these, and nothing else."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import penstock
from support.server_process import BUSY_SECONDS, ServerProcess
from support.serving import connect, descriptors, eventually, get, post
from support.stopping_disk import StoppingDisk
from support.wire import Client

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
    arguments += ["--body-memory", str(LIMIT), "--temp-dir", str(tmp_path)]
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
