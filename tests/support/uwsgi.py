"""Packets of the uwsgi protocol, as a front-end sends them."""

from __future__ import annotations

import struct

Pair = tuple[str | bytes, str | bytes]

BASIC: list[Pair] = [
    ("QUERY_STRING", "a=1"),
    ("REQUEST_METHOD", "GET"),
    ("CONTENT_TYPE", ""),
    ("CONTENT_LENGTH", ""),
    ("REQUEST_URI", "/x?a=1"),
    ("PATH_INFO", "/x"),
    ("DOCUMENT_ROOT", "/srv"),
    ("SERVER_PROTOCOL", "HTTP/1.1"),
    ("REQUEST_SCHEME", "http"),
    ("REMOTE_ADDR", "192.0.2.1"),
    ("REMOTE_PORT", "4711"),
    ("SERVER_PORT", "8080"),
    ("SERVER_NAME", "example.org"),
    ("HTTP_HOST", "example.org"),
]
"""What nginx sends with its file uwsgi_params."""


def pairs(named: list[Pair]) -> bytes:
    """Return names and values, each behind its length."""

    def sized(text: str | bytes) -> bytes:
        raw = text if isinstance(text, bytes) else text.encode("latin-1")
        return struct.pack("<H", len(raw)) + raw

    return b"".join(sized(name) + sized(value) for name, value in named)


def packet_of(content: bytes, modifier1: int = 0, modifier2: int = 0) -> bytes:
    """Return a packet with these names and values."""
    return struct.pack("<BHB", modifier1, len(content), modifier2) + content


def packet(**changed: str | bytes | None) -> bytes:
    """Return the packet of `BASIC` with other values; None leaves a name out."""
    values = dict(BASIC) | changed
    return packet_of(pairs([(name, value) for name, value in values.items() if value is not None]))
