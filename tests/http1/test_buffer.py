"""The receive buffer: what it keeps, what it frees, and how it finds the end of a line."""

from __future__ import annotations

from penstock.http1.buffer import ReceiveBuffer
from penstock.http1.grammar import CONTROL
from penstock.http1.limits import field_too_long


def line(buffer: ReceiveBuffer) -> str | None:
    return buffer.take_line(100, field_too_long, CONTROL)


def test_a_block_added_to_an_empty_buffer_is_stored_without_a_copy() -> None:
    buffer, block = ReceiveBuffer(), b"x" * 100
    buffer.append(block)
    assert buffer.take(100) is block


def test_a_consumed_block_is_freed_while_the_connection_is_idle() -> None:
    buffer = ReceiveBuffer()
    buffer.append(b"x" * 100)
    buffer.take(60)
    assert len(buffer) == 40
    buffer.take(60)
    assert (len(buffer), buffer.data) == (0, b"")


def test_a_remainder_is_joined_with_the_next_block() -> None:
    buffer = ReceiveBuffer()
    buffer.append(b"abcd")
    assert buffer.take(2) == b"ab"
    buffer.append(b"ef")
    assert buffer.take(3) == b"cde"
    buffer.append(b"gh")
    assert bytes(buffer.data[buffer.start :]) == b"fgh"
    taken = buffer.take(9)
    assert taken == b"fgh"
    assert type(taken) is bytes


def test_lines_end_in_CRLF_wherever_the_blocks_end() -> None:
    buffer = ReceiveBuffer()
    for block, expected in (
        (b"a", None),
        (b"b\r", None),
        (b"\ncd", "ab"),
        (b"", None),
        (b"e\r\n\r", "cde"),
        (b"\n", ""),
    ):
        buffer.append(block)
        assert line(buffer) == expected
    assert len(buffer) == 0


def test_no_byte_is_searched_for_a_line_end_twice() -> None:
    buffer = ReceiveBuffer()
    buffer.append(b"a\r\nbcd")
    assert line(buffer) == "a"
    assert line(buffer) is None
    assert buffer.scanned - buffer.start == 3
    buffer.append(b"e")
    assert buffer.scanned - buffer.start == 3
    assert line(buffer) is None
    assert buffer.scanned - buffer.start == 4
