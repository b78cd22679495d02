from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time

import pytest

from harness import processes

pytestmark = pytest.mark.skipif(not processes.PROC.joinpath("stat").exists(), reason="no /proc")

SPIN = "import time\nwhile time.process_time() < 0.2: pass\nprint(flush=True)\ninput()"


def test_processor_time_counts_that_of_children() -> None:
    # A parent that waits for a child that spins.
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SPIN!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        parent.stdout.readline()
        assert len(processes.tree(parent.pid)) == 2
        assert processes.cpu_seconds(parent.pid) >= 0.15
        assert processes.thread_count(parent.pid) == 2
        parent.stdin.write(b"\n")
        parent.stdin.close()


def test_resident_memory_grows_with_what_is_touched() -> None:
    before = processes.resident_kib(os.getpid())
    with mmap.mmap(-1, 4 << 20) as block:  # not of the heap, which may have it already
        block.write(os.urandom(4 << 20))
        assert processes.resident_kib(os.getpid()) - before > 3 << 10


def test_a_process_that_has_ended_counts_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert processes.cpu_seconds(process.pid) == 0.0
    assert processes.resident_kib(process.pid) == 0


def test_a_core_is_busy_while_a_program_runs() -> None:
    cores = os.sched_getaffinity(0)
    before = sum(map(processes.core_seconds, cores))
    end = time.process_time() + 0.1
    while time.process_time() < end:
        pass
    assert sum(map(processes.core_seconds, cores)) - before >= 0.05
