"""The requests that workers have reported as worth a look: the last ones, and the slowest.

At an upgrade the new supervisor takes them over.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from penstock.supervisor.exemplars import Exemplars
from penstock.supervisor.reports import is_noted_row

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
        self.exemplars = Exemplars()
        self.forward: Callable[[Message], None] | None = None
        """Takes what is added from now on, for another supervisor."""
        self._clock = clock
        self._slow: list[tuple[float, NotedRow]] = []  # with the time, on the monotonic clock
        self._last: dict[str, deque[NotedRow]] = {
            kind: deque(maxlen=MOST_NOTABLE) for kind in ("failed", "refused")
        }
        self._left_out = {"slow": 0, "failed": 0, "refused": 0}

    def add(self, worker: WorkerProcess, message: Message) -> None:
        """Keep a request of a report that `is_report` has accepted."""
        kind, request = message["kind"], message["request"]
        row: NotedRow = {
            "worker": worker.number,
            "pid": worker.pid,
            **{name: value for name, value in request.items() if name != "left_out"},
        }
        self._keep(kind, [(0.0, row)], request["left_out"])
        if self.forward is not None:
            self.forward(_message(kind, [(0.0, row)], request["left_out"]))

    def _keep(self, kind: str, rows: Sequence[tuple[float, NotedRow]], left_out: int) -> None:
        """Keep requests, each with its age in seconds, the oldest first."""
        self._left_out[kind] += left_out
        if kind != "refused":
            for _, row in rows:
                self.exemplars.add(row)
        if kind == "slow":
            now = self._clock()
            self._slow += [(now - age, row) for age, row in rows]
            if len(self._slow) > MOST_NOTABLE:
                self._forget_old()
                self._slow = self._slow[:MOST_NOTABLE]
        else:
            self._last[kind] += [row for _, row in rows]

    def hand_over(self, send: Callable[[Message], None]) -> None:
        """Send all of them, and whatever is added later, to the supervisor that takes over."""
        self._forget_old()
        now = self._clock()
        rows = {kind: [(0.0, row) for row in last] for kind, last in self._last.items()}
        rows["slow"] = [(now - at, row) for at, row in sorted(self._slow, key=lambda each: each[0])]
        for kind, found in rows.items():
            send(_message(kind, found, self._left_out[kind]))
        self.forward = send

    def take_over(self, message: Message) -> None:
        """Keep what the supervisor before this one has sent, before what is newer.

        That may be of another version: rows with other fields are left out.
        """
        kind = message["kind"]
        rows = [(float(age), row) for age, row in message["rows"][-MOST_NOTABLE:]]
        rows = [(age, row) for age, row in rows if is_noted_row(kind, row)]
        if kind in self._last:
            newer = [(0.0, row) for row in self._last[kind]]
            self._last[kind].clear()
            rows = sorted([*rows, *newer], key=lambda each: float(each[1]["at"]))
        if kind in self._left_out:
            self._keep(kind, rows, int(message["left_out"]))

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


def _message(kind: str, rows: Sequence[tuple[float, NotedRow]], left_out: int) -> Message:
    """Return what `Notable.take_over` takes."""
    return {"event": "noted", "kind": kind, "rows": rows, "left_out": left_out}
