"""A reload: a new generation that serves before the old one leaves, or else never was."""

from __future__ import annotations

import logging

from penstock.control.commands import Answer, Outcome
from penstock.supervisor.generation import Generation
from penstock.supervisor.phases import traceback_of
from penstock.supervisor.pool import Workforce
from penstock.supervisor.worker_process import Stage, WorkerProcess
from penstock.worker.channel import Message


class Reload:
    """One reload, from its first worker to its success or its failure.

    A single worker goes ahead: new code that does not start costs no more than that. Nobody lets
    clients in before all are ready, so that there is nothing to take back where one is not.
    """

    def __init__(
        self,
        workforce: Workforce,
        coming: Generation,
        logger: logging.Logger,
        answers: list[Answer],
    ) -> None:
        """Prepare it; ``coming`` is one of the workforce's generations already."""
        self.coming = coming
        self.answers = answers
        self._workforce = workforce
        self._logger = logger
        self._first_is_ready = False

    def proceed(self) -> None:
        """Start what can be started now: one worker, and when that one is ready all others."""
        if self._first_is_ready:
            self._workforce.fill(self.coming)
        elif not self.coming.members:
            self._workforce.fill(self.coming, most=1)

    def on_ready(self) -> bool:
        """Start the other workers; tell whether all are ready to serve."""
        self._first_is_ready = True
        self.proceed()
        waiting = [w for w in self.coming.members if w.stage is Stage.READY]
        return len(waiting) >= self.coming.wanted

    def is_complete(self) -> bool:
        """Tell whether all serve."""
        return len(self.coming.serving) >= self.coming.wanted

    def fail(self, worker: WorkerProcess | None, failure: Message) -> None:
        """Take the new generation back, because of a failure, of that worker if it was one's."""
        who = f"{worker}: " if worker is not None else ""
        message = f"not reloaded, the old workers go on: {who}{failure['message']}"
        self._logger.error("%s%s", message, traceback_of(failure))
        self._take_back(message)

    def give_up(self, because: str) -> None:
        """Take the new generation back, because something else is wanted by now."""
        message = f"this reload is given up: {because}"
        self._logger.info("%s", message)
        self._take_back(message)

    def _take_back(self, message: str) -> None:
        for other in list(self.coming.workers):
            if other.stage is Stage.FAILED:
                continue  # it watches what it could not load
            if other.let_in:  # though it may not have said yet that it serves
                other.leave("the reload was taken back")
            else:
                other.leaving_because = "the reload was taken back"
                other.quit()
        self.answer(False, message)

    def answer(self, done: bool, message: str) -> None:
        """Tell those who asked for it how it ended."""
        for answer in self.answers:
            answer(Outcome(done, message))
        self.answers.clear()
