"""The queue of a response of the Python transport, while threads send parts of files from it."""

from __future__ import annotations

import errno
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

import pytest

from penstock.telemetry.scoreboard import Scoreboard
from penstock.transport.config import TransportConfig
from penstock.transport.python.budget import Budget
from penstock.transport.python.disk import Disk
from penstock.transport.python.output import FileRegion, Flushed, Output
from support.serving import eventually
from support.wire import DEADLINE


class FakeStream:
    """Takes as many bytes as there is room for; sending from a file waits while the disk stands."""

    def __init__(self) -> None:
        self.room = 0
        self.disk = threading.Event()
        self.disk.set()
        self.asked = threading.Event()
        self.on_cut_off: Callable[[], object] = bool
        self.closed = False

    def send(self, data: memoryview, _flags: int) -> int:
        return self._take(len(data))

    def note_sent(self, count: int) -> None:
        """Take note of nothing."""

    def hold_ahead(self, _count: int) -> None:
        """Hold no more."""

    def send_file(self, _descriptor: int, _offset: int, count: int) -> int:
        self.asked.set()
        assert self.disk.wait(DEADLINE)
        return self._take(count)

    def _take(self, count: int) -> int:
        if not self.room:
            raise BlockingIOError
        taken = min(count, self.room)
        self.room -= taken
        return taken

    def cut_off(self) -> None:
        self.on_cut_off()

    def close(self) -> None:
        self.closed = True


class Parts:
    """An output, and what it belongs to."""

    def __init__(self) -> None:
        slot = Scoreboard(1, 1).take()
        assert slot is not None
        config = TransportConfig()
        self.stream = cast("Any", FakeStream())
        self.budget = Budget(config, slot)
        self.disk = Disk(logging.getLogger("penstock.tests"), idle=0.0)
        self.output = Output(self.stream, config, self.budget, self.disk)

    def append_file(self) -> None:
        with tempfile.TemporaryFile() as file:
            self.output.append(FileRegion(file.fileno(), 0, 1000, self.budget))

    @contextmanager
    def in_flight(self) -> Iterator[None]:
        """Have a thread send from a file, and wait for the disk meanwhile."""

        def flush() -> None:
            with suppress(OSError):
                self.output.flush()

        self.stream.disk.clear()
        self.stream.asked.clear()
        sending = threading.Thread(target=flush)
        sending.start()
        try:
            assert self.stream.asked.wait(DEADLINE)
            yield
        finally:
            self.stream.disk.set()
            sending.join(DEADLINE)


@pytest.fixture
def parts() -> Parts:
    return Parts()


def test_another_thread_is_asked_once_however_often_the_first_one_sends_meanwhile(
    parts: Parts,
) -> None:
    output = parts.output
    parts.append_file()
    assert output.flush_memory() is Flushed.FILE
    for _ in range(3):
        parts.stream.room = 100
        assert not output.flush()
        assert output.flush_memory() is Flushed.ELSEWHERE
    assert output.awaits_file()
    parts.stream.room = 100
    output.flush_asked()
    assert output.size == 600
    assert not output.awaits_file()
    assert output.flush_memory() is Flushed.FILE
    output.close()
    assert parts.disk.catch_up(DEADLINE)


def test_what_is_in_memory_is_sent_while_the_thread_that_was_asked_has_not_begun(
    parts: Parts,
) -> None:
    output = parts.output
    parts.append_file()
    assert output.flush_memory() is Flushed.FILE
    parts.stream.room = 1000
    assert output.flush()
    output.append(b"x" * 100)
    assert output.flush_memory() is Flushed.BLOCKED  # an event tells when there is room
    assert not output.awaits_file()
    parts.stream.room = 100
    assert output.flush_memory() is Flushed.ALL


def test_a_file_that_is_queued_behind_one_in_flight_is_closed_where_the_response_is_given_up(
    parts: Parts,
) -> None:
    parts.append_file()
    with parts.in_flight():
        parts.output.fail(TimeoutError(errno.ETIMEDOUT, "the client takes no data"))
        parts.append_file()  # its thread does not know that yet
        parts.output.close()
    assert parts.disk.catch_up(DEADLINE)
    assert parts.budget.files == 0


def test_a_stream_is_not_closed_by_the_thread_that_sends_while_it_is_cut_off(parts: Parts) -> None:
    closed: list[bool] = []

    def on_cut_off() -> None:
        parts.stream.disk.set()
        closed.append(parts.output._lock.acquire(blocking=False))

    parts.append_file()
    parts.stream.on_cut_off = on_cut_off
    with parts.in_flight():
        parts.output.close()
        parts.output.close_stream()
    assert closed == [False]
    eventually(lambda: parts.stream.closed)
    assert parts.disk.catch_up(DEADLINE)
    assert parts.budget.files == 0


def test_a_file_that_is_being_closed_is_not_closed_once_more_by_a_forked_child() -> None:
    disk = Disk(logging.getLogger("penstock.tests"), idle=0.0)
    closed: list[int] = []

    def close() -> None:
        closed.append(os.getpid())
        if len(closed) == 1:
            disk.close_in_child()  # as a child does that is forked now

    disk.close(close, lambda: None)
    assert disk.catch_up(DEADLINE)
    assert len(closed) == 1
