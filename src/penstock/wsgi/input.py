"""``wsgi.input`` for a request body that is still arriving."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from penstock.transport import Exchange

READ_SIZE = 64 * 1024
"""Bytes to ask the transport for at a time, even if the application reads fewer."""


class _Receiver(io.RawIOBase):
    """A raw stream for `io.BufferedReader`. It reads from an exchange until the request ends."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange: Exchange | None = exchange

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        if self.exchange is None:
            raise OSError("the request has ended: its body can no longer be read")
        return self.exchange.receive_into(buffer)


class RequestBody(io.BufferedReader):
    """A readable stream over `Exchange.receive_into`, with every method and argument of PEP 3333.

    A read returns the bytes that were asked for, or fewer at the end of the body, or raises what
    the exchange raises: an incomplete body never looks like a short one.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._receiver = _Receiver(exchange)
        super().__init__(self._receiver, READ_SIZE)

    def read(self, size: int | None = -1, /) -> bytes:
        """Return ``size`` bytes, fewer only at the end; all bytes if it is None or negative."""
        return super().read(-1 if size is None or size < 0 else size)

    def forget_exchange(self) -> None:
        """Drop the reference to the exchange: an application may keep this object for longer."""
        self._receiver.exchange = None
