"""Workers that take long to load the application: where they are, before they are killed."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from penstock import messages
from penstock.supervisor.worker_process import Stage, WorkerProcess
from penstock.system.stacks import dump_text

DUMP_SECONDS = 1.0
"""For C code to write the stacks."""

_SERVER_OF_ITS_OWN = "in serve_forever"
_GUARD = (
    "\nThe module starts a server of its own while it is imported: app.run() and the like belong "
    'under if __name__ == "__main__":'
)


class SlowBoots:
    """Asks each worker that boots for its stacks at half of its time, and before its end."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._asked: dict[WorkerProcess, float] = {}
        """When workers were asked for the warning."""
        self._warned: set[WorkerProcess] = set()
        self._asked_last: set[WorkerProcess] = set()

    def check(self, workers: Iterable[WorkerProcess], now: float) -> None:
        """Warn of workers that have booted for half of ``boot_timeout``, once each."""
        booting = [w for w in workers if w.stage is Stage.BOOTING and w.pid]
        for known in (self._warned, self._asked_last):
            known.intersection_update(booting)
        self._asked = {each: at for each, at in self._asked.items() if each in booting}
        for worker in booting:
            limit = worker.settings.boot_timeout
            left = worker.must_boot_by - now
            if left <= min(DUMP_SECONDS, limit / 4) and worker not in self._asked_last:
                self._asked_last.add(worker)
                worker.ask_for_dump()
            elif worker in self._warned:
                continue
            elif worker not in self._asked:
                if left <= limit / 2:
                    self._asked[worker] = now
                    worker.ask_for_dump()
            elif now - self._asked[worker] >= min(DUMP_SECONDS, limit / 8):
                self._warned.add(worker)
                messages.WORKER_BOOTS_SLOWLY.log(
                    self._logger, worker=worker, seconds=limit / 2, stacks=stacks_of(worker)
                )


def stacks_of(worker: WorkerProcess) -> str:
    """Return the stacks that a worker has written, with what they show."""
    text = dump_text(bytes(worker.dumped))
    return text + (_GUARD if _SERVER_OF_ITS_OWN in text else "")
