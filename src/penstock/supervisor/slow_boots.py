"""Processes that take long to load the application: where they are, before they are killed."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from penstock import messages
from penstock.system.stacks import dump_text

if TYPE_CHECKING:
    from penstock.config.settings import Settings

DUMP_SECONDS = 1.0
"""For C code to write the stacks."""

_SERVER_OF_ITS_OWN = "in serve_forever"
_GUARD = (
    "\nThe module starts a server of its own while it is imported: app.run() and the like belong "
    'under if __name__ == "__main__":'
)


class Booting(Protocol):
    """A process that loads the application: a worker, or the preloader."""

    @property
    def pid(self) -> int:
        """0 until it is known."""

    @property
    def settings(self) -> Settings:
        """With ``boot_timeout``."""

    @property
    def must_boot_by(self) -> float:
        """When it is killed, on the monotonic clock."""

    @property
    def dumped(self) -> bytearray:
        """What its C code has written about its stacks."""

    def ask_for_dump(self) -> None:
        """Make its C code write them."""


class SlowBoots:
    """Asks each process that boots for its stacks at half of its time, and before its end."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._asked: dict[Booting, float] = {}
        """When processes were asked for the warning."""
        self._warned: set[Booting] = set()
        self._asked_last: set[Booting] = set()

    def check(self, processes: Iterable[Booting], now: float) -> None:
        """Warn of processes that have booted for half of ``boot_timeout``, once each."""
        booting = [each for each in processes if each.pid]
        for known in (self._warned, self._asked_last):
            known.intersection_update(booting)
        self._asked = {each: at for each, at in self._asked.items() if each in booting}
        for process in booting:
            limit = process.settings.boot_timeout
            left = process.must_boot_by - now
            if left <= min(DUMP_SECONDS, limit / 4) and process not in self._asked_last:
                self._asked_last.add(process)
                process.ask_for_dump()
            elif process in self._warned:
                continue
            elif process not in self._asked:
                if left <= limit / 2:
                    self._asked[process] = now
                    process.ask_for_dump()
            elif now - self._asked[process] >= min(DUMP_SECONDS, limit / 8):
                self._warned.add(process)
                messages.WORKER_BOOTS_SLOWLY.log(
                    self._logger, worker=process, seconds=limit / 2, stacks=stacks_of(process)
                )


def stacks_of(process: Booting) -> str:
    """Return the stacks that a process has written, with what they show."""
    text = dump_text(bytes(process.dumped))
    return text + (_GUARD if _SERVER_OF_ITS_OWN in text else "")
