"""What an operator sees of the processes: their names in ps, their numbers, and what is left."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from support.invariant import eventually
from support.lifecycle import Supervised, json_of, parent_of, write_app

LEAVING = """
import os, subprocess, sys, time
children = []
def start(environ, start_response):
    if environ["PATH_INFO"] == "/children":
        children.append(subprocess.Popen(["sleep", "600"]).pid)
        pid = os.fork()
        if pid == 0:
            time.sleep(600)
        children.append(pid)
        ended = os.fork()
        if ended == 0:
            os._exit(0)
    start_response("200 OK", [])
    return [" ".join(map(str, children)).encode()]
app = start
"""


def name_of(pid: int) -> str:
    """Return the name that ps and top show for a process."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def end(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def test_ps_tells_the_processes_apart_and_one_number_names_a_worker(
    tmp_path: Path, transport: str
) -> None:
    control = str(tmp_path / "control")
    arguments = ("--control", control, "--preload", "-w", "2", "--transport", transport)
    with Supervised(tmp_path, *arguments) as server:
        server.wait_for_serving(2)
        names = {pid: name_of(pid) for pid in server.members()}
        assert sorted(names.values()) == [
            "penstock",
            "penstock-loader",
            "penstock-w1",
            "penstock-w2",
        ]
        assert names[server.supervisor] == "penstock"
        rows = json_of(server.control("--control", control, "--json", "workers"))["workers"]
        assert {(f"penstock-w{row['worker']}", row["pid"]) for row in rows} == {
            (name, pid) for pid, name in names.items() if "-w" in name
        }
        numbered = ", ".join(f"{row['worker']} (pid {row['pid']})" for row in rows)
        line = f"supervisor {server.supervisor}, workers: {numbered}"
        assert line in "\n".join(server.lines_so_far())
        answer = server.control("--control", control, "recycle", "1")
        assert re.fullmatch(r"worker 1 \(pid \d+\) was replaced by worker 3 \(pid \d+\)\n",
                            answer.stdout)  # fmt: skip
        shown = server.control("--control", control, "stacks", "3").stdout
        assert re.match(r"worker 3 \(pid \d+\)\n", shown)
        assert server.control("--control", control, "recycle", "1").returncode == 1
        assert server.stop() == 0


@pytest.mark.parametrize("killed", [False, True])
def test_processes_that_a_worker_leaves_behind_are_logged(
    tmp_path: Path, transport: str, killed: bool
) -> None:
    """Those that run on, not those that have ended; also where the supervisor kills the worker."""
    (tmp_path / "shop.py").write_text(LEAVING)
    arguments = ("--graceful-timeout", "2") if killed else ()
    with Supervised(tmp_path, "--transport", transport, *arguments) as server:
        (worker,) = server.workers()
        sleeper, forked = map(int, server.ask("/children").body.split())
        try:
            assert eventually(lambda: name_of(sleeper) == "sleep")
            assert eventually(lambda: name_of(forked) == "penstock-w1-f")
            if killed:
                os.kill(worker, signal.SIGSTOP)  # it cannot leave in time
            server.signal(signal.SIGHUP)
            line = server.wait_for_line(r"PEN-7023 .*", within=30)
            assert f"worker 1 (pid {worker}) leaves processes behind: " in line
            assert f"{sleeper} (sleep: sleep 600)" in line
            assert f"{forked} (penstock-w1-f: " in line
            assert line.count(" (") == 3, line  # no process that has ended
        finally:
            end(sleeper)
            end(forked)
        assert server.stop() == 0


def test_what_python_itself_starts_and_ends_is_not_left_behind(tmp_path: Path) -> None:
    tracked = """
from multiprocessing import shared_memory
memory = shared_memory.SharedMemory(create=True, size=100)
memory.unlink()
"""
    write_app(tmp_path, "one", tracked)
    with Supervised(tmp_path) as server:
        worker = server.served_by()[1]
        tracker = [pid for pid in server.members() if parent_of(pid) == worker]
        assert "resource_tracker" in Path(f"/proc/{tracker[0]}/cmdline").read_text()
        assert server.stop() == 0
    assert "leaves processes behind" not in "\n".join(server.lines)
