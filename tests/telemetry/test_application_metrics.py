"""The slots of `prometheus_client`'s files: no two processes have one, and none is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from penstock.telemetry.application_metrics import remove_live_gauges, remove_old_files
from support.server_process import START_WITHIN, checkout_environ

HOLDER = """
import sys
from penstock.telemetry.application_metrics import Slot
slot = Slot(sys.argv[1])
slot.take()
print(slot.name(), flush=True)
sys.stdin.read()
"""

FORKING = """
import os, sys
from penstock.telemetry.application_metrics import Slot
slot = Slot(sys.argv[1])
slot.take()
names = []
for _ in range(3):
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.write(writer, slot.name().encode())
        os._exit(0)
    os.wait()
    names.append(os.read(reader, 100).decode())
print(slot.name(), *names)
"""

COUNTING = """
import sys
from penstock.telemetry.application_metrics import set_up
set_up(sys.argv[1])
from prometheus_client import Counter, Gauge
requests, live = Counter("requests", ""), Gauge("live", "", multiprocess_mode="livesum")
kept = Gauge("kept", "", multiprocess_mode="max")
print(int(requests._value.get()), int(live._value.get()), int(kept._value.get()))
requests.inc(), live.inc(), kept.inc()
"""


@contextmanager
def holder(directory: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A process that has a slot; its name comes with it."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(directory)],
        env=checkout_environ(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip(), process
        finally:
            process.kill()


def run(program: str, directory: Path) -> list[str]:
    """Run a program to its end; return the words that it has printed."""
    ran = subprocess.run(
        [sys.executable, "-c", program, str(directory)],
        env=checkout_environ() | {"PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        timeout=START_WITHIN,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.split()


def names_in(directory: Path, ending: str = ".db") -> set[str]:
    return {path.name for path in directory.iterdir() if path.name.endswith(ending)}


def test_each_process_has_a_slot_of_its_own_until_its_end_however_it_comes(tmp_path: Path) -> None:
    with holder(tmp_path) as (first, process), holder(tmp_path) as (second, _):
        assert (first, second) == ("slot-1", "slot-2")
        process.send_signal(signal.SIGKILL)
        process.wait(START_WITHIN)
        with holder(tmp_path) as (third, _):
            assert third == "slot-1"
    assert len(names_in(tmp_path, ".lock")) == 3


def test_a_forked_process_takes_the_same_slot_as_the_one_before_it(tmp_path: Path) -> None:
    """It neither writes its parent's files, nor takes its parent's slot away by ending."""
    assert run(FORKING, tmp_path) == ["slot-1", "slot-2", "slot-2", "slot-2"]


def test_a_later_process_counts_on_but_for_live_gauges(tmp_path: Path) -> None:
    assert run(COUNTING, tmp_path) == ["0", "0", "0"]
    files = names_in(tmp_path)
    assert files == {"counter_slot-1.db", "gauge_livesum_slot-1.db", "gauge_max_slot-1.db"}
    assert run(COUNTING, tmp_path) == ["1", "0", "1"]
    assert names_in(tmp_path) == files


def test_live_gauges_of_processes_that_have_ended_are_removed_and_no_others(
    tmp_path: Path,
) -> None:
    with holder(tmp_path) as (name, _):
        assert name == "slot-1"
        for file in ("gauge_liveall_slot-1", "gauge_liveall_slot-2", "gauge_all_slot-2"):
            (tmp_path / f"{file}.db").touch()
        (tmp_path / "counter_slot-2.db").touch()
        (tmp_path / "gauge_liveall_4711.db").touch()  # of a process whose end is not known
        remove_live_gauges(str(tmp_path))
    assert names_in(tmp_path) == {
        "gauge_liveall_slot-1.db",
        "gauge_all_slot-2.db",
        "counter_slot-2.db",
        "gauge_liveall_4711.db",
    }


def test_at_a_start_old_files_are_removed_but_nothing_else_and_nothing_elsewhere(
    tmp_path: Path,
) -> None:
    directory, outside = tmp_path / "metrics", tmp_path / "counter_9.db"
    directory.mkdir()
    outside.touch()
    kept = {"notes_1.db", "counter.db", "counter_1.dbx", "Counter_1.db", "counter_slot-1.db"}
    old = {"counter_4711.db", "histogram_12.db", "summary_slot-7.db", "gauge_livemax_slot-2.db"}
    with holder(directory) as (name, _):  # a server that still drains
        assert name == "slot-1"
        for file in kept | old:
            (directory / file).touch()
        (directory / "counter_5.db").symlink_to(outside)
        (directory / "gauge_all_5.db").mkdir()
        remove_old_files(str(directory))
        left = names_in(directory, "") - names_in(directory, ".lock")
        assert left == kept | {"gauge_all_5.db"}
    assert outside.exists()


def test_a_link_in_place_of_a_lock_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    directory = tmp_path / "metrics"
    directory.mkdir()
    (directory / "penstock-slots.lock").symlink_to(target)
    with pytest.raises(OSError, match="symbolic links"):
        remove_old_files(str(directory))
    assert not os.path.exists(target)
