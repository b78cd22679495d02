"""Properties that hold for all bytes.

The events do not depend on how bytes are split, and nothing but a `ProtocolError` is raised.
"""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from corpus import requests, vulnerabilities
from corpus.case import FOLLOWING
from penstock.http1 import ParserLimits
from support.parsing import SMALL_LIMITS, byte_by_byte, parse

SHORT = [case.raw for case in requests.CASES + vulnerabilities.CASES if len(case.raw) < 300]
FRAGMENTS = [
    b"GET / HTTP/1.1", b"POST /p?q HTTP/1.1", b"Host: a", b"Content-Length: 3", b"X: y", b"X:",
    b"Transfer-Encoding: chunked", b"Connection: close", b"Expect: 100-continue", b"\r\n", b"\r",
    b"\n", b"\r\n\r\n", b"0", b"3", b"3\r\nabc", b";a=b", b'"', b" ", b"\t", b"\0", b"\xff", b"abc",
    b"0\r\n\r\n", b"A" * 45, b"CONNECT", b"HTTP/2.0", b"*", b":", b"http://b/",
]  # fmt: skip

CHANGES = [b"", b"\r", b"\n", b" ", b"\t", b",", b"\0", b"0", b":", b"\xe9", b";"]

streams = st.one_of(
    st.binary(max_size=80),
    st.lists(st.sampled_from(FRAGMENTS), max_size=24).map(b"".join),
    st.lists(st.sampled_from(SHORT), min_size=1, max_size=3).map(b"".join),
)


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """Return a request of the corpus with a few bytes changed, removed or added."""
    raw = bytearray(draw(st.sampled_from(SHORT)))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(raw)))
        raw[place : place + draw(st.integers(0, 2))] = draw(st.sampled_from(CHANGES))
    return bytes(raw) + FOLLOWING


@st.composite
def splits(draw: st.DrawFn, raw: bytes) -> list[bytes]:
    """Return ``raw`` in blocks of any size, empty ones included."""
    cuts = sorted(draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    return [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]


@settings(max_examples=300, deadline=None)
@given(st.data(), st.one_of(streams, mutations()), st.booleans(), st.booleans())
def test_events_do_not_depend_on_how_the_bytes_are_split(
    data: st.DataObject, raw: bytes, eof: bool, small: bool
) -> None:
    limits = SMALL_LIMITS if small else ParserLimits()
    whole = parse([raw], eof=eof, limits=limits).essence()
    assert parse(byte_by_byte(raw), eof=eof, limits=limits).essence() == whole
    assert parse(data.draw(splits(raw)), eof=eof, limits=limits).essence() == whole


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=2000), st.booleans())
@example(bytes(2000), False)
@example(bytes(range(256)), False)
def test_arbitrary_bytes_give_requests_or_an_error_status(raw: bytes, eof: bool) -> None:
    outcome = parse([raw], eof=eof)
    assert outcome.error is None or outcome.error.status in range(400, 600)
    if eof:
        assert (outcome.error is None) is outcome.closed


def test_each_request_of_the_corpus_may_come_in_two_blocks_or_after_another() -> None:
    for raw in SHORT:
        whole = parse([raw]).essence()
        half = len(raw) // 2
        assert parse([raw[:half], raw[half:]]).essence() == whole
        messages, status, closed = parse([FOLLOWING + raw]).essence()
        assert (messages[1:], status, closed) == whole
