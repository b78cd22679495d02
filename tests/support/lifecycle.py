"""A server of several processes, as its operator and its clients see it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from harness import processes
from support.invariant import eventually
from support.server_process import (
    ROOT,
    START_WITHIN,
    STOP_WITHIN,
    ServerProcess,
    checkout_environ,
)
from support.wire import Client, Response

MODULE = "shop"
"""The application that tests write, and change."""


def write_app(folder: Path, version: str, before: str = "") -> None:
    """Write, or change, the application; ``before`` is code that runs while it is imported."""
    text = f"from support.lifecycle_app import make\n{before}\napp = make({version!r})\n"
    new = folder / f"{MODULE}.new"
    new.write_text(text)
    new.replace(folder / f"{MODULE}.py")


class Supervised(ServerProcess):
    """``penstock`` with a supervisor, its workers, and the supervisors that replace it.

    They share a session of their own, and none of them is left after the block.
    """

    def __init__(self, folder: Path, *arguments: str, **process: Any) -> None:
        """Serve the application in a folder, which is written unless it is there.

        ``process`` is what `ServerProcess` takes by name.
        """
        if not (folder / f"{MODULE}.py").exists():
            write_app(folder, "one")
        environ = {
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")]),
            # Two versions of a module within a second would have the same name in the cache.
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self.folder = folder
        super().__init__(
            f"{MODULE}:app",
            *arguments,
            cwd=folder,
            environ=environ | process.pop("environ", {}),
            new_session=True,
            **process,
        )
        self.supervisor = self.process.pid
        """The process id of the supervisor that serves."""

    def members(self) -> list[int]:
        """Return all processes of the server."""
        return processes.session_members(self.process.pid)

    def workers(self, supervisor: int | None = None) -> set[int]:
        """Return the workers of the supervisor that serves, or of another one."""
        parent = self.supervisor if supervisor is None else supervisor
        others = [pid for pid in self.members() if parent_of(pid) == parent]
        return {pid for pid in others if pid != parent and not _is_supervisor(pid)}

    def wait_for_workers(
        self, count: int, without: set[int] | frozenset[int] = frozenset()
    ) -> set[int]:
        """Wait until there is exactly this number of workers, none of them among some others."""
        found: set[int] = set()

        def are_there() -> bool:
            nonlocal found
            found = self.workers()
            return len(found) == count and not found & without

        assert eventually(are_there), (found, without, self.lines_so_far())
        return found

    def wait_for_serving(
        self, count: int, without: set[int] | frozenset[int] = frozenset()
    ) -> set[int]:
        """Do the same for workers that serve, whatever other processes there are (--preload)."""
        found: set[int] = set()

        def are_there() -> bool:
            nonlocal found
            found = self.serving()
            return len(found) == count and not found & without

        assert eventually(are_there), (found, without, self.lines_so_far())
        return found

    def wait_until_it_lets_go(self, worker: int) -> None:
        """Wait until a worker has no listening socket any more: it drains."""
        assert eventually(lambda: self.port not in processes.listening_ports(worker))

    def serving(self) -> set[int]:
        """Return the workers that have begun to serve: those that have threads."""
        return {pid for pid in self.workers() if processes.thread_count(pid) > 1}

    def ask(self, target: str = "/echo?0", **headers: str) -> Response:
        """Ask on a connection of its own."""
        with Client(self.address) as client:
            return client.request("GET", target, {"Connection": "close"} | headers)

    def served_by(self, target: str = "/echo?0") -> tuple[str, int]:
        """Return the version and the process id in a response."""
        response = self.ask(target)
        assert response.status == 200, response
        return server_of(response)

    def begin(self, target: str, name: str) -> Client:
        """Return a client whose request to one of the views that take a file's name has begun."""
        path = self.folder / name
        client = Client(self.address)
        client.send(f"GET {target}{path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert eventually(path.with_suffix(".begun").exists), self.lines_so_far()
        return client

    def has_new_supervisor(self, pid_file: Path) -> bool:
        """Return True if another supervisor has written its number, and follow it.

        While the old supervisor is there, the new one's file has a name of its own. Between the end
        of the old one and the move of that file there is none.
        """
        new = number_in(pid_file)
        if new in (0, self.supervisor):
            return False
        self.supervisor = new
        return True

    def let_go(self, name: str) -> None:
        """Let the request of this name be answered."""
        (self.folder / name).with_suffix(".go").touch()

    def control(
        self, *arguments: str, within: float = START_WITHIN
    ) -> subprocess.CompletedProcess[str]:
        """Run ``penstockctl`` for the server that was started with ``--control``."""
        return subprocess.run(
            [sys.executable, "-m", "penstock.control.penstockctl", *arguments],
            cwd=self.folder,
            env=checkout_environ(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=within,
            check=False,
        )

    def wait_until_all_have_left(self, within: float = STOP_WITHIN) -> None:
        """Wait until there is no process of the server any more."""
        eventually(lambda: not self.members(), within)
        assert not self.members(), self.lines_so_far()

    def seconds_to_exit(self, number: signal.Signals) -> tuple[int, float]:
        """Send a signal; return the exit status, and how many seconds it took."""
        begin = time.monotonic()
        self.signal(number)
        return self.wait(), time.monotonic() - begin

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal to the supervisor that serves."""
        os.kill(self.supervisor, number)

    def stop(self, within: float = STOP_WITHIN) -> int:
        """Stop the supervisor that serves; return the exit status of the first one."""
        if self.supervisor in self.members():
            self.signal(signal.SIGTERM)
        self.wait_until_all_have_left(within)
        return self.wait(within)

    def kill(self) -> None:
        """End every process of the server by force."""
        for pid in self.members():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it has just ended
        super().kill()


def parent_of(pid: int) -> int:
    """Return the parent of a process; 0 without it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(stat.rpartition(")")[2].split()[1])


def _is_supervisor(pid: int) -> bool:
    """Return True if a process has workers of its own, or was started as a command."""
    try:
        members = processes.session_members(os.getsid(pid)) if processes.state(pid) else []
    except ProcessLookupError:
        return False  # it has ended
    return any(parent_of(other) == pid for other in members)


def number_in(path: Path) -> int:
    """Return the process id in a file; 0 without it."""
    try:
        return int(path.read_text())
    except FileNotFoundError:
        return 0


def server_of(response: Response) -> tuple[str, int]:
    """Return the version and the process id in an answer."""
    version, _, pid = response.body.decode().partition(" ")[2].rpartition(":")
    return version, int(pid)


def halt(pid: int) -> None:
    """Stop a process (SIGSTOP), and wait until all its threads stand still."""
    os.kill(pid, signal.SIGSTOP)
    folder = Path(f"/proc/{pid}/task")

    def stands() -> bool:
        stats = [path.read_text() for path in folder.glob("*/stat")]
        return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)

    assert eventually(stands)


def json_of(done: subprocess.CompletedProcess[str]) -> Any:
    """Return what a command of control printed."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
