"""Hypothesis strategies for what a client may send: requests by the grammar, and against it.

A stream is made of requests that are nearly right. Bytes at random are all refused in their
first line; two servers differ over the one odd thing in a request that is otherwise good.
"""

from __future__ import annotations

import random

from hypothesis import strategies as st

from corpus import requests, vulnerabilities
from corpus.case import FOLLOWING
from penstock.http1 import ParserLimits
from support.parsing import SMALL_LIMITS

CORPUS = [case.raw for case in requests.CASES + vulnerabilities.CASES if len(case.raw) < 400]

CHANGES = [
    b"", b"\r", b"\n", b"\r\n", b" ", b"\t", b",", b"\0", b"0", b":", b"\xe9", b";", b"/", b"A",
    b"%", b"?", b"*", b"#", b'"', b"\\", b"_", b"\x7f", b"\x0b", b"=", b"-", b"\r\n\r\n", b"[",
]  # fmt: skip
"""What takes the place of a few bytes of a request."""

_METHODS = [b"GET", b"POST", b"HEAD", b"OPTIONS", b"PUT"]
_ODD_METHODS = [
    b"CONNECT", b"get", b"TRACE", b"X-!#$%&'*+-.^_`|~", b"M" * 32, b"M" * 33, b"", b"G(",
]  # fmt: skip
_TARGETS = [b"/", b"/p?q", b"/%41%zz?%", b"/a/../b//c", b"/?", b"//h/p"]
_ODD_TARGETS = [
    b"*", b"http://b/", b"HTTP://b:81?x?y", b"https://[::1]:8/p", b"http://", b"http://u@b/",
    b"http:/b", b"/#f", b"\\", b"p", b"/\xc3\xa9", b'/"{|}', b"/%00%0a", b"?q", b"", b"b:80",
    b"/" + b"a" * 70, b"http://[::g]/", b"http://b:99999/", b"ftp://b/", b"/_", b"*?",
]  # fmt: skip
_VERSIONS = [b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0"]
_ODD_VERSIONS = [b"HTTP/1.2", b"HTTP/2.0", b"HTTP/0.9", b"http/1.1", b"HTTP/1.10", b"HTTP/1,1", b""]

_FIELDS = [
    b"X: y", b"X-Y: z", b"Cookie: a=b", b"Cookie: c", b"Accept: */*", b"Connection: close",
    b"Connection: keep-alive", b"Expect: 100-continue", b"Content-Type: text/plain",
]  # fmt: skip
_ODD_FIELDS = [
    b"Host: b", b"host:", b"Host: [::1]:80", b"Host: a b", b"HOST: a:", b"Content-Length: 3",
    b"Content-Length: 0", b"Content-Length: +3", b"Content-Length: 3, 3", b"Content-Length: 007",
    b"Content-Length: 99999999999999999999", b"Content-Length:", b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: identity", b"Transfer-Encoding:",
    b"Transfer-Encoding: chunked, chunked", b"transfer-encoding: CHUNKED", b"Transfer-Encoding: x",
    b"Transfer-Encoding: a;b=c,\tchunked", b"Connection: Close, x", b"Connection: x,,keep-alive",
    b"Connection:", b"Expect: 100-Continue", b"Expect: other", b"Expect: ,100-continue,",
    b"Expect:", b"Content-Type: b", b"Content-Type:", b"X_Y: z", b"Content_Length: 5",
    b"Proxy: p", b"X:", b":x", b"X", b" X: y", b"X : y", b"X:\ty\t ", b"\tfolded",
    b"X: \xe9\xff", b"X: a\tb", b"X: \0", b"",
    b"X-Forwarded-For: 1.2.3.4", b"Upgrade: h2c", b"Connection: upgrade", b"TE: trailers",
    b"Trailer: X", b"Keep-Alive: 5", b"L: " + b"v" * 50, b"N" * 70 + b": x", b"Cookie:", b"\xe9: x",
    b"Range: bytes=0-1", b"If-Modified-Since: x", b"Date: x", b"Authorization: Basic YTpi",
]  # fmt: skip

_EXTENSIONS = [b";a", b";a=b", b';a="b"', b';a="\\""', b"; a = b ", b";a;b\t= c"]
_ODD_EXTENSIONS = [b"1 ;a", b"1 ", b"1;", b'1;a="', b"1;a=", b"1;" + b"x" * 30, b"1;\x00"]
_SIZE_LINES = [b"3", b"03", b"0", b"F" * 16, b"F" * 17, b"-1", b"0x3", b"", b"g", b"ffffffff"]
_TRAILERS = [b"X: y", b"Host: b", b"Content-Length: 3", b"X", b" X: y", b"T: " + b"v" * 20, b"x:"]
_BLOCKS = [b"a", b"abc", b"\r\n", b"0\r\n\r\n", b"x" * 17, b"\0\xff", b"GET / HTTP/1.1\r\n"]


_fields = st.sampled_from(_FIELDS)
_spaces = st.sampled_from([b"  ", b"\t", b""])
_line_ends = st.sampled_from([b"\n", b"\r", b"\r\r\n", b"", b" \r\n"])
_blocks = st.one_of(st.sampled_from(_BLOCKS), st.binary(min_size=1, max_size=6))

PARTS = ["method", "target", "version", "space", "line end", "field", "fields", "chunks", "size"]
"""Of a request: one of them may be odd."""


@st.composite
def chunks(draw: st.DrawFn, odd: str = "") -> bytes:
    """Return a body in chunks; what is ``odd`` in it may be its ``"chunks"``."""
    lines = []
    for block in draw(st.lists(_blocks, max_size=3)):
        lines += [b"%x" % len(block), b"\r\n", block, b"\r\n"]
        if draw(st.integers(0, 3)) == 0:
            lines[-3] = draw(st.sampled_from(_EXTENSIONS)) + b"\r\n"
    lines += [b"0\r\n", draw(st.sampled_from([b"", b"", b"X: y\r\n", b"A:\r\nB:\r\n"]))]
    if odd == "chunks":
        place = draw(st.integers(0, len(lines) - 1))
        lines[place] = draw(st.sampled_from(_SIZE_LINES + _ODD_EXTENSIONS + _TRAILERS)) + b"\r\n"
    return b"".join([*lines, b"\r\n"])


@st.composite
def made_requests(draw: st.DrawFn, odd: str = "") -> bytes:
    """Return a request by the grammar but for the part, of `PARTS`, that is ``odd``."""
    method = draw(st.sampled_from(_ODD_METHODS if odd == "method" else _METHODS))
    target = draw(st.sampled_from(_ODD_TARGETS if odd == "target" else _TARGETS))
    version = draw(st.sampled_from(_ODD_VERSIONS if odd == "version" else _VERSIONS))
    space = draw(_spaces) if odd == "space" else b" "
    fields = draw(st.lists(_fields, max_size=3))
    fields.insert(draw(st.integers(0, len(fields))), b"Host: a")
    framing = draw(st.sampled_from(["none", "none", "length", "chunked"]))
    body = b""
    if framing == "length" or odd == "size":
        body = draw(_blocks)
        fields.append(b"Content-Length: %d" % len(body))
    elif (framing == "chunked" and version != b"HTTP/1.0") or odd == "chunks":
        body = draw(chunks(odd))
        fields.append(b"Transfer-Encoding: chunked")
    if odd in ("field", "fields"):
        place = draw(st.integers(0, len(fields)))
        fields[place : place + (odd == "fields")] = [draw(st.sampled_from(_ODD_FIELDS))]
    lines = [b"".join((method, b" ", target, space, version)), *fields, b""]
    ends = [b"\r\n"] * len(lines)
    if odd == "line end":
        ends[draw(st.integers(0, len(ends) - 1))] = draw(_line_ends)
    elif odd == "size":
        body = draw(st.sampled_from([body[:-1], body + b"a", b""]))
    return b"".join(map(b"".join, zip(lines, ends, strict=True))) + body


@st.composite
def mutated(draw: st.DrawFn, source: st.SearchStrategy[bytes]) -> bytes:
    """Return what ``source`` gives, with a few of its bytes changed, dropped or added."""
    raw = bytearray(draw(source))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(raw)))
        raw[place : place + draw(st.integers(0, 2))] = draw(st.sampled_from(CHANGES))
    return bytes(raw)


