"""Who is next where clients have more for the server to do than it can: shared by client.

Native code has the same in ``fair_queue.rs``; ``tests/transport/test_fair_queue.py`` runs the same
events on both.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")
Key = tuple[int, int]

ITEM_COST = 1_000_000
"""What one item counts for. It is large because shares of it are whole numbers, too."""

MOST_AHEAD = 8 * ITEM_COST
"""How much less than its share a client counts for that comes: it is next, but new clients that
come all the time do not keep those waiting for ever that have had something."""

REMEMBERED = 24
"""How many clients more than twice those that wait are remembered with what they have had."""


class Ranking:
    """Clients in the order of their keys, the least first. A change costs O(log n)."""

    __slots__ = ("_heap", "_keys")

    def __init__(self) -> None:
        """Begin empty."""
        self._keys: dict[int, Key] = {}
        self._heap: list[tuple[Key, int]] = []  # what differs from `_keys` is out of date

    def __contains__(self, client: int) -> bool:
        """Return True for a client that has a place."""
        return client in self._keys

    def __iter__(self) -> Iterator[int]:
        """Iterate over the clients, in no order."""
        return iter(self._keys)

    def set(self, client: int, key: Key) -> None:
        """Give a client its place, or another one."""
        self._keys[client] = key
        heapq.heappush(self._heap, (key, client))
        if len(self._heap) > REMEMBERED + 2 * len(self._keys):
            self._heap = [(key, client) for client, key in self._keys.items()]
            heapq.heapify(self._heap)

    def drop(self, client: int) -> None:
        """Leave a client out, if it has a place."""
        self._keys.pop(client, None)
        if not self._keys:
            self._heap.clear()

    def clear(self) -> None:
        """Leave all clients out."""
        self._keys.clear()
        self._heap.clear()

    def first(self) -> int | None:
        """Return the first client; None if there is none."""
        heap, keys = self._heap, self._keys
        while heap:
            key, client = heap[0]
            if keys.get(client) == key:
                return client
            heapq.heappop(heap)
        return None


class _ClientItems(Generic[Item]):
    """What a client has waiting."""

    __slots__ = ("had", "items", "place")

    def __init__(self, had: int, place: int) -> None:
        self.had = had
        """What the client has had, as it counts."""
        self.place = place
        """Clients that have had the same are served in the order of these."""
        self.items: deque[tuple[int, Item]] = deque()
        """The items with their numbers, the oldest first."""


class FairQueue(Generic[Item]):
    """Items that wait, each of a client: start-time fair queueing, where all items cost the same.

    The next item is one of the client that has had the fewest since the queue was last empty. A
    client that comes in the middle counts as if it had had one fewer than the one that is served:
    who asks for little is next, and need not wait until all others have had one. The items of
    one client, and so all where there is only one, keep their order.

    Or the newest is next, among the clients that have had no more than each could have had: a
    client that sends without a pause has the newest item nearly always, and no more than its share.
    A client that comes for the first time is never beyond it.

    Adding, taking and making room cost O(log n) of the clients that wait. The caller's lock guards
    it.
    """

    __slots__ = (
        "_eligible",
        "_had",
        "_largest",
        "_least",
        "_most_had",
        "_number",
        "_share",
        "_sole",
        "_turns",
        "_waiting",
        "size",
    )

    def __init__(self) -> None:
        """Begin empty."""
        self.size = 0
        """How many items wait."""
        self._waiting: dict[int, _ClientItems[Item]] = {}
        # The client that has waited alone since the queue was empty: then it needs no ranking.
        self._sole: int | None = None
        # Each other client is in one of the two: in the second only where the newest is next.
        self._turns = Ranking()
        self._eligible = Ranking()
        self._largest: Ranking | None = None  # once room was to be made, until the queue is empty
        self._number = 0  # of the last item, or the last client that had another turn
        self._share = 0  # what each client that waits could have had
        self._least = 0  # one more than what a client counts for that comes
        self._had: dict[int, int] = {}  # by each client that has had an item
        self._most_had = REMEMBERED

    def add(self, client: int, item: Item) -> None:
        """Have an item of a client wait."""
        self._number += 1
        waiting = self._waiting.get(client)
        if waiting is None:
            self._rank_sole()
            had = max(self._least - ITEM_COST, self._had.get(client, 0))
            waiting = self._waiting[client] = _ClientItems(had, self._number)
            if self.size:
                self._turns.set(client, (had, self._number))
            else:
                self._sole = client
        waiting.items.append((self._number, item))
        self.size += 1
        if self._sole is None:
            self._rank(client, waiting)

    def take(self, *, newest: bool = False) -> Item:
        """Take the next item. Raises `IndexError` if none waits.

        With ``newest``, of the clients that have had no more than their share that one is next
        which has sent last, and of its items the newest is.
        """
        client = self._next(newest) if self._sole is None else self._sole
        waiting = self._waiting[client]
        _, item = waiting.items.pop() if newest else waiting.items.popleft()
        self.size -= 1
        if not self.size:
            self._leave(client)
            self._begin_anew()
            return item
        self._share += ITEM_COST // len(self._waiting)
        self._least = max(self._least, waiting.had, self._share - MOST_AHEAD)
        self._had[client] = waiting.had = waiting.had + ITEM_COST
        self._number += 1
        waiting.place = self._number
        if self._sole is not None:
            return item
        if waiting.items:
            self._eligible.drop(client)
            self._turns.set(client, (waiting.had, waiting.place))
            self._rank(client, waiting)
        else:
            self._leave(client)
        if len(self._had) > self._most_had:
            # The others count as if they came for the first time.
            fewest = self._least - ITEM_COST
            self._had = {it: had for it, had in self._had.items() if had > fewest}
            self._most_had = REMEMBERED + 2 * max(len(self._had), len(self._waiting))
        return item

    def make_room(self, client: int) -> Item | None:
        """Take the newest item of the client that has the most, to make room for another one.

        Of several clients with as many it is the one that has sent last. Return None where
        ``client``, of which an item comes, would have no fewer: then that item is to be refused.
        """
        if not self.size:
            return None  # and no ranking: the next client may be alone
        self._rank_sole()
        if self._largest is None:
            self._largest = Ranking()
            for each, waiting in self._waiting.items():
                self._rank(each, waiting)
        largest = self._largest.first()
        if largest is None:
            return None
        waiting = self._waiting[largest]
        own = self._waiting.get(client)
        if len(waiting.items) <= 1 + (0 if own is None else len(own.items)):
            return None
        _, item = waiting.items.pop()
        self.size -= 1
        self._rank(largest, waiting)
        return item

    def remove(self, unwanted: Callable[[Item], bool], client: int | None = None) -> list[Item]:
        """Take the items, all or those of a client, for which ``unwanted`` returns True.

        They are in the order of arrival. It looks at each item once.
        """
        removed: list[tuple[int, Item]] = []
        for each in list(self._waiting) if client is None else (client,):
            waiting = self._waiting.get(each)
            if waiting is None:
                continue
            found = [entry for entry in waiting.items if unwanted(entry[1])]
            if not found:
                continue
            removed += found
            numbers = {number for number, _ in found}
            waiting.items = deque(it for it in waiting.items if it[0] not in numbers)
            if waiting.items:
                self._rank(each, waiting)
            else:
                self._leave(each)
        self.size -= len(removed)  # in one step: others may look at it without the lock
        if not self.size:
            self._begin_anew()
        removed.sort(key=lambda entry: entry[0])
        return [item for _, item in removed]

    def items(self) -> Iterable[Item]:
        """Iterate over all items, in no order."""
        return (item for waiting in self._waiting.values() for _, item in waiting.items)

    def _next(self, newest: bool) -> int:
        """Return the client that is next. Raises `IndexError` if none waits."""
        turns, eligible = self._turns, self._eligible
        if newest:
            reach = max(self._share, self._least)
            while (client := turns.first()) is not None and self._waiting[client].had <= reach:
                turns.drop(client)
                eligible.set(client, (-self._waiting[client].items[-1][0], 0))
            client = eligible.first()
        else:
            for client in eligible:
                waiting = self._waiting[client]
                turns.set(client, (waiting.had, waiting.place))
            eligible.clear()
            client = None
        if client is None:
            client = turns.first()
        if client is None:
            raise IndexError("no item waits")
        return client

    def _rank(self, client: int, waiting: _ClientItems[Item]) -> None:
        """Give a client its place by what it has waiting, where that matters."""
        newest = -waiting.items[-1][0]
        if client in self._eligible:
            self._eligible.set(client, (newest, 0))
        if self._largest is not None:
            self._largest.set(client, (-len(waiting.items), newest))

    def _rank_sole(self) -> None:
        """Give the client its place that has waited alone."""
        if self._sole is not None:
            waiting = self._waiting[self._sole]
            self._turns.set(self._sole, (waiting.had, waiting.place))
            self._sole = None

    def _leave(self, client: int) -> None:
        del self._waiting[client]
        self._turns.drop(client)
        self._eligible.drop(client)
        if self._largest is not None:
            self._largest.drop(client)

    def _begin_anew(self) -> None:
        self._sole = None
        self._had.clear()
        self._share = self._least = 0
        self._largest = None
