"""What the soak of the life cycle does to a server while it is loaded, and whom that excuses."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness import processes
from support.lifecycle import Supervised, halt, number_in, write_app
from support.load import Loss

EXCUSED_SECONDS = 1.0
"""A client of a killed worker learns of it at once; a little more, for a machine that is busy."""

ASK_AGAIN_SECONDS = 1.0

UPGRADE_SECONDS = 30.0
"""An upgrade that takes longer has failed."""

_REQUEST = re.compile(r"[A-Z]+ (/\S+) \(request ")
_LEVEL = re.compile(r"\[(WARNING|ERROR|CRITICAL)\] (.*)")


@dataclass
class Kill:
    """A worker that was killed, and whom it had as clients at that moment."""

    pid: int
    at: float
    """On the monotonic clock."""
    ports: set[int]


class Disturber:
    """Reloads, kills and upgrades a server at intervals."""

    def __init__(self, server: Supervised, choice: random.Random) -> None:
        self.done: Counter[str] = Counter()
        self.kills: list[Kill] = []
        self._server = server
        self._choice = choice
        self._plan: list[tuple[float, Callable[[], None]]] = []
        self._due: list[float] = []
        self._version = 1

    def plan(self, *, reload: float, kill: float, upgrade: float) -> None:
        """Set the intervals, in seconds; 0 is never."""
        steps = ((reload, self._reload), (kill, self._kill), (upgrade, self._upgrade))
        self._plan = [(interval, step) for interval, step in steps if interval]
        self._due = [time.monotonic() + interval for interval, _ in self._plan]

    def look(self) -> None:
        """Do what is due."""
        for index, (interval, step) in enumerate(self._plan):
            if time.monotonic() >= self._due[index]:
                step()
                self._due[index] = time.monotonic() + interval * self._choice.uniform(0.5, 1.5)

    def excuses(self, loss: Loss) -> bool:
        """Return True if a request was on a connection of a worker at the moment it was killed."""
        return any(
            loss.port in kill.ports and abs(loss.at - kill.at) < EXCUSED_SECONDS
            for kill in self.kills
        )

    def named_by_the_log(self) -> set[str]:
        """Return what the log says was in progress in workers that ended."""
        return set(_REQUEST.findall("\n".join(self._server.lines_so_far())))

    def complaints(self) -> Counter[str]:
        """Return the log's warnings and errors, with their numbers left out."""
        found: Counter[str] = Counter()
        for line in self._server.lines_so_far():
            if match := _LEVEL.search(line):
                found[f"{match[1]} {re.sub(r'[0-9]+', '#', match[2])}"] += 1
        return found

    def _reload(self) -> None:
        self._version += 1
        write_app(self._server.folder, str(self._version))
        self._server.signal(signal.SIGHUP)
        self.done["reload"] += 1

    def _kill(self) -> None:
        workers = sorted(self._server.workers())
        if not workers:
            return
        victim = self._choice.choice(workers)
        try:
            # While it stands still it accepts nothing, so that its clients are known for certain.
            halt(victim)
            ports = processes.peer_ports(victim)
            os.kill(victim, signal.SIGKILL)
        except (ProcessLookupError, FileNotFoundError, AssertionError):
            return  # it has left by itself
        self.kills.append(Kill(victim, time.monotonic(), ports))
        self.done["kill"] += 1

    def _upgrade(self) -> None:
        server, pid_file = self._server, Path(self._server.folder, "pid")
        before, begun = server.supervisor, self._upgrades_begun()
        end = time.monotonic() + UPGRADE_SECONDS
        asked = 0.0
        while time.monotonic() < end:
            # During a reload it is refused, and has to be asked for again.
            if time.monotonic() - asked > ASK_AGAIN_SECONDS and self._upgrades_begun() == begun:
                asked = time.monotonic()
                server.signal(signal.SIGUSR2)
            # While the old supervisor is there, the new one's file has a name of its own.
            if (pid := number_in(pid_file)) not in (0, before):
                server.supervisor = pid
                self.done["upgrade"] += 1
                return
            time.sleep(0.02)
        self.done["upgrade that failed"] += 1

    def recycled(self) -> int:
        """Return how many workers the server has replaced by itself."""
        return sum("] worker " in line and " is replaced: " in line for line in self._lines())

    def _lines(self) -> list[str]:
        return self._server.lines_so_far()

    def _upgrades_begun(self) -> int:
        return sum("upgrading: starting" in line for line in self._lines())
