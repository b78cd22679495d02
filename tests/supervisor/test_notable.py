"""What the supervisor keeps of the requests that workers report as worth a look."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from penstock.supervisor.notable import MOST_NOTABLE, SLOW_SECONDS, Notable
from penstock.supervisor.worker_process import WorkerProcess
from support.noted import CALL, REFUSED
from support.workers import Workers


@pytest.fixture
def worker() -> Iterator[WorkerProcess]:
    workers = Workers()
    yield workers.add(4711)
    workers.close()


def whole_report(kind: str, number: int, left_out: int = 0) -> dict[str, Any]:
    """Return a report with all fields, of the request with this number."""
    known = {"id": str(number), "at": 1.7e9 + number, "left_out": left_out}
    request = REFUSED | known if kind == "refused" else CALL | known | {"took": float(number)}
    return {"event": "noted", "kind": kind, "request": request}


def sent_as_json(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [json.loads(json.dumps(message)) for message in messages]


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


KINDS = ["slow", "failed", "refused"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_successor_has_what_was_kept_and_what_comes_after_it(
    worker: WorkerProcess, kind: str
) -> None:
    old, new = Notable(), Notable()
    for number in (1, 2, 3):
        old.add(worker, whole_report(kind, number, left_out=1))
    new.add(worker, whole_report(kind, 9, left_out=2))  # it serves before the old one hands over
    sent: list[dict[str, Any]] = []
    old.hand_over(sent.append)
    for message in sent_as_json(sent):
        new.take_over(message)
    sent.clear()
    old.add(worker, whole_report(kind, 10, left_out=3))  # of a worker that drains
    for message in sent_as_json(sent):
        new.take_over(message)
    answer = getattr(new, kind)()
    assert [row["id"] for row in answer[kind]] == ["10", "9", "3", "2", "1"]
    assert answer[kind][-1] == getattr(old, kind)()[kind][-1]
    if kind != "slow":
        assert answer["left_out"] == 3 + 2 + 3
    if kind != "refused":
        assert new.exemplars.by_series() == old.exemplars.by_series()


@pytest.mark.parametrize("kind", KINDS)
def test_a_successor_has_no_more_of_them_than_are_kept(worker: WorkerProcess, kind: str) -> None:
    old, new = Notable(), Notable()
    for number in range(MOST_NOTABLE):
        old.add(worker, whole_report(kind, number))
        new.add(worker, whole_report(kind, MOST_NOTABLE + number))
    sent: list[dict[str, Any]] = []
    old.hand_over(sent.append)
    assert len(json.dumps(sent)) < 200 << 10
    for message in sent_as_json(sent):
        new.take_over(message)
    ids = [row["id"] for row in getattr(new, kind)()[kind]]
    assert ids == [str(number) for number in range(2 * MOST_NOTABLE - 1, MOST_NOTABLE - 1, -1)]


def test_a_slow_request_is_as_old_for_the_successor_as_it_was(worker: WorkerProcess) -> None:
    now = 1000.0
    old, new = Notable(lambda: now), Notable(lambda: now - 900)
    old.add(worker, whole_report("slow", 1))
    now += SLOW_SECONDS - 1
    sent: list[dict[str, Any]] = []
    old.hand_over(sent.append)
    for message in sent_as_json(sent):
        new.take_over(message)
    assert len(new.slow()["slow"]) == 1
    now += 2
    assert new.slow()["slow"] == []


def test_what_a_supervisor_of_another_version_sends_is_left_out(worker: WorkerProcess) -> None:
    kept = Notable()
    sent: list[dict[str, Any]] = []
    kept.hand_over(sent.append)
    kept.add(worker, whole_report("failed", 1))
    [[age, row]] = sent_as_json(sent)[-1]["rows"]
    new = Notable()
    others = [row | {"more": 1}, {"id": "1"}, row | {"took": "1"}]
    message = {"event": "noted", "rows": [[age, other] for other in others], "left_out": 0}
    for kind in ("failed", "slow", "other"):
        new.take_over(message | {"kind": kind})
    assert new.failed()["failed"] == new.slow()["slow"] == []
