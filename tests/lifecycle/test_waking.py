"""Which workers a new connection wakes, and that none of its clients waits for a stopped worker."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from harness import processes
from penstock.worker.deadlines import LONGEST_LOOK_SECONDS
from support.invariant import eventually
from support.lifecycle import Supervised
from support.wire import Client

WORKERS = 8
CONNECTIONS = 20
MOST_WOKEN = 2

pytestmark = pytest.mark.skipif(
    not processes.EVENT_WAITS, reason="the system calls have other numbers here"
)


def once_all_wait(workers: set[int]) -> dict[int, list[tuple[int, int]]]:
    """Return the threads of each worker that wait for events, once all workers wait."""
    found: dict[int, list[tuple[int, int]]] = {}

    def all_wait() -> bool:
        nonlocal found
        found = processes.waiting_workers(workers)
        return len(found) == len(workers)

    assert eventually(all_wait)
    return found


def woken(address: tuple[str, int] | str, workers: set[int]) -> int:
    """Return how many workers a connection wakes that has one request."""
    before = once_all_wait(workers)
    with Client(address) as client:
        assert client.request("GET", "/echo?1", {"Connection": "close"}).status == 200
    after = once_all_wait(workers)
    return sum(after[worker] != before[worker] for worker in workers)


@pytest.mark.parametrize("bind", ["tcp", "unix"])
def test_a_connection_to_idle_workers_wakes_two_of_them_at_most(
    tmp_path: Path, transport: str, bind: str
) -> None:
    options = ["-w", str(WORKERS), "--threads", "2", "--transport", transport]
    if bind == "unix":
        options += ["--bind", f"unix:{tmp_path}/socket"]
    with Supervised(tmp_path, *options) as server:
        address = server.address if bind == "tcp" else f"{tmp_path}/socket"
        workers = server.wait_for_serving(WORKERS)
        # A worker that began to wait before another one served is woken with the others once.
        woken(address, workers)
        counts = [woken(address, workers) for _ in range(CONNECTIONS)]
        assert 1 <= min(counts) <= max(counts) <= MOST_WOKEN, counts
        assert server.stop() == 0


def test_no_client_waits_for_workers_that_are_stopped(tmp_path: Path, transport: str) -> None:
    with Supervised(tmp_path, "-w", "4", "--transport", transport) as server:
        workers = server.wait_for_serving(4)
        stopped = sorted(workers)[:3]
        for worker in stopped:
            os.kill(worker, signal.SIGSTOP)
        try:
            for worker in stopped:
                assert eventually(lambda: processes.state(worker) == "T")  # noqa: B023 -- called here
            before = time.monotonic()
            for _ in range(CONNECTIONS):
                with Client(server.address) as client:
                    assert client.request("GET", "/echo?1").status == 200
            # Not one look for each of them.
            assert time.monotonic() - before < CONNECTIONS * LONGEST_LOOK_SECONDS / 4
        finally:
            for worker in stopped:
                os.kill(worker, signal.SIGCONT)
        assert server.stop() == 0
