"""What a terminal, a script and a process manager send to all processes of a server at once."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import sys
import time
from pathlib import Path

import pytest

from support.invariant import eventually
from support.lifecycle import Supervised, write_app
from support.server_process import START_WITHIN, STOP_WITHIN, checkout_environ


class OnTerminal:
    """``penstock`` in the foreground of a terminal of its own, which `close` closes."""

    def __init__(self, folder: Path, *more: str) -> None:
        """Serve with some flags; without any, the error log is a file."""
        write_app(folder, "one")
        self._log = folder / "log"
        path = os.pathsep.join([os.path.join(os.path.dirname(__file__), ".."), *sys.path])
        environ = checkout_environ() | {"PYTHONPATH": path}
        arguments = ["-m", "penstock", "shop:app", "--bind", "127.0.0.1:0", *more]
        command = [sys.executable, *arguments]
        if not more:
            command += ["--error-logfile", str(self._log)]
        self.pid, self._master = pty.fork()
        if self.pid == 0:
            try:
                os.chdir(folder)
                os.execve(sys.executable, command, environ)
            finally:
                os._exit(127)

    def __enter__(self) -> OnTerminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def count(self, pattern: str) -> int:
        return len(re.findall(pattern, self._log.read_text())) if self._log.exists() else 0

    def read_until(self, text: str) -> str:
        """Return what the terminal shows up to some text."""
        received, end = "", time.monotonic() + START_WITHIN
        while text not in received:
            assert select.select([self._master], [], [], end - time.monotonic())[0], received
            received += os.read(self._master, 4096).decode().replace("\r\n", "\n")
        return received

    def close(self) -> int:
        """Close the terminal; return the exit status of the server."""
        os.close(self._master)
        end = time.monotonic() + STOP_WITHIN
        descriptor = os.pidfd_open(self.pid)
        select.select([descriptor], [], [], end - time.monotonic())
        os.close(descriptor)
        ended, status = os.waitpid(self.pid, os.WNOHANG)
        assert ended, self._log.read_text()
        self.pid = 0
        return os.waitstatus_to_exitcode(status)


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="no pidfd_open")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of forkpty:DeprecationWarning")
def test_a_closed_terminal_stops_the_server_and_any_other_hang_up_signal_reloads_it(
    tmp_path: Path,
) -> None:
    with OnTerminal(tmp_path) as server:
        assert eventually(lambda: server.count(" serving shop:app on ") == 1, START_WITHIN)
        os.kill(server.pid, signal.SIGHUP)
        assert eventually(lambda: server.count(" serving shop:app on ") == 2, START_WITHIN)
        assert server.close() == 0
        assert server.count("the terminal that the server was started in was closed: it stops") == 1


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="no pidfd_open")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of forkpty:DeprecationWarning")
def test_on_a_terminal_the_start_is_a_block_and_a_reload_one_line(tmp_path: Path) -> None:
    with OnTerminal(tmp_path, "--workers", "2") as server:
        shown = server.read_until("Ctrl-C stops.\n")
        assert shown.startswith("penstock: loading shop:app\n")
        assert re.search(r"serving shop:app\S*\n  http://127\.0\.0\.1:\d+\n  2 workers of 4", shown)
        os.kill(server.pid, signal.SIGHUP)
        assert re.fullmatch(r"\S*reloaded: generation 2 \S* ?serves?\S*\n", server.read_until("\n"))
        assert server.close() == 0


def test_in_the_background_of_a_script_supervisor_and_workers_ignore_an_interrupt_alike(
    tmp_path: Path,
) -> None:
    ignoring = ("sh", "-c", 'trap "" INT; exec "$0" "$@"', sys.executable)
    with Supervised(tmp_path, "--workers", "2", python=ignoring) as server:
        before = server.wait_for_workers(2)
        os.killpg(server.process.pid, signal.SIGINT)
        assert server.ask().status == 200
        assert server.workers() == before
    assert not [line for line in server.lines if "[ERROR]" in line]


def test_a_worker_that_is_interrupted_is_replaced_without_an_error(tmp_path: Path) -> None:
    with Supervised(tmp_path) as server:
        before = server.wait_for_workers(1)
        os.kill(min(before), signal.SIGINT)
        server.wait_for_line(r"worker 1 \(pid \d+\) has left: it was asked to stop")
        server.wait_for_line(r"worker 2 \(pid \d+\) serves in place of worker 1 \(\d+\.\d s\)")
        assert server.wait_for_workers(1, before)
    assert not [line for line in server.lines if "[ERROR]" in line]


def test_a_signal_to_stop_that_all_processes_get_starts_no_successor(tmp_path: Path) -> None:
    with Supervised(tmp_path, "--workers", "2") as server:
        workers = server.wait_for_workers(2)
        for pid in (*workers, server.supervisor):
            os.kill(pid, signal.SIGTERM)
        assert server.wait() == 0
    assert not [line for line in server.lines if "worker 3" in line or "replaced" in line]
