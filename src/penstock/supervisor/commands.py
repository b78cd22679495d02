"""Whoever asks the supervisor is received here: the addresses, the answers, what is waited for.

`control` knows how one asks, the supervisor what is to be done; this is between the two.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from penstock import __version__
from penstock.config.checks import chosen_transport
from penstock.control.commands import (
    Answer,
    ControlError,
    Outcome,
    RequestRow,
    StacksAnswer,
    Status,
    WorkerRow,
)
from penstock.control.server import open_admin, open_control
from penstock.control.stack_collector import StackCollector
from penstock.control.status import Overview
from penstock.errors import ListenError
from penstock.supervisor.worker_process import Stage, WorkerProcess

if TYPE_CHECKING:
    import logging
    import selectors

    from penstock.config.settings import Settings
    from penstock.control.http_service import Service
    from penstock.listeners import Listener

BY_HAND = "penstockctl recycle"
"""Why a worker is replaced, for the log."""


class GenerationLike(Protocol):
    """What is needed of the generation that takes new connections."""

    number: int
    wanted: int
    settings: Settings

    @property
    def serving(self) -> list[WorkerProcess]:
        """The workers that serve."""


class WorkforceLike(Protocol):
    """What is needed of the workers of all generations."""

    def __iter__(self) -> Iterator[WorkerProcess]:
        """Yield every worker that has not ended."""


class SupervisorLike(Protocol):
    """What is needed of the supervisor. Commands raise `ControlError` where they cannot begin."""

    @property
    def phase(self) -> Enum:
        """What the server is about; its value is told."""

    @property
    def current(self) -> GenerationLike:
        """The generation that takes new connections."""

    @property
    def workforce(self) -> WorkforceLike:
        """The workers."""

    @property
    def listeners(self) -> list[Listener]:
        """Where it listens."""

    def begin_reload(self, answer: Answer) -> None:
        """Start a new generation."""

    def upgrade(self, answer: Answer) -> None:
        """Start a new supervisor."""

    def scale(self, workers: int) -> None:
        """Want so many workers from now on."""

    def replace(self, worker: WorkerProcess, reason: str) -> None:
        """Start a successor; the worker leaves when that one serves."""

    def stop(self, *, graceful: bool, answer: Answer) -> None:
        """Stop the server."""


class Reception:
    """The control socket, the probes, and the `Fleet` that they are answered from."""

    def __init__(
        self,
        supervisor: SupervisorLike,
        application: str,
        selector: selectors.BaseSelector,
        logger: logging.Logger,
        resident_memory: Callable[[int], int | None],
        ask_for_dump: Callable[[WorkerProcess], None],
    ) -> None:
        """Receive nobody yet.

        ``application`` is as it was named; the functions are those of `Overview` and
        `StackCollector`.
        """
        self._supervisor = supervisor
        self._application = application
        self._selector = selector
        self._logger = logger
        self._overview = Overview(supervisor.workforce, resident_memory)
        self.stacks = StackCollector(ask_for_dump)
        self._since = time.time()
        self._began = time.monotonic()
        self._services: dict[str, Service] = {}  # by the setting that names their address
        self._addresses: dict[str, str | None] = {}
        self._leaving: list[Service] = []
        self._handed_over = False
        self._awaited: list[tuple[Callable[[], Outcome | None], Answer]] = []

    # -- addresses ------------------------------------------------------------------------------

    def open(self, settings: Settings, inherited: Mapping[str, int] | None = None) -> None:
        """Open what the settings ask for; raises `ListenError`, and has opened nothing then.

        ``inherited`` are the sockets that a predecessor passed, by ``control`` and ``admin``.
        """
        passed = inherited or {}
        try:
            for setting in ("control", "admin"):
                self._open(setting, getattr(settings, setting), passed.get(setting))
        except ListenError:
            self.close()
            raise

    def follow(self, settings: Settings) -> None:
        """Take the addresses of new settings, in a reload; what cannot be stays as it was.

        Who waits for the reload's outcome gets it, even by an address that is given up.
        """
        for setting in ("control", "admin"):
            address = getattr(settings, setting)
            if address == self._addresses.get(setting):
                continue
            before = self._services.pop(setting, None)
            try:
                self._open(setting, address, None)
            except ListenError as error:
                self._logger.error("%s stays as it was: %s", setting, error)
                if before is not None:
                    self._services[setting] = before
                continue
            if before is not None:
                before.stop_accepting()
                self._leaving.append(before)

    def _open(self, setting: str, address: str | None, inherited: int | None) -> None:
        service = None
        if setting == "control" and address is not None:
            service = open_control(address, self, self._selector, self._logger, inherited=inherited)
        elif address is not None:
            service = open_admin(address, self, self._selector, self._logger, inherited=inherited)
        self._addresses[setting] = address
        if service is not None:
            self._services[setting] = service
            self._logger.debug("%s: on %s", setting, service.name)

    def descriptors(self) -> dict[str, int]:
        """Return the sockets to pass to a successor, by ``control`` and ``admin``.

        Not that of ``auto``, which has the process id in its name.
        """
        return {
            setting: service.listener.socket.fileno()
            for setting, service in self._services.items()
            if (self._addresses[setting] or "").lower() != "auto"
        }

    # -- for the supervisor's loop ----------------------------------------------------------------

    @property
    def is_busy(self) -> bool:
        """Whether `tick` is to be called soon again."""
        return bool(self._awaited) or self.stacks.is_busy

    def tick(self) -> None:
        """Look at the clock, and at what has become of what was told."""
        now = time.monotonic()
        for service in [*self._services.values(), *self._leaving]:
            service.expire(now)
        self._leaving = [service for service in self._leaving if service.is_connected]
        self.stacks.tick(now)
        self._settle()

    def take_over(self) -> None:
        """Have the sockets that a predecessor passed for one's own."""
        for service in self._services.values():
            service.take_over()

    def hand_over(self) -> None:
        """Let nobody in any more: a successor has the sockets. Answers still go out."""
        self._handed_over = True
        for service in self._services.values():
            service.stop_accepting(keep_path=True)

    def close(self) -> None:
        """Close everything. What was answered just before has been sent."""
        for service in [*self._services.values(), *self._leaving]:
            service.close()
        self._services.clear()
        self._leaving.clear()

    def abandon(self) -> None:
        """Close all descriptors in a forked child; the parent keeps its own."""
        for service in [*self._services.values(), *self._leaving]:
            service.abandon()

    # -- questions (Fleet) ------------------------------------------------------------------------

    def status(self) -> Status:
        """See `Fleet.status`."""
        supervisor = self._supervisor
        current = supervisor.current
        return {
            "version": __version__,
            "pid": os.getpid(),
            "application": self._application,
            "state": str(supervisor.phase.value),
            "generation": current.number,
            "since": round(self._since, 3),
            "age": round(time.monotonic() - self._began, 3),
            "listeners": [listener.name for listener in supervisor.listeners],
            "transport": chosen_transport(current.settings),
            "threads": current.settings.threads,
            "workers": current.wanted,
            "counts": self._overview.counts(),
        }

    def workers(self) -> list[WorkerRow]:
        """See `Fleet.workers`."""
        return self._overview.workers()

    def requests(self) -> list[RequestRow]:
        """See `Fleet.requests`."""
        return self._overview.requests()

    def is_ready(self) -> bool:
        """See `Fleet.is_ready`."""
        if self._handed_over:
            return True  # asked on a connection from before: the successor serves
        starting_or_stopping = self._supervisor.phase.value in ("starting", "stopping")
        return not starting_or_stopping and self._overview.is_ready()

    def is_live(self) -> bool:
        """See `Fleet.is_live`."""
        return self._overview.is_live()

    def ask_stacks(self, pid: int | None, answer: StacksAnswer) -> None:
        """See `Fleet.ask_stacks`."""
        if pid is not None:
            self.stacks.ask([self._find(pid)], answer)
            return
        # One that has not loaded its application yet takes no orders: C code tells of it.
        self.stacks.ask([worker for worker in self._supervisor.workforce if worker.pid], answer)

    def _find(self, pid: int) -> WorkerProcess:
        for worker in self._supervisor.workforce:
            if worker.pid == pid:
                return worker
        raise ControlError(f"no worker has the process id {pid}")

    # -- commands (Fleet) -------------------------------------------------------------------------

    def reload(self, answer: Answer) -> None:
        """See `Fleet.reload`."""
        self._supervisor.begin_reload(answer)

    def upgrade(self, answer: Answer) -> None:
        """See `Fleet.upgrade`."""
        self._supervisor.upgrade(answer)

    def stop(self, graceful: bool, answer: Answer) -> None:
        """See `Fleet.stop`."""
        self._supervisor.stop(graceful=graceful, answer=answer)

    def scale(self, workers: int, answer: Answer) -> None:
        """See `Fleet.scale`."""
        supervisor = self._supervisor
        supervisor.scale(workers)
        current = supervisor.current
        deadline = time.monotonic() + current.settings.boot_timeout

        def outcome() -> Outcome | None:
            serving = len(current.serving)
            if current is not supervisor.current or current.wanted != workers:
                return Outcome(False, "something else was asked for in the meantime")
            if serving == workers:
                noun = "worker serves" if workers == 1 else "workers serve"
                return Outcome(True, f"{workers} {noun}")
            if time.monotonic() > deadline:
                return Outcome(False, f"only {serving} of {workers} workers serve by now")
            return None

        self._await(outcome, answer)

    def recycle(self, pid: int, answer: Answer) -> None:
        """See `Fleet.recycle`."""
        phase = self._supervisor.phase.value
        if phase != "serving":
            raise ControlError(f"the server is {phase}: no worker is replaced by hand meanwhile")
        worker = self._find(pid)
        if worker.stage is not Stage.SERVING:
            raise ControlError(f"{worker} does not serve: it is {worker.stage.value}")
        if worker.replaced_by is None:
            self._supervisor.replace(worker, BY_HAND)
        successor = worker.replaced_by
        if successor is None:
            raise ControlError(f"no successor of {worker} could be started; the log says why")

        def outcome() -> Outcome | None:
            if worker.stage is Stage.ENDED:
                return Outcome(True, f"{worker} was replaced by {successor}")
            if worker.stage is Stage.SERVING and worker.replaced_by is None:
                return Outcome(False, f"{worker} goes on: its successor could not start")
            return None

        self._await(outcome, answer)

    def _await(self, outcome: Callable[[], Outcome | None], answer: Answer) -> None:
        self._awaited.append((outcome, answer))
        self._settle()

    def _settle(self) -> None:
        awaited, self._awaited = self._awaited, []
        for outcome, answer in awaited:
            known = outcome()
            if known is None:
                self._awaited.append((outcome, answer))
            else:
                answer(known)
