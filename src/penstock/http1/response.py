"""The bytes of a response: its framing, its head, its chunks, and the answer to a bad request."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from penstock.http1.errors import ProtocolError
from penstock.http1.statuses import BODILESS, REASON_PHRASES

LAST_CHUNK = b"0\r\n\r\n"
"""Ends a chunked body, without trailer fields (RFC 9112, section 7.1)."""

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
"""Asks a client that waits with its body to send it (RFC 9110, section 15.2.1)."""

ALLOWED_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE"
"""The value of ``Allow`` in the server's own 405, which answers CONNECT (RFC 9110, 15.5.6)."""


class Framing(Enum):
    """How a client finds the end of a response's body."""

    NONE = "none"
    """There is no body: no byte of one may be sent."""

    LENGTH = "length"
    """Content-Length says where it ends."""

    CHUNKED = "chunked"
    """The last chunk ends it."""

    CLOSE = "close"
    """The end of the connection ends it."""


_NONE, _LENGTH, _CHUNKED, _CLOSE = Framing  # looking up an attribute of an Enum is slow


def choose_framing(
    is_head: bool, version: str, status: int, content_length: int | None
) -> tuple[Framing, str]:
    """Return how a response is framed, and the field line that says so (``""`` if none does).

    ``is_head`` is True in answer to HEAD. ``version`` is that of the request. ``content_length`` is
    in bytes, None if it is not known. RFC 9112, sections 6.1 and 6.3; RFC 9110, sections 8.6 and
    15.3.6.
    """
    if is_head or status < 200 or status in BODILESS:
        if status == 205:
            content_length = 0
        elif status < 200 or status == 204:
            content_length = None  # these have no Content-Length
        # In answer to HEAD, and in a 304, it is the length that the response to GET would have.
        return _NONE, "" if content_length is None else f"Content-Length: {content_length}\r\n"
    if content_length is not None:
        return _LENGTH, f"Content-Length: {content_length}\r\n"
    if version == "HTTP/1.0":
        return _CLOSE, ""
    return _CHUNKED, "Transfer-Encoding: chunked\r\n"


def has_body(is_head: bool, status: int) -> bool:
    """Return True if a response may have a body; ``is_head`` is True in answer to HEAD."""
    framing, _ = choose_framing(is_head, "", status, 0)
    return framing is not _NONE


def encode_head(status: str, headers: Iterable[tuple[str, str]], added: str = "") -> bytes:
    """Return a response's head: ``status`` (``"200 OK"``), ``headers``, then the ``added`` lines.

    ``added`` are the server's own fields, each line with its CRLF. Everything has been checked
    before. Raises `UnicodeEncodeError` for text that is not latin-1.
    """
    return encode_head_of_lines(status, field_lines(headers), added)


def field_lines(headers: Iterable[tuple[str, str]]) -> str:
    """Return the lines of ``headers``, each with its CRLF."""
    return "".join([f"{name}: {value}\r\n" for name, value in headers])


def encode_head_of_lines(status: str, lines: str, added: str) -> bytes:
    """Do the same as `encode_head`, with what `field_lines` has returned for the headers."""
    return f"HTTP/1.1 {status}\r\n{lines}{added}\r\n".encode("latin-1")


def encode_chunk(data: bytes) -> bytes:
    """Return ``data`` as one chunk; raises `ValueError` if it is empty: that would end the body."""
    if not data:
        raise ValueError("an empty chunk ends the body")
    return b"%x\r\n%b\r\n" % (len(data), data)


def error_response(
    error: ProtocolError, added: str, connection: str = "close"
) -> tuple[bytes, bytes]:
    """Return head and body of the server's own answer to a request that it does not serve.

    The body is empty in answer to HEAD (RFC 9110, section 9.3.2), which `error.request_line` shows.
    ``added`` are the lines of Date and Server, each with its CRLF. ``connection`` is the value of
    Connection, empty for none: the caller closes after ``close``.
    """
    body = f"{error.reason}\n".encode("latin-1")
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
    if error.status == 405:
        headers.append(("Allow", ALLOWED_METHODS))
    if error.retry_after is not None:
        headers.append(("Retry-After", str(error.retry_after)))
    if connection:
        headers.append(("Connection", connection))
    phrase = REASON_PHRASES.get(error.status, "")
    head = encode_head(f"{error.status} {phrase}", headers, added)
    return head, b"" if error.request_line.startswith("HEAD ") else body
