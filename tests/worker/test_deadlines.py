"""What `Deadlines` does about calls, on a scoreboard that the test writes itself."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from penstock.telemetry.scoreboard import (
    AWAITING_CLIENT,
    BEAT,
    DRAINING,
    IO_BOUND,
    LIVE,
    PROGRESS,
    READY,
    SERVING,
    STATE,
    STUCK,
    THREAD,
    Record,
    RequestInProgress,
    Scoreboard,
    Slot,
)
from penstock.telemetry.scoreboard import DEADLINE as DEADLINE_WORD
from penstock.worker.deadlines import (
    LONGEST_LOOK_SECONDS,
    SHORTEST_LOOK_SECONDS,
    Deadlines,
)
from support.fake_exchange import Records
from support.serving import eventually
from support.wire import DEADLINE

GRACE = 0.1


def slot_of(threads: int = 1, max_io_bound: int = 0) -> Slot:
    slot = Scoreboard(1, threads, max_io_bound).take()
    assert slot is not None
    slot.words[STATE] = SERVING
    slot.words[READY] = 1
    for record in slot.records:
        record.words[THREAD] = threading.get_ident()
    return slot


class Told:
    """What `on_stuck` was called with: the request's id, and the number of free threads."""

    def __init__(self) -> None:
        self.calls: list[tuple[str | None, int]] = []

    def __call__(self, request: RequestInProgress | None, free: int) -> None:
        self.calls.append((None if request is None else request.request_id, free))


class Expired:
    """In place of a transport's `expire`."""

    def __init__(self, waited: bool = True) -> None:
        self.calls: list[tuple[int, str]] = []
        self._waited = waited

    def __call__(self, number: int, reason: str) -> bool:
        self.calls.append((number, reason))
        return self._waited


def deadlines_of(
    slot: Slot,
    log: Records,
    on_stuck: Callable[[RequestInProgress | None, int], None] | None = None,
    *,
    shortest: float = 0.1,
    grace: float = GRACE,
    expire: Callable[[int, str], bool] | None = None,
) -> Deadlines:
    return Deadlines(
        slot,
        shortest=shortest,
        grace=grace,
        logger=log.logger,
        expire=expire or Expired(),
        on_stuck=on_stuck,
    )


def begin(record: Record, number: int, *, age: float = 0.0, left: float = 1e6) -> None:
    """Write down a request that began ``age`` seconds ago and has ``left`` seconds."""
    now = time.monotonic_ns()
    since, deadline = now - int(age * 1e9), now + int(left * 1e9)
    target = f"/a?b=\x1b{number}"
    record.begin(number, since, deadline, "GET", b"192.0.2.1:4000", f"id-{number}", target)


class Call:
    """A thread that is in a request until `end`."""

    def __init__(self, record: Record, *, age: float = 0.0, left: float = 1e6):
        self.record = record
        self._over = threading.Event()
        self._begun = threading.Event()
        self.thread = threading.Thread(
            target=self._run, args=(age, left), name="penstock-1", daemon=True
        )
        self.thread.start()
        assert self._begun.wait(10)

    def _run(self, age: float, left: float) -> None:
        self.record.words[THREAD] = threading.get_ident()
        begin(self.record, 1, age=age, left=left)
        self._begun.set()
        self.here_it_hangs()
        self.record.end()

    def here_it_hangs(self) -> None:
        assert self._over.wait(DEADLINE)

    def end(self) -> None:
        self._over.set()
        self.thread.join(10)
        assert not self.thread.is_alive()


@contextmanager
def running(deadlines: Deadlines) -> Iterator[None]:
    deadlines.start()
    try:
        yield
    finally:
        deadlines.stop()


def test_an_idle_thread_of_deadlines_beats_once_a_second_and_no_more() -> None:
    slot = slot_of()
    deadlines = deadlines_of(slot, Records(), shortest=30.0)
    assert deadlines.look() == LONGEST_LOOK_SECONDS
    assert abs(slot.words[BEAT] / 1e9 - time.monotonic()) < 5
    assert slot.words[LIVE] == 1


