"""A generation: the workers that were started with the same settings and the same code."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from penstock import messages
from penstock.app.loading import load_application
from penstock.config.budgets import budgets, facts
from penstock.edge.rate_limit import RateTable
from penstock.records import dataclass
from penstock.supervisor.logs import WorkerLogs
from penstock.supervisor.worker_process import Stage, WorkerProcess, open_lines
from penstock.telemetry.scoreboard import Scoreboard, Slot
from penstock.worker.channel import Channel
from penstock.worker.child import Assignment, run

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

    from penstock.compat.gunicorn.hooks import Server
    from penstock.config.settings import Settings
    from penstock.edge.tls import TlsMaterial
    from penstock.listeners import Listener
    from penstock.supervisor.helpers import Helpers
    from penstock.supervisor.preloader import Preloader
    from penstock.system.privileges import Identity

SPARE_SLOTS = 64
"""Slots on a scoreboard beyond two for each worker: for workers that TTIN adds later."""

HEALTHY_SECONDS = 1.0
"""A worker that has served for this long did not end because of how it was started."""

EARLY_DEATHS = 2
"""This many workers in a row that ended earlier are replaced at once: a person may have killed
them."""

FIRST_PAUSE_SECONDS = 1.0
"""The pause after one more; it doubles with each that follows."""

LONGEST_PAUSE_SECONDS = 30.0
"""The longest pause between two attempts to start a worker."""


@dataclass(frozen=True)
class Launch:
    """What the command passes to the supervisor: what to serve, and how to read settings again."""

    directory: str
    """The current directory of the command."""
    environ: Mapping[str, str]
    """The environment of the command."""
    application: str
    """As it was named: ``module:callable``."""
    settings: Settings
    read_settings: Callable[[], Settings]
    """Reads the settings again, from all their sources; raises `SettingsError`."""
    prepare: Callable[[Settings], None]
    """Gives a worker's process the directory, search path, variables and mask of the settings."""


