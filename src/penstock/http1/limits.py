"""The limits of one request, and the errors for a request that passes one.

`penstock.http1.parser` holds a head to them, and `penstock.http1.body` a body.
"""

from __future__ import annotations

from penstock.http1.errors import ProtocolError
from penstock.records import dataclass


@dataclass(frozen=True, slots=True)
class ParserLimits:
    """The limits of one request. A line that passes one is refused before the line has ended."""

    request_line: int = 8190
    """Bytes of the request line without its CRLF; 414 above. RFC 9112, section 3, asks for at
    least 8000.
    """

    fields: int = 100
    """Field lines of a head, and of a trailer section; 431 above. Browsers send 10 to 30."""

    field_size: int = 8190
    """Bytes of one field line without its CRLF; 431 above. Two cookies of full size fit."""

    head: int = 65536
    """Bytes of a whole head with its last CRLF; 431 above. This bounds a connection's memory."""

    chunk_overhead: int = 4096
    """Bytes of all chunk extensions of one body, and also of its trailer section; 400 above.

    Both are hardly ever used: the limit only stops a client that sends them without end.
    """

    chunk_framing: int = 16 * 1024
    """Bytes of a chunked body's framing (size lines and the CRLF behind each chunk) that need no
    content, and...

    A client that writes a byte at a time, such as a terminal, sends 16,384 chunks before it meets
    both together.
    """

    chunk_framing_ratio: int = 4
    """... how many bytes of framing each byte of content allows beyond them; 400 above.

    A chunk of one byte has five bytes of framing and costs as much as one of a kilobyte. Chunks of
    two bytes and more are within the ratio.
    """

    body: int = 1 << 30
    """Bytes of a body's content, however it is framed; 413 above. A large upload fits."""


def request_line_too_long() -> ProtocolError:
    """Return the error for a request line above ``request_line``."""
    return ProtocolError(
        414, "The request line is too long.", "RFC 9112, section 3", "limit_request_line"
    )


def too_many_fields() -> ProtocolError:
    """Return the error for more field lines than ``fields``."""
    return ProtocolError(
        431, "The request has too many fields.", "RFC 6585, section 5", "limit_request_fields"
    )


def field_too_long() -> ProtocolError:
    """Return the error for a field line above ``field_size``."""
    return ProtocolError(
        431, "A field is too long.", "RFC 6585, section 5", "limit_request_field_size"
    )


def head_too_long() -> ProtocolError:
    """Return the error for a head above ``head``."""
    return ProtocolError(
        431, "The request head is too long.", "RFC 6585, section 5", "limit_request_head"
    )


def chunk_extensions_too_long() -> ProtocolError:
    """Return the error for chunk extensions above ``chunk_overhead``."""
    return ProtocolError(
        400,
        "The chunk extensions are too long.",
        "RFC 9112, section 7.1.1",
        "limit_chunk_overhead",
    )


def chunks_too_small() -> ProtocolError:
    """Return the error for more framing than ``chunk_framing`` and the content allow."""
    return ProtocolError(
        400, "The chunks have too much framing for their content.", "RFC 9112, section 7.1"
    )


def trailers_too_long() -> ProtocolError:
    """Return the error for a trailer section above ``chunk_overhead``."""
    return ProtocolError(
        400, "The trailer section is too long.", "RFC 9112, section 7.1.2", "limit_chunk_overhead"
    )


def body_too_large() -> ProtocolError:
    """Return the error for a body above ``body``."""
    return ProtocolError(
        413, "The request body is too large.", "RFC 9110, section 15.5.14", "max_body"
    )
