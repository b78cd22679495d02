"""Who is next where clients have more for the server to do than it can: the same on both sides."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.transport.config import TransportConfig
from penstock.transport.fair_queue import FairQueue

Event = tuple[int, int]
Side = Callable[[list[Event]], list[int]]
TAKE = (0, 0)
A, B, C, D = 1, 2, 3, 4


def add(client: int, *items: int) -> list[Event]:
    return [(client, item) for item in items]


def take(count: int) -> list[Event]:
    return [TAKE] * count


def replay(events: list[Event]) -> list[int]:
    """Return the items in the order in which they were taken; -1 where there was none."""
    queue: FairQueue[int] = FairQueue()
    taken = []
    for client, item in events:
        if client:
            queue.add(client, item)
        else:
            taken.append(queue.take() if queue.size else -1)
    return taken


def replay_native(events: list[Event]) -> list[int]:
    native = pytest.importorskip("penstock._native", reason="the native transport is not built")
    taken = []
    for index, event in enumerate(events):
        if event == TAKE:
            numbers = [float(number) for each in events[: index + 1] for number in each]
            taken.append(native.NativeTransport.decide(TransportConfig(), "fair_queue", numbers))
    return taken


every_side = pytest.mark.parametrize("side", [replay, replay_native], ids=["python", "native"])

CASES: dict[str, tuple[list[Event], list[int]]] = {
    "nothing": (take(1), [-1]),
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
        [10, 20, 11, 21, 30, 12, 22],
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
}


@every_side
@pytest.mark.parametrize("name", CASES)
def test_the_client_is_next_that_has_had_the_least(name: str, side: Side) -> None:
    events, taken = CASES[name]
    assert side(events) == taken


@every_side
def test_clients_that_come_all_the_time_keep_no_other_waiting_for_ever(side: Side) -> None:
    events = add(A, 10, 11)
    for client in range(100, 200):
        events += [*add(client, client), *take(1)]
    assert 11 in side(events)


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


EVENTS = st.lists(
    st.one_of(st.tuples(st.integers(1, 4), st.integers(0, 99)), st.just(TAKE)), max_size=40
)


@given(EVENTS)
def test_both_sides_take_the_same(events: list[Event]) -> None:
    assert replay(events) == replay_native(events)
