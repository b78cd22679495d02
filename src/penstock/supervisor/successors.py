"""Which worker serves in the place of which: for the line of the log that says so."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.supervisor.worker_process import WorkerProcess

_MOST_VACANT = 1000
"""Places of workers that have ended and have no successor yet: more than there can be workers."""


class Successors:
    """Remembers the workers that ended without an order, until others serve in their places."""

    def __init__(self, logger: logging.Logger) -> None:
        self.logger = logger
        self._vacant: deque[str] = deque(maxlen=_MOST_VACANT)

    def note_end(self, worker: WorkerProcess) -> None:
        """Note that a worker has ended, and that no successor was started before."""
        self._vacant.append(f"worker {worker.number}")

    def note_serving(self, worker: WorkerProcess) -> None:
        """Log that a worker serves, in whose place, and how many seconds after its start."""
        before = f"worker {worker.replaces.number}" if worker.replaces is not None else ""
        if not before and self._vacant:
            before = self._vacant.popleft()
        in_place = f" in place of {before}" if before else ""
        self.logger.info("%s serves%s (%.1f s)", worker, in_place, worker.age)

    def forget(self) -> None:
        """Forget the vacant places: a new generation has workers of its own."""
        self._vacant.clear()
