"""Collects a connection's exchanges for the trace."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.telemetry.request_finished import Transcript

if TYPE_CHECKING:
    from penstock.transport import HeaderList
    from penstock.transport.python.connection import Connection


class ConnectionTrace:
    """Keeps what a connection receives until it is known which exchange that belongs to."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._raw = b""  # received, and not yet attributed to a head or a body

    def received(self, data: bytes) -> None:
        """Note bytes as they come off the socket."""
        self._raw += data

    def take(self, buffered: int) -> bytes:
        """Return what was received, but for the last ``buffered`` bytes, and forget it."""
        end = len(self._raw) - buffered
        taken, self._raw = self._raw[:end], self._raw[end:]
        return taken

    def begin_exchange(self, buffered: int) -> ExchangeTrace:
        """Return what collects an exchange whose head ends before the ``buffered`` bytes."""
        return ExchangeTrace(self._connection, self, self._connection.requests, self.take(buffered))

    def in_head(self) -> ExchangeTrace:
        """Return what collects a request that is refused in its head, and has not been counted."""
        head = self._raw[: self._connection.loop.config.trace_head_bytes]
        return ExchangeTrace(self._connection, self, self._connection.requests + 1, head)


class ExchangeTrace:
    """Collects one exchange, for its `Transcript`."""

    def __init__(
        self, connection: Connection, received: ConnectionTrace, number: int, head: bytes
    ) -> None:
        self._received = received
        self._connection_number = connection.number
        self._most = connection.loop.config.trace_body_bytes
        self._number = number
        self._head = head
        self._request_body = b""
        self._interim = ""
        self._status, self._added = "", ""
        self._headers: HeaderList = []
        self._response_body = b""

    def body_received(self, data: bytes, buffered: int) -> None:
        """Note a decoded part of the request's body."""
        self._received.take(buffered)
        self._request_body += data[: self._most - len(self._request_body)]

    def sent_interim(self, status: str) -> None:
        """Note an interim response."""
        if len(self._interim) < self._most:
            self._interim += f"{status}\n"

    def head_sent(self, status: str, headers: HeaderList, added: str) -> None:
        """Note the response's head: the application's fields, and the server's as lines."""
        self._status, self._headers, self._added = status, headers, added

    def body_sent(self, data: bytes) -> None:
        """Note a block of the response's body."""
        self._response_body += data[: self._most - len(self._response_body)]

    def answered(self, head: bytes, body: bytes) -> None:
        """Note an answer of the server's own."""
        line, _, added = head.decode("latin-1").partition("\r\n")
        self.head_sent(line.partition(" ")[2], [], added)
        self.body_sent(body)

    def transcript(self) -> Transcript:
        """Return what was collected."""
        return Transcript(
            self._connection_number,
            self._number,
            self._head,
            self._request_body,
            self._interim,
            self._status,
            tuple(self._headers),
            self._added,
            self._response_body,
        )
