"""Who is next, and who is refused, where clients have more for the server to do than it can.

The same events are run on both sides.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.transport.config import TransportConfig
from penstock.transport.fair_queue import ITEM_COST, FairQueue, Ranking

Event = tuple[int, int, int]
Side = Callable[[list[Event]], list[int]]
TAKE = (0, 0, 0)
NEWEST = (1, 0, 0)
ADD, MAKE_ROOM, REMOVE = 2, 3, 4
NOTHING = -1
A, B, C, D = 1, 2, 3, 4


def add(client: int, *items: int) -> list[Event]:
    return [(ADD, client, item) for item in items]


def take(count: int) -> list[Event]:
    return [TAKE] * count


def newest(count: int) -> list[Event]:
    return [NEWEST] * count


def make_room(client: int) -> list[Event]:
    return [(MAKE_ROOM, client, 0)]


def remove(item: int) -> list[Event]:
    return [(REMOVE, 0, item)]


def apply(queue: FairQueue[int], event: Event) -> int:
    """Return the item that an event yields; NOTHING where it yields none."""
    kind, client, item = event
    if kind in (TAKE[0], NEWEST[0]):
        return queue.take(newest=kind == NEWEST[0]) if queue.size else NOTHING
    if kind == MAKE_ROOM:
        found = queue.make_room(client)
        return NOTHING if found is None else found
    if kind == REMOVE:
        return next(iter(queue.remove(lambda it: it == item)), NOTHING)
    queue.add(client, item)
    return NOTHING


def replay(events: list[Event]) -> list[int]:
    """Return what each event but the adding ones yields."""
    queue: FairQueue[int] = FairQueue()
    results = [(event[0], apply(queue, event)) for event in events]
    return [result for kind, result in results if kind != ADD]


def replay_native(events: list[Event]) -> list[int]:
    native = pytest.importorskip("penstock._native", reason="the native transport is not built")
    results = []
    for index, event in enumerate(events):
        if event[0] != ADD:
            numbers = [float(number) for each in events[: index + 1] for number in each]
            results.append(native.NativeTransport.decide(TransportConfig(), "fair_queue", numbers))
    return results


every_side = pytest.mark.parametrize("side", [replay, replay_native], ids=["python", "native"])

CASES: dict[str, tuple[list[Event], list[int]]] = {
    "nothing": ([*take(1), *newest(1), *make_room(A), *remove(1)], [-1, -1, -1, -1]),
    "one client: in the order of arrival": (
        [*add(A, 10, 11), *take(1), *add(A, 12), *take(3)],
        [10, 11, 12, -1],
    ),
    "one item of each client: in the order of arrival": (
        [*add(A, 10), *add(B, 20), *take(1), *add(C, 30), *take(2), *add(D, 40), *take(1)],
        [10, 20, 30, 40],
    ),
    "many items of some: in turns": (
        [*add(A, 10, 11, 12), *add(B, 20, 21), *add(C, 30), *take(6)],
        [10, 20, 30, 11, 21, 12],
    ),
    "a client that comes: before those that have had more": (
        [*add(A, 10, 11, 12), *add(B, 20, 21, 22), *take(3), *add(C, 30), *take(4)],
        [10, 20, 11, 30, 21, 12, 22],
    ),
    "a client that asks for little: next once, then in turns with those that have had as many": (
        [
            *(*add(A, 10, 11, 12), *add(B, 20, 21, 22), *add(C, 30, 31, 32), *take(4)),
            *(*add(D, 40), *take(1), *add(D, 41), *take(4)),
        ],
        [10, 20, 30, 11, 40, 21, 31, 41, 12],
    ),
    "a client that comes again: with what it has had": (
        [*add(A, 10), *add(B, 20, 21), *add(C, 30), *take(1), *add(A, 11), *take(4)],
        [10, 20, 30, 11, 21],
    ),
    "a client that comes again late: as if it came for the first time": (
        [*add(A, 10), *add(B, *range(20, 26)), *take(5), *add(A, 11), *take(2)],
        [10, 20, 21, 22, 23, 11, 24],
    ),
    "after the queue was empty: anew": (
        [*add(A, 10, 11), *add(B, 20), *take(3), *add(A, 12), *add(B, 21), *take(2)],
        [10, 20, 11, 12, 21],
    ),
    "the newest of one client": (
        [*add(A, 10, 11, 12), *newest(1), *add(A, 13), *newest(3)],
        [12, 13, 11, 10],
    ),
    "the newest of clients with one item: the last that has come": (
        [*add(A, 10), *add(B, 20), *add(C, 30), *newest(2), *add(D, 40), *newest(2)],
        [30, 20, 40, 10],
    ),
    "the newest: not of a client that has had its share": (
        [*add(A, 10), *add(B, 20, 21, 22), *newest(1), *add(B, 23), *newest(4)],
        [22, 10, 23, 21, 20],
    ),
    "the newest: of a client that sends all the time, in turns with another": (
        [
            *add(A, *range(10, 15)),
            *(event for it in range(20, 26) for event in (*add(B, it), *newest(1))),
        ],
        [20, 14, 22, 13, 24, 12],
    ),
    "the oldest after the newest": (
        [*add(A, 10, 11), *add(B, 20, 21), *newest(1), *take(3)],
        [21, 10, 20, 11],
    ),
    "room: of the client that has the most": (
        [*add(A, 10, 11, 12), *add(B, 20, 21), *make_room(C), *take(4)],
        [12, 10, 20, 11, 21],
    ),
    "room: of several, of the one that has sent last": (
        [*add(A, 10, 11), *add(B, 20, 21), *make_room(C), *make_room(C)],
        [21, 11],
    ),
    "room: not of others, for a client that would have as many": (
        [*add(A, 10, 11, 12), *add(B, 20, 21), *make_room(B), *make_room(A), *take(5)],
        [-1, -1, 10, 20, 11, 21, 12],
    ),
    "room: for a client with two fewer": (
        [*add(A, 10, 11, 12), *add(B, 20), *make_room(B), *add(B, 21), *take(4)],
        [12, 10, 20, 11, 21],
    ),
    "room: none where each client has one": (
        [*add(A, 10), *add(B, 20), *make_room(C), *make_room(A), *take(2)],
        [-1, -1, 10, 20],
    ),
    "room: by what is left of a client": (
        [
            *(*add(A, 10, 11, 12), *take(2), *add(B, 20, 21), *make_room(C), *take(1)),
            *(*add(A, 13, 14), *make_room(C)),
        ],
        [10, 11, 21, 20, 14],
    ),
    "room: of a client alone that came after none was to be made": (
        [*make_room(A), *add(B, 20, 21), *make_room(A), *take(1)],
        [-1, 21, 20],
    ),
    "room, while the newest is next": (
        [*add(A, 10, 11, 12), *add(B, 20), *newest(1), *make_room(C), *newest(2)],
        [20, 12, 11, 10],
    ),
    "an item that leaves": (
        [*add(A, 10, 11, 12), *add(B, 20), *remove(11), *remove(20), *remove(20), *take(3)],
        [11, 20, -1, 10, 12, -1],
    ),
    "an item that leaves, while the newest is next": (
        [*add(A, 10, 11), *add(B, 20), *add(C, 30), *newest(1), *remove(20), *newest(2)],
        [30, 20, 11, 10],
    ),
}


@every_side
@pytest.mark.parametrize("name", CASES)
def test_the_client_is_next_that_has_had_the_least_and_the_one_with_the_most_makes_room(
    name: str, side: Side
) -> None:
    events, taken = CASES[name]
    assert side(events) == taken


@every_side
@pytest.mark.parametrize("kind", [TAKE, NEWEST])
def test_clients_that_come_all_the_time_keep_no_other_waiting_for_ever(
    side: Side, kind: Event
) -> None:
    events = add(A, 10, 11)
    for client in range(100, 200):
        events += [*add(client, client), kind]
    assert (10 if kind == NEWEST else 11) in side([*events, *newest(2)])


def test_what_is_remembered_of_clients_is_bounded() -> None:
    queue: FairQueue[int] = FairQueue()
    queue.add(0, 0)
    for client in range(1, 10_000):
        queue.add(0, client)
        queue.add(client, client)
        queue.take()
        queue.take()
        queue.add(0, client)
        assert len(queue._had) < 200


@pytest.mark.parametrize("newest", [False, True])
def test_what_is_kept_of_clients_is_bounded_by_those_that_wait(newest: bool) -> None:
    queue: FairQueue[int] = FairQueue()
    most = 100
    for client in range(20_000):
        if queue.size < most or queue.make_room(client % 7) is not None:
            queue.add(client % 7, client)
        queue.add(client, client)
        queue.take(newest=newest)
        kept = (queue._turns, queue._eligible, queue._largest or Ranking())
        assert max(len(ranking._heap) for ranking in kept) <= 2 * most + 50
        assert len(queue._had) <= 20 * most


ITEMS = st.integers(0, 30)
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just(ADD), st.integers(1, 4), ITEMS),
        st.tuples(st.just(ADD), st.integers(1, 4), ITEMS),
        st.just(TAKE),
        st.just(NEWEST),
        st.tuples(st.just(MAKE_ROOM), st.integers(1, 5), st.just(0)),
        st.tuples(st.just(REMOVE), st.just(0), ITEMS),
    ),
    max_size=60,
)


def with_items_once(events: list[Event]) -> list[Event]:
    """Return the events, with items that are added once: each is the number of its event."""
    return [
        (kind, client, index if kind == ADD else item)
        for index, (kind, client, item) in enumerate(events)
    ]


@given(EVENTS)
def test_both_sides_yield_the_same(events: list[Event]) -> None:
    assert replay(with_items_once(events)) == replay_native(with_items_once(events))


@given(EVENTS)
def test_each_item_leaves_once_in_its_clients_order_and_room_is_made_of_the_largest(
    events: list[Event],
) -> None:
    queue: FairQueue[int] = FairQueue()
    waiting: dict[int, deque[int]] = {client: deque() for client in range(1, 6)}
    for event in with_items_once(events):
        kind, client, item = event
        found = apply(queue, event)
        most = max(len(items) for items in waiting.values())
        if kind == ADD:
            waiting[client].append(item)
        elif kind == MAKE_ROOM:
            if most <= len(waiting[client]) + 1:
                assert found == NOTHING
            else:
                largest = [items for items in waiting.values() if len(items) == most]
                assert found == max(items[-1] for items in largest)
                next(items for items in largest if items[-1] == found).pop()
        elif kind == REMOVE:
            assert (found == item) is any(item in items for items in waiting.values())
            for items in waiting.values():
                if item in items:
                    items.remove(item)
        elif most:
            end = -1 if event == NEWEST else 0
            ends = [items for items in waiting.values() if items and items[end] == found]
            assert len(ends) == 1
            ends[0].remove(found)
        else:
            assert found == NOTHING
        assert sorted(queue.items()) == sorted(it for items in waiting.values() for it in items)
        assert queue.size == sum(map(len, waiting.values()))


@given(st.lists(st.integers(0, 1), max_size=40))
def test_the_order_of_one_client_is_that_of_arrival(kinds: list[int]) -> None:
    events = [TAKE if kind else (ADD, A, index) for index, kind in enumerate(kinds)]
    taken = [item for item in replay(events) if item != NOTHING]
    assert taken == [index for index, kind in enumerate(kinds) if not kind][: len(taken)]


@given(st.lists(st.integers(1, 4), min_size=8, max_size=60), st.booleans())
def test_clients_that_always_have_something_waiting_have_as_many_turns_as_each_other(
    order: list[int], newest: bool
) -> None:
    queue: FairQueue[int] = FairQueue()
    for client in (A, B, C, D):
        for _ in range(len(order)):
            queue.add(client, client)
    had = dict.fromkeys((A, B, C, D), 0)
    for client in order:
        queue.add(client, client)  # it sends all the time, in whatever order
        had[queue.take(newest=newest)] += 1
        assert max(had.values()) - min(had.values()) <= 2


class Counted(int):
    """A key's number, which counts how often it is compared."""

    compared = 0

    def __lt__(self, other: int) -> bool:
        Counted.compared += 1
        return int(self) < int(other)


def test_a_place_among_many_clients_costs_the_logarithm_of_their_number() -> None:
    ranking = Ranking()
    for client in range(4096):
        ranking.set(client, (Counted(-client), client))
    Counted.compared = 0
    for client in range(4096):
        first = ranking.first()
        assert first is not None
        ranking.drop(first)
        ranking.set(first, (Counted(client * ITEM_COST), client))
    # 12 levels, of which each compares twice, and what is put in order anew.
    assert Counted.compared < 4096 * 40
