"""A reload: a new generation serves before the old one leaves, or is taken back.

SIGHUP and ``penstockctl reload`` become the event ``ReloadWanted``, for which
``Supervisor._begin_reload`` makes the new generation and a `ReloadInProgress`. With ``--reload``,
for development, workers watch the application's files and ask for a reload.
"""

from __future__ import annotations

import logging
import math
import os
import select
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from penstock import messages
from penstock.config.checks import (
    error_of_places,
    has_places_of_workers,
    measured,
    work_to_measure,
)
from penstock.config.identity import identity_of
from penstock.control.commands import Outcome, Reply
from penstock.listeners import (
    KEPT,
    Address,
    Listener,
    addresses_of,
    bind_listeners,
    close_all,
    error_of_helper,
    received_listener,
    work_to_listen,
)
from penstock.records import dataclass
from penstock.supervisor.generation import Generation
from penstock.supervisor.pool import Pool
from penstock.supervisor.state import traceback_of
from penstock.supervisor.worker_process import Stage, WorkerProcess
from penstock.telemetry.log_files import is_opened_for
from penstock.telemetry.scoreboard import DRAINING, STATE
from penstock.worker.channel import Message

if TYPE_CHECKING:
    from penstock.app.file_watcher import State as FileState
    from penstock.config.settings import Settings
    from penstock.supervisor.certificates import Source
    from penstock.supervisor.helpers import Helpers
    from penstock.system.as_user import HelperError

HANDSHAKE_SECONDS = 1.0
"""How long a removed address is still accepted at: the handshake of a client may be under way."""

SWITCH_SECONDS = 2.0
"""How long the new workers wait until the old ones accept no more, where a reload changes what is
spoken at an address. One that hangs accepts nothing, either."""

LONGEST_SECONDS = 2.0
"""After this time a removed address is closed, even where clients wait in its queue."""

_MOST_KNOWN = 100_000
"""The number of files whose states are remembered."""

_MOST_NAMES = 3
"""The number of changed files that the log names; of more, it says how many."""


class ReloadInProgress:
    """One reload, from its first worker to its success or its failure.

    One worker is started first: new code that does not start costs no more than that. No worker
    accepts before all are ready, so that there is nothing to take back where one is not.

    Where the reload changes what is spoken at an address, plain HTTP or TLS, old and new workers
    must not accept there at the same time: a client would meet either. The old ones leave first,
    and clients wait in the accept queue meanwhile.
    """

    def __init__(
        self,
        pool: Pool,
        coming: Generation,
        logger: logging.Logger,
        reply: Reply | None,
        certificates: Source,
        switched: Sequence[tuple[Listener, Listener]] = (),
    ) -> None:
        """Prepare it; ``coming`` is one of the pool's generations already.

        ``certificates`` are where it has them from. ``switched`` are the old and the new
        listener of each address where something else is spoken from now on.
        """
        self.certificates = certificates
        self.switched = switched
        self._let_in_by: float | None = None
        self.coming = coming
        self.reply = reply
        self._pool = pool
        self._logger = logger
        self._first_is_ready = False

    def proceed(self) -> None:
        """Start the workers that can be started now: one, and when it is ready all others."""
        if self._first_is_ready:
            self._pool.fill(self.coming)
        elif not self.coming.members:
            self._pool.fill(self.coming, most=1)

    def on_ready(self) -> None:
        """Start the other workers: the first one is ready."""
        self._first_is_ready = True
        self.proceed()

    @property
    def is_ready(self) -> bool:
        """Whether all workers wait to be let in, and there is something to serve TLS with."""
        waiting = [w for w in self.coming.members if w.stage is Stage.READY]
        return len(waiting) >= self.coming.wanted and not self.certificates.is_awaited

    def switch(self, old: Generation, now: float) -> None:
        """Order the old workers to leave before the new ones are let in."""
        old.end_all(f"{self.coming} speaks otherwise with clients")
        if self._let_in_by is None:
            self._let_in_by = now + SWITCH_SECONDS

    @property
    def is_switching(self) -> bool:
        """Whether the old workers have been ordered to leave."""
        return self._let_in_by is not None

    def has_switched(self, old: Generation, now: float) -> bool:
        """Return True if the old workers accept no more, as far as one waits for that."""
        return self._let_in_by is not None and (
            now >= self._let_in_by
            or all(w.slot.words[STATE] == DRAINING for w in old.workers if w.let_in)
        )

    @property
    def is_complete(self) -> bool:
        """Whether all workers serve."""
        return len(self.coming.serving) >= self.coming.wanted

    @property
    def success(self) -> str:
        """What is said of its success."""
        return f"reloaded: {self.coming} serves"

    def fail(self, worker: WorkerProcess | None, failure: Message) -> str:
        """Take the new generation back, because of a failure; return what is said of it."""
        subject = f"{worker}: " if worker is not None else ""
        message = f"not reloaded, the old workers go on: {subject}{failure['message']}"
        traceback = traceback_of(failure)
        messages.RELOAD_FAILED.log(self._logger, message=message, traceback=traceback)
        self._take_back(message)
        return message

    def abort(self, because: str) -> str:
        """Take the new generation back, because of another command; return what is said of it."""
        message = given_up(because)
        self._logger.info("%s", message)
        self._take_back(message)
        return message

    def _take_back(self, message: str) -> None:
        for other in list(self.coming.workers):
            if other.stage is Stage.FAILED:
                continue  # it watches the files that it could not load
            if other.let_in:  # though it may not have reported yet that it serves
                other.leave("the reload was taken back")
            else:
                other.leaving_because = "the reload was taken back"
                other.quit()
        if self.reply is not None:
            self.reply(Outcome(False, message))


