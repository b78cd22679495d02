"""A connection's stream without HTTP, for a relay."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from penstock.transport.python.stream import NO_SIGNAL

if TYPE_CHECKING:
    from penstock.transport.python.connection import Connection


class PythonClientStream:
    """`penstock.transport.ClientStream` over the stream of a `Connection` that is handed out."""

    holds_input = False
    """See `penstock.transport.ClientStream`: `receive` returns all that is decrypted."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stream = connection.stream
        self.descriptor = connection.stream.fileno()
        self.secure: bool = connection.stream.secure
        buffer = connection.parser.buffer
        self.early = buffer.take(len(buffer))
        """See `penstock.transport.ClientStream.early`."""

    def receive(self, size: int) -> bytes:
        """See `penstock.transport.ClientStream.receive`."""
        data = self._stream.recv(size)
        self._stream.note_received(len(data))
        if not data and self._stream.client_gone.known:
            # The leader has met the reset, which the system reports once; then comes an end.
            raise ConnectionResetError(errno.ECONNRESET, "the client is gone")
        return data

    def send(self, data: bytes) -> int:
        """See `penstock.transport.ClientStream.send`."""
        output = self._connection.output
        if output is not None and output.busy():
            # The rest of an interim response, or of an earlier answer, goes first.
            output.flush()
            if output.busy():
                return 0
        sent = self._stream.send(data, NO_SIGNAL)
        self._stream.note_sent(sent)
        return sent

    def shut_down(self) -> None:
        """See `penstock.transport.ClientStream.shut_down`."""
        self._stream.shut_down()

    def lose(self) -> None:
        """See `penstock.transport.ClientStream.lose`."""
        self._stream.client_gone.known = True
