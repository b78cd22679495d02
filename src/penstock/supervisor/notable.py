"""The requests that workers have reported as worth a look: the last ones, and the slowest."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock.control.rows import NotedRow
    from penstock.supervisor.worker_process import WorkerProcess
    from penstock.worker.channel import Message

MOST_NOTABLE = 50
"""Requests of each kind that are kept, whatever workers they are of: a row has 1 KiB at most."""

SLOW_SECONDS = 600.0
"""How long one counts among the slowest: those of the start would hide those of now."""


class Notable:
    """The last requests that failed or were refused, and the slowest of the last minutes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Have none yet; ``clock`` returns seconds."""
        self._clock = clock
        self._slow: list[tuple[float, NotedRow]] = []  # with the time, on the monotonic clock
        self._last: dict[str, deque[NotedRow]] = {
            kind: deque(maxlen=MOST_NOTABLE) for kind in ("failed", "refused")
        }
        self._left_out = {"slow": 0, "failed": 0, "refused": 0}

    def add(self, worker: WorkerProcess, message: Message) -> None:
        """Keep a request of a report that `is_report` has accepted."""
        kind, request = message["kind"], message["request"]
        self._left_out[kind] += request["left_out"]
        row: NotedRow = {
            "worker": worker.number,
            "pid": worker.pid,
            **{name: value for name, value in request.items() if name != "left_out"},
        }
        if kind == "slow":
            self._slow.append((self._clock(), row))
            if len(self._slow) > MOST_NOTABLE:
                self._forget_old()
                self._slow = self._slow[:MOST_NOTABLE]
        else:
            self._last[kind].append(row)

    def slow(self) -> dict[str, Any]:
        """Return the slowest requests of the last minutes, the slowest first."""
        self._forget_old()
        return {"slow": [row for _, row in self._slow], "seconds": SLOW_SECONDS}

    def failed(self) -> dict[str, Any]:
        """Return the last requests that failed, the newest first, and how many were left out."""
        return {"failed": list(reversed(self._last["failed"])), **self._others("failed")}

    def refused(self) -> dict[str, Any]:
        """Return the last requests that were refused, likewise."""
        return {"refused": list(reversed(self._last["refused"])), **self._others("refused")}

    def _others(self, kind: str) -> dict[str, int]:
        return {"left_out": self._left_out[kind]}

    def _forget_old(self) -> None:
        """Drop what is too old, and sort the others, the slowest first."""
        oldest = self._clock() - SLOW_SECONDS
        kept = [each for each in self._slow if each[0] > oldest]
        self._slow = sorted(kept, key=lambda each: -float(each[1]["took"]))
