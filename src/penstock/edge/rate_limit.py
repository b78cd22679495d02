"""How many requests each client may send, counted by all workers in shared memory.

The rule is the generic cell rate algorithm: of each client one time is kept, at which everything
it has sent would be done if each request took the interval of the rate. A request is refused where
that time is further ahead than the burst allows. A client at rest needs no entry.

The table is anonymous memory that forked workers share. An entry is one word, which is read and
written in one step, so that no lock is needed: of two requests of one client in two workers at the
same moment, one may count for nothing, and no client ever gets the time of another. A keyed hash
says in which row of eight words, a line of the processor's cache, the entry of a client is: no
client can choose the row of another client. In a full row the entry that expires first makes room.

Native code has the same table in ``rate_limit.rs``; ``tests/edge/test_rate_limit.py`` runs the same
requests on both.
"""

from __future__ import annotations

import mmap
import os

from penstock.edge.siphash import siphash
from penstock.records import dataclass

ROW_WORDS = 8
"""Entries that one client may be in."""
ROWS = 8192
"""Rows of a table, which then has 65,536 entries and 512 KiB, of which only what is used exists."""
TICK_BITS = 12
"""A tick is 4,096 ns, so that the intervals of 10,000 requests a second differ by 4 %."""
TIME_BITS = 40
"""Ticks are counted modulo this power of two, which is 52 days; above them is the client's tag."""

_TIME = (1 << TIME_BITS) - 1
_WORD = 8


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A rate in ticks of the table."""

    interval: int
    """How many ticks a request takes."""
    horizon: int
    """How far ahead a client's time may be: the ticks of a whole burst."""

    @classmethod
    def of(cls, interval: float, burst: int) -> RateLimit:
        """Return the limit for one request every ``interval`` seconds, and a burst."""
        ticks = max(1, round(interval * 1e9 / (1 << TICK_BITS)))
        return cls(ticks, ticks * burst)


class RateTable:
    """The times of clients, in memory that workers share: make it before they are forked."""

    def __init__(self, rows: int = ROWS, seed: bytes | None = None) -> None:
        """Allocate the table. ``rows`` is a power of two; ``seed`` are 16 bytes, random by default.

        Raises ``OSError`` where there is no memory.
        """
        self.rows = rows
        seed = os.urandom(16) if seed is None else seed
        self.memory = mmap.mmap(-1, rows * ROW_WORDS * _WORD)
        self._words = memoryview(self.memory).cast("Q")
        first, second = seed[:8], seed[8:]
        self.keys = int.from_bytes(first, "little"), int.from_bytes(second, "little")
        """The key of the hash."""

    def take(self, limit: RateLimit, key: int, now: int) -> int:
        """Count a request of a client; return 0, or in how many nanoseconds it would be admitted.

        ``now`` is the monotonic clock in nanoseconds, ``key`` is `penstock.edge.client.key_of`.
        A request that is refused does not count.
        """
        hashed = siphash(*self.keys, key)
        begin = (hashed & (self.rows - 1)) * ROW_WORDS
        tag = hashed >> TIME_BITS  # the bits above those of the row
        words, ticks, horizon = self._words, now >> TICK_BITS & _TIME, limit.horizon
        place, ahead, soonest = begin, 0, _TIME
        for index in range(begin, begin + ROW_WORDS):
            word = words[index]
            left = (word - ticks) & _TIME
            # What is further ahead than possible has passed, or is of another limit.
            left = left if left <= horizon else 0
            if word >> TIME_BITS == tag:
                place, ahead = index, left
                break
            if left < soonest:
                place, soonest = index, left
        if ahead + limit.interval > horizon:
            return (ahead + limit.interval - horizon) << TICK_BITS
        words[place] = tag << TIME_BITS | (ticks + ahead + limit.interval) & _TIME
        return 0
