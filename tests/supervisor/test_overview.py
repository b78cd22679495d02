"""What is told of workers, from their boards and the supervisor's own knowledge."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from penstock.board import BEAT, CONNECTIONS, LIVE, READY, STARTED, STATE, STUCK, WAITING, Board
from penstock.settings import Settings
from penstock.supervisor.channel import Channel
from penstock.supervisor.overview import Overview
from penstock.supervisor.processes import Stage, WorkerProcess
from penstock.transport.policy import STALE_BEAT_SECONDS


class Workers:
    """Workers without processes, on a board of their own."""

    def __init__(self) -> None:
        self.board = Board(8, 2)
        self.all: list[WorkerProcess] = []

    def add(self, pid: int, stage: Stage = Stage.SERVING, generation: int = 1) -> WorkerProcess:
        """Add one in which all is well."""
        slot = self.board.take()
        assert slot is not None
        channel, other = Channel.pair()
        other.close()
        reader, writer = os.pipe()
        os.close(writer)
        worker = WorkerProcess(pid, generation, slot, channel, reader, Settings(), pid=pid)
        worker.stage = stage
        slot.words[READY] = slot.words[LIVE] = 1
        slot.words[BEAT] = time.monotonic_ns()
        self.all.append(worker)
        return worker

    @property
    def overview(self) -> Overview:
        return Overview(self.all, lambda pid: pid * 1000)


@pytest.fixture
def workers() -> Iterator[Workers]:
    workers = Workers()
    yield workers
    for worker in workers.all:
        worker.release()


def begin(worker: WorkerProcess, thread: int, age: float, left: float | None, target: str) -> None:
    """Have a thread of a worker be in a request."""
    now = time.monotonic_ns()
    deadline = now + int(left * 1e9) if left is not None else 0
    texts = (b"GET", b"203.0.113.7:1", b"id-1", target.encode())
    worker.slot.records[thread].begin(1, now - int(age * 1e9), deadline, texts)


def test_a_worker_is_told_from_its_slot(workers: Workers) -> None:
    worker = workers.add(7)
    words = worker.slot.words
    words[STARTED], words[CONNECTIONS], words[WAITING] = 12, 5, 1
    begin(worker, 1, 2.0, None, "/")
    [row] = workers.overview.workers()
    assert row["age"] >= 0
    assert 0 <= (row["beat"] or 0) < STALE_BEAT_SECONDS
    assert row | {"age": 0.0, "beat": 0.0} == {
        "slot": 0,
        "pid": 7,
        "generation": 1,
        "state": "serving",
        "age": 0.0,
        "requests": 12,
        "connections": 5,
        "waiting": 1,
        "busy": 1,
        "threads": 2,
        "memory": 7000,
        "beat": 0.0,
    }


def test_what_is_not_known_yet_of_a_worker_is_null(workers: Workers) -> None:
    worker = workers.add(0, Stage.BOOTING)
    worker.slot.words[BEAT] = 0
    [row] = workers.overview.workers()
    assert (row["memory"], row["beat"]) == (None, None)


def test_workers_are_in_the_order_of_generations_and_slots(workers: Workers) -> None:
    for pid, generation in [(5, 2), (6, 1), (7, 1)]:
        workers.add(pid, generation=generation)
    assert [row["pid"] for row in workers.overview.workers()] == [6, 7, 5]


@pytest.mark.parametrize(
    ("stage", "state"),
    [
        (Stage.BOOTING, "booting"),
        (Stage.READY, "booting"),
        (Stage.STARTING, "booting"),
        (Stage.SERVING, "serving"),
        (Stage.LEAVING, "draining"),
    ],
)
def test_a_worker_has_a_state(workers: Workers, stage: Stage, state: str) -> None:
    worker = workers.add(7, stage)
    assert workers.overview.workers()[0]["state"] == state
    worker.slot.words[STATE] = STUCK
    assert workers.overview.workers()[0]["state"] == "stuck"


def test_requests_are_told_the_oldest_first(workers: Workers) -> None:
    first, second = workers.add(7), workers.add(8)
    begin(first, 0, 1.0, 29.0, "/young")
    begin(first, 1, 40.0, -10.0, "/late")
    begin(second, 1, 20.0, None, "/endless")
    rows = workers.overview.requests()
    assert [row["target"] for row in rows] == ["/late", "/endless", "/young"]
    assert [(row["pid"], row["slot"], row["thread"]) for row in rows] == [
        (7, 0, 1),
        (8, 1, 1),
        (7, 0, 0),
    ]
    late, endless, young = rows
    assert late["age"] >= 40.0
    assert (late["deadline"] or 0) <= -10.0
    assert endless["deadline"] is None
    assert 0 < (young["deadline"] or 0) <= 29.0
    assert (late["method"], late["client"], late["id"]) == ("GET", "203.0.113.7:1", "id-1")


def test_counts_are_of_all_workers(workers: Workers) -> None:
    for pid in (7, 8):
        worker = workers.add(pid)
        worker.slot.words[CONNECTIONS], worker.slot.words[STARTED] = 3, 10
        begin(worker, 0, 1.0, None, "/")
    workers.add(9, Stage.BOOTING)
    assert workers.overview.counts() == {
        "booting": 1,
        "serving": 2,
        "draining": 0,
        "stuck": 0,
        "connections": 6,
        "in_progress": 2,
        "waiting": 0,
        "requests": 20,
    }


def test_one_worker_that_wants_requests_makes_it_ready(workers: Workers) -> None:
    assert not workers.overview.is_ready()
    booting = workers.add(7, Stage.BOOTING)
    assert not workers.overview.is_ready()
    booting.stage = Stage.LEAVING
    assert not workers.overview.is_ready()
    draining, serving = workers.add(8), workers.add(9)
    draining.slot.words[READY] = 0
    assert workers.overview.is_ready()
    serving.slot.words[READY] = 0
    assert not workers.overview.is_ready()


def test_it_is_live_while_something_moves_in_one_worker(workers: Workers) -> None:
    assert workers.overview.is_live()  # the first one is about to be started
    silent, stuck = workers.add(7), workers.add(8)
    silent.slot.words[BEAT] -= int((STALE_BEAT_SECONDS + 1) * 1e9)
    assert workers.overview.is_live()
    stuck.slot.words[LIVE] = 0
    assert not workers.overview.is_live()
    assert not workers.overview.is_ready()
    workers.add(9)
    assert workers.overview.is_live()
