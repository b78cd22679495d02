"""Workers in which nothing moves: noticed from their beats, and made to tell where they hang."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass

from penstock.supervisor.worker_process import Stage, WorkerProcess
from penstock.worker.child import DUMP_SIGNAL

HALT_SECONDS = 5.0
"""A turn of the supervisor that came so much too late was halted itself, as the workers were."""

DUMP_SECONDS = 1.0
"""How long C code may take to write the stacks."""


@dataclass
class _Watched:
    """What was seen of one worker."""

    beat: int
    still_since: float
    """When the last beat was seen, or when the worker was last seen halted."""
    dumped_at: float | None = None


class Heartbeats:
    """Sees that the interpreter of each worker still runs.

    The beats come from a Python thread of the worker, so that they end where native code keeps
    the interpreter lock. What is halted (SIGSTOP, a debugger, a laptop that sleeps) beats no more
    either, and is not to blame: only the time counts in which the worker could have run.
    """

    def __init__(self) -> None:
        self._watched: dict[int, _Watched] = {}
        self._looked_at = time.monotonic()

    def hung(self, workers: list[WorkerProcess]) -> list[WorkerProcess]:
        """Return the workers that have hung for too long, and have told where, if they could.

        To be called about once a second.
        """
        now = time.monotonic()
        halted = now - self._looked_at > HALT_SECONDS
        self._looked_at = now
        known = {worker.number: worker for worker in workers}
        self._watched = {n: seen for n, seen in self._watched.items() if n in known and not halted}
        return [worker for worker in workers if self._is_hung(worker, now)]

    def _is_hung(self, worker: WorkerProcess, now: float) -> bool:
        limit = beat_limit(worker)
        if limit is None or worker.stage not in (Stage.SERVING, Stage.LEAVING):
            return False
        beat = worker.beat
        if not beat:
            return False
        seen = self._watched.get(worker.number)
        if seen is None or seen.beat != beat or is_halted(worker.pid):
            self._watched[worker.number] = _Watched(beat, now)
            return False
        if now - seen.still_since < limit:
            return False
        if seen.dumped_at is None:
            seen.dumped_at = now
            ask_for_dump(worker)
            return False
        return now - seen.dumped_at >= DUMP_SECONDS


def beat_limit(worker: WorkerProcess) -> float | None:
    """Return how long a worker may do without a beat, in seconds; None for as long as it likes.

    A request may take its timeout, with or without the interpreter lock.
    """
    settings = worker.settings
    if not settings.timeout:
        return None
    return settings.timeout + settings.timeout_grace


def ask_for_dump(worker: WorkerProcess) -> None:
    """Have the worker's C code write the stacks of all its threads."""
    worker.dumped.clear()
    with suppress(ProcessLookupError):
        os.kill(worker.pid, DUMP_SIGNAL)


def is_halted(pid: int) -> bool:
    """Tell whether a process is stopped by a signal or a debugger; where that can be known."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state = file.read().rpartition(b")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state in (b"T", b"t")
