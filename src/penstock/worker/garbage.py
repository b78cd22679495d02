"""When Python's cyclic garbage collector runs in a worker (setting: gc), and how long that takes.

By itself it runs when enough objects were allocated, so in the middle of a request. With ``idle``
the transport calls `Collections.when_idle` when it is about to wait for clients: then a pass delays
no request. Imported where the setting is not ``default``.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from penstock.telemetry.scoreboard import GC_NANOSECONDS, GC_PASSES, NUMBER, THREAD, Slot

if TYPE_CHECKING:
    from penstock.config.options import Thresholds

MOST_PUT_OFF = 50_000
"""Containers that may be allocated beyond those that were freed until a pass comes in the middle of
a request after all: some 10 MB. A worker that never waits would grow without end."""

FULL_SECONDS = 30.0
"""The least time between two full passes: each looks at every object that the application has made
since it was loaded."""

GENERATIONS = range(3)


class Collections:
    """Sets the collector of this process up, and counts its passes in the worker's slot."""

    def __init__(
        self,
        mode: str | Thresholds,
        slot: Slot,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Set it up; ``mode`` is the setting's value, but not ``default``.

        To be called when the application is loaded, and what is there was frozen.
        """
        self._slot = slot
        self._words = slot.words
        self._begun = 0
        self._young, middle, full = gc.get_threshold()
        # Python 3.14 has 0 as the last one.
        self._middle, self._full = max(middle, 1), max(full, 10)
        self._clock = clock
        self._last_full = clock()
        self.collects_when_idle = mode == "idle"
        """Whether the transport is to call `when_idle`."""
        if mode == "off":
            gc.disable()
        elif mode == "idle":
            gc.enable()
            gc.set_threshold(MOST_PUT_OFF, middle, full)
        elif not isinstance(mode, str):
            gc.enable()
            gc.set_threshold(*mode.numbers)
        gc.callbacks.append(self._note)

    def _note(self, phase: str, info: dict[str, int]) -> None:
        """Count a pass. The collector calls this: one pass at a time, with its lock."""
        if phase == "start":
            self._begun = time.monotonic_ns()
            return
        generation = info["generation"]
        if generation in GENERATIONS:
            words = self._words
            words[GC_PASSES + generation] += 1
            words[GC_NANOSECONDS + generation] += time.monotonic_ns() - self._begun

    def when_idle(self) -> None:
        """Run the pass that is due, if one is, unless the application has a request.

        For the thread that is about to wait for clients. It runs finalizers of the application.
        """
        young, middle, full = gc.get_count()
        if young < self._young:
            return
        for record in self._slot.records:
            if record.words[NUMBER]:
                return
            if not record.words[THREAD]:
                break  # threads take records in their order
        generation = 0
        if middle >= self._middle:
            generation = 1
            now = self._clock()
            if full >= self._full and now - self._last_full >= FULL_SECONDS:
                generation = 2
                self._last_full = now
        gc.collect(generation)
