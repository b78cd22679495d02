"""The title of a worker: its load, at most once a second, and no longer than there is room."""

from __future__ import annotations

import subprocess
import sys

import pytest

from penstock.telemetry.scoreboard import STARTED, Scoreboard, Slot
from penstock.worker.load_title import LoadTitle


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def slot() -> Slot:
    made = Scoreboard(2, 4).take()
    assert made is not None
    return made


def begin(slot: Slot, record: int) -> None:
    slot.records[record].begin(1, 1, 0, "GET", b"", "id", "/")


def test_it_has_the_calls_and_the_rate_of_the_last_second(slot: Slot) -> None:
    clock, written = Clock(), list[str]()
    title = LoadTitle("penstock: worker 3 [shop]", slot, written.append, clock)
    title.update()
    begin(slot, 0)
    begin(slot, 2)
    slot.words[STARTED] = 620
    clock.now += 2.0
    title.update()
    slot.records[0].end()
    clock.now += 1.0
    title.update()
    slot.words[STARTED] = 2620
    clock.now += 1.0
    title.update()
    assert written == [
        "penstock: worker 3 [shop] [0/4 busy, 0/s]",
        "penstock: worker 3 [shop] [2/4 busy, 310/s]",
        "penstock: worker 3 [shop] [1/4 busy, 0/s]",
        "penstock: worker 3 [shop] [1/4 busy, 2,000/s]",
    ]


def test_it_is_written_once_a_second_at_most_and_only_where_it_changes(slot: Slot) -> None:
    clock, written = Clock(), list[str]()
    title = LoadTitle("w", slot, written.append, clock)
    title.update()
    begin(slot, 0)
    clock.now += 0.9
    title.update()
    assert len(written) == 1
    clock.now += 0.1
    title.update()
    for _ in range(10):
        clock.now += 1.0
        title.update()
    assert written == ["w [0/4 busy, 0/s]", "w [1/4 busy, 0/s]"]


WRITES = """
import os, sys
sys.modules["setproctitle"] = None  # as where it is not installed
from penstock.system.titles import title_writer
write = title_writer()
before = dict(os.environ)
for title in ("penstock: worker 1", "x" * 10_000, "penstock: \\xe9", "short"):
    write(title)
    print(open("/proc/self/cmdline", "rb").read().rstrip(b"\\0")[:80].decode(errors="replace"))
write("end")
print(open("/proc/self/environ").read() .count("MARK=1"), os.popen("echo $MARK").read().strip())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the arguments are written over on Linux")
def test_without_setproctitle_the_title_takes_the_place_of_the_arguments() -> None:
    arguments = ["-c", WRITES, "a" * 60]
    run = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={"MARK": "1", "PATH": "/usr/bin:/bin"},
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == [
        "penstock: worker 1",
        "x" * 80,
        "penstock: \xe9",
        "short",
        "1 1",
    ]
