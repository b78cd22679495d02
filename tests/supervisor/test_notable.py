"""What the supervisor keeps of the requests that workers report as worth a look."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from penstock.supervisor.notable import MOST_NOTABLE, SLOW_SECONDS, Notable
from penstock.supervisor.worker_process import WorkerProcess
from support.workers import Workers


@pytest.fixture
def worker() -> Iterator[WorkerProcess]:
    workers = Workers()
    yield workers.add(4711)
    workers.close()


def report(kind: str, number: float, left_out: int = 0) -> dict[str, Any]:
    request = {"took": float(number), "id": str(number), "left_out": left_out}
    if kind != "refused":
        request |= {"method": "GET", "protocol": "HTTP/1.1", "status": 500, "at": 1.7e9}
        request |= {"trace_id": "", "duration": float(number)}
    return {"event": "noted", "kind": kind, "request": request}


@pytest.mark.parametrize("kind", ["failed", "refused"])
def test_the_last_ones_are_kept_the_newest_first(worker: WorkerProcess, kind: str) -> None:
    kept = Notable()
    for number in range(MOST_NOTABLE + 3):
        kept.add(worker, report(kind, number, left_out=number % 2))
    answer = getattr(kept, kind)()
    assert [row["id"] for row in answer[kind]] == [
        str(number) for number in range(MOST_NOTABLE + 2, 2, -1)
    ]
    assert answer["left_out"] == (MOST_NOTABLE + 3) // 2
    row = answer[kind][0]
    assert (row["worker"], row["pid"]) == (worker.number, 4711)
    assert "left_out" not in row


def test_the_slowest_are_kept_in_their_order(worker: WorkerProcess) -> None:
    kept = Notable()
    for number in [*range(0, 100, 2), *range(1, 100, 2)]:
        kept.add(worker, report("slow", number))
    answer = kept.slow()
    assert [row["took"] for row in answer["slow"]] == list(range(99, 99 - MOST_NOTABLE, -1))
    assert answer["seconds"] == SLOW_SECONDS


def test_a_slow_request_counts_for_some_minutes(worker: WorkerProcess) -> None:
    now = 1000.0
    kept = Notable(lambda: now)
    kept.add(worker, report("slow", 9))
    now += SLOW_SECONDS - 1
    kept.add(worker, report("slow", 1))
    assert [row["took"] for row in kept.slow()["slow"]] == [9, 1]
    now += 2
    assert [row["took"] for row in kept.slow()["slow"]] == [1]
