"""The events that the supervisor keeps for the dashboard: each is counted, bounded and numbered."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from penstock.control.commands import EVENT_KINDS
from penstock.supervisor.history import NAMES, ROWS, History, row_of
from penstock.supervisor.status import MOST_EVENTS, MOST_OF_EVENT, Counters
from penstock.telemetry.histograms import TIMES, series_number
from penstock.telemetry.scoreboard import SERIES_WORDS
from support.control_loop import FakeSupervisor
from support.workers import Workers


@pytest.fixture
def workers() -> Iterator[Workers]:
    workers = Workers()
    yield workers
    workers.close()


def test_what_is_counted_is_an_event_that_names_the_worker_and_the_reason(workers: Workers) -> None:
    worker, counters = workers.add(7), Counters()
    counters.add_recycled("max_age", worker)
    counters.add_ended(worker, "SIGSEGV")
    counters.add_ended(worker, "")  # as ordered: no event
    counters.note_reload(True, "reloaded: generation 2 serves")
    counters.note_reload(False, "not reloaded")
    assert [(event["number"], event["kind"], event["text"]) for event in counters.events] == [
        (1, "recycle", "worker 1 (pid 7): max_age"),
        (2, "crash", "worker 1 (pid 7): SIGSEGV"),
        (3, "reload", "reloaded: generation 2 serves"),
        (4, "reload failed", "not reloaded"),
    ]
    assert {event["kind"] for event in counters.events} <= {*EVENT_KINDS}
    assert counters.recycled == {"max_age": 1}
    assert counters.crashes == {"SIGSEGV": 1}


def test_the_last_ones_are_kept_and_their_texts_are_short() -> None:
    counters = Counters()
    for number in range(MOST_EVENTS + 5):
        counters.note("crash", f"{number} " + "x" * 10_000)
    assert len(counters.events) == MOST_EVENTS
    assert counters.events[0]["number"] == 6
    assert {len(event["text"]) for event in counters.events} == {MOST_OF_EVENT}


def test_the_history_gives_the_oldest_rows_and_says_how_many_are_left_out() -> None:
    history = History(FakeSupervisor().figures)
    for number in range(ROWS + 2):
        history.tick(number * 10.0)
    whole = history.since(0)
    rows = whole["rows"]
    assert isinstance(rows, list)
    assert (len(rows), whole["more"]) == (ROWS, 0)
    part = history.since(0, 2)
    assert (part["rows"], part["more"]) == (rows[:2], ROWS - 2)
    assert history.since(rows[-1][0], 2)["rows"] == []
    assert len(row_of(FakeSupervisor().figures())) == len(NAMES)


def test_the_times_of_the_history_are_those_of_requests_without_websockets() -> None:
    figures = FakeSupervisor().figures()
    of = {status: series_number("GET", status, "HTTP/1.1") for status in ("101", "200")}
    figures["series"] = {of["101"]: [7] * SERIES_WORDS, of["200"]: [2] * SERIES_WORDS}
    row = dict(zip(NAMES, row_of(figures), strict=True))
    assert [row[f"{name}.14"] for name in TIMES] == [2, 2, 2, 2]
    figures["series"] = {of["101"]: [7] * SERIES_WORDS}
    assert dict(zip(NAMES, row_of(figures), strict=True))["application.14"] == 0