class Generation:
    """The workers of one generation, and what they are started from."""

    def __init__(
        self,
        number: int,
        launch: Launch,
        settings: Settings,
        wanted: int,
        listeners: Sequence[Listener],
        identity: Identity | None,
        server: Server,
        title: str,
        logger: logging.Logger,
        helpers: Helpers,
        close_in_child: Callable[[Generation], None],
        spool: tuple[int | None, bool] | None = None,
    ) -> None:
        """Begin to open the logs, and make room for ``wanted`` workers; none is started yet.

        ``identity`` is the user that the workers become. ``server`` is for gunicorn's hooks,
        ``title`` for the titles of processes. ``close_in_child`` closes in a forked child what is
        the supervisor's alone; ``spool`` is for `facts`. Raises `SettingsError` for a log that
        cannot be opened.
        """
        self.number = number
        self.launch = launch
        self.settings = settings
        self.wanted = wanted
        self.listeners = list(listeners)
        self.directory = os.getcwd()
        """Where its workers start: those of another generation may start elsewhere."""
        self.server = server
        self.reason = ""
        """Why this number of workers was chosen, where it is ``auto``."""
        self.scoreboard = Scoreboard(
            2 * wanted + SPARE_SLOTS,
            settings.threads,
            settings.most_beside,
            settings.recent_requests,
        )
        self.budgets = budgets(settings, replace(facts(settings, spool=spool), workers=wanted))
        self.rate_table = RateTable() if settings.max_requests_per_client is not None else None
        self.tls: TlsMaterial | None = None
        """What its workers serve TLS with; None where no address has TLS."""
        self._tls_number = 1
        self.workers: list[WorkerProcess] = []
        self.preloader: Preloader | None = None
        """The process that has loaded the application and forks the workers (setting: preload)."""
        self.has_served = False
        """One of its workers has served: its settings are valid."""
        self.paused_until = 0.0
        self.start_failure = ""
        """Why the system started no process for the last worker; empty where it did."""
        self.identity = identity
        self.logs = WorkerLogs(settings, identity, helpers)
        self.title = title
        self._logger = logger
        self._close_in_child = close_in_child
        self._early_deaths = 0

    def __str__(self) -> str:
        """Return its name in logs."""
        return f"generation {self.number}"

    @property
    def size(self) -> str:
        """The number of workers that are wanted, in words."""
        return f"{self.wanted} {'worker' if self.wanted == 1 else 'workers'}"

    @property
    def members(self) -> list[WorkerProcess]:
        """The workers that serve or will, without those that a successor is about to replace."""
        return [w for w in self.workers if w.is_member and w.replaced_by is None]

    @property
    def serving(self) -> list[WorkerProcess]:
        """The workers that serve."""
        return [worker for worker in self.workers if worker.stage is Stage.SERVING]

    def listen(self) -> None:
        """Let clients connect. Raises `ListenError`."""
        for listener in self.listeners:
            listener.listen(self.settings.backlog)

    # -- starting workers -------------------------------------------------------------------------

    def spawn(
        self, number: int, register: Callable[[WorkerProcess], None], replaces: WorkerProcess | None
    ) -> WorkerProcess | None:
        """Start a worker; return None where that fails: it is logged, and tried again later.

        ``register`` is called with a worker that was started, or ordered from the preloader.
        """
        slot = self.scoreboard.take()
        if slot is None:
            # There is, as soon as one of those that leave has ended.
            reason = f"there is no room for more than {len(self.workers)}"
            messages.WORKER_NOT_STARTED.log(self._logger, reason=reason)
            self.pause()
            return None
        try:
            channel, child_channel, dump, child_dump = open_lines()
        except OSError as error:
            self.scoreboard.give_back(slot)
            self._fail_to_start(error.strerror or str(error))
            return None
        worker = WorkerProcess(number, self.number, slot, channel, dump, self.settings)
        worker.tls = lambda: (self._tls_number, self.tls) if self.tls is not None else None
        # A serving worker begins to watch sooner, and knows which files were loaded first.
        worker.watches = self.settings.reload and not self.members
        if replaces is not None:
            worker.replaces = replaces
            replaces.replaced_by = worker
        self.workers.append(worker)
        try:
            worker.pid = self._fork(worker, child_channel, child_dump)
        except OSError as error:
            self.discard(worker)
            self._fail_to_start(error.strerror or str(error))
            return None
        finally:
            child_channel.close()
            os.close(child_dump)
        register(worker)
        self.start_failure = ""
        return worker

    def _fail_to_start(self, reason: str) -> None:
        messages.WORKER_NOT_STARTED.log(self._logger, reason=reason)
        self.start_failure = reason
        self.pause()

    def _fork(self, worker: WorkerProcess, channel: Channel, dump: int) -> int:
        """Return the process id of a new worker; 0 where it sends that itself. Raises OSError."""
        if self.preloader is not None:
            self.preloader.fork(worker.number, worker.slot, channel, dump, self.logs.descriptors)
            return 0
        # The supervisor has one thread, so that nothing is half done in the child.
        pid = os.fork()
        if pid == 0:
            run(
                self.assignment(
                    worker.number,
                    worker.slot,
                    channel,
                    dump,
                    lambda: load_application(self.launch.application),
                    dict(self.logs.descriptors),
                    watches=worker.watches,
                ),
                self.move_in,
            )
        return pid

    def assignment(
        self,
        number: int,
        slot: Slot,
        channel: Channel,
        dump: int,
        load: Callable[[], WSGIApplication],
        logs: Mapping[str, int],
        *,
        watches: bool = False,
    ) -> Assignment:
        """Return what a worker of this generation is given; see `Assignment`."""
        return Assignment(
            number=number,
            settings=self.settings,
            listeners=self.listeners,
            multiprocess=self.wanted > 1,
            identity=self.identity,
            title=self.title,
            server=self.server,
            slot=slot,
            budgets=self.budgets,
            rate_table=self.rate_table,
            channel=channel,
            dump=dump,
            prepare=self.launch.prepare,
            load=load,
            logs=logs,
            watches=watches,
        )

    def move_in(self) -> None:
        """Make a forked child one of this generation: close what is the supervisor's alone."""
        self._close_in_child(self)
        os.chdir(self.directory)  # the supervisor may have left it since, in a reload

    def renew_tls(self, material: TlsMaterial) -> None:
        """Pass the workers other certificates."""
        self.tls = material
        self._tls_number += 1
        for worker in self.workers:
            worker.renew_tls(self._tls_number, material)

    def when_served(self) -> Callable[[], bool]:
        """Return a function that returns True once all workers serve with these certificates.

        Or with later ones. Workers that leave take no more connections.
        """
        number = self._tls_number
        return lambda: all(
            worker.certificates >= number
            for worker in self.workers
            if worker.stage in (Stage.STARTING, Stage.SERVING)
        )

    def reopen_logs(self) -> None:
        """Open the log files again by their names, and pass them to the workers."""
        self.logs.reopen(self._logger, self._pass_logs)

    def _pass_logs(self, fresh: Mapping[str, int]) -> None:
        for worker in self.workers:
            worker.reopen_logs(fresh)

    # -- ends of workers --------------------------------------------------------------------------

    def discard(self, worker: WorkerProcess) -> None:
        """Forget a worker that has ended; it still knows which one it was to replace."""
        worker.stage = Stage.ENDED
        self.unlink(worker)
        self.workers.remove(worker)
        worker.release()

    def unlink(self, worker: WorkerProcess) -> None:
        """Cancel the replacements that a worker takes part in."""
        if worker.replaces is not None:
            worker.replaces.replaced_by = None
        if worker.replaced_by is not None:
            worker.replaced_by.replaces = None

    def note_death(self, worker: WorkerProcess) -> float:
        """Count a worker that ended without an order; return the pause before the next start."""
        served = time.monotonic() - worker.serving_since if worker.serving_since else 0.0
        if served >= HEALTHY_SECONDS:
            self._early_deaths = 0
            return 0.0
        self._early_deaths += 1
        if self._early_deaths <= EARLY_DEATHS:
            return 0.0
        return self.pause()

    def pause(self) -> float:
        """Start no worker for a while; return for how long, in seconds."""
        doublings = max(0, self._early_deaths - EARLY_DEATHS - 1)
        seconds = min(FIRST_PAUSE_SECONDS * 2.0 ** min(doublings, 16), LONGEST_PAUSE_SECONDS)
        self.paused_until = time.monotonic() + seconds
        return seconds

    def end_all(self, because: str) -> None:
        """Order every worker to leave: those that serve finish the requests in progress."""
        for worker in list(self.workers):
            worker.leave(because)

    def end_preloader(self) -> None:
        """End the process that preloads: no more workers are wanted, or it does not answer."""
        if self.preloader is not None:
            self.preloader.end()
