"""Addresses that a reload removes: closed when their queues are empty, and never waited for."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from penstock.listeners import Listener, open_listeners
from penstock.supervisor.reload import HANDSHAKE_SECONDS, LONGEST_SECONDS, RemovedListeners
from support.serving import eventually
from support.wire import DEADLINE


@pytest.fixture
def listener() -> Iterator[Listener]:
    [listener] = open_listeners(["127.0.0.1:0"], 16)
    yield listener
    listener.close()


def connect(listener: Listener) -> socket.socket:
    return socket.create_connection(listener.socket.getsockname()[:2], timeout=DEADLINE)


def test_without_addresses_the_old_workers_leave_at_once() -> None:
    ended: list[str] = []
    removed = RemovedListeners.turn_away([], 100.0, lambda: ended.append("told"))
    assert removed.is_due(100.0)
    removed.close()
    assert ended == ["told"]


def test_an_empty_queue_is_closed_once_no_handshake_can_be_under_way(listener: Listener) -> None:
    removed = RemovedListeners.turn_away([listener], 100.0, lambda: None)
    assert not removed.is_due(removed.close_from - 0.01) or removed.close_from == 100.0
    assert removed.is_due(100.0 + HANDSHAKE_SECONDS)


def test_a_client_in_the_queue_is_waited_for_and_not_for_long(listener: Listener) -> None:
    with connect(listener):
        removed = RemovedListeners.turn_away([listener], 100.0, lambda: None)
        eventually(lambda: not removed.is_due(100.0 + HANDSHAKE_SECONDS))
        assert removed.is_due(100.0 + LONGEST_SECONDS)
        accepted, _ = listener.socket.accept()
        with accepted:
            assert removed.is_due(100.0 + HANDSHAKE_SECONDS)


def test_the_old_workers_leave_before_the_address_is_closed(listener: Listener) -> None:
    open_then: list[bool] = []
    removed = RemovedListeners.turn_away(
        [listener], 100.0, lambda: open_then.append(listener.socket.fileno() >= 0)
    )
    removed.close()
    assert open_then == [True]
    assert listener.socket.fileno() == -1
