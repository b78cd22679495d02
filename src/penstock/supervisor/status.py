"""What the supervisor knows of its workers without asking them, from the scoreboard and by itself.

That is what makes the answers come when every worker is stuck.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from penstock.control.commands import RequestRow, WorkerRow
from penstock.supervisor.worker_process import Stage, WorkerProcess
from penstock.telemetry.scoreboard import (
    CONNECTIONS,
    READY,
    STARTED,
    STATE,
    STUCK,
    WAITING,
    RequestInProgress,
)

if TYPE_CHECKING:
    from penstock.telemetry.scoreboard import Slot

_DIGITS = 3  # of seconds that are told: milliseconds

STATES = ("booting", "serving", "draining", "stuck")
"""The states of workers, as they are told."""


class Overview:
    """Tells of the workers of all generations."""

    def __init__(
        self, workers: Iterable[WorkerProcess], resident_memory: Callable[[int], int | None]
    ) -> None:
        """``workers`` yields those that have not ended; ``resident_memory`` takes a process id."""
        self._workers = workers
        self._resident_memory = resident_memory

    def workers(self) -> list[WorkerRow]:
        """Return a row for each worker, in the order of generations and slots."""
        ordered = sorted(self._workers, key=lambda worker: (worker.generation, worker.slot.index))
        return [self._worker_row(worker) for worker in ordered]

    def requests(self) -> list[RequestRow]:
        """Return a row for each request that is with the application, the oldest first."""
        now = time.monotonic()
        found = [(w, request) for w in self._workers for request in w.slot.requests()]
        found.sort(key=lambda entry: entry[1].since)
        return [_request_row(worker, request, now) for worker, request in found]

    def counts(self) -> dict[str, int]:
        """Return how many workers are in each state, and sums over those that there are."""
        slots = [worker.slot for worker in self._workers]
        states = [state_of(worker) for worker in self._workers]
        return {name: states.count(name) for name in STATES} | {
            "connections": sum(slot.words[CONNECTIONS] for slot in slots),
            "in_progress": sum(_busy(slot) for slot in slots),
            "waiting": sum(slot.words[WAITING] for slot in slots),
            "requests": sum(slot.words[STARTED] for slot in slots),
        }

    def is_ready(self) -> bool:
        """Tell whether at least one worker wants requests and can answer them."""
        return any(
            worker.slot.words[READY] == 1 and worker.slot.is_live for worker in self._serving()
        )

    def is_live(self) -> bool:
        """Tell whether something moves in at least one worker.

        Where none serves, the supervisor moves, and starts one: a crash of the last worker, or a
        slow start, is nothing that a restart of the whole would mend.
        """
        serving = self._serving()
        return not serving or any(worker.slot.is_live for worker in serving)

    def _serving(self) -> list[WorkerProcess]:
        return [worker for worker in self._workers if worker.stage is Stage.SERVING]

    def _worker_row(self, worker: WorkerProcess) -> WorkerRow:
        words = worker.slot.words
        beat = worker.slot.beat_age
        return {
            "slot": worker.slot.index,
            "pid": worker.pid,
            "generation": worker.generation,
            "state": state_of(worker),
            "age": round(worker.age, _DIGITS),
            "requests": words[STARTED],
            "connections": words[CONNECTIONS],
            "waiting": words[WAITING],
            "busy": _busy(worker.slot),
            "threads": worker.slot.scoreboard.threads,
            "memory": self._resident_memory(worker.pid) if worker.pid else None,
            "beat": round(beat, _DIGITS) if beat is not None else None,
        }


def state_of(worker: WorkerProcess) -> str:
    """Return what a worker is about, in the words of those who read of it."""
    if worker.slot.words[STATE] == STUCK:
        return "stuck"
    if worker.is_booting or worker.stage is Stage.FAILED:
        return "booting"
    return "serving" if worker.stage is Stage.SERVING else "draining"


def _busy(slot: Slot) -> int:
    return sum(1 for _ in slot.requests())


def _request_row(worker: WorkerProcess, request: RequestInProgress, now: float) -> RequestRow:
    deadline = request.deadline
    return {
        "pid": worker.pid,
        "slot": worker.slot.index,
        "thread": request.thread,
        "method": request.method,
        "target": request.target,
        "age": round(max(0.0, now - request.since), _DIGITS),
        "client": request.client,
        "id": request.request_id,
        "deadline": round(deadline - now, _DIGITS) if deadline is not None else None,
    }
