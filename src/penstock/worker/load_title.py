"""The title of a worker with its load: ``penstock: worker 3 [shop] [2/4 busy, 310/s]``."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from penstock.system.titles import Write
from penstock.telemetry.scoreboard import STARTED, Slot

PAUSE_SECONDS: Final = 1.0
"""The least time between two titles."""


class LoadTitle:
    """Keeps the title of a worker; `update` is for one thread, about once a second."""

    def __init__(
        self,
        begin: str,
        slot: Slot,
        write: Write,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Set what the title begins with; ``clock`` returns seconds."""
        self._begin = begin
        self._slot = slot
        self._write = write
        self._clock = clock
        self._at = clock()
        self._started = 0
        self._shown = ""

    def update(self) -> None:
        """Write the title, unless that was done less than a second ago, or it is the same."""
        now = self._clock()
        passed = now - self._at
        if passed < PAUSE_SECONDS and self._shown:
            return
        started = self._slot.words[STARTED]
        rate = round((started - self._started) / passed) if passed > 0 else 0
        self._at, self._started = now, started
        busy = self._slot.calls_of_count()
        title = f"{self._begin} [{busy}/{self._slot.scoreboard.threads} busy, {rate:,}/s]"
        if title != self._shown:
            self._shown = title
            self._write(title)
