"""Histograms in shared memory: which series, which bucket, and what a reader sees."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from penstock.telemetry.histograms import (
    BOUNDS,
    SUM,
    TIMES,
    Labels,
    LockWaits,
    RequestHistograms,
    histogram,
    histograms_of,
    read_series,
    read_statuses,
    series_labels,
    series_number,
    sum_of_series,
)
from penstock.telemetry.scoreboard import LOCK_WAITS, SERIES, Scoreboard, Slot


@dataclass
class Sent:
    """A request, as far as it is counted, with its exchange. Times in seconds."""

    method: str
    status: str
    version: str = "HTTP/1.1"
    began: float = 1000.0
    first_byte_at: float | None = None
    answered_after: int = 1
    plain: bool = True
    client_wait: float = 0.0
    queue_time: float = 0.0

    @property
    def request(self) -> Sent:
        return self


@pytest.fixture
def slot() -> Slot:
    taken = Scoreboard(2, 1).take()
    assert taken is not None
    return taken


def test_each_series_has_its_labels_and_its_number() -> None:
    labels = [series_labels(number) for number in range(SERIES)]
    assert [series_number(*of) for of in labels] == list(range(SERIES))
    assert len(set(labels)) == SERIES


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("GET", "200 OK", "HTTP/1.1"), ("GET", "2xx", "HTTP/1.1")),
        (("BREW", "418", "HTTP/1.0"), ("other", "4xx", "HTTP/1.0")),
        (("get", "999", "-"), ("other", "5xx", "other")),
        (("-", "100", "HTTP/1.1"), ("other", "1xx", "HTTP/1.1")),
        (("PUT", "000", "HTTP/2"), ("PUT", "1xx", "other")),
    ],
)
def test_methods_and_protocols_that_are_not_known_are_other(
    given: tuple[str, str, str], expected: tuple[str, str, str]
) -> None:
    assert series_labels(series_number(*given)) == Labels(*expected)


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [(0.0, 0), (0.005, 0), (0.0051, 1), (0.01, 1), (0.3, 7), (10.0, 13), (10.01, 14), (1e6, 14)],
)
def test_a_time_is_counted_in_the_bucket_whose_bound_it_does_not_pass(
    slot: Slot, seconds: float, bucket: int
) -> None:
    counted = RequestHistograms(slot)
    began = 0.0
    sent = Sent(
        "GET",
        "200 OK",
        began=began,
        first_byte_at=seconds,
        answered_after=round(seconds * 1e9) or 1,
        plain=False,
        queue_time=seconds,
    )
    counted.add(sent, seconds)
    counted.publish()
    [words] = read_series(slot).values()
    for name in TIMES[:-1]:
        found = histograms_of(words)[name]
        assert [index for index, n in enumerate(found.counts) if n] == [bucket]
        assert found.seconds == pytest.approx(seconds, abs=2e-9)  # of whole nanoseconds
    assert len(found.counts) == len(BOUNDS) + 1


def test_a_request_without_a_time_is_not_in_its_histogram(slot: Slot) -> None:
    counted = RequestHistograms(slot)
    counted.add_refused("GET", 408, "HTTP/1.1", 0.5)
    counted.add_refused("GET", 499, "HTTP/1.1", 0.5)
    counted.add(Sent("GET", "", answered_after=0, plain=False), 1000.5)
    counted.publish()
    [words] = read_series(slot).values()
    counts = {name: sum(found.counts) for name, found in histograms_of(words).items()}
    assert counts.pop("duration") == 3
    assert counts.pop("first_byte") == 1
    assert set(counts.values()) == {0}
    assert read_statuses(slot) == {408: 1, 499: 2}


def test_a_response_that_is_sent_at_once_has_its_first_byte_with_its_end(slot: Slot) -> None:
    counted = RequestHistograms(slot)
    for _ in range(3):
        counted.add(Sent("GET", "204 No Content", answered_after=20_000_000), 1000.04)
    counted.publish()
    [words] = read_series(slot).values()
    found = histograms_of(words)
    assert found["duration"] == found["first_byte"]
    assert found["duration"].counts[3] == 3
    assert found["application"].counts[2] == 3
    assert found["queue"].counts[0] == 3
    assert read_statuses(slot) == {204: 3}


def test_two_threads_that_wait_for_the_client_at_a_time_leave_no_time_below_0(slot: Slot) -> None:
    counted = RequestHistograms(slot)
    counted.add(Sent("GET", "200 OK", answered_after=10**9, client_wait=1.8), 1001.0)
    counted.publish()
    [words] = read_series(slot).values()
    application = histograms_of(words)["application"]
    assert (application.counts[0], application.seconds) == (1, 0.0)


def test_what_is_published_again_is_not_counted_twice(slot: Slot) -> None:
    counted = RequestHistograms(slot)
    for _ in range(3):
        counted.add(Sent("POST", "500 Failed", "HTTP/1.0"), 1000.1)
        counted.publish()
    counted.publish()
    [(number, words)] = read_series(slot).items()
    assert series_labels(number) == ("POST", "5xx", "HTTP/1.0")
    assert sum(words[:SUM]) == 3


def test_a_request_that_is_added_while_another_thread_publishes_is_not_lost(slot: Slot) -> None:
    counted = RequestHistograms(slot)

    class Switching(float):
        """A number after which another thread runs, as after any call."""

        def __mul__(self, other: float) -> float:
            counted.publish()
            return float(self) * other

    waited = Switching(0.001)
    counted.add(
        Sent("GET", "200 OK", plain=False, answered_after=9_000_000, client_wait=waited), 1000.1
    )
    counted.publish()
    [words] = read_series(slot).values()
    found = histograms_of(words)
    assert [sum(found[name].counts) for name in TIMES[:-1]] == [1, 1, 1, 1]


def test_a_wait_is_counted_once_where_another_thread_publishes_before_it(slot: Slot) -> None:
    counted = RequestHistograms(slot)

    class Switching(float):
        """A number at which another thread runs."""

        def __bool__(self) -> bool:
            counted.publish()
            return True

    counted.add(Sent("GET", "200 OK", plain=False, queue_time=Switching(0.02)), 1000.1)
    counted.publish()
    [words] = read_series(slot).values()
    assert sum(histograms_of(words)["queue"].counts) == 1


def test_a_wait_is_counted_once_where_another_thread_publishes_behind_it(slot: Slot) -> None:
    counted = RequestHistograms(slot)
    counted.add(Sent("GET", "200 OK", plain=False, queue_time=0.02), 1000.1)
    [finished] = counted.finished.values()
    finished.applications, later = [], finished.applications
    counted.publish()
    finished.applications = later
    counted.publish()
    [words] = read_series(slot).values()
    assert sum(histograms_of(words)["queue"].counts) == 1


def test_methods_that_clients_make_up_take_no_memory(slot: Slot) -> None:
    counted = RequestHistograms(slot)
    for number in range(100):
        counted.add(Sent(f"M{number}", "400 Bad", f"HTTP/1.{number}"), 1000.0)
    for number in range(2000):
        counted.add(Sent("GET", f"404 Reason {number}"), 1000.0)
    assert len(counted.finished) <= 1010
    counted.publish()
    assert read_statuses(slot) == {400: 100, 404: 2000}


def test_the_next_worker_of_a_slot_begins_at_0() -> None:
    scoreboard = Scoreboard(1, 1)
    slot = scoreboard.take()
    assert slot is not None
    counted = RequestHistograms(slot)
    counted.add(Sent("OPTIONS", "200 OK", "-"), 1000.1)
    counted.publish()
    LockWaits(slot).add(0.2)
    scoreboard.give_back(slot)
    assert read_series(slot) == {}
    assert not any(slot.series)
    assert not any(slot.statuses)
    assert not any(slot.words[LOCK_WAITS : LOCK_WAITS + SUM + 1])


def test_series_of_several_workers_are_added_word_by_word() -> None:
    assert sum_of_series([]) == {}
    assert sum_of_series([{1: [1, 2], 2: [3, 4]}, {}, {2: [10, 20]}]) == {1: [1, 2], 2: [13, 24]}


def test_waits_for_the_interpreter_lock_have_the_same_buckets(slot: Slot) -> None:
    waits = LockWaits(slot)
    for seconds in (0.0, 0.004, 0.02, 20.0):
        waits.add(seconds)
    found = histogram(slot.words[LOCK_WAITS : LOCK_WAITS + SUM + 1].tolist())
    assert found.counts == [2, 0, 1, *[0] * 11, 1]
    assert found.seconds == pytest.approx(20.024)
