"""Accept balancing: which of several workers with the same listening sockets accepts.

The kernel wakes all of them, and the fastest would accept: one worker could then have most of the
keep-alive connections permanently. So each worker looks at the others' counts on the scoreboard
before it accepts, and leaves new connections for a moment to a worker that has fewer. No worker
decides for another: wrong counts would delay new connections a little, and lose none.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from penstock.telemetry.scoreboard import (
    ACCEPTING,
    CONNECTIONS,
    NUMBER,
    POLLED,
    SERVING,
    STARTED,
    STATE,
)
from penstock.transport.decisions import accept_step, leaves_to_others

if TYPE_CHECKING:
    from penstock.telemetry.scoreboard import Slot
    from penstock.transport.config import TransportConfig


class AcceptBalancing:
    """How one worker shares new connections with the others on the scoreboard."""

    def __init__(self, config: TransportConfig, slot: Slot) -> None:
        self._config = config
        self._slot = slot
        self._responsive_ns = int(config.responsive_seconds * 1e9)
        self._deferrals = 0  # how often in a row connections were left to others
        self._in_vain = 0  # how often in a row they had to be accepted in the end
        # How many requests had been handed out when every thread had one, plus one for each
        # connection accepted since for a thread that became free.
        self._started = 0

    def fewest_of_others(self) -> int | None:
        """Return the fewest connections of those that would accept now; None if none would."""
        long_ago = time.monotonic_ns() - self._responsive_ns
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

    def step(self) -> int:
        """Return how many connections may be accepted in this turn."""
        return accept_step(self._config, self._deferrals, self._in_vain)

    def insists(self) -> bool:
        """Return True if connections were left to others often enough."""
        return self._deferrals >= self._config.balance_deferrals

    def has_more_than_others(self, own: int) -> bool:
        """Return True if another worker has so much fewer connections that it should accept."""
        threads = self._slot.scoreboard.threads
        return leaves_to_others(self._config, own, self.fewest_of_others(), threads)

    def deferred(self) -> None:
        """Note that connections were left to others."""
        self._deferrals += 1

    def accepted(self, insisted: bool) -> None:
        """Note a connection that was accepted, ``insisted`` if after too many deferrals."""
        if not insisted:
            self._in_vain = 0
        elif self._deferrals > 0:
            self._in_vain += 1
        self._deferrals = 0

    def has_deferred(self) -> bool:
        """Return True if connections were left to others, and that was not yet forgotten."""
        return self._deferrals + self._in_vain > 0

    def forget_deferrals(self) -> None:
        """Note that no connection waits: the others accepted what was left to them."""
        self._deferrals = self._in_vain = 0

    # -- with every thread busy -----------------------------------------------------------------

    def note_busy(self) -> None:
        """Note that from now on every thread is with the application, or no longer is."""
        # A thread without a request in its record has taken one, and is about to call: its request
        # does not count as one that a thread took which became free later.
        about_to_call = sum(record.words[NUMBER] == 0 for record in self._slot.records)
        self._started = int(self._slot.words[STARTED]) + about_to_call

    def accepts_while_busy(self) -> bool:
        """Return True if a connection is accepted although every thread is busy.

        While the connection waits in the accept queue, any worker can accept it. A worker without
        others accepts it: the queue of requests bounds how long it waits. If none of several has a
        free thread, one has to answer the checks; otherwise as many connections are accepted as
        threads have become free: these took waiting requests, and would keep new connections out
        permanently.
        """
        if self.fewest_of_others() is not None:
            return False
        return self._config.has_checks or self._is_alone() or self._take_freed()

    def _is_alone(self) -> bool:
        own = self._slot
        serving = (slot for slot in own.scoreboard.in_use() if slot.words[STATE] == SERVING)
        return all(slot is own for slot in serving)

    def _take_freed(self) -> bool:
        started = int(self._slot.words[STARTED])
        since = max(self._started, started - self._config.balance_batch)
        if since >= started:
            return False
        self._started = since + 1
        return True
