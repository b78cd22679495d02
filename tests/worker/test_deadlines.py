"""What the watchdog does about calls, on a scoreboard that the test writes itself."""

from __future__ import annotations

import random
import re
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import pytest

from penstock.errors import RequestTimeout
from penstock.telemetry.scoreboard import (
    BEAT,
    INTERRUPTED,
    LIVE,
    NUMBER,
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
from penstock.worker.deadlines import (
    DELICATE_LOOK_SECONDS,
    LONGEST_LOOK_SECONDS,
    SHORTEST_LOOK_SECONDS,
    Watchdog,
)
from support.fake_exchange import Records
from support.serving import eventually
from support.wire import DEADLINE

GRACE = 0.1


def slot_of(threads: int = 1) -> Slot:
    slot = Scoreboard(1, threads).take()
    assert slot is not None
    slot.words[STATE] = SERVING
    slot.words[READY] = 1
    return slot


def watchdog_of(
    slot: Slot,
    log: Records,
    on_stuck: Callable[[RequestInProgress], None] | None = None,
    *,
    shortest: float = 0.1,
    grace: float = GRACE,
) -> Watchdog:
    return Watchdog(slot, shortest=shortest, grace=grace, logger=log.logger, on_stuck=on_stuck)


def begin(record: Record, number: int, *, age: float = 0.0, left: float = 1e6) -> None:
    """Write down a request that began ``age`` seconds ago and has ``left`` seconds."""
    now = time.monotonic_ns()
    since, deadline = now - int(age * 1e9), now + int(left * 1e9)
    target = f"/a?b=\x1b{number}"
    record.begin(number, since, deadline, "GET", b"192.0.2.1:4000", f"id-{number}", target)


class Call:
    """A thread that is in a request until it is let go or interrupted."""

    def __init__(self, record: Record, *, age: float = 0.0, left: float = 1e6, deaf: bool = False):
        self.record = record
        self.interrupted = threading.Event()
        self.deaf = deaf
        self._let_go = False
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
        try:
            self.here_it_hangs()
        except RequestTimeout:
            self.interrupted.set()
        self.record.end()

    def here_it_hangs(self) -> None:
        while not self._let_go:
            try:
                select.select([], [], [], 0.001)
            except RequestTimeout:
                if not self.deaf:
                    raise
                self.interrupted.set()

    def end(self) -> None:
        self._let_go = True
        self.thread.join(10)
        assert not self.thread.is_alive()


@contextmanager
def running(watchdog: Watchdog) -> Iterator[None]:
    watchdog.start()
    try:
        yield
    finally:
        watchdog.stop()


def test_an_idle_watchdog_beats_once_a_second_and_no_more() -> None:
    slot = slot_of()
    watchdog = watchdog_of(slot, Records(), shortest=30.0)
    assert watchdog.look() == LONGEST_LOOK_SECONDS
    assert abs(slot.words[BEAT] / 1e9 - time.monotonic()) < 5
    assert slot.words[LIVE] == 1


def test_a_started_watchdog_beats_by_itself_until_it_is_stopped() -> None:
    slot = slot_of()
    watchdog = watchdog_of(slot, Records(), shortest=0.0)
    with running(watchdog):
        eventually(lambda: slot.words[BEAT])
        before = slot.words[BEAT]
        eventually(lambda: slot.words[BEAT] > before)
        assert slot.words[BEAT] - before < 2e9
    stopped_at = slot.words[BEAT]
    assert stopped_at <= time.monotonic_ns()
    watchdog.stop()  # again, which does nothing


@pytest.mark.parametrize(
    ("shortest", "longest"),
    [(0.0, LONGEST_LOOK_SECONDS), (60.0, LONGEST_LOOK_SECONDS), (0.5, 0.25), (0.001, 0.02)],
)
def test_no_call_passes_its_half_between_two_looks(shortest: float, longest: float) -> None:
    assert watchdog_of(slot_of(), Records(), shortest=shortest).look() == longest


def test_the_next_look_is_at_the_nearest_point_in_time() -> None:
    slot = slot_of(2)
    begin(slot.records[0], 1, age=0.1, left=0.9)
    begin(slot.records[1], 2, age=1.0, left=200.0)
    pause = watchdog_of(slot, Records(), shortest=30.0).look()
    assert SHORTEST_LOOK_SECONDS <= pause <= 0.4


def test_a_call_without_a_deadline_is_left_alone() -> None:
    slot, log = slot_of(), Records()
    begin(slot.records[0], 1, age=20.0)
    slot.records[0].words[3] = 0
    assert watchdog_of(slot, log, shortest=30.0).look() == LONGEST_LOOK_SECONDS
    assert log.lines == []


def test_at_half_of_its_time_a_call_is_warned_of_once_with_its_stack() -> None:
    slot, log = slot_of(), Records()
    call = Call(slot.records[0], age=20.0, left=10.0)
    watchdog = watchdog_of(slot, log, shortest=30.0)
    assert watchdog.look() == LONGEST_LOOK_SECONDS
    watchdog.look()
    call.end()
    assert [record.levelname for record in log.records] == ["WARNING"]
    assert re.match(
        r"PEN-6110 GET /a\?b=\\x1b1 \(request id-1, 20\.\d s old, from 192\.0\.2\.1:4000\) has used"
        r" half of its 30 s \(settings: timeout, timeout_for\); its thread is in:\n",
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
            watchdog_of(slot, log).look()

    slot.records[0].words[THREAD] = threading.get_ident()
    descend(100)
    (text,) = log.lines
    assert "(outer calls are left out)" in text
    assert "in look\n" in text
    assert "[Previous line repeated" in text


def test_at_its_deadline_the_exception_is_raised_in_the_calls_thread() -> None:
    slot, log = slot_of(), Records()
    call = Call(slot.records[0], age=30.0, left=-0.001)
    watchdog = watchdog_of(slot, log, grace=5.0)
    watchdog.look()
    assert slot.records[0].words[INTERRUPTED] == 1
    assert call.interrupted.wait(10)
    call.end()
    assert [record.levelname for record in log.records] == ["ERROR"]
    assert "RequestTimeout is raised in its thread (settings: timeout, timeout_for)" in log.text
    assert "in here_it_hangs\n" in log.text
    watchdog.look()
    assert len(log.lines) == 1


@pytest.mark.parametrize(("threads", "live"), [(1, 0), (2, 1)])
def test_after_the_grace_a_call_is_stuck_and_so_is_the_worker(threads: int, live: int) -> None:
    slot, log = slot_of(threads), Records()
    told: list[RequestInProgress] = []
    call = Call(slot.records[0], age=30.0, left=-0.001, deaf=True)
    with running(watchdog_of(slot, log, told.append)):
        eventually(lambda: told)
        eventually(lambda: slot.words[LIVE] == live)
        assert (slot.words[STATE], slot.words[READY]) == (STUCK, 0)
        assert call.interrupted.is_set()
        call.end()
        eventually(lambda: slot.words[LIVE] == 1)
    assert [request.request_id for request in told] == ["id-1"]
    assert [record.levelname for record in log.records] == ["ERROR", "CRITICAL"]
    # It is for the supervisor to end it, whatever the call does then.
    assert (slot.words[STATE], slot.words[READY]) == (STUCK, 0)
    text = log.lines[1]
    assert "is stuck: it goes on 0.1 s after RequestTimeout was raised" in text
    assert "thread MainThread\n" in text
    assert re.search(r"\nthread penstock-1: GET /a\?b=\\x1b1 \(request id-1, ", text)
    assert "thread penstock-deadlines\n" in text


def test_each_stuck_call_is_logged_but_the_first_alone_is_told() -> None:
    slot, log = slot_of(2), Records()
    told: list[RequestInProgress] = []
    calls = [Call(record, age=30.0, left=-0.001, deaf=True) for record in slot.records]
    with running(watchdog_of(slot, log, told.append)):
        eventually(lambda: [r.levelname for r in log.records].count("CRITICAL") == 2)
        eventually(lambda: slot.words[LIVE] == 0)
    for call in calls:
        call.end()
    assert len(told) == 1


def test_without_a_supervisor_a_worker_is_ready_again_when_stuck_calls_are_over() -> None:
    slot, log = slot_of(), Records()
    call = Call(slot.records[0], age=30.0, left=-0.001, deaf=True)
    with running(watchdog_of(slot, log)):
        eventually(lambda: slot.words[STATE] == STUCK)
        call.end()
        eventually(lambda: slot.words[STATE] == SERVING)
        assert (slot.words[READY], slot.words[LIVE]) == (1, 1)
    assert "no thread is stuck any more" in log.text


def test_a_thread_in_code_that_takes_locks_is_waited_for_but_not_for_ever() -> None:
    slot, log = slot_of(), Records()
    over = threading.Event()

    def run() -> None:
        slot.records[0].words[THREAD] = threading.get_ident()
        begin(slot.records[0], 1, age=30.0, left=-0.001)
        try:
            over.wait(10)  # the innermost frame is the threading module's
        except RequestTimeout:
            pass

    thread = threading.Thread(target=run)
    thread.start()
    eventually(lambda: slot.records[0].words[NUMBER])
    watchdog = watchdog_of(slot, log, grace=2.0)
    eventually(lambda: watchdog.look() != DELICATE_LOOK_SECONDS)
    assert slot.records[0].words[INTERRUPTED] == 1
    assert time.monotonic_ns() - slot.records[0].words[3] > 0.2e9
    over.set()
    thread.join(10)


def test_time_in_which_the_process_did_not_run_is_not_the_calls() -> None:
    slot, log = slot_of(), Records()
    watchdog = watchdog_of(slot, log, shortest=30.0)
    watchdog.look()
    watchdog._due -= 15.0  # so long ago was the next look to be, and nothing has run since
    begin(slot.records[0], 1, age=20.0, left=-4.0)
    watchdog.look()
    assert log.lines == []
    begin(slot.records[0], 2, age=20.0, left=10.0)
    watchdog.look()
    assert "has used half" in log.text


def test_a_failure_in_a_look_does_not_end_the_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    slot, log = slot_of(), Records()
    watchdog = watchdog_of(slot, log, shortest=0.1)
    monkeypatch.setattr(slot, "records", None)
    with running(watchdog):
        eventually(lambda: "met an internal error and goes on" in log.text)
        before = slot.words[BEAT]
        eventually(lambda: slot.words[BEAT] > before)


@pytest.fixture
def many_switches() -> Iterator[None]:
    """Have threads take turns as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def test_what_was_settled_is_neither_pending_nor_looked_for() -> None:
    slot = slot_of()
    watchdog = watchdog_of(slot, Records())
    watchdog.settle()
    seen: list[str] = []

    def trace(frame: FrameType, event: str, argument: object) -> None:
        seen.append(event)

    def traced() -> None:
        pass

    # CPython 3.11 never gets past the first step of a function that is traced while it looks.
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        traced()
    finally:
        sys.settrace(before)
    assert "call" in seen


def test_an_interruption_hits_its_own_call_and_nothing_else(many_switches: None) -> None:
    slot, log = slot_of(), Records()
    watchdog = watchdog_of(slot, log, grace=1000.0)
    record = slot.records[0]
    outside: list[int] = []
    hit = 0
    over = threading.Event()

    def look_all_the_time() -> None:
        while not over.is_set():
            watchdog.look()

    def leave(number: int) -> None:
        # What a transport does first of all.
        record.words[NUMBER] = 0
        while record.words[INTERRUPTED] == number:
            try:
                watchdog.settle()
                return
            except RequestTimeout:
                continue

    thread = threading.Thread(target=look_all_the_time)
    record.words[THREAD] = threading.get_ident()
    thread.start()
    generator = random.Random(7)
    end = time.monotonic() + 1.0
    number = 0
    # Longer where the machine lets the two threads meet seldom.
    while time.monotonic() < end or (not hit and time.monotonic() < end + DEADLINE):
        number += 1
        steps = generator.randrange(300)
        raised = False
        try:
            begin(record, number, left=0.00002)
            for _ in range(steps):
                pass
        except RequestTimeout:
            raised = True
        while True:
            try:
                leave(number)
                break
            except RequestTimeout:
                raised = True
        hit += raised
        try:
            for _ in range(30):  # the server's own code
                pass
        except RequestTimeout:
            outside.append(number)
    over.set()
    thread.join(10)
    assert outside == []
    assert hit > 0
