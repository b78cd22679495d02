"""The two framings of a request body: Content-Length and chunked (RFC 9112, sections 6 and 7)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from penstock.http1 import grammar, limits
from penstock.http1.buffer import ReceiveBuffer
from penstock.http1.errors import ProtocolError
from penstock.http1.head import parse_fields
from penstock.http1.limits import ParserLimits

_CRLF = b"\r\n"

FORBIDDEN_TRAILERS = frozenset(
    {"content-length", "transfer-encoding", "host", "connection", "trailer", "expect"}
)
"""Fields that frame or route the message. In a trailer section they are a smuggling attempt.

RFC 9110, section 6.5.1. All other trailer fields are dropped.
"""


class BodyReader(Protocol):
    """Takes the bytes of one body out of a buffer."""

    complete: bool
    """Whether the message has ended."""

    def read(self, buffer: ReceiveBuffer) -> bytes:
        """Return all content that is buffered; ``b""`` if there is none yet, or no more."""


class LengthReader:
    """Reads a body of a known length."""

    __slots__ = ("complete", "remaining")

    def __init__(self, length: int) -> None:
        self.remaining = length  # bytes of content not yet returned
        self.complete = False

    def read(self, buffer: ReceiveBuffer) -> bytes:
        """Return the part of the body that is buffered."""
        data = buffer.take(self.remaining)
        self.remaining -= len(data)
        self.complete = self.remaining == 0
        return data


class ChunkedReader:
    """Reads a chunked body. It checks the chunk extensions and trailer fields, and drops them.

    ``_step`` is the method for the part of the body that comes next. It consumes what it can, and
    returns True if the next step can be tried. It is a plain function and not a bound method, so
    that a reader is not part of a reference cycle.
    """

    __slots__ = (
        "_error",
        "_framing",
        "_limits",
        "_overhead",
        "_pieces",
        "_remaining",
        "_size",
        "_step",
        "_trailers",
        "complete",
    )

    def __init__(self, bounds: ParserLimits) -> None:
        self.complete = False
        self._limits = bounds
        self._step: Callable[[ChunkedReader, ReceiveBuffer], bool] = ChunkedReader._read_size
        self._error: ProtocolError | None = None
        self._pieces: list[bytes | bytearray] = []
        self._size = 0  # bytes of content in all chunks announced so far
        self._remaining = 0  # bytes of the current chunk that are not yet consumed
        self._overhead = 0  # bytes of chunk extensions, then of trailer fields
        self._framing = 0  # bytes of size lines and of the CRLF behind each chunk
        self._trailers = 0  # number of trailer fields

    def read(self, buffer: ReceiveBuffer) -> bytes:
        """Return the content of all chunks that are buffered, joined."""
        if self._error is not None:
            raise self._error
        try:
            while self._step(self, buffer):
                pass
        except ProtocolError as error:
            # The content before the fault is returned first: the same as if the fault had arrived
            # in a later packet.
            self._error = error
            if not self._pieces:
                raise
        content = b"".join(self._pieces)
        self._pieces.clear()
        return content

    def _take_whole_chunks(self, buffer: ReceiveBuffer) -> None:
        """Take the chunks that are received whole and have no extensions, as far as limits allow.

        The steps below would take them one by one, in ten times as long: what is left to them has
        something unusual in it, and they find its first fault.
        """
        data, start = buffer.data, buffer.start
        if buffer.scanned != start:
            return  # a size line of which a part was looked at before
        match = grammar.PLAIN_CHUNK_LINE.match
        most, ratio = self._limits.chunk_framing, self._limits.chunk_framing_ratio
        size, framing = self._size, self._framing
        at = start
        while (line := match(data, at)) is not None:
            begin = line.end()
            length = int(line[1], 16)
            end = begin + length
            added = framing + begin - at + len(_CRLF)
            if (
                not length
                or added > most + ratio * size
                or size + length > self._limits.body
                or data[end : end + len(_CRLF)] != _CRLF
            ):
                break
            self._pieces.append(data[begin:end])
            size += length
            framing = added
            at = end + len(_CRLF)
        self._size, self._framing = size, framing
        if at > start:
            buffer.consume_to(at)

    def _read_size(self, buffer: ReceiveBuffer) -> bool:
        self._take_whole_chunks(buffer)
        allowed = self._limits.chunk_overhead - self._overhead
        line = buffer.take_line(
            grammar.CHUNK_SIZE_DIGITS + allowed, limits.chunk_extensions_too_long, grammar.CONTROL
        )
        if line is None:
            return False
        match = grammar.CHUNK_LINE.fullmatch(line)
        if match is None:
            raise ProtocolError(400, "A chunk's size line is not valid.", "RFC 9112, section 7.1")
        digits, extensions = match.groups()
        self._overhead += len(extensions)
        self._framing += len(line) + 2 * len(_CRLF)
        # Checked before this chunk is counted: its content has not arrived.
        small = self._framing > (
            self._limits.chunk_framing + self._limits.chunk_framing_ratio * self._size
        )
        self._remaining = int(digits, 16)
        self._size += self._remaining
        if self._overhead > self._limits.chunk_overhead:
            raise limits.chunk_extensions_too_long()
        if small:
            raise limits.chunks_too_small()
        if self._size > self._limits.body:
            raise limits.body_too_large()
        if self._remaining:
            self._step = ChunkedReader._read_content
        else:
            self._overhead = 0
            self._step = ChunkedReader._read_trailer
        return True

    def _read_content(self, buffer: ReceiveBuffer) -> bool:
        data, start = buffer.data, buffer.start
        end = min(start + self._remaining, len(data))
        if end == start:
            return False
        self._pieces.append(data[start:end])
        buffer.consume_to(end)
        self._remaining -= end - start
        if self._remaining:
            return False
        self._step = ChunkedReader._read_content_end
        return True

    def _read_content_end(self, buffer: ReceiveBuffer) -> bool:
        start = buffer.start
        end = buffer.data[start : start + 2]
        if end == b"\r\n":
            buffer.consume_to(start + 2)
            self._step = ChunkedReader._read_size
            return True
        if end and end != b"\r":
            raise ProtocolError(400, "A chunk does not end in CRLF.", "RFC 9112, section 7.1")
        return False

    def _read_trailer(self, buffer: ReceiveBuffer) -> bool:
        allowed = self._limits.chunk_overhead - self._overhead
        too_long = limits.trailers_too_long
        if self._trailers == self._limits.fields:
            allowed, too_long = 0, limits.too_many_fields
        line = buffer.take_line(allowed, too_long, grammar.CONTROL)
        if line is None:
            return False
        if not line:
            self.complete = True
            return False
        self._trailers += 1
        self._overhead += len(line)
        if FORBIDDEN_TRAILERS.intersection(parse_fields([line])):
            raise ProtocolError(
                400, "A trailer field frames or routes the message.", "RFC 9110, section 6.5.1"
            )
        return True
