"""Collects a connection's exchanges for the trace."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.telemetry.request_finished import Transcript

if TYPE_CHECKING:
    from penstock.transport import HeaderList
    from penstock.transport.python.connection import Connection


class ExchangeTrace:
    """Collects what goes over one connection, request by request, for `Transcript`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._most = connection.loop.config.trace_body_bytes
        self._most_of_head = connection.loop.config.trace_head_bytes
        self._raw = b""  # received, and not yet attributed to a head or a body
        self._begin(b"")

    def _begin(self, head: bytes) -> None:
        self._head = head
        self._request_body = b""
        self._interim = ""
        self._status, self._added = "", ""
        self._headers: HeaderList = []
        self._response_body = b""

    def received(self, data: bytes) -> None:
        """Note bytes as they come off the socket."""
        self._raw += data

    def head_received(self, buffered: int) -> None:
        """Note that a head ends ``buffered`` bytes before what has been received."""
        end = len(self._raw) - buffered
        head, self._raw = self._raw[:end], self._raw[end:]
        self._begin(head)

    def body_received(self, data: bytes, buffered: int) -> None:
        """Note a decoded part of the request's body."""
        self._attribute(buffered)
        self._request_body += data[: self._most - len(self._request_body)]

    def message_over(self, buffered: int) -> None:
        """Note that a message ends ``buffered`` bytes before what has been received."""
        self._attribute(buffered)
        self._begin(b"")  # what comes next may be refused before its head is complete

    def _attribute(self, buffered: int) -> None:
        self._raw = self._raw[len(self._raw) - buffered :]

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

    def transcript(self, number: int) -> Transcript:
        """Return what was collected of request ``number``."""
        return Transcript(
            self._connection.number,
            number,
            self._head or self._raw[: self._most_of_head],
            self._request_body,
            self._interim,
            self._status,
            tuple(self._headers),
            self._added,
            self._response_body,
        )
