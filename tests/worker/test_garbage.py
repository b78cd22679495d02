"""When the garbage collector runs, by the setting gc, and what is counted of it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest

from penstock.config.options import Thresholds
from penstock.config.settings import OPTIONS
from penstock.telemetry.scoreboard import (
    GC_NANOSECONDS,
    GC_PASSES,
    POLLED,
    THREAD,
    Scoreboard,
    Slot,
)
from penstock.worker.garbage import FULL_SECONDS, MOST_PUT_OFF, Collections
from support.serving import Gate, connect, eventually, get
from support.transports import serving


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    """Put the collector of this process back as it was."""
    enabled, thresholds, callbacks = gc.isenabled(), gc.get_threshold(), list(gc.callbacks)
    yield
    gc.callbacks[:] = callbacks
    gc.set_threshold(*thresholds)
    (gc.enable if enabled else gc.disable)()


def slot_of() -> Slot:
    slot = Scoreboard(1, 2).take()
    assert slot is not None
    return slot


def passes(slot: Slot) -> list[int]:
    return list(slot.words[GC_PASSES : GC_PASSES + 3])


def allocate(count: int) -> list[list[object]]:
    return [[] for _ in range(count)]


def test_off_switches_it_off() -> None:
    assert not Collections("off", slot_of()).collects_when_idle
    assert not gc.isenabled()


def test_numbers_are_its_thresholds() -> None:
    collections = Collections(Thresholds((123, 45, 6)), slot_of())
    assert gc.get_threshold()[:2] == (123, 45)
    assert gc.isenabled()
    assert not collections.collects_when_idle


@pytest.mark.parametrize("generation", [0, 1, 2])
def test_each_pass_is_counted_with_its_time(generation: int) -> None:
    slot = slot_of()
    Collections(Thresholds((1_000_000,)), slot)
    gc.collect(generation)
    assert passes(slot) == [int(number == generation) for number in range(3)]
    assert slot.words[GC_NANOSECONDS + generation] > 0


def test_idle_puts_passes_off_up_to_a_bound() -> None:
    slot = slot_of()
    gc.collect()
    Collections("idle", slot)
    kept = allocate(MOST_PUT_OFF // 2)
    assert sum(passes(slot)) == 0
    kept += allocate(MOST_PUT_OFF)
    assert sum(passes(slot)) == 1


def test_a_pass_runs_when_nothing_is_to_be_done_and_enough_was_allocated() -> None:
    slot = slot_of()
    collections = Collections("idle", slot)
    gc.collect()
    before = passes(slot)
    collections.when_idle()
    assert passes(slot) == before
    kept = allocate(5000)
    collections.when_idle()
    assert passes(slot) == [before[0] + 1, *before[1:]]
    collections.when_idle()
    assert passes(slot) == [before[0] + 1, *before[1:]]
    del kept


def test_no_pass_runs_while_the_application_has_a_request() -> None:
    slot = slot_of()
    collections = Collections("idle", slot)
    gc.collect()
    before = passes(slot)
    record = slot.records[0]
    record.words[THREAD] = 5
    record.begin(1, 1, 0, "GET", b"", "id", "/")
    kept = allocate(5000)
    collections.when_idle()
    assert passes(slot) == before
    record.end()
    collections.when_idle()
    assert passes(slot) != before
    del kept


def test_older_generations_have_their_turns_and_a_full_pass_is_rare(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    counts = (5000, 0, 0)
    collected: list[int] = []
    slot = slot_of()
    collections = Collections("idle", slot, lambda: now)
    monkeypatch.setattr("gc.get_count", lambda: counts)
    monkeypatch.setattr("gc.collect", collected.append)
    collections.when_idle()
    counts = (5000, 10, 0)
    collections.when_idle()
    counts = (5000, 10, 10)
    collections.when_idle()
    assert collected == [0, 1, 1]
    now += FULL_SECONDS
    collections.when_idle()
    collections.when_idle()
    assert collected == [0, 1, 1, 2, 1]
    now += FULL_SECONDS
    counts = (10, 10, 10)  # nothing was allocated: nothing is due, however long it has been
    collections.when_idle()
    assert len(collected) == 5


def test_a_transport_calls_before_it_waits(transport: str) -> None:
    gate = Gate()
    inside: list[int] = []

    def when_idle() -> None:
        inside.append(gate.inside)

    with serving(gate, transport, when_idle=when_idle) as server, connect(server) as client:
        eventually(lambda: inside)
        before = len(inside)
        client.send(get("/a"))
        assert client.read_response().status == 200
        eventually(lambda: len(inside) > before)
    assert 0 in inside


def test_a_thread_that_comes_back_calls_it_also_where_another_waits_already(
    transport: str,
) -> None:
    gate = Gate()
    calls: list[int] = []

    def when_idle() -> None:
        calls.append(gate.inside)

    config: dict[str, Any] = {"when_idle": when_idle}
    with serving(gate, transport, threads=2, **config) as server, connect(server) as client:
        client.send(get("/wait"))
        eventually(lambda: gate.inside == 1)
        eventually(lambda: server.word(POLLED) == 1)  # the other thread waits for clients
        calls.clear()
        gate.open()
        assert client.read_response().status == 200
        eventually(lambda: 0 in calls)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("default", "default"),
        ("IDLE", "idle"),
        ("off", "off"),
        ("700", "700"),
        (5000, "5000"),
        ("700, 10,10", "700,10,10"),
        ("700,10,0", "700,10,0"),
    ],
)
def test_the_setting_is_a_word_or_thresholds(given: object, shown: str) -> None:
    assert OPTIONS["gc"].show(OPTIONS["gc"].kind.convert(given)) == shown


@pytest.mark.parametrize("given", ["0", "-1", "1,2,3,4", "a", "", "700,", "1.5", True])
def test_anything_else_is_refused(given: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        OPTIONS["gc"].kind.convert(given)
