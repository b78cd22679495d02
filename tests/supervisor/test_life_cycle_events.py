"""The events that the supervisor keeps for the dashboard: each is counted, bounded and numbered."""

from __future__ import annotations

import base64
import json
import time
import zlib
from array import array
from collections.abc import Iterator

import pytest

from penstock.control.commands import EVENT_KINDS
from penstock.supervisor.history import NAMES, ROWS, History, row_of
from penstock.supervisor.status import MOST_EVENTS, MOST_OF_EVENT, Counters
from penstock.system.crash_site import CrashSite
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


def test_a_new_supervisor_keeps_the_rows_of_the_one_before_before_its_own() -> None:
    old, new = (History(FakeSupervisor().figures) for _ in range(2))
    for number in range(ROWS):
        old.tick(number * 10.0)
    new.tick(1e6)
    own, before = new.since(0)["rows"], old.since(0)["rows"]
    assert isinstance(own, list)
    assert isinstance(before, list)
    sent = json.loads(json.dumps(old.hand_over()))
    new.take_over(sent)
    assert new.since(0)["rows"] == [*before[1:], *own]


def test_rows_of_a_version_that_lacks_a_number_or_counts_otherwise_are_left_out() -> None:
    old, new = (History(FakeSupervisor().figures) for _ in range(2))
    old.tick(0.0)
    sent = old.hand_over()
    new.take_over(sent | {"names": ["another", *sent["names"][1:]]})
    new.take_over(sent | {"bounds": [1.0]})
    assert new.since(0)["rows"] == []


def test_rows_of_another_version_are_taken_over_by_the_names_of_their_numbers() -> None:
    old, new = (History(FakeSupervisor().figures) for _ in range(2))
    old.tick(0.0)
    sent = old.hand_over()
    rows = old.since(0)["rows"]
    assert isinstance(rows, list)
    values = array("d", [7.0, *reversed(rows[0])])
    packed = base64.b64encode(zlib.compress(values.tobytes())).decode()
    new.take_over(sent | {"names": ["another", *reversed(sent["names"])], "rows": packed})
    assert new.since(0)["rows"] == rows


def test_a_new_supervisor_keeps_events_and_places_of_crashes_once_in_the_order_of_time(
    workers: Workers,
) -> None:
    worker, old, new = workers.add(7), Counters(), Counters()
    site = CrashSite(frames=("f (app.py:1)",), likely=("_foo",), modules=("_foo",))
    old.note("start", "the server starts")
    old.add_crash("SIGSEGV", worker)
    old.last_reload = {"at": 1.8e9, "message": "reloaded", "done": True}
    old.add_crash_site("SIGSEGV", worker, site)
    sent = json.loads(json.dumps(old.hand_over()))
    for row in (*sent["events"], *sent["crashes"]):
        row[0 if isinstance(row, list) else "at"] -= 60.0
    new.note("upgrade", "this supervisor replaces another one")
    new.take_over(sent)
    # Once more at its end, with what its last workers did.
    late = {"at": time.time() + 60, "worker": 2, "reason": "SIGBUS"}
    late |= {"frames": [], "likely": [], "modules": []}
    sent["crashes"].append(late)
    sent["crashes"].append({"at": 1.0})  # of another version
    new.take_over(sent)
    assert [event["kind"] for event in new.events] == ["start", "crash", "upgrade"]
    assert sorted(event["number"] for event in new.events) == [1, 2, 3]
    assert [row["reason"] for row in new.last_crashes] == ["SIGSEGV", "SIGBUS"]
    assert new.last_reload == old.last_reload


def test_a_new_supervisor_keeps_its_own_event_before_the_oldest_of_the_one_before() -> None:
    old, new = Counters(), Counters()
    for number in range(MOST_EVENTS):
        old.note("recycle", str(number))
    new.note("upgrade", "this supervisor replaces another one")
    new.take_over(old.hand_over())
    assert len(new.events) == MOST_EVENTS
    assert new.events[-1]["kind"] == "upgrade"


def test_the_times_of_the_history_are_those_of_requests_without_websockets() -> None:
    figures = FakeSupervisor().figures()
    of = {status: series_number("GET", status, "HTTP/1.1") for status in ("101", "200")}
    figures["series"] = {of["101"]: [7] * SERIES_WORDS, of["200"]: [2] * SERIES_WORDS}
    row = dict(zip(NAMES, row_of(figures), strict=True))
    assert [row[f"{name}.14"] for name in TIMES] == [2] * len(TIMES)
    figures["series"] = {of["101"]: [7] * SERIES_WORDS}
    assert dict(zip(NAMES, row_of(figures), strict=True))["application.14"] == 0
