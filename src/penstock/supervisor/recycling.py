"""Workers that are replaced while the server serves: those that are due, and those that hang."""

from __future__ import annotations

import logging
import time

from penstock.config.options import show_duration, show_size
from penstock.supervisor.generation import Generation
from penstock.supervisor.heartbeats import Heartbeats, beat_limit
from penstock.supervisor.pool import Workforce
from penstock.supervisor.resources import worker_memory
from penstock.supervisor.worker_process import Stage, WorkerProcess
from penstock.system.cgroups import Cgroups, resident_memory

BEAT_SECONDS = 1.0
"""How often the heartbeats are looked at."""


class Turnover:
    """Replaces workers one at a time, the successor first."""

    def __init__(self, workforce: Workforce, cgroups: Cgroups, logger: logging.Logger) -> None:
        self._workforce = workforce
        self._cgroups = cgroups
        self._logger = logger
        self._heartbeats = Heartbeats()
        self._beats_due = 0.0

    def recycle(self, generation: Generation) -> None:
        """Replace one worker that is due, unless one is being replaced."""
        self._retire_stuck(generation)
        if time.monotonic() < generation.paused_until:
            return
        if any(worker.replaced_by is not None for worker in generation.workers):
            return
        limit = worker_memory(generation.settings, self._cgroups)
        if limit is not None:
            self._exempt(generation, limit)
        for worker in generation.serving:
            reason = reason_to_recycle(worker, limit)
            if reason:
                self.replace(generation, worker, reason)
                return

    def _retire_stuck(self, generation: Generation) -> None:
        """Have a worker with a stuck request accept no more, where others do."""
        for worker in generation.serving:
            if worker.stuck and worker.replaced_by is None and len(generation.serving) > 1:
                reason = reason_to_recycle(worker, None)
                self._logger.info("%s is replaced: %s", worker, reason)
                worker.leave(reason)

    def _exempt(self, generation: Generation, limit: int) -> None:
        """See who was too large from the start: their successors would be as large, for ever."""
        for worker in generation.serving:
            if worker.too_large_from_start is None:
                size = resident_memory(worker.pid)
                worker.too_large_from_start = size is not None and size >= limit
                if worker.too_large_from_start:
                    self._logger.warning(
                        "%s has %s of memory from the start, and is not replaced for that: raise "
                        "max_memory, which comes to %s",
                        worker, show_size((size or 0) >> 20 << 20), show_size(limit >> 20 << 20),
                    )  # fmt: skip

    def replace(self, generation: Generation, worker: WorkerProcess, reason: str) -> None:
        """Start a successor; the worker leaves when that one serves."""
        self._logger.info("%s is replaced: %s", worker, reason)
        worker.leaving_because = reason
        self._workforce.spawn(generation, replaces=worker)

    def end_hung(self) -> None:
        """Kill the workers in which nothing moves; others come in their places."""
        now = time.monotonic()
        if now < self._beats_due:
            return
        self._beats_due = now + BEAT_SECONDS
        for worker in self._heartbeats.hung(list(self._workforce)):
            limit = beat_limit(worker) or 0.0
            worker.kill(
                f"nothing has moved in it for {limit:g} s: native code keeps the interpreter lock "
                "(settings: timeout, timeout_grace)"
            )


def reason_to_recycle(worker: WorkerProcess, memory_limit: int | None) -> str:
    """Return why a worker is to be replaced; empty where it is not.

    ``memory_limit`` is the most that it may have resident, in bytes.
    """
    if worker.stage is not Stage.SERVING or worker.replaced_by is not None:
        return ""
    if worker.stuck:
        return f"a request did not end when it was told to: {worker.stuck}"
    if worker.told_to_stop:
        return "it was asked to stop"
    if worker.requests_limit and worker.requests >= worker.requests_limit:
        return f"it has answered {worker.requests} requests (setting: max_requests)"
    if worker.age_limit and worker.age >= worker.age_limit:
        return f"it is {show_duration(round(worker.age))} old (setting: max_age)"
    if memory_limit is not None and not worker.too_large_from_start:
        size = resident_memory(worker.pid)
        if size is not None and size >= memory_limit:
            return f"it has {show_size(size >> 20 << 20)} of memory (setting: max_memory)"
    return ""
