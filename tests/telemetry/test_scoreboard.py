"""The scoreboard: what a worker writes is what others read, from wherever they look."""

from __future__ import annotations

import os
import sys
import threading
import time

import pytest

from penstock.telemetry.scoreboard import (
    AWAITING_CLIENT,
    BEGUN,
    BOOTING,
    DEADLINE,
    ENTRY,
    ENTRY_BYTES,
    FREE,
    LENGTHS,
    NUMBER,
    PROGRESS,
    RECORD_BYTES,
    RECORDS_AT,
    RINGS_BESIDE,
    SINCE,
    STATE,
    STATUS,
    TEXTS,
    THREAD,
    TOOK,
    WORD,
    Record,
    Scoreboard,
    Slot,
    note_end,
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
    assert [word(index) for index in (ENTRY, PROGRESS, AWAITING_CLIENT)] == [0, 0, 0]
    begin_of_entry = RECORDS_AT + 2 * RECORD_BYTES + ENTRY_BYTES
    data = bytes(slot.bytes[begin_of_entry : begin_of_entry + ENTRY_BYTES])
    assert [word(index) for index in (BEGUN, TOOK, STATUS)] == [11, 0, 0]
    assert word(LENGTHS) == 0  # what follows the texts is 0
    for (begin, most), text in zip(TEXTS, (b"GET", b"client", b"id", b"/target"), strict=True):
        assert data[begin : begin + most] == text.ljust(most, b"\0")
    assert TEXTS[-1][0] + TEXTS[-1][1] == ENTRY_BYTES


# -- the last requests of a thread ---------------------------------------------------------------


def remembering(past: int, threads: int = 1, beside: int = 0) -> Slot:
    slot = Scoreboard(2, threads, beside, past).take()
    assert slot is not None
    return slot


def serve(record: Record, number: int, *, status: int = 200, target: str = "") -> None:
    """Have a thread be in a request, and come back from it."""
    record.words[THREAD] = 5
    entry = record.begin(number, 1000 * number, 0, "GET", b"c", f"id-{number}", target or "/")
    note_end(entry, 7_000_000 * number, status)
    record.end()


def test_the_last_requests_of_a_thread_stay_the_newest_first() -> None:
    slot = remembering(3)
    record = slot.records[0]
    for number in range(1, 8):
        serve(record, number, status=200 + number)
    seen = [(each.request_id, each.status, each.took) for each in slot.past_requests()]
    # Four entries: three beside the one of a request that is in progress.
    assert seen == [(f"id-{number}", 200 + number, 0.007 * number) for number in (7, 6, 5, 4)]


def test_a_call_of_which_only_the_usual_is_known_was_fast_and_a_200() -> None:
    slot = remembering(3)
    record = slot.records[0]
    record.words[THREAD] = 5
    begin(record, number=1)
    record.end()
    note_end(record.begin(2, 2, 0, "GET", b"", "id", "/none"), 9_000_000, 0)
    record.end()
    fast, none = sorted(slot.past_requests(), key=lambda request: -request.since)
    assert (fast.status, fast.took) == (200, 0)
    assert "200 after less than 1 ms" in str(fast)
    assert (none.status, none.took) == (0, 0.009)
    assert "no response after 0.0090 s" in str(none)


def test_the_lengths_of_another_transport_count_where_it_writes_them() -> None:
    slot = remembering(0)
    record = slot.records[0]
    begin(record)
    place = memoryview(record._entries[0])
    place[LENGTHS * WORD : (LENGTHS + 1) * WORD].cast("H")[:] = memoryview(
        b"".join(length.to_bytes(2, sys.byteorder) for length in (2, 9, 2, 3))
    ).cast("H")
    (request,) = slot.requests()
    assert (request.method, request.client, request.request_id) == ("GE", "127.0.0.1", "1a")
    assert request.target == "/a?"


def test_the_request_in_progress_is_none_of_the_last_ones() -> None:
    slot = remembering(3)
    record = slot.records[0]
    for number in range(1, 8):
        serve(record, number)
    begin(record, number=8)
    assert [each.number for each in slot.requests()] == [8]
    assert [each.request_id for each in slot.past_requests()] == ["id-7", "id-6", "id-5"]


def test_without_past_requests_there_is_the_last_one_until_the_next_begins() -> None:
    slot = remembering(0)
    record = slot.records[0]
    serve(record, 1)
    assert [each.request_id for each in slot.past_requests()] == ["id-1"]
    begin(record, number=2)
    assert list(slot.past_requests()) == []


def test_each_thread_has_entries_of_its_own() -> None:
    slot = remembering(2, threads=3)
    for thread, record in enumerate(slot.records):
        for number in range(10 * thread + 1, 10 * thread + 6):
            serve(record, number)
    seen = [(each.thread, each.request_id) for each in slot.past_requests()]
    assert seen == [
        (thread, f"id-{10 * thread + number}") for thread in range(3) for number in (5, 4, 3)
    ]


def test_records_that_few_threads_use_have_one_entry() -> None:
    slot = remembering(8, threads=2, beside=100)
    board = slot.scoreboard
    assert (board.records, board.rings) == (102, 2 + RINGS_BESIDE)
    ends = [begin + count * ENTRY_BYTES for begin, count in map(board.entries_of, range(102))]
    begins = [board.entries_of(record)[0] for record in range(102)]
    assert begins == [board.entries_at, *ends[:-1]]
    assert ends[-1] == board.slot_bytes
    for number, record in enumerate(slot.records, 1):
        serve(record, number)
        serve(record, number + 1000)
    assert len(list(slot.past_requests())) == 2 * (2 + RINGS_BESIDE) + 100 - RINGS_BESIDE


def test_a_slot_that_is_taken_again_has_none_of_its_last_workers_requests() -> None:
    slot = remembering(3, threads=2)
    for record in slot.records:
        serve(record, 1)
    slot.scoreboard.give_back(slot)
    assert not any(slot.bytes)


def test_a_query_is_no_part_of_what_a_log_says_of_a_past_request() -> None:
    slot = remembering(3)
    serve(slot.records[0], 1, target="/a?password=x")
    (request,) = slot.past_requests()
    assert str(request).startswith("GET /a?... (request id-1, 200 after 0.0070 s, begun ")
    assert str(request).endswith(" s ago, thread 0)")


def test_what_is_read_of_past_requests_is_never_half_of_two() -> None:
    slot = remembering(1)
    record = slot.records[0]
    stop = threading.Event()

    def serve_on() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            serve(record, number, target=f"id-{number}")

    thread = threading.Thread(target=serve_on)
    thread.start()
    seen = 0
    deadline = time.monotonic() + 10
    while seen < 500 and time.monotonic() < deadline:
        for request in slot.past_requests():
            seen += 1
            assert request.target == request.request_id
            assert request.since == int(request.target[3:]) * 1000 / 1e9
    stop.set()
    thread.join()
    assert seen >= 500
