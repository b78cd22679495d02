"""The bytes of a response: its head, its chunks, and the answer to a broken request."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from penstock.http1.errors import ProtocolError
from penstock.http1.reason_phrases import REASON_PHRASES

LAST_CHUNK = b"0\r\n\r\n"
"""Ends a chunked body, without trailer fields (RFC 9112, section 7.1)."""

ALLOWED_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE"
"""What ``Allow`` says beside a 405 of ours, which is for CONNECT (RFC 9110, section 15.5.6)."""


class Framing(Enum):
    """How a client finds the end of a response's body."""

    NONE = "none"
    """There is no body, and no byte of one may be sent."""

    LENGTH = "length"
    """By Content-Length."""

    CHUNKED = "chunked"
    """By the last chunk."""

    CLOSE = "close"
    """By the end of the connection."""


def choose_framing(method: str, version: str, status: int, content_length: int | None) -> Framing:
    """Return how to frame the response to a request of this ``method`` and ``version``.

    ``content_length`` is in bytes, None if it is not known. RFC 9112, sections 6.1 and 6.3;
    RFC 9110, sections 9.3.2, 15.2, 15.3.5 and 15.4.5.
    """
    if method == "HEAD" or status < 200 or status == 204 or status == 304:
        return Framing.NONE
    if content_length is not None:
        return Framing.LENGTH
    return Framing.CLOSE if version == "HTTP/1.0" else Framing.CHUNKED


def encode_head(status: str, headers: Iterable[tuple[str, str]], added: str = "") -> bytes:
    """Return a response's head: ``status`` (``"200 OK"``), ``headers``, then the ``added`` lines.

    ``added`` are the server's own fields, each line with its CRLF. All are valid already: this
    checks nothing but that they are latin-1 (`UnicodeEncodeError`).
    """
    lines = [f"{name}: {value}\r\n" for name, value in headers]
    return f"HTTP/1.1 {status}\r\n{''.join(lines)}{added}\r\n".encode("latin-1")


def encode_chunk(data: bytes) -> bytes:
    """Return ``data`` as one chunk; raises `ValueError` if empty: that would end the body."""
    if not data:
        raise ValueError("an empty chunk ends the body")
    return b"%x\r\n%b\r\n" % (len(data), data)


def error_response(error: ProtocolError, added: str) -> tuple[bytes, bytes]:
    """Return head and body of the answer to a request that cannot be served; close after it.

    ``added`` are the lines of Date and Server, each with its CRLF. HEAD gets the head alone.
    """
    body = f"{error.reason}\n".encode("latin-1")
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
    if error.status == 405:
        headers.append(("Allow", ALLOWED_METHODS))
    headers.append(("Connection", "close"))
    phrase = REASON_PHRASES.get(error.status, "")
    return encode_head(f"{error.status} {phrase}", headers, added), body
