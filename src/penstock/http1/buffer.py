"""Bytes received and not yet consumed, and the search for the end of a line in them."""

from __future__ import annotations

import re
from collections.abc import Callable

from penstock.http1.errors import ProtocolError

_CR, _LF = 0x0D, 0x0A


class ReceiveBuffer:
    """A queue of bytes. Its work is linear in the number of bytes, however they are split.

    Nearly every block arrives while the buffer is empty. It is stored without a copy, and consuming
    from it only moves ``start``. Only a remainder is ever copied.
    """

    __slots__ = ("data", "scanned", "start")

    def __init__(self) -> None:
        self.data: bytes | bytearray = b""
        self.start = 0  # the bytes before this index have been consumed
        self.scanned = 0  # no line ends between `start` and this index

    def __len__(self) -> int:
        return len(self.data) - self.start

    def append(self, data: bytes) -> None:
        """Add received bytes."""
        if not self.data:
            self.data = data
            return
        if isinstance(self.data, bytes):
            self.data = bytearray(memoryview(self.data)[self.start :])
        else:
            del self.data[: self.start]
        self.scanned = max(self.scanned - self.start, 0)
        self.start = 0
        self.data += data

    def clear(self) -> None:
        """Drop all bytes, and free their memory."""
        self.data = b""
        self.start = self.scanned = 0

    def consume_to(self, end: int) -> None:
        """Consume the bytes before the index ``end`` of ``data``."""
        if end == len(self.data):
            # As `clear` does, without the call: an idle connection must not keep the last block.
            self.data = b""
            self.start = self.scanned = 0
        else:
            self.start = self.scanned = end

    def take(self, size: int) -> bytes:
        """Consume and return at most ``size`` bytes."""
        data, start = self.data, self.start
        end = min(start + size, len(data))
        self.consume_to(end)
        return bytes(data[start:end])  # CPython does not copy the whole of a `bytes` object

    def take_line(
        self, limit: int, too_long: Callable[[], ProtocolError], forbidden: re.Pattern[bytes]
    ) -> str | None:
        """Consume a line with its CRLF and return the line; None while it is incomplete.

        ``forbidden`` matches each byte that ends a line or is not allowed in it, so also CR and LF.
        Raises ``too_long()`` for a line of more than ``limit`` bytes, and `ProtocolError` for a
        byte that is not allowed: the one that comes first in the line, as soon as its byte has
        been received.
        """
        data, start = self.data, self.start
        found = forbidden.search(data, self.scanned)
        end = found.start() if found else len(data)
        if end - start > limit:
            raise too_long()
        if found is None or data[end : end + 2] == b"\r":
            self.scanned = end
            return None
        if data[end : end + 2] != b"\r\n":
            raise _forbidden_byte(data[end])
        self.consume_to(end + 2)
        return str(data[start:end], "latin-1")


def _forbidden_byte(byte: int) -> ProtocolError:
    if byte in (_CR, _LF):
        return ProtocolError(400, "A line does not end in CRLF.", "RFC 9112, section 2.2")
    return ProtocolError(400, "The request has a control character.", "RFC 9110, section 5.5")
