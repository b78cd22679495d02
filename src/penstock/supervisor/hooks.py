"""gunicorn's hooks, as the supervisor calls them."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from penstock.compat.gunicorn.hooks import Hooks, Server, WorkerOfServer
from penstock.config.identity import title_of

if TYPE_CHECKING:
    from penstock.config.settings import Settings
    from penstock.listeners import Listener


class ServerHooks:
    """The hooks of the current settings, and their argument ``server``."""

    def __init__(
        self,
        settings: Settings,
        application: str,
        listeners: Sequence[Listener],
        logger: logging.Logger,
    ) -> None:
        self._logger = logger
        self._application = application
        self._hooks = Hooks()
        self.server = Server(pid=os.getpid(), log=logger, cfg=self._hooks.config(settings))
        self.use(settings, listeners)

    def use(self, settings: Settings, listeners: Sequence[Listener]) -> None:
        """Use the hooks of other settings from now on."""
        self._hooks = Hooks(settings.hooks, settings.gunicorn)
        self.server.cfg = self._hooks.config(settings)
        self.server.address = [listener.name for listener in listeners]
        self.server.proc_name = title_of(settings, self._application)

    def call(self, name: str, *arguments: object) -> None:
        """Call a hook with the server and more; raises `HookError` for ``on_starting`` alone."""
        self._hooks.call(name, self.server, *arguments, logger=self._logger)

    def begin(self, number: int) -> None:
        """Call ``pre_fork`` for a worker that is about to be forked."""
        self.server.starting[number] = worker = self._worker(number)
        self.call("pre_fork", worker)

    def add(self, number: int, pid: int) -> None:
        """Add a worker that has been forked to ``server.WORKERS``."""
        worker = self.server.starting.pop(number, None) or self._worker(number)
        worker.pid = pid
        self.server.WORKERS[pid] = worker

    def remove(self, number: int, pid: int) -> None:
        """Remove a worker that has ended, and call ``child_exit`` if it has had a process."""
        self.server.starting.pop(number, None)
        worker = self.server.WORKERS.pop(pid, None)
        if worker is not None:
            worker.alive = False
            self.call("child_exit", worker)

    def scale(self, new: int) -> None:
        """Set how many workers are wanted, and call ``nworkers_changed`` for another number."""
        old = self.server.num_workers
        self.server.num_workers = new
        if new != old:
            self.call("nworkers_changed", new, old)

    def _worker(self, number: int) -> WorkerOfServer:
        return WorkerOfServer(number, os.getpid(), self._logger, self.server.cfg)
