"""Collects the stacks of workers: from the workers where they answer, else written by C code."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from penstock.control.commands import Reply
from penstock.supervisor.worker_process import Stage, WorkerProcess
from penstock.system.stacks import dump_text

ANSWER_SECONDS = 2.0
"""For a worker to answer: its main thread needs the interpreter lock for a moment."""

DUMP_SECONDS = 1.0
"""For C code to write the stacks of a worker that has not answered."""

NO_ANSWER = "it did not answer, and wrote nothing: the process may be halted"
GONE = "it has ended"


class StackCollector:
    """Collects stacks for any number of clients at once."""

    def __init__(self, ask_for_dump: Callable[[WorkerProcess], None]) -> None:
        """``ask_for_dump`` has a worker's C code write its stacks to `WorkerProcess.dumped`."""
        self._ask_for_dump = ask_for_dump
        self._asked: dict[WorkerProcess, float] = {}  # by the time of the order
        self._dumping: dict[WorkerProcess, float] = {}  # workers that did not answer, by time
        self._answered_late: dict[WorkerProcess, str] = {}  # the answers of workers that dump
        self._collections: list[_Collection] = []

    @property
    def is_busy(self) -> bool:
        """Whether `tick` is to be called again soon."""
        return bool(self._collections)

    def ask(self, workers: Sequence[WorkerProcess], reply: Reply) -> None:
        """Collect the stacks of these workers; ``reply`` is called within seconds."""
        now = time.monotonic()
        self._collections.append(_Collection(list(workers), reply))
        for worker in workers:
            if worker not in self._asked and worker not in self._dumping:
                self._asked[worker] = now
                worker.order("stacks")
        self._finish()

    def on_stacks(self, worker: WorkerProcess, text: str) -> None:
        """Take the stacks that a worker has sent."""
        self._asked.pop(worker, None)
        if worker in self._dumping:
            # The dump shows where the worker hung. This was taken after that.
            self._answered_late[worker] = text
        else:
            self._take(worker, text)

    def tick(self, now: float) -> None:
        """Act on workers that have not answered in time, or have ended; ``now`` is monotonic."""
        for worker, since in list(self._asked.items()):
            if worker.stage is Stage.ENDED:
                del self._asked[worker]
                self._take(worker, GONE)
            elif now - since >= ANSWER_SECONDS:
                del self._asked[worker]
                self._dumping[worker] = now
                self._ask_for_dump(worker)
        for worker, since in list(self._dumping.items()):
            if worker.stage is Stage.ENDED or now - since >= DUMP_SECONDS:
                del self._dumping[worker]
                text = dump_text(bytes(worker.dumped))
                worker.dumped.clear()  # or else the worker's end would be logged with it
                late = self._answered_late.pop(worker, "")
                gone = worker.stage is Stage.ENDED
                self._take(worker, text or late or (GONE if gone else NO_ANSWER))

    def _take(self, worker: WorkerProcess, text: str) -> None:
        for collection in self._collections:
            if worker in collection.missing:
                collection.missing.remove(worker)
                collection.found[worker.pid] = text
                collection.numbers[str(worker.pid)] = worker.number
        self._finish()

    def _finish(self) -> None:
        finished = [each for each in self._collections if not each.missing]
        self._collections = [each for each in self._collections if each.missing]
        for collection in finished:
            stacks = {str(pid): text for pid, text in sorted(collection.found.items())}
            collection.reply({"stacks": stacks, "workers": collection.numbers})


class _Collection:
    """The stacks that one client waits for."""

    def __init__(self, missing: list[WorkerProcess], reply: Reply) -> None:
        self.missing = missing
        self.reply = reply
        self.found: dict[int, str] = {}
        self.numbers: dict[str, int] = {}
