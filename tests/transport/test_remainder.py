"""What connections are watched for that wait for a turn of the Python transport."""

from __future__ import annotations

from selectors import EVENT_READ, EVENT_WRITE
from types import SimpleNamespace
from typing import Any

import pytest

from penstock.transport.python.remainder import Remainder
from penstock.transport.states import FLUSHING, HANDED_OUT, LINGERING, READING, Phase


class Waiting:
    """A connection, as far as the remainder looks at it."""

    share_key = None
    remote_addr = "127.0.0.1"

    def __init__(self, phase: Phase, watched: int) -> None:
        self.phase = phase
        self.watched = watched


def watch(connection: Any, mask: int) -> None:
    connection.watched = mask


def waiting(phase: Phase, watched: int) -> tuple[Remainder, Any]:
    """Return the remainder, and a connection of that phase which waits there with an event."""
    loop: Any = SimpleNamespace(watch=watch)
    remainder = Remainder(loop)
    connection: Any = Waiting(phase, watched)
    remainder.add(connection, EVENT_WRITE, 1.0)
    assert connection.watched == 0
    return remainder, connection


def test_a_connection_is_watched_again_for_what_it_was_watched_for_before_it_waited() -> None:
    remainder, connection = waiting(HANDED_OUT, EVENT_READ | EVENT_WRITE)
    watch(connection, EVENT_WRITE)  # its thread has more to send
    remainder.add(connection, EVENT_WRITE, 2.0)
    assert remainder.since(connection) == 1.0
    assert remainder.take() == (connection, EVENT_WRITE)
    assert connection.watched == EVENT_READ | EVENT_WRITE
    assert not remainder.size


@pytest.mark.parametrize(
    ("phase", "watched"),
    [(LINGERING, EVENT_READ), (READING, EVENT_READ), (FLUSHING, EVENT_WRITE)],
)
@pytest.mark.parametrize("later", [0, EVENT_READ])
def test_a_connection_whose_response_ended_while_it_waited_is_watched_for_nothing_else(
    phase: Phase, watched: int, later: int
) -> None:
    remainder, connection = waiting(HANDED_OUT, EVENT_READ | EVENT_WRITE)
    connection.phase = phase
    watch(connection, watched)
    if later:
        remainder.add(connection, later, 2.0)
        watched = connection.watched or watched
    remainder.take()
    assert connection.watched == watched
