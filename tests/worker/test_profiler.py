"""The profiler: which stacks it finds, under which names, and what bounds it."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from penstock.telemetry.scoreboard import THREAD, Scoreboard, Slot
from penstock.worker import profiler as module
from penstock.worker.profiler import CUT_OFF, OTHER_FRAMES, OTHER_REQUESTS, Profiler
from support.serving import eventually
from support.wire import DEADLINE

Profile = dict[str, Any]


def slot_of(threads: int = 2) -> Slot:
    slot = Scoreboard(1, threads).take()
    assert slot is not None
    return slot


def busy_here(started: threading.Event, over: threading.Event) -> None:
    started.set()
    over.wait(DEADLINE)


@contextmanager
def in_thread(
    name: str, work: Callable[[threading.Event, threading.Event], None] = busy_here
) -> Iterator[int]:
    """Have a thread wait in a function; yield its identity."""
    started, over = threading.Event(), threading.Event()
    thread = threading.Thread(target=work, args=(started, over), name=name)
    thread.start()
    assert started.wait(DEADLINE)
    assert thread.ident is not None
    yield thread.ident
    over.set()
    thread.join()


def begin(slot: Slot, index: int, ident: int, number: int, target: str) -> None:
    record = slot.records[index]
    record.words[THREAD] = ident
    record.begin(number, time.monotonic_ns(), 0, "GET", b"", "id", target)


def profiled(slot: Slot, *, seconds: float = 0.1, rate: int = 200, idle: bool = False) -> Profile:
    done: queue.SimpleQueue[Profile] = queue.SimpleQueue()
    profiler = Profiler(slot, seconds=seconds, rate=rate, idle=idle, done=done.put)
    profiler.start()
    profile = done.get(timeout=DEADLINE)
    eventually(lambda: profiler.is_over)
    assert profile["error"] == ""
    return profile


def named(profile: Profile) -> list[list[str]]:
    """Return the stacks with the names of their frames."""
    return [[profile["frames"][index] for index in stack] for _, stack in profile["stacks"]]


def test_a_request_is_the_outermost_frame_without_its_query() -> None:
    slot = slot_of()
    with in_thread("penstock-1") as ident:
        begin(slot, 0, ident, 1, "/report;a?secret=1")
        profile = profiled(slot)
    (stack,) = (stack for stack in named(profile) if stack[0].startswith("GET"))
    assert stack[0] == "GET /report,a?..."
    assert any(frame.startswith("busy_here (") and "test_profiler.py:" in frame for frame in stack)
    counts = {profile["frames"][stack[0]]: count for count, stack in profile["stacks"]}
    assert counts["GET /report,a?..."] == profile["samples"] > 0


def test_a_thread_of_the_servers_without_a_request_is_left_out_unless_wanted() -> None:
    slot = slot_of()
    with in_thread("penstock-1"), in_thread("the-applications-own"):
        roots = {stack[0] for stack in named(profiled(slot))}
        assert "(thread the-applications-own)" in roots
        assert not roots & {"(thread penstock-1)", "(thread MainThread)"}
        roots = {stack[0] for stack in named(profiled(slot, idle=True))}
    assert {"(thread penstock-1)", "(thread MainThread)", "(thread the-applications-own)"} <= roots
    assert "(thread penstock-profiler)" not in roots


def test_the_next_request_of_a_thread_has_its_own_name() -> None:
    slot = slot_of()
    done: queue.SimpleQueue[Profile] = queue.SimpleQueue()
    with in_thread("penstock-1") as ident:
        begin(slot, 0, ident, 1, "/first")
        profiler = Profiler(slot, seconds=DEADLINE, rate=500, idle=False, done=done.put)
        profiler.start()
        eventually(lambda: profiler._stacks)
        begin(slot, 0, ident, 2, "/second")
        before = len(profiler._stacks)
        eventually(lambda: len(profiler._stacks) > before)
        profiler.stop()
        profile = done.get(timeout=DEADLINE)
    assert {"GET /first", "GET /second"} <= {stack[0] for stack in named(profile)}
    assert profile["seconds"] < DEADLINE


def test_it_ends_at_its_time_and_samples_at_its_rate() -> None:
    profile = profiled(slot_of(), seconds=0.2, rate=50)
    assert 0.2 <= profile["seconds"] < DEADLINE
    assert 1 <= profile["samples"] <= 11
    assert profile["samples"] + profile["late"] >= 9
    assert 0 <= profile["cost"] < DEADLINE


def test_what_is_around_the_gateway_is_left_out() -> None:
    from penstock.listeners import open_listeners
    from support.serving import Gate, connect, get
    from support.transports import serving

    gate = Gate()
    (listener,) = open_listeners(["127.0.0.1:0"], 16)
    with serving(gate, "python", listener=listener) as server, connect(server) as client:
        client.send(get("/wait"))
        eventually(lambda: gate.inside == 1)
        profile = profiled(server.slot)
        gate.open()
        client.read_response()
    (stack,) = (stack for stack in named(profile) if stack[0] == "GET /wait")
    assert stack[1].startswith("Gateway.handle (")
    assert stack[2].startswith("Gate.__call__ (") or stack[3].startswith("Gate.__call__ (")


def test_a_call_by_native_code_begins_with_the_application() -> None:
    """It has no frame of the gateway, and the loop of the thread around it."""
    names: dict[str, Any] = {}
    loop = "class Worker:\n    def _serve_until_error(call): call()"
    exec(compile(loop, "/x/penstock/worker/worker.py", "exec"), names)
    slot = slot_of()
    with in_thread(
        "penstock-1",
        lambda started, over: names["Worker"]._serve_until_error(lambda: busy_here(started, over)),
    ) as ident:
        begin(slot, 0, ident, 1, "/")
        profile = profiled(slot)
    (stack,) = (stack for stack in named(profile) if stack[0] == "GET /")
    assert stack[1].split(" ")[0].endswith("<lambda>")
    assert not any("worker.py" in frame for frame in stack)


def deep(depth: int, started: threading.Event, over: threading.Event) -> None:
    if depth:
        deep(depth - 1, started, over)
    else:
        busy_here(started, over)


def test_of_a_deep_stack_the_innermost_frames_are_kept() -> None:
    slot = slot_of()
    with in_thread("penstock-1", lambda started, over: deep(400, started, over)) as ident:
        begin(slot, 0, ident, 1, "/")
        profile = profiled(slot)
    (stack,) = (stack for stack in named(profile) if stack[0] == "GET /")
    assert stack[1] == CUT_OFF
    assert len(stack) == module.MOST_DEPTH + 2
    assert "wait (" in stack[-1] or "busy_here (" in stack[-1]


def test_names_and_stacks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_FRAMES", 3)
    monkeypatch.setattr(module, "MOST_IN_STACKS", 4)
    monkeypatch.setattr(module, "MOST_REQUESTS", 1)
    slot = slot_of(3)
    with in_thread("penstock-1") as first, in_thread("penstock-2") as second:
        begin(slot, 0, first, 1, "/first")
        begin(slot, 1, second, 2, "/second")
        profile = profiled(slot)
    assert {OTHER_REQUESTS, OTHER_FRAMES} <= set(profile["frames"])
    assert len(profile["frames"]) <= 3 + 2
    assert all(len(stack) <= 4 for _, stack in profile["stacks"])
    assert sum(count for count, _ in profile["stacks"]) >= 2 * profile["samples"]


def test_a_long_name_is_cut_in_its_middle() -> None:
    slot = slot_of()
    with in_thread("penstock-1") as ident:
        begin(slot, 0, ident, 1, "/" + "\xe9" * 300)
        profile = profiled(slot)
    name = next(name for name in profile["frames"] if name.startswith("GET"))
    assert name.isascii()
    assert len(name) <= module.MOST_OF_NAME


def test_a_worker_imports_the_profiler_only_when_it_is_asked_for() -> None:
    import subprocess
    import sys

    code = (
        "import sys, penstock.worker.child, penstock.transport.python\n"
        "print([name for name in sys.modules if 'profil' in name or 'garbage' in name])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
