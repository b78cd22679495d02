"""Addresses that a reload removes: closed when their queues are empty, and never waited for."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from typing import Any, cast

import pytest

from penstock.control.commands import Outcome
from penstock.listeners import Listener, open_listeners
from penstock.supervisor.certificates import Source
from penstock.supervisor.generation import Generation
from penstock.supervisor.pool import Pool
from penstock.supervisor.reload import (
    HANDSHAKE_SECONDS,
    LONGEST_SECONDS,
    ReloadInProgress,
    RemovedListeners,
)
from support.serving import eventually
from support.wire import DEADLINE


@pytest.fixture
def listener() -> Iterator[Listener]:
    [listener] = open_listeners(["127.0.0.1:0"], 16)
    yield listener
    listener.close()


def connect(listener: Listener) -> socket.socket:
    return socket.create_connection(listener.socket.getsockname()[:2], timeout=DEADLINE)


class Old(Generation):
    """A generation that has no workers, and notes when they are ordered to leave."""

    def __init__(self, listener: Listener | None) -> None:
        self.listener = listener
        self.told: list[tuple[str, bool]] = []

    def end_all(self, because: str) -> None:
        """Note the order, and whether the address was open then."""
        self.told.append(
            (because, self.listener is not None and self.listener.socket.fileno() >= 0)
        )


class Coming(Generation):
    """A generation with a name."""

    def __init__(self) -> None:
        self.number = 2


def removed_at(now: float, listener: Listener | None, answers: list[Any]) -> RemovedListeners:
    """Return an address that was removed at ``now``."""
    pool, logger = cast(Pool, None), logging.Logger("penstock.test")
    reload = ReloadInProgress(pool, Coming(), logger, answers.append, cast(Source, None))
    listeners = [listener] if listener is not None else []
    return RemovedListeners.turn_away(listeners, Old(listener), reload, now)


def test_without_addresses_the_old_workers_leave_at_once() -> None:
    answers: list[Any] = []
    removed = removed_at(100.0, None, answers)
    assert removed.is_due(100.0)
    removed.close()
    assert cast(Old, removed.old).told == [("generation 2 serves in its place", False)]
    assert answers == [Outcome(True, "reloaded: generation 2 serves")]


def test_an_empty_queue_is_closed_once_no_handshake_can_be_under_way(listener: Listener) -> None:
    removed = removed_at(100.0, listener, [])
    assert not removed.is_due(removed.close_from - 0.01) or removed.close_from == 100.0
    assert removed.is_due(100.0 + HANDSHAKE_SECONDS)


def test_a_client_in_the_queue_is_waited_for_and_not_for_long(listener: Listener) -> None:
    with connect(listener):
        removed = removed_at(100.0, listener, [])
        eventually(lambda: not removed.is_due(100.0 + HANDSHAKE_SECONDS))
        assert removed.is_due(100.0 + LONGEST_SECONDS)
        accepted, _ = listener.socket.accept()
        with accepted:
            assert removed.is_due(100.0 + HANDSHAKE_SECONDS)


def test_the_old_workers_leave_before_the_address_is_closed(listener: Listener) -> None:
    removed = removed_at(100.0, listener, [])
    removed.close()
    assert cast(Old, removed.old).told == [("generation 2 serves in its place", True)]
    assert listener.socket.fileno() == -1
