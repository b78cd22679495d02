"""What status answers say of workers, from scoreboards and from the supervisor's counters."""

from __future__ import annotations

import logging
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from penstock.supervisor.status import Counters, LastError, Overview
from penstock.supervisor.worker_process import Stage
from penstock.telemetry.histograms import HISTOGRAM_WORDS, SUM
from penstock.telemetry.scoreboard import (
    ACCEPTED,
    BEAT,
    CONNECTIONS,
    COUNTED,
    IO_BOUND,
    IO_BOUND_CALLS,
    LEFT_COUNT,
    LIVE,
    LOCK_WAITS,
    QUEUE_FULL_SINCE,
    READY,
    REFUSED,
    SERIES_WORDS,
    STALE_BEAT_SECONDS,
    STARTED,
    STATE,
    STUCK,
    WAITING,
    WEBSOCKET,
    WEBSOCKETS,
)
from support.invariant import eventually
from support.workers import Workers, begin


def overview(workers: Workers) -> Overview:
    return Overview(workers.all, Counters(), lambda pid: pid * 1000)


@pytest.fixture
def workers() -> Iterator[Workers]:
    workers = Workers()
    yield workers
    workers.close()


def test_a_worker_is_told_from_its_slot(workers: Workers) -> None:
    worker = workers.add(7)
    words = worker.slot.words
    words[STARTED], words[CONNECTIONS], words[WAITING] = 12, 5, 1
    begin(worker, 1, 2.0, None, "/")
    begin(worker, 0, 2.0, None, "/poll")
    words[IO_BOUND_CALLS] = worker.slot.records[0].words[IO_BOUND] = 1
    [row] = overview(workers).workers()
    assert row["age"] >= 0
    assert 0 <= (row["beat"] or 0) < STALE_BEAT_SECONDS
    assert row | {"age": 0.0, "beat": 0.0} == {
        "worker": 1,
        "pid": 7,
        "generation": 1,
        "state": "serving",
        "age": 0.0,
        "requests": 12,
        "connections": 5,
        "waiting": 1,
        "busy": 1,
        "io_bound": 1,
        "websockets": 0,
        "threads": 2,
        "memory": 7000,
        "beat": 0.0,
    }


def test_what_is_not_known_yet_of_a_worker_is_null(workers: Workers) -> None:
    worker = workers.add(0, Stage.BOOTING)
    worker.slot.words[BEAT] = 0
    [row] = overview(workers).workers()
    assert (row["memory"], row["beat"]) == (None, None)


def test_workers_are_in_the_order_of_their_numbers(workers: Workers) -> None:
    for pid, generation in [(9, 2), (6, 1), (7, 1)]:
        workers.add(pid, generation=generation)
    workers.all.reverse()
    assert [row["worker"] for row in overview(workers).workers()] == [1, 2, 3]
    assert [row["pid"] for row in overview(workers).workers()] == [9, 6, 7]


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
    assert overview(workers).workers()[0]["state"] == state
    worker.slot.words[STATE] = STUCK
    assert overview(workers).workers()[0]["state"] == "stuck"


def test_a_worker_without_heartbeats_whose_process_is_stopped_is_halted(workers: Workers) -> None:
    worker = workers.add(7)
    with subprocess.Popen(["sleep", "60"]) as process:
        worker.pid = process.pid
        worker.slot.words[BEAT] = time.monotonic_ns() - 3_000_000_000
        assert overview(workers).workers()[0]["state"] == "serving"
        process.send_signal(signal.SIGSTOP)
        assert eventually(lambda: overview(workers).workers()[0]["state"] == "halted")
        process.kill()


def test_requests_are_told_the_oldest_first(workers: Workers) -> None:
    first, second = workers.add(7), workers.add(8)
    begin(first, 0, 1.0, 29.0, "/young")
    begin(first, 1, 40.0, -10.0, "/late")
    begin(second, 1, 20.0, None, "/endless")
    first.slot.records[1].words[IO_BOUND] = LEFT_COUNT + WEBSOCKET
    second.slot.records[1].words[IO_BOUND] = LEFT_COUNT
    rows = overview(workers).requests()
    assert [row["target"] for row in rows] == ["/late", "/endless", "/young"]
    assert [(row["pid"], row["worker"], row["thread"]) for row in rows] == [
        (7, 1, 1),
        (8, 2, 1),
        (7, 1, 0),
    ]
    late, endless, young = rows
    assert [row["io_bound"] for row in rows] == [False, True, False]
    assert [row["websocket"] for row in rows] == [True, False, False]
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
    worker.slot.words[IO_BOUND_CALLS] = 3
    worker.slot.words[WEBSOCKETS] = 2
    workers.add(9, Stage.BOOTING)
    assert overview(workers).counts() == {
        "booting": 1,
        "serving": 2,
        "draining": 0,
        "stuck": 0,
        "halted": 0,
        "connections": 6,
        "in_progress": 2,
        "io_bound": 1,
        "websockets": 2,
        "waiting": 0,
        "accepted": 0,
        "requests": 20,
        "crashed": 0,
        "reloads": 0,
        "reloads_failed": 0,
        "upgrades": 0,
        **dict.fromkeys(COUNTED, 0),
    }


