"""The queue of signals: what is waited for arrives, and nothing else ends the wait."""

from __future__ import annotations

import os
import signal
import socket
import struct
from collections.abc import Iterator

import pytest

from penstock.system.signals import Signals

DEADLINE = 30.0


@pytest.fixture
def signals() -> Iterator[Signals]:
    queue = Signals([signal.SIGALRM])
    yield queue
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    queue.restore()


@pytest.mark.parametrize("timeout", [None, DEADLINE])
def test_a_read_that_finds_nothing_does_not_end_the_wait_for_a_signal(
    signals: Signals, timeout: float | None
) -> None:
    # A blocking read of the socket returns EAGAIN after 10 ms, before the signal comes.
    with socket.socket(fileno=os.dup(signals.fileno())) as reader:
        interval = struct.pack("ll", 0, 10_000)
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, interval)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        assert signals.wait(timeout) == signal.SIGALRM


def test_a_wait_without_a_signal_ends_at_its_timeout(signals: Signals) -> None:
    assert signals.wait(0.01) is None