def given_up(because: str) -> str:
    """Return what is said of a reload that another command has ended."""
    return f"this reload is given up: {because}"


class Preparation:
    """What a reload does before its generation: it binds new addresses, and looks at ``temp_dir``.

    Nothing waits. A host name, and as root with ``--user`` each path, is looked up by a helper
    process. `is_complete` or `failure` says when that is over.
    """

    def __init__(
        self,
        settings: Settings,
        before: Settings,
        listeners: Sequence[Listener],
        helpers: Helpers,
        reply: Reply | None,
    ) -> None:
        """Begin; raises a `PenstockError`, and has bound nothing then.

        ``listeners`` are those of the settings ``before``. Those whose addresses are wanted still
        stay. A unix socket whose path was removed is bound again: clients cannot reach it any more.
        """
        self.settings = settings
        self.reply = reply
        self.failure = ""
        """Why the reload is not possible; empty where nothing has failed."""
        self.spool: tuple[int | None, bool] | None = None
        """See `penstock.config.budgets.facts`."""
        self._before = list(listeners)
        self._helpers = helpers
        self.switched: list[tuple[Listener, Listener]] = []
        """The old and the new listener of each address where something else is spoken."""
        self._identity = identity_of(settings)
        self._is_roots = is_opened_for(self._identity)
        self._awaited = 0
        self._give_up: list[Callable[[], None]] = []  # a function for each process that works
        left = list(listeners)
        self._wanted = wanted = addresses_of(settings)
        same_settings = wanted == addresses_of(before)
        # By their place among the addresses; None is bound by a helper process.
        self._listeners: list[Listener | None] = []
        try:
            for index, address in enumerate(wanted):
                there = next((each for each in left if each.address.place == address.place), None)
                if there is None and same_settings and index < len(listeners):
                    there = listeners[index]
                if there is not None:
                    left.remove(there)
                self._listeners.append(there)
                self._prepare(index, address, there)
            self._measure()
        except BaseException:
            self.close()
            raise

    @property
    def is_complete(self) -> bool:
        """Whether all is done."""
        return not self._awaited

    @property
    def listeners(self) -> list[Listener]:
        """The listeners for the new settings, once all is done."""
        return [each for each in self._listeners if each is not None]

    def switch(self) -> None:
        """Make other listeners for the addresses where something else is to be spoken."""
        for index, (there, address) in enumerate(zip(self.listeners, self._wanted, strict=True)):
            if there.address.spoken != address.spoken:
                other = there.speaking(address)
                self._listeners[index] = other
                self.switched.append((there, other))

    def close(self) -> None:
        """Close what was bound: the reload is given up.

        Its processes end first. One that is late would take the path of a unix socket from the next
        reload, or its answer would be taken for the socket of that one.
        """
        for give_up in self._give_up:
            give_up()
        close_all(each for each in self.listeners if each not in self._before)

    def close_in_child(self) -> None:
        """Close what was bound in a forked child."""
        for each in self.listeners:
            if each not in self._before:
                each.close_in_child()

    def _prepare(self, index: int, address: Address, there: Listener | None) -> None:
        """Keep or bind one address, now or by a helper process."""
        is_path = address.path is not None and not address.path.startswith("\0")
        if there is not None and not (is_path and there.created_path):
            return
        if self._is_roots and is_path:
            self._ask(index, address, there)
        elif there is None and address.is_name:
            self._ask(index, address, None)
        elif there is None or there.is_lost:
            [self._listeners[index]] = bind_listeners([address])
        if self._identity is not None and not (self._is_roots and is_path):
            listener = self._listeners[index]
            if listener is not None:
                listener.give_to(self._identity)

    def _ask(self, index: int, address: Address, there: Listener | None) -> None:
        def done(descriptors: Sequence[int], text: str) -> None:
            self._awaited -= 1
            if text == KEPT:
                return
            try:
                self._listeners[index] = received_listener(address, descriptors, self._identity)
            except (OSError, ValueError) as error:
                self._fail(f"cannot listen on {address.shown}: {error} (setting: --bind)")

        def failed(error: HelperError) -> None:
            self._awaited -= 1
            self._fail(str(error_of_helper(address, error)))

        self._awaited += 1
        work = work_to_listen(address, self._identity, there)
        self._give_up.append(self._helpers.run(work, done, failed))

    def _measure(self) -> None:
        """Look at directories of the workers, where their user may have mounted something."""
        settings = self.settings
        if not (self._is_roots and has_places_of_workers(settings)):
            return
        assert self._identity is not None

        def done(_: Sequence[int], text: str) -> None:
            self._awaited -= 1
            if settings.temp_dir is not None:
                self.spool = measured(text)

        def failed(error: HelperError) -> None:
            self._awaited -= 1
            self._fail(str(error_of_places(settings, str(error))))

        self._awaited += 1
        work = work_to_measure(settings, self._identity)
        self._give_up.append(self._helpers.run(work, done, failed))

    def _fail(self, reason: str) -> None:
        self.failure = self.failure or reason