def test_a_started_thread_of_deadlines_beats_by_itself_until_it_is_stopped() -> None:
    slot = slot_of()
    deadlines = deadlines_of(slot, Records(), shortest=0.0)
    with running(deadlines):
        eventually(lambda: slot.words[BEAT])
        before = slot.words[BEAT]
        eventually(lambda: slot.words[BEAT] > before)
        assert slot.words[BEAT] - before < 2e9
    stopped_at = slot.words[BEAT]
    assert stopped_at <= time.monotonic_ns()
    deadlines.stop()  # again, which does nothing


@pytest.mark.parametrize(
    ("shortest", "longest"),
    [(0.0, LONGEST_LOOK_SECONDS), (60.0, LONGEST_LOOK_SECONDS), (0.5, 0.25), (0.001, 0.02)],
)
def test_no_call_passes_its_half_between_two_looks(shortest: float, longest: float) -> None:
    assert deadlines_of(slot_of(), Records(), shortest=shortest).look() == longest


def test_the_next_look_is_at_the_nearest_point_in_time() -> None:
    slot = slot_of(2)
    begin(slot.records[0], 1, age=0.1, left=0.9)
    begin(slot.records[1], 2, age=1.0, left=200.0)
    pause = deadlines_of(slot, Records(), shortest=30.0).look()
    assert SHORTEST_LOOK_SECONDS <= pause <= 0.4


def test_a_call_without_a_deadline_is_left_alone() -> None:
    slot, log = slot_of(), Records()
    begin(slot.records[0], 1, age=20.0)
    slot.records[0].words[3] = 0
    assert deadlines_of(slot, log, shortest=30.0).look() == LONGEST_LOOK_SECONDS
    assert log.lines == []


def test_at_half_of_its_time_a_call_is_warned_of_once_with_its_stack() -> None:
    slot, log = slot_of(), Records()
    call = Call(slot.records[0], age=20.0, left=10.0)
    deadlines = deadlines_of(slot, log, shortest=30.0)
    assert deadlines.look() == LONGEST_LOOK_SECONDS
    deadlines.look()
    call.end()
    assert [record.levelname for record in log.records] == ["WARNING"]
    assert re.match(
        r"PEN-6110 GET /a\?b=\\x1b1 \(request id-1, 20\.\d s old, from 192\.0\.2\.1:4000\)"
        r" has used half of its 30 s \(settings: timeout, timeout_for\); its thread is in:\n",
        log.lines[0],
    )
    assert "in here_it_hangs\n" in log.lines[0]
    assert log.lines[0].index("in _run") < log.lines[0].index("in here_it_hangs")


def test_of_a_deep_stack_the_innermost_frames_are_shown() -> None:
    slot, log = slot_of(), Records()

    def descend(depth: int) -> None:
        if depth:
            descend(depth - 1)
        else:
            begin(slot.records[0], 1, age=20.0, left=10.0)
            deadlines_of(slot, log).look()

    slot.records[0].words[THREAD] = threading.get_ident()
    descend(100)
    (text,) = log.lines
    assert "(outer calls are left out)" in text
    assert "in look\n" in text
    assert "[Previous line repeated" in text


@pytest.mark.parametrize(
    ("waited", "told"),
    [(True, "the server has ended the request"), (False, "its response was complete")],
)
def test_at_its_deadline_a_call_is_expired_once_and_nothing_is_raised_in_its_thread(
    waited: bool, told: str
) -> None:
    slot, log = slot_of(), Records()
    expired = Expired(waited)
    call = Call(slot.records[0], age=29.75, left=-0.001)
    deadlines = deadlines_of(slot, log, grace=5.0, expire=expired)
    deadlines.look()
    deadlines.look()
    assert expired.calls == [(1, "timeout after 29.749 s")]
    assert [record.levelname for record in log.records] == ["ERROR"]
    assert re.match(
        r"PEN-6120 GET /a\?b=\\x1b1 \(request id-1, 29\.\d s old, from 192\.0\.2\.1:4000\): timeout"
        rf" after 29\.749 s \(settings: timeout, timeout_for\); {told}; its thread is in:\n",
        log.lines[0],
    )
    assert "in here_it_hangs\n" in log.lines[0]
    call.end()  # it would have failed, had something been raised in it


