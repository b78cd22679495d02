"""What the supervisor knows of its workers without asking them: the scoreboards, and its counters.

So it answers when every worker is stuck.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from typing import TYPE_CHECKING

from penstock.control.commands import HALTED, WORKER_STATES
from penstock.records import dataclass
from penstock.supervisor.possible_counts import impossible_count
from penstock.supervisor.worker_process import Stage, WorkerProcess
from penstock.system.processes import is_halted
from penstock.telemetry.histograms import (
    HISTOGRAM_WORDS,
    Series,
    read_series,
    read_statuses,
    sum_of_series,
    sum_of_words,
)
from penstock.telemetry.refusals import RULES
from penstock.telemetry.scoreboard import (
    ACCEPTED,
    CLOSING,
    CONNECTIONS,
    COUNTED,
    HANDSHAKING,
    IDLE,
    IN_APPLICATION,
    IO_BOUND_CALLS,
    LOCK_WAITS,
    READING,
    READY,
    REFUSED,
    SENDING,
    SERIES,
    SERIES_WORDS,
    STARTED,
    STATE,
    STUCK,
    WAITING,
    WEBSOCKETS,
    PastRequest,
    RequestInProgress,
    without_query,
)
from penstock.transport.decisions import ready_with_queue

if TYPE_CHECKING:
    from penstock.control.rows import (
        ClientRow,
        CrashRow,
        EventRow,
        Happened,
        RecentRow,
        Reloaded,
        RequestRow,
        WorkerRow,
    )
    from penstock.system.crash_site import CrashSite
    from penstock.worker.channel import Message

_DIGITS = 3  # of seconds: milliseconds

HALTED_BEAT_SECONDS = 2.0
"""A worker without a heartbeat for this long may be halted: the system says whether it is."""


CONNECTION_STATES = {
    "handshaking": HANDSHAKING,
    "idle": IDLE,
    "reading": READING,
    "application": IN_APPLICATION,
    "sending": SENDING,
    "closing": CLOSING,
}
"""What connections do, by the names that metrics have for it."""

_TOTALS = ("requests", "accepted", "reloads", "reloads_failed")
"""Of `Counters`: what a successor goes on from, beside what has a name of its own."""


MOST_EVENTS = 200
"""Events that are kept: those of an hour, and of a day where little happens."""

MOST_OF_EVENT = 500
"""Characters of the text of one: the message of an exception may have any length."""

MOST_CRASHES = 10
"""Crashes of which the place is kept: a row has 3 KiB at most."""

RANGES = {
    "lock_waits": range(LOCK_WAITS, LOCK_WAITS + HISTOGRAM_WORDS),
    "refused": range(REFUSED, REFUSED + len(RULES)),
}
"""Words of a slot that only grow and belong together."""


@dataclass
class Counters:
    """What has happened since the start, including the counts of workers that have ended."""

    requests: int = 0
    """Requests that ended workers had handed to the application."""
    accepted: int = 0
    """Connections that ended workers had accepted."""
    counted: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTED, 0))
    """What ended workers had refused, evicted or dropped, by `scoreboard.COUNTED`."""
    series: Series = field(default_factory=dict)
    """The histograms of the requests of ended workers."""
    statuses: Counter[int] = field(default_factory=Counter)
    """How many requests of ended workers had which status code."""
    ranges: dict[str, list[int]] = field(
        default_factory=lambda: {name: [0] * len(words) for name, words in RANGES.items()}
    )
    """What ended workers had counted in `RANGES`."""
    recycled: dict[str, int] = field(default_factory=dict)
    """Workers that were replaced in good order, by the reason."""
    crashes: dict[str, int] = field(default_factory=dict)
    """Workers that ended without an order, by the reason."""
    last_crashes: deque[CrashRow] = field(default_factory=lambda: deque(maxlen=MOST_CRASHES))
    """Where the last ones were that crashed in native code, the oldest first."""
    reloads: int = 0
    reloads_failed: int = 0
    upgrades: int = 0
    """Upgrades of this server so far: those before this supervisor started, and its own."""
    cpu_seconds: float = 0.0
    """Processor time of the workers of supervisors before this one."""
    last_reload: Reloaded | None = None
    last_error: Happened | None = None
    events: deque[EventRow] = field(default_factory=lambda: deque(maxlen=MOST_EVENTS))
    """The last events of the life cycle, the oldest first."""
    _noted: int = 0
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
            elif kind == "series" or kind in self.ranges:
                self._inherit_words(kind, detail, int(more))
            elif kind == "statuses":
                self.statuses[int(detail)] += int(more)
            elif kind in ("crashes", "recycled"):
                counts = self.crashes if kind == "crashes" else self.recycled
                counts[detail] = counts.get(detail, 0) + int(more)
            elif name == "cpu_seconds":
                self.cpu_seconds += more
            elif name in _TOTALS:
                setattr(self, name, getattr(self, name) + int(more))
            # Else it is of another version, and not counted here.
        self._inherited = dict(totals)

    def _inherit_words(self, kind: str, place: str, more: int) -> None:
        number, _, word = place.rpartition(".")
        if kind == "series" and 0 <= int(number) < SERIES:
            words = self.series.setdefault(int(number), [0] * SERIES_WORDS)
        else:
            words = self.ranges.get(kind, [])
        if 0 <= int(word) < len(words):  # else it is of another version
            words[int(word)] += more

    def add_ended(self, worker: WorkerProcess, crash: str) -> str:
        """Add the counts of a worker that has ended; ``crash`` is the reason, empty for none.

        Where it cannot have counted what its slot has, its counts are left out, and what that is is
        returned; else an empty text.
        """
        impossible = impossible_count(worker.slot, worker.age)
        if not impossible:
            self._add_counts(worker)
        if crash:
            self.add_crash(crash, worker)
        return impossible

    def _add_counts(self, worker: WorkerProcess) -> None:
        self.requests += worker.slot.words[STARTED]
        self.accepted += worker.slot.words[ACCEPTED]
        for name, word in COUNTED.items():
            self.counted[name] += worker.slot.words[word]
        self.series = sum_of_series((self.series, read_series(worker.slot)))
        self.statuses.update(read_statuses(worker.slot))
        for name, words in RANGES.items():
            self.ranges[name] = sum_of_words((self.ranges[name], worker.slot.read(words)))

    def add_recycled(self, reason: str, worker: WorkerProcess) -> None:
        """Count a worker that is replaced in good order."""
        self.recycled[reason] = self.recycled.get(reason, 0) + 1
        self.note("recycle", f"{worker}: {reason}")

    def add_crash(self, reason: str, worker: WorkerProcess) -> None:
        """Count a worker that ended, or became useless, without an order."""
        self.crashes[reason] = self.crashes.get(reason, 0) + 1
        self.note("crash", f"{worker}: {reason}")

    def add_crash_site(self, reason: str, worker: WorkerProcess, site: CrashSite) -> None:
        """Keep where a worker was that crashed in native code."""
        self.last_crashes.append(
            {
                "at": round(time.time(), _DIGITS),
                "worker": worker.number,
                "reason": reason,
                "frames": list(site.frames),
                "likely": list(site.likely),
                "modules": list(site.modules),
            }
        )

    def note(self, kind: str, text: str) -> None:
        """Keep an event; ``kind`` is one of `EVENT_KINDS`."""
        at = round(time.time(), _DIGITS)
        self.events.append(self._event(at, kind, text))

    def _event(self, at: float, kind: str, text: str) -> EventRow:
        self._noted += 1
        return {"number": self._noted, "at": at, "kind": kind, "text": text[:MOST_OF_EVENT]}

    def hand_over(self) -> Message:
        """Return what it keeps beside counts, for the supervisor that takes over."""
        return {
            "event": "life cycle",
            "events": [[row["at"], row["kind"], row["text"]] for row in self.events],
            "crashes": list(self.last_crashes),
            "reload": self.last_reload,
        }

    def take_over(self, message: Message) -> None:
        """Keep what the supervisor before this one has sent, in the order of time.

        It may send the same again, with what its last workers did. It may be of another version:
        rows with other fields are left out.
        """
        known = {(row["at"], row["kind"], row["text"]) for row in self.events}
        sent = [(float(at), str(kind), str(text)) for at, kind, text in message["events"]]
        rows = [*(self._event(*each) for each in sent if each not in known), *self.events]
        self.events = deque(sorted(rows, key=lambda row: row["at"]), maxlen=MOST_EVENTS)
        crashed = [row for row in message["crashes"] if _is_crash_row(row)]
        sites = [*self.last_crashes, *(row for row in crashed if row not in self.last_crashes)]
        match message["reload"]:
            case {"at": float(at), "message": str(text), "done": bool(done)}:
                self.last_reload = self.last_reload or {"at": at, "message": text, "done": done}
        in_order = sorted(sites, key=lambda row: row["at"])
        self.last_crashes = deque(in_order, maxlen=MOST_CRASHES)

    def count(self, name: str) -> None:
        """Count one of `scoreboard.COUNTED` for the supervisor itself."""
        self.counted[name] += 1

    def note_reload(self, done: bool, message: str) -> None:
        """Note the outcome of a reload."""
        if done:
            self.reloads += 1
        else:
            self.reloads_failed += 1
        self.last_reload = {**_now(message), "done": done}
        self.note("reload" if done else "reload failed", message)


class LastError(logging.Handler):
    """Keeps the first line of the last error that the supervisor has logged."""

    def __init__(self, counters: Counters) -> None:
        super().__init__(logging.ERROR)
        self._counters = counters

    def emit(self, record: logging.LogRecord) -> None:
        """Note an error."""
        self._counters.last_error = _now(record.getMessage().partition("\n")[0])


def _is_crash_row(row: Mapping[str, object]) -> bool:
    """Return True for what `Counters.add_crash_site` keeps."""
    return {name: type(value) for name, value in row.items()} == {
        "at": float,
        "worker": int,
        "reason": str,
        "frames": list,
        "likely": list,
        "modules": list,
    }


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

    def connection_states(self) -> dict[str, int]:
        """Return how many connections do what: about a second ago, in each worker."""
        slots = [worker.slot for worker in self._workers]
        return {
            name: sum(slot.words[word] for slot in slots)
            for name, word in CONNECTION_STATES.items()
        }

    def series(self) -> Series:
        """Return the histograms of all requests since the start."""
        living = (read_series(worker.slot) for worker in self._workers)
        return sum_of_series((self._counters.series, *living))

    def top_client(self) -> ClientRow | None:
        """Return the client that has the most connections of those that each worker names."""
        clients: Counter[str] = Counter()
        for worker in self._workers:
            address, connections = worker.slot.top_client()
            if address:
                clients[address] += connections
        for address, connections in clients.most_common(1):
            return {"address": address, "connections": connections}
        return None

    def forwarding_peers(self) -> list[str]:
        """Return the peers that workers have seen send fields of a proxy, and do not trust."""
        peers = {worker.slot.forwarding_peer() for worker in self._workers}
        return sorted(peers - {""})

    def statuses(self) -> dict[int, int]:
        """Return how many requests since the start had which status code."""
        total = Counter(self._counters.statuses)
        for worker in self._workers:
            total.update(read_statuses(worker.slot))
        return total

    def recycled(self) -> dict[str, int]:
        """Return how many workers were replaced in good order, by the reason."""
        return dict(self._counters.recycled)

    def sums(self, name: str) -> list[int]:
        """Return the words of one of `RANGES`, of all workers since the start."""
        living = (worker.slot.read(RANGES[name]) for worker in self._workers)
        return sum_of_words((self._counters.ranges[name], *living))

    def totals(self, cpu_seconds: float) -> dict[str, float]:
        """Return all totals since the start, for a supervisor that goes on from them."""
        counts = self.counts()
        return {
            **{
                f"series.{number}.{index}": value
                for number, words in self.series().items()
                for index, value in enumerate(words)
                if value
            },
            **{
                f"{name}.{index}": value
                for name in RANGES
                for index, value in enumerate(self.sums(name))
                if value
            },
            **{f"statuses.{code}": number for code, number in self.statuses().items()},
            **{f"recycled.{reason}": number for reason, number in self._counters.recycled.items()},
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


def recent_rows(worker: WorkerProcess, *, with_query: bool) -> list[RecentRow]:
    """Return the requests that a worker's threads are in, and their last ones, newest first."""
    now = time.monotonic()
    requests: list[RequestInProgress | PastRequest] = [
        *worker.slot.requests(),
        *worker.slot.past_requests(),
    ]
    rows = [_recent_row(worker, request, now, with_query) for request in requests]
    return sorted(rows, key=lambda row: (not row["in_progress"], row["age"]))


def _recent_row(
    worker: WorkerProcess, request: RequestInProgress | PastRequest, now: float, with_query: bool
) -> RecentRow:
    past = request if isinstance(request, PastRequest) else None
    return {
        "worker": worker.number,
        "pid": worker.pid,
        "thread": request.thread,
        "method": request.method,
        "target": request.target if with_query else without_query(request.target),
        "age": round(max(0.0, now - request.since), _DIGITS),
        "took": round(past.took, 6) if past is not None else None,
        "status": past.status or None if past is not None else None,
        "client": request.client,
        "id": request.request_id,
        "in_progress": past is None,
    }