@dataclass
class RemovedListeners:
    """Addresses that a reload has removed, while the old workers accept what waits there."""

    listeners: Sequence[Listener]
    old: Generation
    """The generation whose workers accept there; they leave when the addresses are closed."""
    reload: ReloadInProgress
    close_from: float
    """When they may be closed, on the monotonic clock, if their queues are empty."""
    close_by: float
    """When they are closed in any case."""

    @classmethod
    def turn_away(
        cls, listeners: Sequence[Listener], old: Generation, reload: ReloadInProgress, now: float
    ) -> RemovedListeners:
        """Refuse new connections where the system can; those in the queues are accepted."""
        lasting = [listener for listener in listeners if listener.ignore_new_connections()]
        close_from = now + HANDSHAKE_SECONDS if lasting else now
        return cls(listeners, old, reload, close_from, now + LONGEST_SECONDS)

    def is_due(self, now: float) -> bool:
        """Return True if the addresses are to be closed now."""
        if not self.listeners or now >= self.close_by:
            return True
        if now < self.close_from:
            return False
        queues = select.poll()
        for listener in self.listeners:
            queues.register(listener.socket, select.POLLIN)
        return not queues.poll(0)

    def close(self) -> None:
        """Order the old workers to leave, close the addresses, and answer the reload."""
        self.old.end_all(f"{self.reload.coming} serves in its place")
        close_all(self.listeners)
        if self.reload.reply is not None:
            self.reload.reply(Outcome(True, self.reload.success))