def test_a_block_restarts_the_clock() -> None:
    slot, log = slot_of(), Records()
    expired = Expired()
    begin(slot.records[0], 1, age=20.0, left=10.0)
    deadlines = deadlines_of(slot, log, expire=expired)
    deadlines.look()
    assert log.text.count("has used half of its 30 s") == 1
    words = slot.records[0].words
    now = time.monotonic_ns()
    words[DEADLINE_WORD], words[PROGRESS] = now + int(30e9), now
    deadlines.look()
    assert len(log.lines) == 1
    words[DEADLINE_WORD], words[PROGRESS] = now + int(14e9), now - int(16e9)
    deadlines.look()
    assert log.text.count("has used half of its 30 s") == 2  # of the next stretch
    words[DEADLINE_WORD] = now - 1
    deadlines.look()
    assert expired.calls == [(1, "timeout after 16 s")]


def test_while_its_thread_waits_for_the_client_nothing_is_done_about_a_call() -> None:
    slot, log = slot_of(), Records()
    expired = Expired()
    begin(slot.records[0], 1, age=30.0, left=-1.0)
    slot.records[0].words[AWAITING_CLIENT] = time.monotonic_ns() - int(20e9)
    assert deadlines_of(slot, log, shortest=30.0, expire=expired).look() == LONGEST_LOOK_SECONDS
    assert (log.lines, expired.calls) == ([], [])


def test_a_call_that_has_returned_meanwhile_is_not_expired() -> None:
    slot, log = slot_of(), Records()
    expired = Expired()
    record = slot.records[0]
    begin(record, 1, age=30.0, left=-1.0)
    read = record.read

    def read_late() -> RequestInProgress | None:
        record.end()
        return read()

    record.read = read_late  # type: ignore[method-assign]
    deadlines_of(slot, log, expire=expired).look()
    assert (log.lines, expired.calls) == ([], [])


@pytest.mark.parametrize(("threads", "live"), [(1, 0), (2, 1)])
def test_after_the_grace_a_call_is_stuck_and_the_number_of_free_threads_is_told(
    threads: int, live: int
) -> None:
    slot, log = slot_of(threads), Records()
    told = Told()
    call = Call(slot.records[0], age=30.0, left=-0.001)
    with running(deadlines_of(slot, log, told)):
        eventually(lambda: told.calls)
        eventually(lambda: slot.words[LIVE] == live)
        assert (slot.words[STATE], slot.words[READY]) == (STUCK, 0)
        assert told.calls == [("id-1", threads - 1)]
        call.end()
        eventually(lambda: slot.words[LIVE] == 1)
        eventually(lambda: told.calls == [("id-1", threads - 1), (None, threads)])
    assert (slot.words[STATE], slot.words[READY]) == (SERVING, 1)
    levels = [record.levelname for record in log.records]
    assert levels == ["ERROR", "CRITICAL", "WARNING"]
    text = log.lines[1]
    assert "is stuck: the call has not returned 0.1 s after its deadline" in text
    assert f"free threads of the worker: {threads - 1}." in text
    assert "thread MainThread\n" in text
    assert re.search(r"\nthread penstock-1: GET /a\?b=\\x1b1 \(request id-1, ", text)
    assert "not shown: 0 idle threads, 1 of the server's" in text


def test_each_stuck_call_is_told_with_what_is_left_free() -> None:
    slot, log = slot_of(2), Records()
    told = Told()
    calls = [Call(record, age=30.0, left=-0.001) for record in slot.records]
    with running(deadlines_of(slot, log, told)):
        eventually(lambda: len(told.calls) == 2)
        eventually(lambda: slot.words[LIVE] == 0)
        assert told.calls == [("id-1", 1), ("id-1", 0)]
        calls[0].end()
        eventually(lambda: slot.words[LIVE] == 1)
        assert slot.words[READY] == 0
    calls[1].end()
    assert [record.levelname for record in log.records].count("CRITICAL") == 2


