"""Comparison with h11: both read the same in what both accept, and we refuse what h11 refuses.

We refuse more on purpose: a bare LF, a Host that is not a ``uri-host``, a target in none of the
four forms, CONNECT, Content-Length together with Transfer-Encoding, codings in HTTP/1.0, repeated
Content-Length or Content-Type, blanks after a chunk's size, and whatever passes a limit.

h11 refuses two things that the standard allows: an empty line before a request, and a
Content-Length of more than 20 digits. It also refuses bytes above ASCII in a target, so it is given
their percent-encoded form. If the target is in absolute-form, it leaves it to its user
to ignore Host.
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass
from urllib.parse import quote

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus import requests, vulnerabilities
from corpus.case import Case, head
from support.parsing import Outcome, parse


@dataclass
class Opinion:
    """The first request in some bytes, as h11 reads it."""

    refused: bool = False
    complete: bool = False
    method: str = ""
    target: str = ""
    fields: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


def encoded(text: str) -> str:
    return quote(text, safe=string.printable, encoding="latin-1")


def ask_h11(raw: bytes) -> Opinion:
    line, end, rest = raw.partition(b"\r\n")
    line = re.sub(rb"[\x80-\xff]", lambda match: b"%%%02X" % match[0][0], line)
    raw = line + end + rest
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 24)
    opinion = Opinion()
    try:
        connection.receive_data(raw)
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                opinion.method = event.method.decode("latin-1")
                opinion.target = event.target.decode("latin-1")
                opinion.fields = tuple(
                    (name.decode("latin-1"), value.decode("latin-1"))
                    for name, value in event.headers
                )
            elif isinstance(event, h11.Data):
                opinion.body += event.data
            else:
                opinion.complete = isinstance(event, h11.EndOfMessage)
                return opinion
    except h11.RemoteProtocolError:
        opinion.refused = True
        return opinion


def joined(fields: tuple[tuple[str, str], ...]) -> dict[str, str]:
    result: dict[str, str] = {}
    for name, value in fields:
        separator = "; " if name == "cookie" else ","
        result[name] = f"{result[name]}{separator}{value}" if name in result else value
    return result


def assert_agreement(ours: Outcome, theirs: Opinion) -> None:
    message = ours.messages[0]
    assert not theirs.refused
    assert theirs.complete
    assert message.request.method == theirs.method
    assert encoded(message.request.target) == theirs.target
    assert message.body == theirs.body
    fields = joined(theirs.fields)
    if not theirs.target.startswith(("/", "*")):
        fields["host"] = message.request.fields["host"]  # from the target: RFC 9112, 3.2.2
    if "transfer-encoding" in fields:
        fields["transfer-encoding"] = message.request.fields["transfer-encoding"]  # in any case
    assert message.request.fields == fields


H11_REFUSES = {"RFC 9112 2.2: one leading CRLF", "RFC 9110 8.6: leading zeros"}
ACCEPTED = [
    case
    for case in requests.CASES + vulnerabilities.CASES
    if case.status is None and case.id not in H11_REFUSES
]


@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: case.id)
def test_h11_reads_the_valid_requests_of_the_corpus_in_the_same_way(case: Case) -> None:
    theirs = ask_h11(case.raw)
    assert_agreement(parse([case.raw]), theirs)


tokens = st.text("abcXYZ019-_.!", min_size=1, max_size=12)
values = st.text("abcXYZ019 \t,;=\"'/()\xe9", max_size=20)
targets = st.text("abc/?&=%20-._~:@!$,;+[]{}|", max_size=20).map(lambda rest: "/" + rest)
RESERVED = {"host", "content-length", "content-type", "transfer-encoding", "expect"}


@st.composite
def valid_requests(draw: st.DrawFn) -> bytes:
    """Return a request that both must accept, with one of the three framings."""
    names = tokens.filter(lambda name: name.lower() not in RESERVED)
    lines = [f"{draw(tokens)} {draw(targets)} HTTP/1.1", "Host: a"]
    pairs = draw(st.lists(st.tuples(names, values), max_size=5))
    lines += [f"{name}:{value}" for name, value in pairs]
    blocks = draw(st.lists(st.binary(min_size=1, max_size=20), max_size=4))
    framing = draw(st.sampled_from(["none", "length", "chunked"]))
    body = b""
    if framing == "length":
        body = b"".join(blocks)
        lines.append(f"Content-Length: {len(body)}")
    elif framing == "chunked":
        lines.append("Transfer-Encoding: chunked")
        body = b"".join(b"%X;a=b\r\n%b\r\n" % (len(block), block) for block in blocks)
        body += b"0\r\nX: y\r\n\r\n"
    return head(*(line.encode("latin-1") for line in lines)) + body


@settings(max_examples=300, deadline=None)
@given(valid_requests())
def test_valid_requests_are_read_as_h11_reads_them(raw: bytes) -> None:
    assert_agreement(parse([raw]), ask_h11(raw))


@st.composite
def broken_requests(draw: st.DrawFn) -> bytes:
    raw = bytearray(draw(valid_requests()))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(raw)))
        raw[place : place + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(raw)


@settings(max_examples=600, deadline=None)
@given(broken_requests())
def test_a_request_that_h11_refuses_is_never_complete_here(raw: bytes) -> None:
    theirs = ask_h11(raw.removeprefix(b"\r\n"))
    ours = parse([raw])
    complete = bool(ours.messages) and ours.messages[0].complete
    if theirs.refused:
        assert not complete
    elif complete:
        assert_agreement(ours, theirs)
