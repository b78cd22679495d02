"""Workers that are replaced while the server serves.

A worker is replaced because it is due (max_requests, max_age, max_memory, SIGTERM), because it has
a stuck request, or because it hangs: native code keeps the interpreter lock.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from penstock import messages
from penstock.config.options import show_duration, show_size
from penstock.control.commands import HALTED
from penstock.records import dataclass
from penstock.supervisor.exit_report import requests_lost
from penstock.supervisor.generation import Generation
from penstock.supervisor.pool import Pool
from penstock.supervisor.status import Counters, state_of
from penstock.supervisor.worker_process import ASKED, Stage, WorkerProcess
from penstock.system.cgroups import Cgroups, resident_memory
from penstock.system.processes import is_halted
from penstock.system.stacks import dump_text

if TYPE_CHECKING:
    from penstock.config.settings import Settings

BEAT_SECONDS = 1.0
"""How often the heartbeats are checked."""

ASKED_SECONDS = 0.5
"""How long a worker goes on that was asked to stop: the signal may be on its way to the supervisor,
too, as where a process manager sends it to the whole group. Then no successor is wanted."""

HALT_SECONDS = 5.0
"""A check that is this much too late was halted itself, as the workers were."""

DUMP_SECONDS = 1.0
"""How long C code may take to write the stacks."""

FIRST_BACK_OFF_SECONDS = 1.0
"""The pause between two replacements for stuck requests; it doubles with each that follows."""

LONGEST_BACK_OFF_SECONDS = 60.0
"""The longest pause: an application whose requests all hang is not restarted in a loop."""


class Recycling:
    """Replaces workers. Where possible, the successor serves before its predecessor leaves."""

    def __init__(
        self, pool: Pool, cgroups: Cgroups, counters: Counters, logger: logging.Logger
    ) -> None:
        self._counters = counters
        self._pool = pool
        self._cgroups = cgroups
        self._logger = logger
        self._heartbeats = Heartbeats()
        self._beats_due = 0.0
        self._back_off = BackOff()
        self._halted: set[WorkerProcess] = set()

    def recycle(self, generation: Generation, now: float) -> None:
        """Replace one worker that is due, unless one is being replaced."""
        self._replace_stuck(generation, now)
        if now < generation.paused_until:
            return
        if any(worker.replaced_by is not None for worker in generation.workers):
            return
        limit = worker_memory(generation.settings, self._cgroups)
        if limit is not None:
            self._exempt(generation, limit)
        for worker in generation.serving:
            due = reason_to_recycle(worker, limit)
            if due is not None:
                self.replace(generation, worker, due)
                return

    def replace(self, generation: Generation, worker: WorkerProcess, due: Due) -> None:
        """Start a successor; the worker leaves when the successor serves."""
        self._note(worker, due)
        worker.leaving_because = due.because
        self._pool.spawn(generation, replaces=worker)

    def _note(self, worker: WorkerProcess, due: Due) -> None:
        self._logger.info("%s is replaced: %s", worker, due.because)
        self._counters.add_recycled(due.reason, worker)

    def _replace_stuck(self, generation: Generation, now: float) -> None:
        """Replace a worker with a stuck request, where the policy allows one now."""
        serving = generation.serving
        stuck = [worker for worker in serving if worker.stuck and worker.replaced_by is None]
        stuck.sort(key=lambda worker: worker.stuck_since)
        replacing = sum(
            bool(worker.stuck) and (worker.replaced_by is not None or not worker.is_member)
            for worker in generation.workers
        )
        free = [worker.free_threads for worker in stuck]
        chosen = choose_stuck(free, replacing, generation.wanted, now, self._back_off.allowed_from)
        if chosen is None or now < generation.paused_until:
            return
        self._back_off = self._back_off.after(now)
        worker = stuck[chosen]
        because = f"a request did not end after its deadline: {worker.stuck}"
        due = Due("timeout", because)
        if len(serving) == 1:
            self.replace(generation, worker, due)  # it is the only one that accepts
            return
        self._note(worker, due)
        worker.leave(because)

    def _exempt(self, generation: Generation, limit: int) -> None:
        """Mark workers that were too large from the start: their successors would be, too."""
        for worker in generation.serving:
            if worker.too_large_from_start is None:
                size = resident_memory(worker.pid)
                worker.too_large_from_start = size is not None and size >= limit
                if worker.too_large_from_start:
                    messages.MEMORY_FROM_THE_START.log(
                        self._logger,
                        worker=worker,
                        size=show_size((size or 0) >> 20 << 20),
                        limit=show_size(limit >> 20 << 20),
                    )

    def end_hung(self, now: float) -> None:
        """Warn of workers that hang, and kill them at the end; others start in their places."""
        if now < self._beats_due:
            return
        self._beats_due = now + BEAT_SECONDS
        halted = {worker for worker in self._pool if state_of(worker) == HALTED}
        for worker in halted - self._halted:
            messages.WORKER_HALTED.log(self._logger, worker=worker, pid=worker.pid)
        self._halted = halted
        hung, silent = self._heartbeats.check(list(self._pool), now)
        for worker in silent:
            messages.WORKER_SILENT.log(
                self._logger,
                worker=worker,
                seconds=worker.settings.timeout / 2,
                requests=requests_lost(list(worker.slot.requests())),
                stacks=dump_text(bytes(worker.dumped)),
            )
            worker.dumped.clear()
        for worker in hung:
            limit = beat_limit(worker) or 0.0
            worker.silent_since = now - (worker.slot.beat_age or 0.0)
            worker.kill(
                f"nothing has moved in it for {limit:g} s: native code keeps the interpreter lock "
                "(settings: timeout, timeout_grace)"
            )


# -- which worker is due --------------------------------------------------------------------------


class Due(NamedTuple):
    """Why a worker is to be replaced."""

    reason: str
    """For metrics: the setting, or one word."""
    because: str
    """For people."""


BY_COMMAND = Due("command", "penstockctl recycle")


def reason_to_recycle(worker: WorkerProcess, memory_limit: int | None) -> Due | None:
    """Return why a worker is to be replaced; None where it is not.

    ``memory_limit`` is the most that it may have resident, in bytes.
    """
    if worker.stage is not Stage.SERVING or worker.replaced_by is not None:
        return None
    if time.monotonic() - worker.asked_to_stop_at >= ASKED_SECONDS:
        return Due("signal", ASKED)
    if worker.requests_limit and worker.requests >= worker.requests_limit:
        because = f"it has answered {worker.requests} requests (setting: max_requests)"
        return Due("max_requests", because)
    if worker.age_limit and worker.age >= worker.age_limit:
        because = f"it is {show_duration(round(worker.age))} old (setting: max_age)"
        return Due("max_age", because)
    if memory_limit is not None and not worker.too_large_from_start:
        size = resident_memory(worker.pid)
        if size is not None and size >= memory_limit:
            because = f"it has {show_size(size >> 20 << 20)} of memory (setting: max_memory)"
            return Due("max_memory", because)
    return None


def worker_memory(settings: Settings, cgroups: Cgroups) -> int | None:
    """Return how many bytes a worker may have resident by the settings; None for any number."""
    bound = settings.max_memory
    if isinstance(bound, float):
        available = cgroups.available_memory()
        return None if available is None else int(bound * available)
    return bound


def choose_stuck(
    free_threads: Sequence[int], replacing: int, workers: int, now: float, allowed_from: float
) -> int | None:
    """Return the index of the stuck worker to replace now; None for none.

    ``free_threads`` has an entry for each worker with a stuck request that is not being replaced,
    the oldest report first. At most one worker in four, and at least one, is replaced for stuck
    requests at a time, and none before ``allowed_from``: the others serve with their free threads.
    A worker without a free thread is replaced first.
    """
    if not free_threads or replacing >= max(1, workers // 4) or now < allowed_from:
        return None
    return free_threads.index(0) if 0 in free_threads else 0


@dataclass(frozen=True)
class BackOff:
    """The pauses between replacements for stuck requests."""

    allowed_from: float = 0.0
    """When the next replacement is allowed, on the monotonic clock."""
    pause: float = 0.0
    """The last pause, in seconds; 0 where there was none."""

    def after(self, now: float) -> BackOff:
        """Return the state after a replacement at ``now``.

        The pause doubles with each replacement, and is short again after a time without one that
        is as long as the longest pause.
        """
        quiet = now - self.allowed_from >= LONGEST_BACK_OFF_SECONDS
        pause = FIRST_BACK_OFF_SECONDS
        if self.pause and not quiet:
            pause = min(2 * self.pause, LONGEST_BACK_OFF_SECONDS)
        return BackOff(now + pause, pause)


# -- which worker hangs --------------------------------------------------------------------------


@dataclass
class _Watched:
    """What was seen of one worker."""

    beat: int
    still_since: float
    """When the last beat was seen, or when the worker was last seen halted."""
    asked_at: float | None = None
    """When its stacks were asked for, for the warning at half of the time."""
    warned: bool = False
    dumped_at: float | None = None
    """When its stacks were asked for, before it is killed."""


class Heartbeats:
    """Checks that the interpreter of each worker runs.

    The beats come from a Python thread of the worker, so that they end where native code keeps the
    interpreter lock. A process that is halted (SIGSTOP, a debugger, a laptop that sleeps) does not
    beat either, and is not to blame: only the time counts in which the worker could have run.
    """

    def __init__(self) -> None:
        self._watched: dict[int, _Watched] = {}
        self._looked_at = time.monotonic()

    def check(
        self, workers: list[WorkerProcess], now: float
    ) -> tuple[list[WorkerProcess], list[WorkerProcess]]:
        """Return the workers that have hung for too long, and those to warn of, once each.

        A worker is warned of at half of its timeout. The stacks of both are in
        `WorkerProcess.dumped`, where C code could write them. Must be called about once a second.
        """
        halted = now - self._looked_at > HALT_SECONDS
        self._looked_at = now
        known = {worker.number for worker in workers}
        self._watched = {n: seen for n, seen in self._watched.items() if n in known and not halted}
        hung, silent = [], []
        for worker in workers:
            seen = self._look_at(worker, now)
            if seen is None:
                continue
            if seen.dumped_at is not None and now - seen.dumped_at >= DUMP_SECONDS:
                hung.append(worker)
                continue
            due = seen.asked_at is not None and now - seen.asked_at >= DUMP_SECONDS
            if due and not seen.warned:
                seen.warned = True
                silent.append(worker)
        return hung, silent

    def _look_at(self, worker: WorkerProcess, now: float) -> _Watched | None:
        """Return what is known of a worker that has missed beats; ask for stacks where due."""
        limit, beat = beat_limit(worker), worker.beat
        if limit is None or not beat or worker.stage not in (Stage.SERVING, Stage.LEAVING):
            return None
        seen = self._watched.get(worker.number)
        if seen is None or seen.beat != beat or is_halted(worker.pid):
            self._watched[worker.number] = _Watched(beat, now)
            return None
        still = now - seen.still_since
        if still >= limit and seen.dumped_at is None:
            seen.dumped_at = now
            worker.ask_for_dump()
        elif still >= worker.settings.timeout / 2 and seen.asked_at is None:
            seen.asked_at = now
            worker.ask_for_dump()
        return seen


def beat_limit(worker: WorkerProcess) -> float | None:
    """Return how long a worker may be without a beat, in seconds; None for no limit.

    A request may take its timeout, with or without the interpreter lock.
    """
    settings = worker.settings
    if not settings.timeout:
        return None
    return settings.timeout + settings.timeout_grace