class Autoreload:
    """Keeps one worker watching the application's files, and reports each change once.

    Where code fails to load, the worker that tried it stays and watches: only that worker knows the
    files that it has read. One failed worker stays at most, and none where all workers serve.
    """

    def __init__(self, pool: Pool, logger: logging.Logger) -> None:
        self._pool = pool
        self._logger = logger
        self._known: dict[str, FileState] = {}  # changes that were acted on already

    def tick(self, generation: Generation) -> None:
        """Make another worker watch where the one that watched has ended."""
        if not generation.settings.reload:
            return
        members = generation.members
        serving = [worker for worker in members if worker.stage is Stage.SERVING]
        if serving and not any(worker.watches for worker in members):
            serving[0].watches = True
            serving[0].order("watch")
        if len(serving) >= generation.wanted:
            for failed in self._failed_workers():
                if failed.generation == generation.number:
                    failed.leave("another worker has loaded the application")

    def waits_in_vain(self, generation: Generation) -> bool:
        """Return True if the start waits for a change that no worker would report."""
        return math.isinf(generation.paused_until) and not self._failed_workers()

    def take(self, files: Mapping[str, Any]) -> bool:
        """Return True if one of these files, whose new states are given, has not been seen so."""
        states: dict[str, FileState] = {
            path: (state[0], state[1], state[2]) if state is not None else None
            for path, state in files.items()
        }
        unknown: FileState = (0, 0, 0)
        news = [path for path, state in states.items() if self._known.get(path, unknown) != state]
        if len(self._known) + len(states) > _MOST_KNOWN:
            self._known.clear()  # a change that was acted on may be acted on once more
        if len(states) <= _MOST_KNOWN:
            self._known.update(states)
        if news:
            self._logger.info("changed: %s", _names(news))
        return bool(news)

    def keep_failed(self, worker: WorkerProcess | None) -> None:
        """Keep one failed worker, the one that watches files. End the other failed workers."""
        if worker is not None and worker.stage is Stage.FAILED:
            for other in self._failed_workers():
                if other is not worker:
                    other.leave("another one watches")

    def wait(self, generation: Generation, worker: WorkerProcess, failure: Message) -> bool:
        """Start no other worker for now, after a first start that has failed.

        Return False where a change of a file cannot help.
        """
        if worker.stage is Stage.FAILED:
            count = failure["watched"]
            until = "waiting for a change of "
            until += "1 file" if count == 1 else f"one of {count} files"
            generation.paused_until = math.inf
        elif generation.settings.reload and _ended_without_report(worker, failure):
            until = f"the next attempt is in {generation.pause():g} s"
        else:
            return False
        messages.WAITING_FOR_CHANGE.log(
            self._logger,
            worker=worker,
            reason=failure["message"],
            until=until,
            traceback=traceback_of(failure),
        )
        self._end_others(generation, worker, "the application could not be loaded")
        return True

    def end_failed(self) -> None:
        """End the failed worker that watches: the code that was changed serves."""
        for failed in self._failed_workers():
            failed.leave("the application has been loaded")

    def start_over(self, generation: Generation, because: str) -> None:
        """Start the workers of the first generation again."""
        self._end_others(generation, None, because)
        generation.paused_until = 0.0
        self._pool.fill(generation)

    def _failed_workers(self) -> list[WorkerProcess]:
        return [worker for worker in self._pool if worker.stage is Stage.FAILED]

    def _end_others(self, generation: Generation, than: WorkerProcess | None, because: str) -> None:
        for worker in list(generation.workers):
            if worker is not than and worker.stage is not Stage.FAILED:
                worker.leaving_because = because
                worker.quit()


def _ended_without_report(worker: WorkerProcess, failure: Message) -> bool:
    """Return True if the reason is not known, and so not which files it depends on."""
    return worker.stage is Stage.ENDED and "watched" not in failure


def _names(paths: list[str]) -> str:
    """Return files relative to the current directory."""
    here = os.path.join(os.getcwd(), "")
    shown = sorted(path.removeprefix(here) for path in paths)
    if len(shown) <= _MOST_NAMES:
        return ", ".join(shown)
    return f"{', '.join(shown[:_MOST_NAMES])} and {len(shown) - _MOST_NAMES} more"
