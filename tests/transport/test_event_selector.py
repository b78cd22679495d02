"""What the Python transport's loop waits in does the same with epoll and without it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from selectors import EVENT_READ, EVENT_WRITE
from typing import Any

import pytest

from penstock.transport.python.event_selector import EventSelector, IdleSelector, OtherSelector

BOTH = EVENT_READ | EVENT_WRITE
READER, WRITER = "reader", "writer"

Selector = Any
"""One of three classes, of which one is not on each system."""


@pytest.fixture(params=["default", "other", "idle"])
def selector(request: pytest.FixtureRequest) -> Iterator[Selector]:
    made: Selector = {
        "default": EventSelector,
        "other": OtherSelector,
        "idle": lambda: IdleSelector(lambda: None),
    }[request.param]()
    yield made
    made.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


Pair = tuple[socket.socket, socket.socket]


def test_it_returns_handlers_with_the_events_that_they_wait_for(
    selector: Selector, pair: Pair
) -> None:
    one, other = pair
    selector.register(one, EVENT_READ, READER)
    selector.register(other, BOTH, WRITER)
    assert selector.select(0.0) == [(WRITER, EVENT_WRITE)]
    other.send(b"x")
    assert sorted(selector.select(5.0)) == [(READER, EVENT_READ), (WRITER, EVENT_WRITE)]


@pytest.mark.parametrize("exclusive", [False, True])
def test_a_listener_is_reported_while_a_client_waits(selector: Selector, exclusive: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        selector.register_listener(listener, READER, exclusive=exclusive)
        assert selector.select(0.0) == []
        with socket.create_connection(listener.getsockname()):
            for _ in range(2):
                assert selector.select(5.0) == [(READER, EVENT_READ)]
            selector.unregister(listener)
            assert selector.select(0.0) == []


def test_nothing_is_returned_where_nothing_happens_in_time(selector: Selector, pair: Pair) -> None:
    selector.register(pair[0], EVENT_READ, READER)
    assert selector.select(0.0) == []
    assert selector.select(0.001) == []


def test_a_source_is_watched_for_other_events_from_then_on(selector: Selector, pair: Pair) -> None:
    one, _ = pair
    selector.register(one, EVENT_READ, READER)
    selector.modify(one, BOTH, WRITER)
    assert selector.select(None) == [(WRITER, EVENT_WRITE)]


def test_an_end_is_returned_as_what_is_watched_for(selector: Selector, pair: Pair) -> None:
    one, other = pair
    selector.register(one, EVENT_WRITE, WRITER)
    other.close()
    assert selector.select(5.0) == [(WRITER, EVENT_WRITE)]
    selector.modify(one, EVENT_READ, READER)
    assert selector.select(5.0) == [(READER, EVENT_READ)]


def test_a_source_that_is_not_watched_is_no_longer_looked_at(
    selector: Selector, pair: Pair
) -> None:
    one, _ = pair
    selector.register(one, EVENT_WRITE, WRITER)
    selector.unregister(one)
    assert selector.select(0.0) == []
    with pytest.raises(KeyError):
        selector.unregister(one)


def test_what_is_done_when_idle_is_done_before_a_wait_alone(pair: Pair) -> None:
    done: list[None] = []
    selector = IdleSelector(lambda: done.append(None))
    selector.register(pair[0], EVENT_READ, READER)
    selector.select(0.0)
    assert not done
    selector.select(0.001)
    assert len(done) == 1
    pair[1].send(b"x")
    selector.select(5.0)
    assert len(done) == 1
    selector.close()
