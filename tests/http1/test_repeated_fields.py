"""A connection caches its last field section. That must not change what any request means."""

from __future__ import annotations

import pytest

from penstock.http1 import EndOfMessage, ParserLimits, ProtocolError, Request, RequestParser

FIELDS = b"Host: a.example\r\nCookie: x=1\r\nX-A: 1\r\nX-A: 2\r\n\r\n"


def next_request(parser: RequestParser, raw: bytes) -> Request:
    """Feed a whole request without a body, and return it."""
    parser.receive_data(raw)
    request = parser.next_event()
    assert isinstance(request, Request)
    assert isinstance(parser.next_event(), EndOfMessage)
    parser.start_next_request()
    return request


def fresh(raw: bytes) -> Request:
    """Return the request as a new parser reads it."""
    return next_request(RequestParser(ParserLimits()), raw)


@pytest.mark.parametrize(
    "line",
    [
        b"GET / HTTP/1.1\r\n",
        b"POST /other?q=1 HTTP/1.1\r\n",
        b"GET / HTTP/1.0\r\n",
        b"GET http://b.example/p HTTP/1.1\r\n",
        b"OPTIONS * HTTP/1.1\r\n",
    ],
)
@pytest.mark.parametrize(
    "before",
    [
        b"GET / HTTP/1.1\r\n",
        b"GET / HTTP/1.0\r\n",
        b"GET http://c.example/ HTTP/1.1\r\n",
        b"OPTIONS * HTTP/1.1\r\n",
    ],
)
def test_RFC9112_9_3_a_request_means_the_same_whatever_request_came_before_it(
    before: bytes, line: bytes
) -> None:
    parser = RequestParser(ParserLimits())
    next_request(parser, before + FIELDS)
    assert next_request(parser, line + FIELDS) == fresh(line + FIELDS)
    assert next_request(parser, before + FIELDS) == fresh(before + FIELDS)


@pytest.mark.parametrize(
    "line", [b"GET /\x01 HTTP/1.1\r\n", b"GET / HTTP/2.0\r\n", b"GE\xe9T / HTTP/1.1\r\n", b"G\r\n"]
)
def test_RFC9112_3_a_bad_request_line_is_refused_before_cached_fields_too(line: bytes) -> None:
    parser = RequestParser(ParserLimits())
    next_request(parser, b"GET / HTTP/1.1\r\n" + FIELDS)
    parser.receive_data(line + FIELDS)
    with pytest.raises(ProtocolError) as cached:
        parser.next_event()
    with pytest.raises(ProtocolError) as parsed:
        fresh(line + FIELDS)
    assert (cached.value.status, cached.value.reason) == (
        parsed.value.status,
        parsed.value.reason,
    )


def test_each_request_with_a_cached_section_has_its_own_body() -> None:
    parser = RequestParser(ParserLimits())
    raw = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
    for _ in range(3):
        parser.receive_data(raw)
        assert isinstance(parser.next_event(), Request)
        data = parser.next_event()
        assert getattr(data, "data", None) == b"hi"
        assert isinstance(parser.next_event(), EndOfMessage)
        parser.start_next_request()


def test_a_large_section_is_not_cached_so_that_an_idle_connection_stays_small() -> None:
    parser = RequestParser(ParserLimits())
    raw = b"GET / HTTP/1.1\r\nHost: a\r\nCookie: " + b"c" * 4000 + b"\r\n\r\n"
    assert next_request(parser, raw).fields is not next_request(parser, raw).fields


def test_the_same_head_again_is_the_same_request() -> None:
    parser = RequestParser(ParserLimits())
    raw = b"GET /a?b HTTP/1.1\r\n" + FIELDS
    requests = [next_request(parser, raw) for _ in range(3)]
    assert [request.repeated for request in requests] == [False, True, True]
    assert requests[1] is requests[2]
    assert requests[2] == fresh(raw)


def test_a_head_that_begins_with_the_last_one_is_read_as_two_requests() -> None:
    parser = RequestParser(ParserLimits())
    raw = b"GET / HTTP/1.1\r\n" + FIELDS
    for _ in range(2):
        next_request(parser, raw)
    other = b"GET /other HTTP/1.1\r\n" + FIELDS
    assert next_request(parser, raw + other) == fresh(raw)
    assert next_request(parser, b"") == fresh(other)


@pytest.mark.parametrize("between", ["in pieces", "large"])
def test_no_request_repeats_the_fields_of_one_before_the_last(between: str) -> None:
    parser = RequestParser(ParserLimits())
    raw = b"GET / HTTP/1.1\r\n" + FIELDS
    for _ in range(2):
        next_request(parser, raw)
    if between == "in pieces":
        parser.receive_data(b"GET / HTTP/1.1\r\n")
        parser.next_event()
        next_request(parser, b"Host: b.example\r\n\r\n")
    else:
        cookie = b"c" * 4000
        next_request(parser, b"GET / HTTP/1.1\r\nHost: a\r\nCookie: " + cookie + b"\r\n\r\n")
    assert not next_request(parser, raw).repeated
