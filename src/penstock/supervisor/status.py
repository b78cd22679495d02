"""What the supervisor knows of its workers without asking them: the scoreboards, and its counters.

So it answers when every worker is stuck.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from penstock.control.commands import HALTED, WORKER_STATES
from penstock.supervisor.worker_process import Stage, WorkerProcess
from penstock.system.processes import is_halted
from penstock.telemetry.scoreboard import (
    ACCEPTED,
    CONNECTIONS,
    COUNTED,
    IO_BOUND_CALLS,
    READY,
    STARTED,
    STATE,
    STUCK,
    WAITING,
    WEBSOCKETS,
    RequestInProgress,
)
from penstock.transport.decisions import ready_with_queue

if TYPE_CHECKING:
    from penstock.control.commands import Happened, RequestRow, WorkerRow

_DIGITS = 3  # of seconds: milliseconds

HALTED_BEAT_SECONDS = 2.0
"""A worker without a heartbeat for this long may be halted: the system says whether it is."""


_TOTALS = ("requests", "accepted", "reloads", "reloads_failed")
"""Of `Counters`: what a successor goes on from, beside what has a name of its own."""


@dataclass
class Counters:
    """What has happened since the start, including the counts of workers that have ended."""

    requests: int = 0
    """Requests that ended workers had handed to the application."""
    accepted: int = 0
    """Connections that ended workers had accepted."""
    counted: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTED, 0))
    """What ended workers had refused, evicted or dropped, by `scoreboard.COUNTED`."""
    crashes: dict[str, int] = field(default_factory=dict)
    """Workers that ended without an order, by the reason."""
    reloads: int = 0
    reloads_failed: int = 0
    upgrades: int = 0
    """Upgrades of this server so far: those before this supervisor started, and its own."""
    cpu_seconds: float = 0.0
    """Processor time of the workers of supervisors before this one."""
    last_reload: Happened | None = None
    last_error: Happened | None = None
    _inherited: dict[str, float] = field(default_factory=dict)

    def inherit(self, totals: Mapping[str, float]) -> None:
        """Count what the supervisor before this one has counted, as its `Overview.totals` says.

        A later call takes the place of an earlier one: its last workers leave meanwhile.
        """
        for name, total in totals.items():
            more = total - self._inherited.get(name, 0)
            kind, _, detail = name.partition(".")
            if kind == "counted" and detail in self.counted:
                self.counted[detail] += int(more)
            elif kind == "crashes":
                self.crashes[detail] = self.crashes.get(detail, 0) + int(more)
            elif name == "cpu_seconds":
                self.cpu_seconds += more
            elif name in _TOTALS:
                setattr(self, name, getattr(self, name) + int(more))
            # Else it is of another version, and not counted here.
        self._inherited = dict(totals)

    def add_ended(self, worker: WorkerProcess, crash: str) -> None:
        """Add the counts of a worker that has ended; ``crash`` is the reason, empty for none."""
        self.requests += worker.slot.words[STARTED]
        self.accepted += worker.slot.words[ACCEPTED]
        for name, word in COUNTED.items():
            self.counted[name] += worker.slot.words[word]
        if crash:
            self.add_crash(crash)

    def add_crash(self, reason: str) -> None:
        """Count a worker that ended, or became useless, without an order."""
        self.crashes[reason] = self.crashes.get(reason, 0) + 1

    def note_reload(self, done: bool, message: str) -> None:
        """Note the outcome of a reload."""
        if done:
            self.reloads += 1
        else:
            self.reloads_failed += 1
        self.last_reload = _now(message)


class LastError(logging.Handler):
    """Keeps the first line of the last error that the supervisor has logged."""

    def __init__(self, counters: Counters) -> None:
        super().__init__(logging.ERROR)
        self._counters = counters

    def emit(self, record: logging.LogRecord) -> None:
        """Note an error."""
        self._counters.last_error = _now(record.getMessage().partition("\n")[0])


def _now(message: str) -> Happened:
    return {"at": round(time.time(), _DIGITS), "message": message}


class Overview:
    """The workers of all generations, in the form of answers."""

    def __init__(
        self,
        workers: Iterable[WorkerProcess],
        counters: Counters,
        resident_memory: Callable[[int], int | None],
    ) -> None:
        """``workers`` yields those that have not ended; ``resident_memory`` takes a process id."""
        self._workers = workers
        self._counters = counters
        self._resident_memory = resident_memory

    def workers(self) -> list[WorkerRow]:
        """Return a row for each worker, in the order of their numbers."""
        ordered = sorted(self._workers, key=lambda worker: worker.number)
        return [self._worker_row(worker) for worker in ordered]

    def requests(self) -> list[RequestRow]:
        """Return a row for each request in the application, the oldest first."""
        now = time.monotonic()
        found = [(w, request) for w in self._workers for request in w.slot.requests()]
        found.sort(key=lambda entry: entry[1].since)
        return [_request_row(worker, request, now) for worker, request in found]

    def counts(self) -> dict[str, int]:
        """Return how many workers are in each state, what is in progress, and totals.

        The totals include workers that have ended, so that they never fall.
        """
        slots = [worker.slot for worker in self._workers]
        states = [state_of(worker) for worker in self._workers]
        counters = self._counters
        return {name: states.count(name) for name in WORKER_STATES} | {
            "connections": sum(slot.words[CONNECTIONS] for slot in slots),
            "in_progress": sum(1 for slot in slots for _ in slot.requests()),
            "io_bound": sum(_io_bound(slot.words) for slot in slots),
            "websockets": sum(slot.words[WEBSOCKETS] for slot in slots),
            "waiting": sum(slot.words[WAITING] for slot in slots),
            "accepted": counters.accepted + sum(slot.words[ACCEPTED] for slot in slots),
            "requests": counters.requests + sum(slot.words[STARTED] for slot in slots),
            "crashed": sum(counters.crashes.values()),
            "reloads": counters.reloads,
            "reloads_failed": counters.reloads_failed,
            "upgrades": counters.upgrades,
            **{
                name: counters.counted[name] + sum(slot.words[word] for slot in slots)
                for name, word in COUNTED.items()
            },
        }

    def totals(self, cpu_seconds: float) -> dict[str, float]:
        """Return all totals since the start, for a supervisor that goes on from them."""
        counts = self.counts()
        return {
            **{name: counts[name] for name in _TOTALS},
            **{f"counted.{name}": counts[name] for name in COUNTED},
            **{f"crashes.{reason}": number for reason, number in self._counters.crashes.items()},
            "cpu_seconds": cpu_seconds,
        }

    def is_ready(self) -> bool:
        """Return True if at least one worker wants requests and can answer them."""
        return any(
            worker.slot.words[READY] == 1
            and worker.slot.is_live
            and ready_with_queue(worker.settings, worker.slot.queue_full_for)
            for worker in self._serving()
        )

    def is_live(self) -> bool:
        """Return True if at least one worker makes progress.

        Where none serves, the supervisor starts one: a restart of the whole server would not mend a
        crash of the last worker, or a slow start.
        """
        serving = self._serving()
        return not serving or any(worker.slot.is_live for worker in serving)

    def _serving(self) -> list[WorkerProcess]:
        return [worker for worker in self._workers if worker.stage is Stage.SERVING]

    def _worker_row(self, worker: WorkerProcess) -> WorkerRow:
        words = worker.slot.words
        beat = worker.slot.beat_age
        return {
            "worker": worker.number,
            "pid": worker.pid,
            "generation": worker.generation,
            "state": state_of(worker),
            "age": round(worker.age, _DIGITS),
            "requests": words[STARTED],
            "connections": words[CONNECTIONS],
            "waiting": words[WAITING],
            "busy": worker.slot.calls_of_count(),
            "io_bound": _io_bound(words),
            "websockets": words[WEBSOCKETS],
            "threads": worker.slot.scoreboard.threads,
            "memory": self._resident_memory(worker.pid) if worker.pid else None,
            "beat": round(beat, _DIGITS) if beat is not None else None,
        }


def _io_bound(words: memoryview[int]) -> int:
    """Return how many calls are out of the count of threads and have no WebSocket."""
    beside = words[IO_BOUND_CALLS]
    # With one thread a WebSocket keeps it. The two words are not written at once.
    return max(0, beside - words[WEBSOCKETS])


def state_of(worker: WorkerProcess) -> str:
    """Return the state of a worker, as answers name it."""
    if worker.slot.words[STATE] == STUCK:
        return "stuck"
    beat = worker.slot.beat_age
    if beat is not None and beat > HALTED_BEAT_SECONDS and is_halted(worker.pid):
        return HALTED
    if worker.is_booting or worker.stage is Stage.FAILED:
        return "booting"
    return "serving" if worker.stage is Stage.SERVING else "draining"


def _request_row(worker: WorkerProcess, request: RequestInProgress, now: float) -> RequestRow:
    deadline = request.deadline
    return {
        "worker": worker.number,
        "pid": worker.pid,
        "thread": request.thread,
        "method": request.method,
        "target": request.target,
        "age": round(max(0.0, now - request.since), _DIGITS),
        "client": request.client,
        "id": request.request_id,
        "deadline": round(deadline - now, _DIGITS) if deadline is not None else None,
        "io_bound": request.io_bound,
        "websocket": request.websocket,
    }
