"""Which worker accepts, where several have the same listening sockets.

The kernel wakes them all, and whoever is quickest would take what comes: with connections that are
kept alive, one worker may then have most of them for good. So each looks at the others' counts on
the scoreboard before it accepts, and leaves newcomers for a moment to one that has fewer. No worker
decides for another: a wrong scoreboard would delay new connections a little, and lose none.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from penstock.telemetry.scoreboard import ACCEPTING, CONNECTIONS, POLLED, SERVING, STATE

if TYPE_CHECKING:
    from penstock.telemetry.scoreboard import Slot

DEFERRAL_SECONDS = 0.002
"""For how long newcomers are left to a worker that has fewer connections, before the next look."""

PATIENCE_SECONDS = 0.01
"""For how long in all; then they are accepted anyway, one at each look."""

HELD_SECONDS = 0.01
"""How often a worker with all its threads busy looks whether newcomers are its own to take."""

SHARED_BATCH = 16
"""Connections accepted in one turn: other workers wake up meanwhile, and count."""

RESPONSIVE_NANOSECONDS = 25_000_000
"""A worker that has not looked at its sockets for so long is with its application, and may stay.

On a busy machine, one that is only waiting for a processor takes ten milliseconds to come."""


class Neighbours:
    """The other workers on the scoreboard, as far as they would accept."""

    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        self.threads = slot.scoreboard.threads

    def fewest(self) -> int | None:
        """Return the fewest connections of those that would accept now; None if none would."""
        long_ago = time.monotonic_ns() - RESPONSIVE_NANOSECONDS
        fewest: int | None = None
        own = self._slot
        for slot in own.scoreboard.in_use():
            words = slot.words
            if slot is own or words[STATE] != SERVING or words[ACCEPTING] != 1:
                continue
            polled = words[POLLED]
            if polled == 1 or polled >= long_ago:
                count = words[CONNECTIONS]
                if fewest is None or count < fewest:
                    fewest = count
        return fewest


def fair(own: int, fewest: int | None, threads: int) -> bool:
    """Tell whether a worker with ``own`` connections may accept beside one with ``fewest``.

    ``threads`` is how many calls each of them can make at a time.
    """
    if fewest is None:
        return True
    # The slack saves waiting, and an eighth of many stays well below what would be unfair. There
    # is none where what is accepted may have to wait for a thread, and would not with the other.
    slack = 1 if own < threads else 0
    return own <= fewest + slack + (fewest >> 3)
