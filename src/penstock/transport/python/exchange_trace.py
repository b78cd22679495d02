"""Copies a connection's exchanges to the trace, for ``--trace``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.transport import HeaderList

if TYPE_CHECKING:
    from penstock.telemetry.trace import Trace
    from penstock.transport.python.connection import Connection


class ExchangeTrace:
    """Collects what goes over one connection and prints a request, then its response, as a whole.

    Whole, because lines of exchanges that run at the same time would be mixed otherwise.
    """

    def __init__(self, trace: Trace, connection: Connection) -> None:
        self._trace = trace
        self._connection = connection
        self._most = connection.loop.config.trace_body_bytes
        self._raw = b""  # received, and not yet attributed to a head or a body
        self._request_body = b""
        self._request_length = 0
        self._request_head = b""
        self._shown = False
        self._status = ""
        self._headers: HeaderList = []
        self._added: HeaderList = []
        self._response_body = b""
        self._response_length = 0

    def received(self, data: bytes) -> None:
        """Note bytes as they come off the socket."""
        self._raw += data

    def head_received(self, buffered: int) -> None:
        """Note that a head ends ``buffered`` bytes before what has been received."""
        end = len(self._raw) - buffered
        self._request_head, self._raw = self._raw[:end], self._raw[end:]
        self._begin()

    def _begin(self) -> None:
        self._request_body, self._request_length = b"", 0
        self._shown = False
        self._status, self._headers, self._added = "", [], []
        self._response_body, self._response_length = b"", 0

    def body_received(self, data: bytes, buffered: int) -> None:
        """Note a decoded part of the request's body."""
        self._raw = self._raw[len(self._raw) - buffered :]
        self._request_length += len(data)
        if len(self._request_body) < self._most:
            self._request_body += data[: self._most - len(self._request_body)]

    def message_over(self, buffered: int) -> None:
        """Note that a message ends ``buffered`` bytes before what has been received."""
        self._raw = self._raw[len(self._raw) - buffered :]
        # What comes next may be refused before its head is complete.
        self._request_head = b""
        self._begin()

    def handed_out(self) -> None:
        """Print the request."""
        self._show_request(self._request_head)

    def _show_request(self, head: bytes) -> None:
        connection = self._connection
        self._shown = True
        peer = connection.remote_addr or "a unix socket"
        if connection.remote_port:
            peer = f"{peer}:{connection.remote_port}"
        self._trace.request(
            connection.number,
            connection.requests,
            peer,
            head,
            self._request_body,
            self._request_length,
        )

    def sent_interim(self, status: str) -> None:
        """Note an interim response."""
        self._trace.note(self._connection.number, f"sent HTTP/1.1 {status}")

    def head_sent(self, status: str, headers: HeaderList, added: str) -> None:
        """Note the response's head: the application's fields, and the server's as lines."""
        self._status, self._headers = status, headers
        self._added = [_split_line(line) for line in added.splitlines()]

    def body_sent(self, data: bytes) -> None:
        """Note a block of the response's body."""
        self._response_length += len(data)
        if len(self._response_body) < self._most:
            self._response_body += data[: self._most - len(self._response_body)]

    def response_over(self, length: int, note: str) -> None:
        """Print the response, whose body has ``length`` bytes."""
        connection = self._connection
        self._trace.response(
            connection.number,
            connection.requests,
            self._status,
            self._headers,
            self._added,
            self._response_body,
            length,
            note,
        )

    def refused(self, answer: bytes) -> None:
        """Print a request that was refused, as far as it came, and the server's own answer."""
        if self._connection.request is None:
            self._connection.requests += 1  # refused in its head, and not counted yet
        if not self._shown:
            self._show_request(self._request_head or self._raw[: 4 * self._most])
        head, _, body = answer.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        self._added = [_split_line(line) for line in lines]
        self._status, self._headers = status.partition(" ")[2], []
        self._response_body = body
        self.response_over(len(body), "refused by the server")


def _split_line(line: str) -> tuple[str, str]:
    name, _, value = line.partition(": ")
    return name, value
