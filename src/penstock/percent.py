"""Percent-encoding (RFC 3986, section 2.1) of text whose characters stand for bytes.

`urllib.parse` does this for any text, and imports `ipaddress`: together they take 0.4 MB, which
no other part of a worker needs.
"""

from __future__ import annotations

import re

_TRIPLET = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_ABOVE_ASCII = re.compile(r"[^\0-\x7f]")


def decoded(text: str) -> str:
    """Return a text with each percent-encoded byte as one character; the rest stays as it is."""
    return _TRIPLET.sub(lambda triplet: chr(int(triplet[1], 16)), text)


def encoded_above_ascii(text: str) -> str:
    """Return a text decoded as latin-1 with each byte above ASCII percent-encoded."""
    return _ABOVE_ASCII.sub(lambda character: f"%{ord(character[0]):02X}", text)


def encoded(data: bytes, safe: str) -> str:
    """Return bytes as text: all but the unreserved characters and ``safe`` are percent-encoded."""
    return "".join(
        character if character in _UNRESERVED or character in safe else f"%{ord(character):02X}"
        for character in data.decode("latin-1")
    )
