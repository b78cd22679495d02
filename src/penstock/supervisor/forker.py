"""Forking a worker from the supervisor itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from penstock.app.loading import load_application
from penstock.supervisor.generation import Ends, Generation
from penstock.worker.child import Assignment, run

if TYPE_CHECKING:
    from penstock.compat.gunicorn.hooks import Server
    from penstock.supervisor.launch import Launch
    from penstock.telemetry.scoreboard import Slot


class Forker:
    """Makes workers of one generation, which load the application themselves."""

    def __init__(
        self,
        launch: Launch,
        generation: Generation,
        server: Server,
        abandon: Callable[[], None],
    ) -> None:
        """``abandon`` lets go, in a child, of what is the supervisor's alone."""
        self.is_ready = True
        self._launch = launch
        self._generation = generation
        self._server = server
        self._abandon = abandon

    def begin(self) -> None:
        """Do nothing: it is ready."""

    def check_deadline(self) -> None:
        """Do nothing: it is ready."""

    def note_end(self, pid: int) -> None:
        """Do nothing: it has no process of its own."""

    def end(self) -> None:
        """Do nothing: there is nothing to let go of."""

    def abandon(self) -> None:
        """Do nothing: there is nothing to let go of."""

    def spawn(self, number: int, slot: Slot, ends: Ends) -> int:
        """See `penstock.supervisor.generation.Spawner.spawn`."""
        # The supervisor has one thread, so that nothing is left half done in the child.
        pid = os.fork()
        if pid == 0:
            launch, generation = self._launch, self._generation
            run(
                Assignment(
                    number=number,
                    launch=launch,
                    generation=generation,
                    server=self._server,
                    slot=slot,
                    channel=ends.channel,
                    dump=ends.dump,
                    load=lambda: load_application(launch.application),
                    watches=ends.watches,
                    lenient=ends.has_served,
                ),
                self._move_out,
            )
        return pid

    def _move_out(self) -> None:
        """Let go of what is the supervisor's; it may have been elsewhere since, in a reload."""
        self._abandon()
        os.chdir(self._generation.directory)
