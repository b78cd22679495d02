"""The observers of finished requests: each gets every request, and none can harm another."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

import pytest

from penstock.telemetry import observers as module
from penstock.telemetry.observers import Observers
from penstock.telemetry.request_finished import Needs, RequestFinished
from support.fake_exchange import Records
from support.requests_finished import request

DEADLINE = 30.0


class Recorder:
    """An observer that keeps what it gets."""

    line_format = None

    def __init__(self, needs: Needs | None = None) -> None:
        self.needs = needs or Needs()
        self.targets: list[str] = []
        self.lost = 0
        self.closed = threading.Event()
        self.came = threading.Semaphore(0)

    def requests_finished(self, batch: Sequence[RequestFinished], patience: float) -> None:
        for each in batch:
            self.targets.append(each.target)
            self.came.release()

    def requests_lost(self, count: int) -> None:
        self.lost += count

    def close(self) -> None:
        self.closed.set()


class Failing(Recorder):
    """An observer that raises whenever it is called."""

    def requests_finished(self, batch: Sequence[RequestFinished], patience: float) -> None:
        super().requests_finished(batch, patience)
        raise RuntimeError("no")


def test_each_observer_gets_each_request_in_order_and_is_closed() -> None:
    first, second = Recorder(), Recorder()
    observers = Observers([first, second])
    targets = [f"/{number}" for number in range(100)]
    for target in targets:
        observers.add(request(target))
    observers.close(DEADLINE)
    assert first.targets == second.targets == targets
    assert first.closed.is_set()
    assert second.closed.is_set()


def test_a_request_comes_without_another_one_and_without_a_close() -> None:
    recorder = Recorder()
    observers = Observers([recorder])
    for _ in range(2):
        observers.add(request())
        assert recorder.came.acquire(timeout=DEADLINE)
    observers.close(DEADLINE)


def test_the_needs_of_all_observers_are_met() -> None:
    one = Needs(frozenset({"a"}), frozenset({"x"}))
    other = Needs(frozenset({"b"}), frozenset({"x"}), frozenset({"V"}))
    observers = Observers([Recorder(one), Recorder(other)])
    assert observers.needs == Needs(frozenset("ab"), frozenset("x"), frozenset("V"))
    observers.close(DEADLINE)


def test_an_observer_that_fails_is_reported_once_and_costs_the_others_nothing() -> None:
    log = Records()
    failing, recorder = Failing(), Recorder()
    observers = Observers([failing, recorder], log.logger)
    for _ in range(2):
        observers.add(request())
        assert failing.came.acquire(timeout=DEADLINE)
        assert recorder.came.acquire(timeout=DEADLINE)
    observers.close(DEADLINE)
    assert [line.splitlines()[0] for line in log.lines] == [
        "PEN-5050 the observer Failing failed and missed finished requests"
    ]
    assert log.records[0].levelno == logging.ERROR


def test_requests_that_find_the_queue_full_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GATHER_SECONDS", 60.0)
    recorder = Recorder()
    observers = Observers([recorder], most=2)
    for _ in range(5):
        observers.add(request())
    observers.close(DEADLINE)
    assert (len(recorder.targets), recorder.lost, observers.lost) == (2, 3, 3)


class Source:
    """A queue of native code, with one request in it and three that were lost."""

    def __init__(self) -> None:
        self.items: list[object] = [request("/native")]
        self.lost = 3

    def take(self) -> tuple[list[object], int]:
        items, self.items = self.items, []
        lost, self.lost = self.lost, 0
        return items, lost

    def is_quiet(self) -> bool:
        return not self.items


def test_requests_of_native_code_come_in_batches_too() -> None:
    recorder = Recorder()
    observers = Observers([recorder])
    observers.take_from(Source())
    assert recorder.came.acquire(timeout=DEADLINE)
    observers.close(DEADLINE)
    assert (recorder.targets, recorder.lost, observers.lost) == (["/native"], 3, 3)
