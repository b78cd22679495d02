"""Which worker with a stuck request is replaced, and when."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from penstock.config.settings import Settings
from penstock.supervisor.recycling import (
    DUMP_SECONDS,
    FIRST_BACK_OFF_SECONDS,
    LONGEST_BACK_OFF_SECONDS,
    BackOff,
    Heartbeats,
    choose_stuck,
)
from penstock.supervisor.worker_process import WorkerProcess
from penstock.telemetry.scoreboard import BEAT
from support.workers import Workers


@pytest.mark.parametrize(
    ("free_threads", "replacing", "workers", "now", "chosen"),
    [
        ([], 0, 4, 10.0, None),  # none is stuck
        ([3], 0, 4, 10.0, 0),
        ([3], 0, 1, 10.0, 0),  # at least one, of however few
        ([3, 2], 0, 4, 10.0, 0),  # the oldest report
        ([3, 0, 0], 0, 4, 10.0, 1),  # one without a free thread is next
        ([3], 1, 4, 10.0, None),  # a quarter of four is one
        ([0], 1, 4, 10.0, None),
        ([3], 1, 7, 10.0, None),
        ([3], 1, 8, 10.0, 0),  # a quarter of eight is two
        ([3], 2, 8, 10.0, None),
        ([3], 0, 4, 4.9, None),  # the back-off
        ([0], 0, 4, 4.9, None),
        ([3], 0, 4, 5.0, 0),
    ],
)
def test_a_quarter_of_the_workers_is_replaced_for_deadlines_at_a_time(
    free_threads: list[int], replacing: int, workers: int, now: float, chosen: int | None
) -> None:
    assert choose_stuck(free_threads, replacing, workers, now, 5.0) == chosen


def test_the_back_off_doubles_from_one_second_to_sixty() -> None:
    back_off, now, pauses = BackOff(), 1000.0, []
    for _ in range(9):
        back_off = back_off.after(now)
        pauses.append(back_off.allowed_from - now)
        now = back_off.allowed_from
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]
    assert pauses[0] == FIRST_BACK_OFF_SECONDS


def test_the_back_off_is_short_again_after_a_time_without_replacements() -> None:
    back_off = BackOff(allowed_from=1000.0, pause=32.0)
    soon = back_off.after(1000.0 + LONGEST_BACK_OFF_SECONDS - 1)
    assert soon.pause == LONGEST_BACK_OFF_SECONDS
    later = back_off.after(1000.0 + LONGEST_BACK_OFF_SECONDS)
    assert later.pause == FIRST_BACK_OFF_SECONDS


@pytest.fixture
def workers() -> Iterator[Workers]:
    workers = Workers()
    yield workers
    workers.close()


def test_a_worker_without_heartbeats_is_warned_of_at_half_and_ended_after_the_grace(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(WorkerProcess, "ask_for_dump", lambda worker: asked.append(worker.number))
    worker = workers.add(7)
    worker.pid = 0  # no process is looked at, or signalled
    worker.settings = replace(Settings(), timeout=10.0, timeout_grace=2.0)
    heartbeats = Heartbeats()
    begun = heartbeats._looked_at
    told = []
    for second in range(1, 16):
        hung, silent = heartbeats.check([worker], begun + second)
        told += [(second, "hung") for _ in hung] + [(second, "silent") for _ in silent]
        if hung:
            break
    # Seen first after 1 s: half is at 6 s, the grace ends at 13 s, and C code has 1 s to write.
    assert told == [(6 + DUMP_SECONDS, "silent"), (13 + DUMP_SECONDS, "hung")]
    assert asked == [1, 1]


def test_a_worker_that_beats_again_is_not_ended(workers: Workers) -> None:
    worker = workers.add(7)
    worker.pid = 0
    worker.settings = replace(Settings(), timeout=10.0, timeout_grace=2.0)
    heartbeats = Heartbeats()
    begun = heartbeats._looked_at
    for second in range(1, 40):
        if second % 4 == 0:
            worker.slot.words[BEAT] += 1
        assert heartbeats.check([worker], begun + second) == ([], [])


def test_a_supervisor_that_was_halted_itself_blames_no_worker(workers: Workers) -> None:
    worker = workers.add(7)
    worker.pid = 0
    worker.settings = replace(Settings(), timeout=1.0, timeout_grace=1.0)
    heartbeats = Heartbeats()
    begun = heartbeats._looked_at
    assert heartbeats.check([worker], begun + 1) == ([], [])
    assert heartbeats.check([worker], begun + 60) == ([], [])
