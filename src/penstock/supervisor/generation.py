"""The workers that were started with the same settings and the same code."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from penstock.supervisor.worker_process import Stage, WorkerProcess
from penstock.telemetry.scoreboard import Scoreboard, Slot
from penstock.worker.channel import Channel

if TYPE_CHECKING:
    from penstock.config.settings import Settings
    from penstock.listeners import Listener
    from penstock.system.privileges import Identity

SPARE_SLOTS = 64
"""Slots on a scoreboard beyond two for each worker: for workers that TTIN adds later."""

HEALTHY_SECONDS = 1.0
"""A worker that has served for so long did not die of how it was started."""

EARLY_DEATHS = 2
"""So many in a row that died earlier are replaced at once: somebody may have killed them."""

FIRST_PAUSE_SECONDS = 1.0
"""The pause after one more; it doubles with each that follows."""

LONGEST_PAUSE_SECONDS = 30.0
"""The longest pause between two attempts to start a worker."""


@dataclass(frozen=True)
class Ends:
    """What a new worker gets of the lines to the supervisor: they are closed here afterwards."""

    channel: Channel
    dump: int
    watches: bool = False
    """The worker is to watch the application's files."""
    has_served: bool = False
    """Others of the generation could serve: what has gone since is to be done without."""


class Spawner(Protocol):
    """What makes the processes of a generation's workers."""

    is_ready: bool
    """Whether it can make one now."""

    def begin(self) -> None:
        """Begin to become ready, where that takes something."""

    def check_deadline(self) -> None:
        """Give up where that takes too long."""

    def note_end(self, pid: int) -> None:
        """Take note of a process that has ended, and may have been its own."""

    def end(self) -> None:
        """Let go of what it has: no more workers are wanted."""

    def abandon(self) -> None:
        """Let go of it in a forked child."""

    def spawn(self, number: int, slot: Slot, ends: Ends) -> int:
        """Fork a worker, the ``number``-th of the server.

        Return its process id, or 0 where it will tell that itself.

        Raises OSError where that cannot be.
        """


class Generation:
    """Workers that were started with the same settings and the same code."""

    def __init__(
        self,
        number: int,
        settings: Settings,
        wanted: int,
        listeners: Sequence[Listener],
        identity: Identity | None,
        logger: logging.Logger,
    ) -> None:
        """Make room for ``wanted`` workers; none is started yet."""
        self.number = number
        self.settings = settings
        self.wanted = wanted
        self.listeners = list(listeners)
        self.directory = os.getcwd()
        """Where its workers start: another generation's may be elsewhere."""
        self.identity = identity
        """Who the workers are to be."""
        self.because = ""
        """Why there are so many workers, where that was found out."""
        self.scoreboard = Scoreboard(2 * wanted + SPARE_SLOTS, settings.threads)
        self.workers: list[WorkerProcess] = []
        self.spawner: Spawner
        self.has_served = False
        """A worker of it has served: its settings are in order."""
        self.paused_until = 0.0
        self._early_deaths = 0
        self._logger = logger

    def __str__(self) -> str:
        """Return what logs call it."""
        return f"generation {self.number}"

    @property
    def size(self) -> str:
        """How many workers are wanted, in words."""
        return f"{self.wanted} {'worker' if self.wanted == 1 else 'workers'}"

    @property
    def members(self) -> list[WorkerProcess]:
        """The workers that serve or will, but for those that another is about to replace."""
        return [w for w in self.workers if w.is_member and w.replaced_by is None]

    @property
    def serving(self) -> list[WorkerProcess]:
        """The workers that serve."""
        return [worker for worker in self.workers if worker.stage is Stage.SERVING]

    def listen(self) -> None:
        """Let clients connect. Raises `ListenError`."""
        for listener in self.listeners:
            listener.listen(self.settings.backlog)

    def spawn(
        self, number: int, register: Callable[[WorkerProcess], None], replaces: WorkerProcess | None
    ) -> WorkerProcess | None:
        """Start a worker; None where it cannot be: that is logged, and tried again later.

        ``register`` is called with what is known of it, before its process begins.
        """
        slot = self.scoreboard.take()
        if slot is None:
            self._logger.error("no room for another worker: %d are there", len(self.workers))
            self.pause()
            return None
        try:
            channel, child_channel, dump, child_dump = _open_lines()
        except OSError as error:
            self._logger.error("cannot start a worker: %s", error.strerror)
            self.scoreboard.give_back(slot)
            self.pause()
            return None
        worker = WorkerProcess(number, self.number, slot, channel, dump, self.settings)
        # Somebody who serves already takes the watch over sooner, and knows what was loaded first.
        worker.watches = self.settings.reload and not self.members
        if replaces is not None:
            worker.replaces = replaces
            replaces.replaced_by = worker
        self.workers.append(worker)
        register(worker)
        try:
            worker.pid = self.spawner.spawn(
                number, slot, Ends(child_channel, child_dump, worker.watches, self.has_served)
            )
        except OSError as error:
            self._logger.error("cannot start a worker: %s", error.strerror)
            self.discard(worker)
            self.pause()
            return None
        finally:
            child_channel.close()
            os.close(child_dump)
        return worker

    def discard(self, worker: WorkerProcess) -> None:
        """Forget a worker that has ended; it still knows whom it was to replace."""
        worker.stage = Stage.ENDED
        self.unlink(worker)
        self.workers.remove(worker)
        worker.release()

    def unlink(self, worker: WorkerProcess) -> None:
        """Have a worker neither be replaced nor replace another one."""
        if worker.replaces is not None:
            worker.replaces.replaced_by = None
        if worker.replaced_by is not None:
            worker.replaced_by.replaces = None

    def note_death(self, worker: WorkerProcess) -> float:
        """Keep account of one that ended without being told; return the pause before the next."""
        served = time.monotonic() - worker.serving_since if worker.serving_since else 0.0
        if served >= HEALTHY_SECONDS:
            self._early_deaths = 0
            return 0.0
        self._early_deaths += 1
        if self._early_deaths <= EARLY_DEATHS:
            return 0.0
        return self.pause()

    def pause(self) -> float:
        """Start no worker for a while; return how long, in seconds."""
        doublings = max(0, self._early_deaths - EARLY_DEATHS - 1)
        seconds = min(FIRST_PAUSE_SECONDS * 2.0 ** min(doublings, 16), LONGEST_PAUSE_SECONDS)
        self.paused_until = time.monotonic() + seconds
        return seconds

    def end_all(self, because: str) -> None:
        """Have every worker leave: those that serve finish what is in progress."""
        for worker in list(self.workers):
            worker.leave(because)


def _open_lines() -> tuple[Channel, Channel, int, int]:
    """Return both ends of a new worker's channel, and of its dump. Raises OSError."""
    channel, child_channel = Channel.pair()
    try:
        dump, child_dump = os.pipe2(os.O_CLOEXEC)
    except OSError:
        channel.close()
        child_channel.close()
        raise
    os.set_blocking(dump, False)
    return channel, child_channel, dump, child_dump
