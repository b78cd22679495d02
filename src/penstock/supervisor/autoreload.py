"""What the supervisor makes of edits that workers report, with ``--reload``: for development."""

from __future__ import annotations

import logging
import math
import os
from typing import Protocol

from penstock.app.file_watcher import State
from penstock.control.commands import ControlError
from penstock.supervisor.generation import Generation
from penstock.supervisor.phases import traceback_of
from penstock.supervisor.pool import Workforce
from penstock.supervisor.worker_process import Stage, WorkerProcess
from penstock.worker.channel import Message

_MOST_NAMES = 3
"""So many files are named in the log; of more, the number is told."""


class Reloads(Protocol):
    """Who can reload."""

    @property
    def current(self) -> Generation:
        """The generation that serves, or starts as the first one."""

    @property
    def is_starting(self) -> bool:
        """Whether nothing was ever served: there is nobody to fall back to."""

    def begin_reload(self) -> None:
        """Start a new generation. Raises `ControlError`."""


class Edits:
    """Sees to it that somebody watches, and reloads once for each change.

    Where code fails to load, the worker that tried stays, as a lookout: it alone knows the files
    that it came upon. There is one at most, and none where all is well.
    """

    def __init__(self, supervisor: Reloads, workforce: Workforce, logger: logging.Logger) -> None:
        self._supervisor = supervisor
        self._workforce = workforce
        self._logger = logger
        self._known: dict[str, State] = {}  # what was acted on already
        self._waits = False

    def tick(self) -> None:
        """Have somebody watch where nobody does any more."""
        generation = self._supervisor.current
        if not generation.settings.reload:
            return
        if math.isinf(generation.paused_until) and not self._lookouts():
            self._start_over("nobody watches any more")
        members = generation.members
        serving = [worker for worker in members if worker.stage is Stage.SERVING]
        if serving and not any(worker.watches for worker in members):
            serving[0].watches = True
            serving[0].order("watch")
        if len(serving) >= generation.wanted:
            for lookout in self._lookouts():
                if lookout.generation == generation.number:
                    lookout.leave("another worker has loaded the application")

    def take(self, files: dict[str, list[int] | None]) -> None:
        """Reload because of files whose new states are told, unless that was done already."""
        states: dict[str, State] = {
            path: (state[0], state[1], state[2]) if state is not None else None
            for path, state in files.items()
        }
        unknown: State = (0, 0, 0)
        news = [path for path, state in states.items() if self._known.get(path, unknown) != state]
        self._known.update(states)
        if not news:
            return
        self._logger.info("changed: %s", _names(news))
        if self._supervisor.is_starting:
            self._start_over("its code has changed")
            return
        try:
            self._supervisor.begin_reload()
        except ControlError as error:
            self._logger.error("not reloaded: %s", error)

    def keep_lookout(self, worker: WorkerProcess) -> None:
        """Keep a worker that could not boot, if it watches, and no other."""
        if worker.stage is Stage.FAILED:
            for other in self._lookouts():
                if other is not worker:
                    other.leave("another one watches")

    def wait(self, worker: WorkerProcess, failure: Message) -> bool:
        """Start no other worker for now, after a first start that has failed.

        Tell whether that is any use: some failures no save can mend.
        """
        generation = self._supervisor.current
        if worker.stage is Stage.FAILED:
            count = failure["watched"]
            until = "waiting for a change of "
            until += "1 file" if count == 1 else f"one of {count} files"
            generation.paused_until = math.inf
        elif generation.settings.reload and _died_without_a_word(worker, failure):
            until = f"the next attempt is in {generation.pause():g} s"
        else:
            return False
        self._logger.error(
            "%s could not start: %s; %s%s",
            worker,
            failure["message"],
            until,
            traceback_of(failure),
        )
        self._waits = True
        self._end_others(worker, "the application could not be loaded")
        return True

    def all_is_well(self) -> None:
        """Dismiss the lookout: the code that was edited serves."""
        self._waits = False
        for lookout in self._lookouts():
            lookout.leave("the application has been loaded")

    def retry(self) -> bool:
        """Start over where the first start has failed; tell whether it has."""
        if not self._waits:
            return False
        self._start_over("another start is wanted")
        return True

    def _lookouts(self) -> list[WorkerProcess]:
        return [worker for worker in self._workforce if worker.stage is Stage.FAILED]

    def _start_over(self, because: str) -> None:
        self._waits = False
        generation = self._supervisor.current
        self._end_others(None, because)
        generation.paused_until = 0.0
        self._workforce.fill(generation)

    def _end_others(self, than: WorkerProcess | None, because: str) -> None:
        for worker in list(self._supervisor.current.workers):
            if worker is not than and worker.stage is not Stage.FAILED:
                worker.leaving_because = because
                worker.quit()


def _died_without_a_word(worker: WorkerProcess, failure: Message) -> bool:
    """Tell whether nobody knows why it failed, nor then which files have to do with it."""
    return worker.stage is Stage.ENDED and "watched" not in failure


def _names(paths: list[str]) -> str:
    """Return some files as they are seen from here."""
    here = os.path.join(os.getcwd(), "")
    shown = sorted(path.removeprefix(here) for path in paths)
    if len(shown) <= _MOST_NAMES:
        return ", ".join(shown)
    return f"{', '.join(shown[:_MOST_NAMES])} and {len(shown) - _MOST_NAMES} more"
