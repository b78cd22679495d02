"""Where the fault of a refused head is found, and what of the head is hidden."""

from __future__ import annotations

import pytest

from penstock.http1 import ParserLimits, ProtocolError, RequestParser
from penstock.transport.faults import find_fault, masked, without_secrets

LIMITS = ParserLimits(
    request_line=100, fields=10, field_size=60, head=400, chunk_overhead=100, body=1000
)
BEGIN = b"GET /a HTTP/1.1\r\nHost: a\r\n"


def fault_in(head: bytes) -> tuple[int | None, bytes]:
    """Return where the fault of a head is that the parser refuses, and what it refuses."""
    parser = RequestParser(LIMITS)
    parser.receive_data(head)
    with pytest.raises(ProtocolError) as refused:
        parser.next_event()
    error = refused.value
    assert error.received == head
    position = find_fault(error.received, LIMITS, error.reason, error.setting)
    return position, head[position:][:6] if position is not None else b""


@pytest.mark.parametrize(
    ("head", "found"),
    [
        (BEGIN + b"X-A: b\0c\r\n\r\n", b"\0c\r\n\r\n"),
        (BEGIN + b"X A: b\r\n\r\n", b" A: b\r"),
        (BEGIN + b"X-A : b\r\n\r\n", b" : b\r\n"),
        (BEGIN + b": b\r\n\r\n", b": b\r\n\r"),
        (BEGIN + b"X-A b\r\n\r\n", b" b\r\n\r\n"),
        (BEGIN + b"X\xe9-A: b\r\n\r\n", b"\xe9-A: b"),
        (BEGIN + b" folded\r\n\r\n", b" folde"),
        (BEGIN + b"X-A: b\nX-B: c\r\n\r\n", b"\nX-B: "),
        (BEGIN + b"X-A: b\rX-B: c\r\n\r\n", b"X-B: c"),
        (b"G(T /a HTTP/1.1\r\nHost: a\r\n\r\n", b"(T /a "),
        (b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", b"#b HTT"),
        (b"GET /a\tb HTTP/1.1\r\nHost: a\r\n\r\n", b"\tb HTT"),
        (b"GET  /a HTTP/1.1\r\nHost: a\r\n\r\n", b" /a HT"),
        (b"GET /a\r\nHost: a\r\n\r\n", b"\r\nHost"),
        (b"GET /a HTTP/3.7x\r\nHost: a\r\n\r\n", b"HTTP/3"),
        (b"\x16\x03\x01\x02", b"\x16\x03\x01\x02"),
    ],
)
def test_the_first_byte_that_may_not_be_there_is_the_fault(head: bytes, found: bytes) -> None:
    assert fault_in(head)[1] == found


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        (b"Content-Length: 1x\r\n", b"1x\r\n\r\n"),
        (b"X: y\r\nContent-Length: 2\r\nContent-Length: 3\r\n", b"3\r\n\r\n"),
        (b"Content-Length: 2000\r\n", b"2000\r\n"),
        (b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", b"chunke"),
        (b"Transfer-Encoding: gzip\r\n", b"gzip\r\n"),
        (b"Host: b\r\n", b"b\r\n\r\n"),
    ],
)
def test_a_value_that_means_no_request_is_the_fault(fields: bytes, found: bytes) -> None:
    assert fault_in(BEGIN + fields + b"\r\n")[1] == found


def test_a_line_that_is_too_long_has_its_fault_behind_the_limit() -> None:
    position, _ = fault_in(BEGIN + b"X: " + b"y" * 80 + b"\r\n\r\n")
    assert position == len(BEGIN) + LIMITS.field_size


def test_a_head_that_the_parser_accepts_has_no_fault() -> None:
    assert find_fault(BEGIN + b"\r\n", LIMITS, "Too many requests.", "queue") is None
    assert find_fault(BEGIN, LIMITS, "Late.", "header_timeout") is None
    assert find_fault(b"", LIMITS, "Late.", "header_timeout") is None


def test_a_name_that_a_setting_refuses_is_at_its_underscore() -> None:
    head = BEGIN + b"X_Real: 1\r\n\r\n"
    assert find_fault(head, LIMITS, "", "header_map") == head.index(b"_")


@pytest.mark.parametrize(
    ("shown", "hidden"),
    [
        (b"Cookie: a=b; c=d\r\n", b"Cookie: **** ***\r\n"),
        (b"cookie:a=\0b\r\n", b"cookie:**\0*\r\n"),
        (b"Authorization: Basic YTpi\r\n", b"Authorization: ***** ****\r\n"),
        (b"Proxy-Authorization : x\r\n", b"Proxy-Authorization : *\r\n"),
        (b"Set-Cookie2: x\r\n y\r\nA: b\r\n", b"Set-Cookie2: *\r\n *\r\nA: b\r\n"),
        (b"Cookie a=b\r\n", b"Cookie ***\r\n"),
        (b" Cookie: a=b\r\n", b" Cookie: ***\r\n"),
        (b"X-Api-Key: k\nA: b\r\n", b"X-Api-Key: *\nA: b\r\n"),
        (b"X-Session-Token: k", b"X-Session-Token: *"),
        (b"Accept: text/html\r\n", b"Accept: text/html\r\n"),
    ],
)
def test_secrets_are_hidden_and_no_byte_moves(shown: bytes, hidden: bytes) -> None:
    line = b"GET /a?key=secret#x HTTP/1.1\r\n"
    masked_line = b"GET /a?************ HTTP/1.1\r\n"
    assert without_secrets(line + shown) == masked_line + hidden
    assert len(without_secrets(line + shown)) == len(line + shown)


@pytest.mark.parametrize("end", [b"\r\n\r\n", b"\n\n", b"\r\r", b"\n\r\n"])
def test_what_follows_the_head_is_left_out(end: bytes) -> None:
    assert without_secrets(b"POST / HTTP/1.1\r\nHost: a" + end + b"password=x") == (
        b"POST / HTTP/1.1\r\nHost: a" + end
    )


def test_the_query_of_a_request_line_is_hidden() -> None:
    assert masked("GET /a?b=c HTTP/1.1") == "GET /a?*** HTTP/1.1"
    assert masked("GET /a?b=c d=e HTTP/1.1") == "GET /a?*** *** HTTP/1.1"
    assert masked("GET /a?b HTTP/1.1 c HTTP/x d") == "GET /a?* ******** * ****** *"
    assert masked("GET /a?b=c") == "GET /a?***"


def test_a_user_in_a_target_and_the_query_of_a_referer_are_hidden() -> None:
    line = "GET http://me:secret@a.test/b HTTP/1.1"
    assert masked(line) == line.replace("me:secret", "*********")
    head = b"GET / HTTP/1.1\r\nReferer: http://a.test/b?key=secret\r\nHost: a\r\n"
    hidden = head.replace(b"?key=secret", b"***********")
    assert without_secrets(head) == hidden


def test_empty_lines_stay_empty() -> None:
    assert masked("") == ""
