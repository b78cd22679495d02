"""A request's body that is taken off the connection while the application reads it."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from penstock.errors import ClientDisconnected, RequestBodyError
from penstock.http1 import CONTINUE, Data, EndOfMessage, ProtocolError

if TYPE_CHECKING:
    from penstock.http1 import Request
    from penstock.transport.python.connection import Connection
    from penstock.transport.python.exchange import PythonExchange


class StreamedBody:
    """The part of an exchange that reads. It is given the exchange, so that there is no cycle."""

    __slots__ = ("_connection", "_unread", "_waited", "continue_owed", "over", "received", "taking")

    def __init__(self, connection: Connection, request: Request) -> None:
        self._connection = connection
        self.continue_owed = request.expect_continue
        self.over = False
        self.received = 0  # bytes of the body
        # Held while input is taken, not while it is waited for: an application may read in
        # another thread than the one that ends the response, and so gives the connection back.
        self.taking = threading.Lock()
        self._unread = b""
        self._waited = 0.0  # seconds for which `receive` has waited for the client

    def receive(self, exchange: PythonExchange, size: int) -> bytes:
        """See `penstock.transport.Exchange.receive`."""
        while not self._unread and not self.over:
            with self.taking:
                exchange.require_kept()
                if exchange.done:
                    # The connection is the leader's again: what arrives may be of another request.
                    raise OSError("the response has ended: its request can no longer be read")
                waits = not self._receive_some(exchange)
            if waits:
                with exchange.waiting_for_client():
                    self._wait_for_input(exchange)
        data, self._unread = self._unread[:size], self._unread[size:]
        return data

    def _receive_some(self, exchange: PythonExchange) -> bool:
        """Look for a part of the body. Return True if there is one, or its end."""
        if self._take_from_parser():
            return True
        self._send_continue_if_owed(exchange)
        self._read_socket(exchange)
        return self._take_from_parser()

    def _take_from_parser(self) -> bool:
        connection = self._connection
        parser = connection.parser
        try:
            event = parser.next_event()
        except ProtocolError as error:
            connection.close_after_response()
            raise RequestBodyError(error.status, error.reason) from error
        kind = type(event)
        if kind is Data:
            self._unread = event.data  # type: ignore[union-attr]
            self.received += len(self._unread)
            if connection.trace is not None:
                connection.trace.body_received(self._unread, parser.buffered)
        elif kind is EndOfMessage:
            self.over = True
        return bool(self._unread) or self.over

    def _read_socket(self, exchange: PythonExchange) -> None:
        connection = self._connection
        try:
            received = connection.stream.recv(connection.loop.config.receive_bytes)
        except BlockingIOError:
            return
        except OSError as error:
            raise exchange.disconnected(error) from error
        if received:
            if connection.trace is not None:
                connection.trace.received(received)
            connection.parser.receive_data(received)
        elif connection.stream.client_gone.known:
            # The leader has met the reset, which the system reports once; then comes an end.
            raise ClientDisconnected("the client is gone: it reset the connection")
        else:
            connection.parser.receive_eof()

    def _send_continue_if_owed(self, exchange: PythonExchange) -> None:
        # PEP 3333 leaves the time to the server; with the first read is the one at which the
        # application has shown that it wants the body. Never once a response has begun.
        if self.continue_owed and not exchange.head_sent:
            self.continue_owed = False
            exchange.transmit(CONTINUE)
            if self._connection.trace is not None:
                self._connection.trace.sent_interim("100 Continue")

    def _wait_for_input(self, exchange: PythonExchange) -> None:
        """Wait until the socket is readable, within what the body's clock allows.

        Only waiting counts: a client is not blamed for an application that reads slowly.
        """
        config = self._connection.loop.config
        allowed = config.body_allowance(self.received, self._waited) - self._waited
        before = time.monotonic()
        stream = self._connection.stream
        ready = allowed > 0 and stream.wait_readable(min(allowed, config.wait_slice_seconds))
        waited = time.monotonic() - before
        self._waited += waited
        if not ready and waited >= allowed and not exchange.done:
            self._connection.close_after_response()
            raise RequestBodyError(408, "the request's body came too slowly (body_timeout)")
