"""What connections have for the leader to do, where that is more than one turn of the loop does."""

from __future__ import annotations

import math
from selectors import EVENT_READ, EVENT_WRITE
from typing import TYPE_CHECKING

from penstock.transport.fair_queue import FairQueue
from penstock.transport.python.clients import share_key
from penstock.transport.states import CLOSED, Phase

if TYPE_CHECKING:
    from penstock.transport.python.connection import Connection
    from penstock.transport.python.loop import Loop

POLLED = EVENT_READ | EVENT_WRITE


class Remainder:
    """Connections with events, each once, shared by client. Only the leader touches it.

    Each is not watched meanwhile: otherwise every poll would find all of them again, and take long.
    """

    __slots__ = ("_loop", "_queue", "_waiting", "size")

    def __init__(self, loop: Loop) -> None:
        """Begin empty."""
        self.size = 0
        """How many connections wait."""
        self._loop = loop
        self._queue: FairQueue[Connection] = FairQueue()
        # Its events, its phase, what it was watched for in that, and since when it waits.
        self._waiting: dict[Connection, tuple[int, Phase, int, float]] = {}

    def add(self, connection: Connection, mask: int, now: float) -> None:
        """Have a connection wait with the events of ``mask``, or add these to those it has."""
        phase, watched = connection.phase, connection.watched
        before = self._waiting.get(connection)
        if before is not None:
            mask, now = before[0] | mask, before[3]
            if phase is before[1]:
                watched |= before[2]
        self._waiting[connection] = (mask, phase, watched, now)
        if mask & POLLED:
            self._loop.watch(connection, 0)
        if before is None:
            self._queue.add(self._client(connection), connection)
            self.size += 1

    def take(self) -> tuple[Connection, int]:
        """Take the connection that is next, with its events."""
        connection = self._queue.take()
        self.size -= 1
        mask, phase, watched, _ = self._waiting.pop(connection)
        # Its thread may have ended the response meanwhile. Then it is watched already for what it
        # waits for now: anything else would be found by every poll, and never be handled.
        if connection.phase is phase and phase is not CLOSED:
            self._loop.watch(connection, connection.watched | watched)
        return connection, mask

    def since(self, connection: Connection) -> float:
        """Return since when a connection waits; infinity where it does not."""
        waits = self._waiting.get(connection)
        return math.inf if waits is None else waits[3]

    def _client(self, connection: Connection) -> int:
        key = connection.share_key
        if key is None:
            key = connection.share_key = share_key(connection.remote_addr)
        return key
