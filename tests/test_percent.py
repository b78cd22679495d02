"""Percent-encoding is that of `urllib.parse`."""

from __future__ import annotations

import random
from urllib.parse import quote, quote_from_bytes, unquote_to_bytes

import pytest

from penstock import percent

ALPHABET = [*"%%%%%aAfFgG09/ +?&=~\x00\x7f\x80\xe9\xff"]


def texts() -> list[str]:
    chosen = random.Random(7)
    return ["".join(chosen.choices(ALPHABET, k=chosen.randrange(12))) for _ in range(2000)]


def test_decoding_is_that_of_the_standard_library() -> None:
    for text in texts():
        theirs = unquote_to_bytes(text.encode("latin-1")).decode("latin-1")
        assert percent.decoded(text) == theirs


def test_encoding_above_ascii_leaves_ascii_as_it_is() -> None:
    for text in texts():
        theirs = quote(text, safe=bytes(range(0x80)), encoding="latin-1")
        assert percent.encoded_above_ascii(text) == theirs


@pytest.mark.parametrize("safe", ["", "/", "/:@!$&'()*+,;="])
def test_encoding_is_that_of_the_standard_library(safe: str) -> None:
    for text in texts():
        data = text.encode("latin-1")
        assert percent.encoded(data, safe) == quote_from_bytes(data, safe)
