"""Founding a generation: how many workers it has, who they are to be, and what makes them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from penstock.config.identity import identity_of
from penstock.config.worker_count import count_workers
from penstock.supervisor.forker import Forker
from penstock.supervisor.generation import Generation
from penstock.supervisor.hooks import ServerHooks
from penstock.supervisor.preloader import Nursery
from penstock.system.cgroups import Cgroups
from penstock.system.prctl import adopt_orphans
from penstock.worker.channel import Message

if TYPE_CHECKING:
    from penstock.config.settings import Settings
    from penstock.listeners import Listener
    from penstock.supervisor.launch import Launch
    from penstock.supervisor.loop import Loop


class Founder:
    """Makes the generations of a server, and counts them."""

    def __init__(
        self,
        loop: Loop,
        logger: logging.Logger,
        hooks: ServerHooks,
        cgroups: Cgroups,
        abandon: Callable[[Sequence[Listener]], None],
        on_load_failure: Callable[[Generation, Message], None],
    ) -> None:
        """Take what all generations need.

        ``abandon`` lets go, in a forked child, of what is the supervisor's alone, but for these
        listeners; ``on_load_failure`` is told why an application could not be preloaded.
        """
        self._loop = loop
        self._logger = logger
        self._hooks = hooks
        self._cgroups = cgroups
        self._abandon = abandon
        self._on_load_failure = on_load_failure
        self._founded = 0

    def found(
        self, launch: Launch, settings: Settings, listeners: Sequence[Listener]
    ) -> Generation:
        """Return a generation without workers; raises `SettingsError` for who cannot be."""
        identity = identity_of(settings)
        count = count_workers(settings, self._cgroups)
        self._founded += 1
        generation = Generation(
            self._founded, settings, count.number, listeners, identity, self._logger
        )
        if settings.workers == "auto":
            generation.because = count.because
        if identity is not None:
            for listener in listeners:
                listener.give_to(identity.uid, identity.gid)
        self._hooks.use(settings, listeners)
        server = self._hooks.server

        def abandon() -> None:
            self._abandon(generation.listeners)

        if settings.preload and self._can_preload():
            generation.spawner = Nursery(
                launch, generation, server, self._loop, abandon, self._on_load_failure
            )
        else:
            generation.spawner = Forker(launch, generation, server, abandon)
        return generation

    def _can_preload(self) -> bool:
        if adopt_orphans():
            return True
        self._logger.warning(
            "preload is not followed: this system cannot hand a worker over to the process that "
            "looks after it; each worker loads the application itself"
        )
        return False
