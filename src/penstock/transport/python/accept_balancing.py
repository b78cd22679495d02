"""Accept balancing: which of several workers with the same listening sockets accepts.

Where the kernel wakes all of them, the fastest would accept: one worker could then have most of the
keep-alive connections permanently. So each worker looks at the others' counts on the scoreboard
before it accepts, and leaves new connections for a moment to a worker that has fewer. Where the
kernel wakes one, the others take turns. No worker decides for another: wrong counts would delay new
connections a little, and lose none.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from penstock.telemetry.scoreboard import (
    ACCEPTED,
    ACCEPTING,
    CONNECTIONS,
    IO_BOUND_CALLS,
    POLLED,
    SERVING,
    STARTED,
    STATE,
    WAITING,
)
from penstock.transport.decisions import (
    accept_step,
    accepts_into_queue,
    leaves_to_others,
    watches_exclusively,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

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
        # Since when clients have waited in the accept queue at each look, with all threads busy.
        self._waited_since = math.inf
        # How many connections the others had accepted that would accept, and when that changed.
        self._others_accepted = -1
        self._others_moved_at = -math.inf
        self.exclusive = False
        """The listeners are watched so that this worker is woken in place of another one, and not
        beside all others."""
        self.unable = False
        """No room or no descriptor was left when a client was last to be accepted."""
        self.went_behind = False
        """The worker went behind the others, and clients may wait of which these know, too."""

    def changes_watch(self, hindered: bool, connections: int, descriptors: int) -> bool:
        """Return True if the listeners are to be watched otherwise while the leader waits.

        The arguments are those of `watches_exclusively`.
        """
        before = self.exclusive
        self.exclusive = watches_exclusively(
            self._config, self._is_alone(), hindered or self.unable, connections, descriptors
        )
        return self.exclusive is not before

    def fewest_of_others(self) -> int | None:
        """Return the fewest connections of those that would accept now; None if none would."""
        accepting = self._others(accepting=True)
        return min((int(words[CONNECTIONS]) for words in accepting), default=None)

    def _fewest_waiting(self) -> int | None:
        """Return the fewest requests that wait in another busy worker; None without one."""
        busy = self._others(accepting=False)
        return min((int(words[WAITING]) for words in busy), default=None)

    def _others(self, *, accepting: bool) -> Iterator[Any]:
        """Yield the words of the other workers that look at their sockets."""
        long_ago = time.monotonic_ns() - self._responsive_ns
        own = self._slot
        for slot in own.scoreboard.in_use():
            words = slot.words
            if slot is own or words[STATE] != SERVING or (words[ACCEPTING] == 1) is not accepting:
                continue
            polled = words[POLLED]
            if polled == 1 or polled >= long_ago:
                yield words

    def step(self) -> int:
        """Return how many connections may be accepted in this turn."""
        return accept_step(self._config, self._is_alone(), self._deferrals, self._in_vain)

    def insists(self) -> bool:
        """Return True if connections were left to others often enough."""
        return self._deferrals >= self._config.balance_deferrals

    def has_more_than_others(self, own: int) -> bool:
        """Return True if another worker has so much fewer connections that it should accept."""
        # Calls that have left the count have their threads beside the others.
        threads = self._slot.scoreboard.threads + self._slot.words[IO_BOUND_CALLS]
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
        self.unable = False

    def has_deferred(self) -> bool:
        """Return True if connections were left to others, and that was not yet forgotten."""
        return self._deferrals + self._in_vain > 0 or self._waited_since < math.inf

    def forget_deferrals(self) -> None:
        """Note that no connection waits: the others accepted what was left to them."""
        self._deferrals = self._in_vain = 0
        self._waited_since = math.inf

    # -- with every thread busy -----------------------------------------------------------------

    def note_busy(self) -> None:
        """Note that from now on every thread is with the application, or no longer is."""
        # A thread without a request in its record has taken one, and is about to call: its request
        # does not count as one that a thread took which became free later.
        slot = self._slot
        about_to_call = max(0, slot.scoreboard.threads - slot.calls_of_count())
        self._started = int(slot.words[STARTED]) + about_to_call

    def pause_while_busy(self, now: float, taken: int, *, insists: bool) -> float:
        """Return for how many seconds a client is left in the accept queue; 0 to accept it.

        While it waits there, any worker can accept it. A worker without others accepts it: the
        queue of requests bounds how long it waits. If none of several has a free thread, one has to
        answer the checks; otherwise as many connections are accepted as threads have become free:
        these took waiting requests, and would keep new connections out permanently. Where clients
        have waited for long, each worker accepts unless another one has a shorter queue. ``taken``
        is how many it has accepted in this turn, and not read from yet.
        """
        self._waited_since = min(self._waited_since, now)
        if self._others_accept(now):
            return self._config.busy_pause_seconds
        if self._is_alone() or self._take_freed():
            return 0.0
        own, fewest = int(self._slot.words[WAITING]) + taken, self._fewest_waiting()
        waited = now - self._waited_since
        if not self._config.has_checks and not accepts_into_queue(
            self._config, waited, own, fewest
        ):
            return self._config.busy_pause_seconds
        # No thread is free: nothing is gained by a queue that is longer by one.
        if insists or not leaves_to_others(self._config, own, fewest, 0):
            return 0.0
        self.deferred()
        return self._config.balance_pause_seconds

    def _others_accept(self, now: float) -> bool:
        """Return True if another worker would accept, and is not halted: it does so in time."""
        words = list(self._others(accepting=True))
        accepted = sum(int(others[ACCEPTED]) for others in words)
        if accepted != self._others_accepted:
            self._others_accepted, self._others_moved_at = accepted, now
        waited = now - max(self._waited_since, self._others_moved_at)
        return bool(words) and waited < self._config.busy_accept_seconds

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
