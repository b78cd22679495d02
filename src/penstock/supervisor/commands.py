"""What control is told and can do: `penstock.supervisor.fleet.Fleet` over the supervisor."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from penstock import __version__
from penstock.cgroups import resident_memory
from penstock.settings import chosen_transport
from penstock.supervisor.fleet import (
    Answer,
    ControlError,
    Outcome,
    RequestRow,
    StacksAnswer,
    Status,
    WorkerRow,
)
from penstock.supervisor.heartbeats import ask_for_dump
from penstock.supervisor.overview import Overview
from penstock.supervisor.processes import Stage, WorkerProcess

if TYPE_CHECKING:
    from penstock.supervisor.supervisor import Supervisor

STACKS_SECONDS = 1.0
"""How long a worker may take to tell its stacks, before its C code is made to write them."""

DUMP_SECONDS = 1.0
"""How long that may take."""


@dataclass
class _Stacks:
    """One question for stacks, until all have answered or the time is over."""

    answer: StacksAnswer
    missing: dict[int, WorkerProcess]
    until: float
    found: dict[int, str] = field(default_factory=dict)
    dumping: bool = False


@dataclass
class _Pending:
    """A command whose outcome is not known yet."""

    answer: Answer
    is_done: Callable[[], str]
    """Returns what to say when it is done; empty before."""
    until: float


class Commands:
    """What control is told and can do."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._overview = Overview(supervisor.workforce, resident_memory)
        self._began = time.time()
        self._began_monotonic = time.monotonic()
        self._stacks: list[_Stacks] = []
        self._pending: list[_Pending] = []

    # -- questions --------------------------------------------------------------------------------

    def status(self) -> Status:
        """See `Fleet.status`."""
        supervisor = self._supervisor
        settings = supervisor.settings
        return {
            "version": __version__,
            "pid": supervisor.pid,
            "application": supervisor.launch.application,
            "state": supervisor.state,
            "generation": supervisor.current.number,
            "since": self._began,
            "age": round(time.monotonic() - self._began_monotonic, 3),
            "listeners": [listener.name for listener in supervisor.listeners],
            "transport": chosen_transport(settings),
            "threads": settings.threads,
            "workers": supervisor.current.wanted,
            "counts": self._overview.counts() | supervisor.workforce.counts,
        }

    def workers(self) -> list[WorkerRow]:
        """See `Fleet.workers`."""
        return self._overview.workers()

    def requests(self) -> list[RequestRow]:
        """See `Fleet.requests`."""
        return self._overview.requests()

    def is_ready(self) -> bool:
        """See `Fleet.is_ready`."""
        return self._supervisor.wants_requests and self._overview.is_ready()

    def is_live(self) -> bool:
        """See `Fleet.is_live`."""
        return self._overview.is_live()

    def ask_stacks(self, pid: int | None, answer: StacksAnswer) -> None:
        """See `Fleet.ask_stacks`."""
        asked = {
            worker.pid: worker
            for worker in self._supervisor.workforce
            if worker.pid and (pid is None or worker.pid == pid)
        }
        if pid is not None and not asked:
            raise ControlError(f"there is no worker with process id {pid}")
        for worker in asked.values():
            worker.order("stacks")
        self._stacks.append(_Stacks(answer, asked, time.monotonic() + STACKS_SECONDS))
        self.tick()

    def take_stacks(self, worker: WorkerProcess, text: str) -> None:
        """Take what a worker tells of its stacks."""
        for question in self._stacks:
            if question.missing.pop(worker.pid, None) is not None:
                question.found[worker.pid] = text
        self.tick()

    # -- commands ---------------------------------------------------------------------------------

    def reload(self, answer: Answer) -> None:
        """See `Fleet.reload`."""
        self._supervisor.begin_reload(answer)

    def upgrade(self, answer: Answer) -> None:
        """See `Fleet.upgrade`."""
        self._supervisor.begin_upgrade(answer)

    def stop(self, graceful: bool, answer: Answer) -> None:
        """See `Fleet.stop`."""
        self._supervisor.stop(graceful=graceful, answer=answer)

    def scale(self, workers: int, answer: Answer) -> None:
        """See `Fleet.scale`."""
        supervisor = self._supervisor
        supervisor.scale(workers)
        generation = supervisor.current

        def is_done() -> str:
            left = [worker for worker in generation.workers if worker.stage is not Stage.SERVING]
            done = len(generation.serving) == workers and not left
            return (
                f"{workers} {'worker serves' if workers == 1 else 'workers serve'}" if done else ""
            )

        self._await(answer, is_done)

    def recycle(self, pid: int, answer: Answer) -> None:
        """See `Fleet.recycle`."""
        supervisor = self._supervisor
        worker = supervisor.workforce.find(pid)
        if worker is None:
            raise ControlError(f"there is no worker with process id {pid}")
        if worker.stage is not Stage.SERVING or worker not in supervisor.current.workers:
            raise ControlError(f"worker {worker.number} is {worker.stage.value}, and not replaced")
        if worker.replaced_by is None:
            supervisor.replace_worker(worker, "it was asked for")
        self._await(
            answer,
            lambda: f"{worker} has left, and another serves" if worker.stage is Stage.ENDED else "",
        )

    def _await(self, answer: Answer, is_done: Callable[[], str]) -> None:
        settings = self._supervisor.settings
        limit = settings.boot_timeout + settings.graceful_timeout + 1.0
        self._pending.append(_Pending(answer, is_done, time.monotonic() + limit))
        self.tick()

    # -- time ---------------------------------------------------------------------------------------

    @property
    def is_waiting(self) -> bool:
        """Whether somebody waits for an answer."""
        return bool(self._stacks or self._pending)

    def tick(self) -> None:
        """Give the answers that can be given by now."""
        now = time.monotonic()
        for pending in list(self._pending):
            message = pending.is_done()
            if message or now > pending.until:
                self._pending.remove(pending)
                late = "not done in time; the log tells why"
                pending.answer(Outcome(bool(message), message or late))
        for question in list(self._stacks):
            self._go_on(question, now)

    def _go_on(self, question: _Stacks, now: float) -> None:
        for pid, worker in list(question.missing.items()):
            if worker.stage is Stage.ENDED:
                del question.missing[pid]
                question.found[pid] = "the worker has ended"
        if question.missing and now > question.until and not question.dumping:
            question.dumping = True
            question.until = now + DUMP_SECONDS
            for worker in question.missing.values():
                ask_for_dump(worker)
        elif question.missing and now > question.until:
            for pid, worker in question.missing.items():
                text = worker.dumped.decode("utf-8", "backslashreplace")
                question.found[pid] = text or "it does not answer: it is halted, or still loads"
            question.missing.clear()
        if not question.missing:
            self._stacks.remove(question)
            question.answer(question.found)
