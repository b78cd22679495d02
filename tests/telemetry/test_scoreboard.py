"""The scoreboard: what a worker writes is what others read, from wherever they look."""

from __future__ import annotations

import os
import sys
import threading
import time

import pytest

from penstock.telemetry.scoreboard import (
    BOOTING,
    DEADLINE,
    FREE,
    LENGTHS,
    NUMBER,
    RECORD_BYTES,
    RECORDS_AT,
    SINCE,
    STATE,
    TEXTS,
    THREAD,
    WORD,
    Record,
    Scoreboard,
    Slot,
)


def taken(threads: int = 1) -> Slot:
    slot = Scoreboard(1, threads).take()
    assert slot is not None
    return slot


def begin(record: Record, *, number: int = 1, deadline: int = 0, target: str = "/a?b") -> int:
    """Write a request down; return when."""
    since = time.monotonic_ns()
    record.begin(number, since, deadline, "GET", b"127.0.0.1:5000", "1a-2b", target)
    return since


def test_a_slot_is_taken_once_and_cleared_for_the_next() -> None:
    scoreboard = Scoreboard(2, 1)
    first, second = scoreboard.take(), scoreboard.take()
    assert first is not None
    assert second is not None
    assert first.index != second.index
    assert scoreboard.take() is None
    begin(first.records[0])
    scoreboard.give_back(first)
    assert first.words[STATE] == FREE
    again = scoreboard.take()
    assert again is first
    assert again.words[STATE] == BOOTING
    assert list(again.requests()) == []


def test_what_is_written_of_a_request_is_read() -> None:
    slot = taken(threads=3)
    record = slot.records[2]
    record.words[THREAD] = threading.get_ident()
    since = begin(record, number=7, deadline=5_000_000_000)
    (request,) = slot.requests()
    assert request.thread == 2
    assert request.ident == threading.get_ident()
    assert request.number == 7
    assert (request.method, request.target) == ("GET", "/a?b")
    assert (request.client, request.request_id) == ("127.0.0.1:5000", "1a-2b")
    assert request.since == since / 1e9
    assert request.deadline == 5.0
    assert 0 <= request.age < 10
    assert str(request).startswith("GET /a?b (request 1a-2b, ")
    assert str(request).endswith(" s old, from 127.0.0.1:5000)")


def test_a_request_that_is_over_is_not_read() -> None:
    slot = taken()
    begin(slot.records[0])
    slot.records[0].end()
    assert list(slot.requests()) == []


def test_a_request_without_a_deadline_has_none() -> None:
    slot = taken()
    begin(slot.records[0])
    (request,) = slot.requests()
    assert request.deadline is None


def test_a_client_without_an_address_is_a_unix_socket() -> None:
    slot = taken()
    slot.records[0].begin(1, 1, 0, "GET", b"", "1", "/")
    (request,) = slot.requests()
    assert request.client == ""
    assert "from a unix socket" in str(request)


@pytest.mark.parametrize("length", [303, 304, 305, 70_000])
def test_each_text_is_cut_off_at_its_end(length: int) -> None:
    slot = taken(threads=2)
    record = slot.records[0]
    record.begin(1, 1, 0, "M" * 32, b"c" * 70, "i" * 80, "t" * length)
    (request,) = slot.requests()
    assert request.method == "M" * 24
    assert request.client == "c" * 56
    assert request.request_id == "i" * 64
    assert request.target == "t" * min(length, 304)
    assert slot.records[1].read() is None


def test_a_short_text_shows_nothing_of_a_longer_one_before() -> None:
    slot = taken()
    begin(slot.records[0], target="/" + "x" * 200)
    begin(slot.records[0], number=2, target="/\xe9")
    (request,) = slot.requests()
    assert request.target == "/\xe9"


def test_a_request_that_changes_while_it_is_read_is_not_read_half() -> None:
    slot = taken()
    record = slot.records[0]
    stop = threading.Event()

    def serve() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            text = str(number)
            record.begin(number, number, 0, "GET", text.encode(), text, text)
            record.end()

    thread = threading.Thread(target=serve)
    thread.start()
    seen = 0
    deadline = time.monotonic() + 10
    while seen < 200 and time.monotonic() < deadline:
        for request in slot.requests():
            seen += 1
            text = str(request.number)
            assert (request.client, request.request_id, request.target) == (text, text, text)
    stop.set()
    thread.join()
    assert seen == 200


def test_a_childs_writing_is_read_by_its_parent_even_when_it_is_dead() -> None:
    slot = taken()
    child = os.fork()
    if child == 0:
        begin(slot.records[0], number=3, target="/in-the-child")
        os._exit(0)
    os.waitpid(child, 0)
    (request,) = slot.requests()
    assert (request.number, request.target) == (3, "/in-the-child")


def test_the_layout_is_what_is_written_down() -> None:
    """The native transport writes at these places."""
    slot = taken(threads=2)
    record = slot.records[1]
    record.words[THREAD] = 5
    record.begin(9, 11, 13, "GET", b"client", "id", "/target")
    begin_of_record = RECORDS_AT + RECORD_BYTES
    data = bytes(slot.bytes[begin_of_record : begin_of_record + RECORD_BYTES])

    def word(index: int) -> int:
        return int.from_bytes(data[index * WORD : (index + 1) * WORD], sys.byteorder)

    assert [word(index) for index in (NUMBER, SINCE, THREAD, DEADLINE)] == [9, 11, 5, 13]
    lengths = memoryview(data)[LENGTHS * WORD : (LENGTHS + 1) * WORD].cast("H")
    assert list(lengths) == [3, 6, 2, 7]
    for (begin, most), text in zip(TEXTS, (b"GET", b"client", b"id", b"/target"), strict=True):
        assert data[begin : begin + most] == text.ljust(most, b"\0")
    assert TEXTS[-1][0] + TEXTS[-1][1] == RECORD_BYTES