def variants(raw: bytes, seed: int, count: int) -> list[bytes]:
    """Return ``count`` streams that differ from ``raw`` in a few bytes.

    Cheaper than a draw for each.
    """
    chance = random.Random(seed)
    near = []
    for _ in range(count):
        changed = bytearray(raw)
        for _ in range(chance.randrange(1, 4)):
            place = chance.randrange(len(changed) + 1)
            changed[place : place + chance.randrange(3)] = chance.choice(CHANGES)
        near.append(bytes(changed))
    return near


good_requests = st.one_of(made_requests(), st.just(FOLLOWING))
odd_requests = st.sampled_from(PARTS).flatmap(made_requests)
corpus_requests = st.sampled_from(CORPUS)

any_request = st.one_of(
    good_requests,
    odd_requests,
    odd_requests,
    corpus_requests,
    mutated(good_requests),
    mutated(corpus_requests),
)


@st.composite
def again_and_again(draw: st.DrawFn) -> bytes:
    """Return a request several times, its last one changed: what is remembered must not harm."""
    raw = draw(st.one_of(good_requests, corpus_requests))
    return raw * draw(st.integers(1, 3)) + draw(mutated(st.just(raw)))


_in_a_row = st.tuples(
    st.lists(good_requests, max_size=2).map(b"".join),
    any_request,
    st.sampled_from([b"", FOLLOWING]),
).map(b"".join)

streams = st.one_of(_in_a_row, _in_a_row, again_and_again())
"""Requests behind each other, as pipelining clients and smugglers send them."""

limits = st.one_of(
    st.just(ParserLimits()),
    st.just(SMALL_LIMITS),
    st.builds(
        ParserLimits,
        request_line=st.integers(0, 80),
        fields=st.integers(0, 6),
        field_size=st.integers(0, 60),
        head=st.integers(0, 200),
        chunk_overhead=st.integers(0, 30),
        chunk_framing=st.integers(0, 40),
        chunk_framing_ratio=st.integers(0, 3),
        body=st.integers(0, 40),
    ),
)
"""Limits that requests of a few lines keep, meet and pass."""


def split(raw: bytes, cuts: list[int]) -> list[bytes]:
    """Return ``raw`` in blocks that end at ``cuts``, which are sorted and lie within it."""
    return [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]


def places(raw: bytes) -> st.SearchStrategy[list[int]]:
    """Return a strategy for the ``cuts`` of `split`, empty blocks among what they make."""
    return st.lists(st.integers(0, len(raw)), max_size=6).map(sorted)
