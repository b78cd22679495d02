"""``wsgi.input`` for a request body that is still arriving."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from penstock.transport import Exchange

READ_SIZE = 64 * 1024
"""Bytes to ask the transport for at a time, however few the application reads."""


class _Receiver(io.RawIOBase):
    """What `io.BufferedReader` reads from: an exchange, until the request has ended."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange: Exchange | None = exchange

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        if self.exchange is None:
            raise OSError("the request has ended: its body can no longer be read")
        view = memoryview(buffer)
        data = self.exchange.receive(len(view))
        view[: len(data)] = data
        return len(data)


class RequestBody(io.BufferedReader):
    """A readable stream over `Exchange.receive`, with every method and argument of PEP 3333.

    A read either gives what was asked for, or all there is up to the end of the body, or raises
    what the exchange raises: a body that breaks off never looks like a short one.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._receiver = _Receiver(exchange)
        super().__init__(self._receiver, READ_SIZE)

    def read(self, size: int | None = -1, /) -> bytes:
        """Return ``size`` bytes, fewer only at the end; all of them for None or below 0."""
        return super().read(-1 if size is None or size < 0 else size)

    def forget_exchange(self) -> None:
        """Let go of the exchange: an application may keep this object for longer than it lives."""
        self._receiver.exchange = None