def test_totals_include_the_workers_that_have_ended(workers: Workers) -> None:
    counters = Counters()
    ended, serving = workers.add(7), workers.add(8)
    for worker in (ended, serving):
        worker.slot.words[STARTED], worker.slot.words[ACCEPTED] = 10, 4
        for number, word in enumerate(COUNTED.values()):
            worker.slot.words[word] = number
    counters.add_ended(ended, "SIGSEGV")
    counters.add_ended(ended, "")  # as another that has left
    counts = Overview([serving], counters, lambda pid: None).counts()
    assert (counts["requests"], counts["accepted"], counts["crashed"]) == (30, 12, 1)
    assert counters.crashes == {"SIGSEGV": 1}
    assert {name: counts[name] for name in COUNTED} == {
        name: 3 * number for number, name in enumerate(COUNTED)
    }


IMPOSSIBLE = (1 << 64) - 1


@pytest.mark.parametrize(
    "word", [STARTED, ACCEPTED, *COUNTED.values(), REFUSED, LOCK_WAITS, LOCK_WAITS + SUM]
)
def test_the_counts_of_a_worker_that_cannot_have_counted_them_are_left_out(
    workers: Workers, word: int
) -> None:
    counters = Counters()
    worker = workers.add(1)
    worker.slot.words[STARTED] = 10
    worker.slot.words[word] = IMPOSSIBLE
    assert str(IMPOSSIBLE) in counters.add_ended(worker, "SIGSEGV")
    assert counters.requests == 0
    assert not any(counters.counted.values())
    assert counters.crashes == {"SIGSEGV": 1}
    worker.slot.words[word] = 0
    worker.slot.words[STARTED] = 10
    assert counters.add_ended(worker, "") == ""
    assert counters.requests == 10


@pytest.mark.parametrize("place", [0, SUM, HISTOGRAM_WORDS + 3])
def test_so_are_its_histograms_and_its_statuses(workers: Workers, place: int) -> None:
    counters = Counters()
    worker, other = workers.add(1), workers.add(2)
    worker.slot.use_series(7)
    worker.slot.series[7 * SERIES_WORDS + place] = IMPOSSIBLE
    assert counters.add_ended(worker, "")
    other.slot.use_series(7)
    other.slot.statuses[100] = IMPOSSIBLE
    assert counters.add_ended(other, "")
    assert not counters.series
    assert not counters.statuses


def test_what_a_busy_worker_counts_is_possible(workers: Workers) -> None:
    worker = workers.add(1)
    worker.since -= 3600
    seconds = 3600
    worker.slot.words[STARTED] = 500_000 * seconds
    worker.slot.words[COUNTED["bytes_sent"]] = 100_000_000_000 * seconds
    worker.slot.words[COUNTED["gc_nanoseconds_2"]] = 1_000_000_000 * seconds
    worker.slot.use_series(7)
    # The durations of 100,000 connections, of which each always had a request.
    worker.slot.series[7 * SERIES_WORDS + SUM] = 100_000 * 1_000_000_000 * seconds
    assert Counters().add_ended(worker, "") == ""


def test_the_last_error_is_kept() -> None:
    counters = Counters()
    logger = logging.Logger("penstock.test")
    logger.addHandler(LastError(counters))
    logger.error("first")
    logger.error("worker %d crashed\nTraceback", 7)
    logger.warning("no error")
    assert counters.last_error is not None
    assert counters.last_error["message"] == "worker 7 crashed"
    assert abs(counters.last_error["at"] - time.time()) < 60


def test_the_outcome_of_the_last_reload_is_kept() -> None:
    counters = Counters()
    counters.note_reload(True, "reloaded: generation 2 serves")
    counters.note_reload(False, "not reloaded")
    assert (counters.reloads, counters.reloads_failed) == (1, 1)
    assert counters.last_reload is not None
    assert counters.last_reload["message"] == "not reloaded"


def test_one_worker_that_wants_requests_makes_it_ready(workers: Workers) -> None:
    assert not overview(workers).is_ready()
    booting = workers.add(7, Stage.BOOTING)
    assert not overview(workers).is_ready()
    booting.stage = Stage.LEAVING
    assert not overview(workers).is_ready()
    draining, serving = workers.add(8), workers.add(9)
    draining.slot.words[READY] = 0
    assert overview(workers).is_ready()
    serving.slot.words[READY] = 0
    assert not overview(workers).is_ready()


def test_it_is_not_ready_once_the_queues_of_all_workers_have_been_full_for_too_long(
    workers: Workers,
) -> None:
    first, second = workers.add(7), workers.add(8)
    long_ago = time.monotonic_ns() - int((first.settings.overload_ready_after + 1) * 1e9)
    first.slot.words[QUEUE_FULL_SINCE] = long_ago
    assert overview(workers).is_ready()
    second.slot.words[QUEUE_FULL_SINCE] = time.monotonic_ns()
    assert overview(workers).is_ready()  # for a moment only
    second.slot.words[QUEUE_FULL_SINCE] = long_ago
    assert not overview(workers).is_ready()
    assert overview(workers).is_live()
    second.slot.words[QUEUE_FULL_SINCE] = 0
    assert overview(workers).is_ready()


def test_it_is_live_while_something_moves_in_one_worker(workers: Workers) -> None:
    assert overview(workers).is_live()  # the first one is about to be started
    silent, stuck = workers.add(7), workers.add(8)
    silent.slot.words[BEAT] -= int((STALE_BEAT_SECONDS + 1) * 1e9)
    assert overview(workers).is_live()
    stuck.slot.words[LIVE] = 0
    assert not overview(workers).is_live()
    assert not overview(workers).is_ready()
    workers.add(9)
    assert overview(workers).is_live()