def test_a_stuck_call_that_has_left_the_count_takes_none_of_the_threads() -> None:
    slot, log = slot_of(2, max_io_bound=1), Records()
    told = Told()
    assert len(slot.records) == 3
    call = Call(slot.records[0], age=30.0, left=-0.001)
    slot.records[0].words[IO_BOUND] = 1
    deadlines = deadlines_of(slot, log, told)
    with running(deadlines):
        eventually(lambda: told.calls)
        assert told.calls == [("id-1", 2)]
        assert (deadlines.count_stuck(), deadlines.count_free()) == (1, 2)
        assert (slot.words[STATE], slot.words[READY], slot.words[LIVE]) == (STUCK, 0, 1)
        call.end()
        eventually(lambda: told.calls == [("id-1", 2), (None, 2)])


def test_a_worker_that_is_being_stopped_is_not_ready_again_when_stuck_calls_return() -> None:
    slot, log = slot_of(), Records()
    call = Call(slot.records[0], age=30.0, left=-0.001)
    with running(deadlines_of(slot, log)):
        eventually(lambda: slot.words[STATE] == STUCK)
        slot.words[STATE] = DRAINING
        call.end()
        eventually(lambda: slot.words[LIVE] == 1)
        assert (slot.words[STATE], slot.words[READY]) == (DRAINING, 0)
    assert "no thread is stuck any more" not in log.text


def test_time_in_which_the_process_did_not_run_is_not_the_calls() -> None:
    slot, log = slot_of(), Records()
    deadlines = deadlines_of(slot, log, shortest=30.0)
    deadlines.look()
    deadlines._due -= 15.0  # so long ago was the next look to be, and nothing has run since
    begin(slot.records[0], 1, age=20.0, left=-4.0)
    deadlines.look()
    assert log.lines == []
    begin(slot.records[0], 2, age=20.0, left=10.0)
    deadlines.look()
    assert "has used half" in log.text


def test_the_time_in_which_the_process_did_not_run_is_not_part_of_the_grace() -> None:
    slot, log = slot_of(), Records()
    deadlines = deadlines_of(slot, log, grace=10.0)
    begin(slot.records[0], 1, age=20.0, left=-0.001)
    deadlines.look()
    deadlines._seen[0].stuck_at -= 11.0  # the process was stopped for as long, then it went on
    deadlines._due -= 11.0
    deadlines.look()
    assert slot.words[STATE] != STUCK


def test_a_wait_for_the_client_that_ends_during_a_look_expires_no_call() -> None:
    """The thread moves the deadline before it says that its wait is over."""
    slot, log, expired = slot_of(), Records(), Expired()
    deadlines = deadlines_of(slot, log, expire=expired)
    record = slot.records[0]
    begin(record, 1, age=20.0, left=-1.0)

    class EndsItsWait:
        """The words of the record, whose wait ends when AWAITING_CLIENT is about to be read."""

        def __init__(self, words: Any) -> None:
            self._words = words

        def __getitem__(self, index: int) -> int:
            if index == AWAITING_CLIENT:
                self._words[DEADLINE_WORD] = time.monotonic_ns() + 10**10
                self._words[AWAITING_CLIENT] = 0
            return int(self._words[index])

    record.words = EndsItsWait(record.words)  # type: ignore[assignment]
    deadlines.look()
    assert expired.calls == []


def test_a_call_that_gets_stuck_during_a_stop_makes_no_worker_ready_again_when_it_returns() -> None:
    slot, log = slot_of(), Records()
    slot.words[STATE] = DRAINING
    call = Call(slot.records[0], age=30.0, left=-0.001)
    with running(deadlines_of(slot, log)):
        eventually(lambda: "is stuck" in log.text)
        assert slot.words[STATE] == DRAINING
        call.end()
        eventually(lambda: slot.words[LIVE] == 1)
        assert (slot.words[STATE], slot.words[READY]) == (DRAINING, 0)


def test_a_failure_in_a_look_does_not_end_the_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    slot, log = slot_of(), Records()
    deadlines = deadlines_of(slot, log, shortest=0.1)
    monkeypatch.setattr(slot, "records", None)
    with running(deadlines):
        eventually(lambda: "met an internal error and goes on" in log.text)
        before = slot.words[BEAT]
        eventually(lambda: slot.words[BEAT] > before)
