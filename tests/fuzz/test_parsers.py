"""The two parsers are fed the same bytes, whole and split, and say the same.

Properties, for all bytes: what a parser says depends on the bytes alone, not on the packets;
both say the same, to the words of a refusal; none panics, finds no end, or keeps more than the
limits allow (the native one's program sees to the first two, and ends where they do not hold).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.http1 import ParserLimits
from support.fuzzing import fuzz
from support.native_parser import NativeParser, native_parser, program
from support.parsing import Message, Outcome, parse
from support.streams import limits, places, split, streams, variants

pytestmark = pytest.mark.skipif(program() is None, reason="needs what `make native-test` builds")

VARIANTS = 8
"""How many streams more each example is good for: to draw one costs as much as to feed ten."""


@pytest.fixture(scope="module")
def native() -> Iterator[NativeParser]:
    with native_parser() as parser:
        yield parser


def as_told(message: Message) -> dict[str, Any]:
    request = message.request
    names = ["method", "target", "version", "path", "query", "content_length", "chunked"]
    names += ["keep_alive", "expect_continue", "body_expected"]
    told = {name: getattr(request, name) for name in names}
    told["fields"] = [list(pair) for pair in request.fields.items()]
    return told | {"body": message.body.decode("latin-1"), "complete": message.complete}


def check_same(told: dict[str, Any], reference: Outcome) -> None:
    assert told["messages"] == [as_told(message) for message in reference.messages]
    assert told["closed"] == reference.closed
    error = reference.error
    if error is None or told["error"] is None:
        assert told["error"] is error
        return
    for name in ("status", "reason", "rule", "setting", "request_line"):
        assert told["error"][name] == getattr(error, name)
    assert dict(told["error"]["fields"]) == error.fields


def essence(told: dict[str, Any]) -> Any:
    """Return what must not depend on how the bytes were split (as `Outcome.essence`)."""
    return told["messages"], told["error"] and told["error"]["status"], told["closed"]


def check(
    native: NativeParser, raw: bytes, cuts: list[int], eof: bool, bounds: ParserLimits
) -> None:
    splits = [[], list(range(1, len(raw))), cuts]
    whole, bytewise, at_cuts = native.parse(raw, splits, eof=eof, limits=bounds)
    for cuts, told in zip(splits, (whole, bytewise, at_cuts), strict=True):
        check_same(told, parse(split(raw, cuts), eof=eof, limits=bounds))
        assert essence(told) == essence(whole)
    assert bytewise["most_kept"] <= max(bounds.head, 16 + bounds.chunk_overhead + 1)


@fuzz(200)
@given(st.data(), st.one_of(streams, st.binary(max_size=80)), st.booleans(), limits)
def test_both_parsers_say_the_same_however_the_bytes_are_split(
    native: NativeParser, data: st.DataObject, raw: bytes, eof: bool, bounds: ParserLimits
) -> None:
    cuts = data.draw(places(raw))
    check(native, raw, cuts, eof, bounds)
    for number, near in enumerate(variants(raw, data.draw(st.integers(0, 1 << 30)), VARIANTS)):
        check(native, near, [cut for cut in cuts if cut <= len(near)], number % 2 == 0, bounds)
