"""Who is next where clients have more for the server to do than it can: shared by client.

Native code has the same in ``fair_queue.rs``; ``tests/transport/test_fair_queue.py`` runs the same
events on both.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")

ITEM_COST = 1_000_000
"""What one item counts for. It is large because shares of it are whole numbers, too."""

MOST_AHEAD = 8 * ITEM_COST
"""How much less than its share a client counts for that comes: it is next, but new clients that
come all the time do not keep those waiting for ever that have had something."""

REMEMBERED = 24
"""How many clients more than twice those that wait are remembered with what they have had."""


class FairQueue(Generic[Item]):
    """Items that wait, each of a client: start-time fair queueing, where all items cost the same.

    The next item is one of the client that has had the fewest since the queue was last empty. A
    client that comes in the middle counts as if it had had as many as the one that is served. The
    items of one client, and so all where there is only one, keep their order. Adding and taking
    cost O(log n) of the clients that wait. The caller's lock guards it.
    """

    __slots__ = ("_had", "_least", "_most_had", "_number", "_share", "_tags", "_waiting", "size")

    def __init__(self) -> None:
        """Begin empty."""
        self.size = 0
        """How many items wait."""
        self._waiting: dict[int, deque[Item]] = {}
        self._tags: list[tuple[int, int, int]] = []  # a heap: what it has had, a number, a client
        self._number = 0  # clients that have had the same are served in the order of these
        self._share = 0  # what each client that waits could have had
        self._least = 0  # what a client counts for that comes
        self._had: dict[int, int] = {}  # by each client that has had an item
        self._most_had = REMEMBERED

    def add(self, client: int, item: Item) -> None:
        """Have an item of a client wait."""
        self.size += 1
        waiting = self._waiting.get(client)
        if waiting is None:
            self._waiting[client] = deque((item,))
            self._enter(client, max(self._least, self._had.get(client, 0)))
        else:
            waiting.append(item)

    def take(self) -> Item:
        """Take the next item. Raises `IndexError` if none waits."""
        had, _, client = heapq.heappop(self._tags)
        waiting = self._waiting[client]
        item = waiting.popleft()
        self.size -= 1
        self._share += ITEM_COST // len(self._waiting)
        self._least = max(self._least, had, self._share - MOST_AHEAD)
        had += ITEM_COST
        if waiting:
            self._enter(client, had)
        else:
            del self._waiting[client]
        self._had[client] = had
        if not self.size:
            self._had.clear()
            self._share = self._least = 0
        elif len(self._had) > self._most_had:
            # The others count as if they came for the first time.
            self._had = {it: had for it, had in self._had.items() if had > self._least}
            self._most_had = REMEMBERED + 2 * max(len(self._had), len(self._waiting))
        return item

    def _enter(self, client: int, had: int) -> None:
        self._number += 1
        heapq.heappush(self._tags, (had, self._number, client))
