"""The WebSockets of one transport: from a handshake that offers a socket to the end of the call.

Both transports share this. They recognise a request that may be a handshake, give the thread's
connection up when the application takes the socket, and take it back at the end; what lies between
is the relay's.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from penstock import messages
from penstock.errors import WebSocketRefused
from penstock.http1 import ProtocolError, error_response
from penstock.telemetry.scoreboard import (
    AWAITING_CLIENT,
    DEADLINE,
    NUMBER,
    THREAD,
    WEBSOCKETS_REFUSED,
)
from penstock.transport.date import ServerFields
from penstock.transport.relay import Link, Relay, RelayNotStarted
from penstock.wsgi.websocket import SOCKET_KEYS, ApplicationSocket, is_handshake

if TYPE_CHECKING:
    from penstock.telemetry.scoreboard import Slot
    from penstock.transport import Transport, TransportExchange
    from penstock.transport.config import TransportConfig
    from penstock.transport.log_lines import RequestLog

CLOSE_SECONDS = 0.2
"""How long an application that has returned may take to send its close frame. Libraries have a
second thread, which may be just about to answer the client's."""

STOPPED = "response cut off: the server stopped"

_FULL = "as many WebSockets are open as may be (max_websockets)"
_UNANSWERED = "The application does not speak WebSocket here."


class WebSockets:
    """What all WebSockets of a transport share. It does not keep the transport."""

    def __init__(
        self, transport: Transport, config: TransportConfig, slot: Slot, request_log: RequestLog
    ) -> None:
        self.transport = weakref.ref(transport)
        self.config = config
        self.request_log = request_log
        self.relay = Relay(self._log_defect)
        self._slot = slot
        self._fields = {
            False: ServerFields(config.server_header),
            True: ServerFields(config.server_header, config.hsts),
        }
        self._lock = threading.Lock()
        self._open: set[WebSocket] = set()

    def offer(self, environ: dict[str, Any]) -> WebSocket | None:
        """Put the socket into the environ of a valid handshake; return what is offered with it.

        For a request with an ``Upgrade`` field and without a body. None where it is no handshake.
        """
        if not self.config.max_websockets or not is_handshake(environ):
            return None
        websocket = WebSocket(self)
        address, port = environ["REMOTE_ADDR"], environ.get("REMOTE_PORT", "")
        name = (address, int(port)) if port.isdecimal() else address
        offered = ApplicationSocket(websocket.open, name)
        for key in SOCKET_KEYS:
            environ[key] = offered
        return websocket

    def note_open(self, websocket: WebSocket, exchange: TransportExchange) -> None:
        """Take note of a WebSocket that the application has taken, and lift its deadline."""
        with self._lock:
            self._open.add(websocket)
        for name in ("penstock.deadline", "penstock.extend_deadline"):
            exchange.environ.pop(name, None)
        ident = threading.get_ident()
        for record in self._slot.taken_records():
            if record.words[THREAD] == ident and record.words[NUMBER]:
                record.words[DEADLINE] = record.words[AWAITING_CLIENT] = 0

    def count_refused(self) -> None:
        """Count a WebSocket that got 503 though there was a place: the transport counts others."""
        with self._lock:
            self._slot.words[WEBSOCKETS_REFUSED] += 1

    def forget(self, websocket: WebSocket) -> None:
        """Take note that a WebSocket has ended."""
        with self._lock:
            self._open.discard(websocket)

    def drain(self) -> None:
        """Tell each client that the server goes away (1001), also those that still come."""
        self.relay.drain()

    def close(self) -> None:
        """End all of them now, as far as the clients are concerned: the views read the end."""
        with self._lock:
            opened = list(self._open)
        for websocket in opened:
            websocket.lose(STOPPED)

    def close_in_child(self) -> None:
        """Close what is the parent's, in a forked child."""
        self._lock = threading.Lock()
        for websocket in self._open:
            websocket.close_in_child()
        self.relay.close_in_child()

    def unanswered(self, request_id: str, *, secure: bool) -> bytes:
        """Return the 501 for an application that has taken the socket and sent nothing."""
        error = ProtocolError(501, _UNANSWERED)
        added = self._fields[secure].now()
        if self.config.send_request_id:
            added += f"X-Request-ID: {request_id}\r\n"
        return b"".join(error_response(error, added))

    def _log_defect(self) -> None:
        self.request_log.message(messages.CONNECTION_DEFECT, detail="", exc_info=True)


class WebSocket:
    """One WebSocket: offered, then perhaps taken by the application, until its call ends."""

    def __init__(self, websockets: WebSockets) -> None:
        self._websockets = websockets
        self.begun = False
        """The application has asked for the socket: its response is no longer HTTP."""
        self.refused = False
        """It did not get it, and the client got 503."""
        self._lock = threading.Lock()  # held while the socket is taken
        self._socket: socket.socket | None = None  # the application's
        # From when it is taken until it has ended.
        self._link: Link | None = None
        self._exchange: TransportExchange | None = None

    def open(self) -> socket.socket:
        """Return the application's socket; take the connection for it the first time.

        Raises `WebSocketRefused` where it may not, and ``OSError`` once the call is over.
        """
        with self._lock:
            if self._socket is None:
                self._socket = self._take()
            return self._socket

    def _take(self) -> socket.socket:
        websockets = self._websockets
        transport = websockets.transport()
        exchange = None if transport is None else transport.current_exchange()
        if transport is None or exchange is None or exchange.websocket is not self:
            raise OSError(
                errno.EBADF, "the call is over, or another thread's: only that one takes the socket"
            )
        if self.refused:
            raise WebSocketRefused(errno.EAGAIN, _FULL)
        if exchange.head_sent:
            raise OSError(errno.EBADF, "the response has begun: the socket can no longer be taken")
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            websockets.count_refused()
            self._refuse(exchange, os.strerror(error.errno or 0))

        def begin() -> Link:
            self._link = link = Link(exchange.take_stream(), ours, websockets.config)
            self.begun = True
            self._exchange = exchange
            websockets.note_open(self, exchange)
            return link

        try:
            if not transport.leave_count(websocket=True):
                self._refuse(exchange, _FULL)
            try:
                websockets.relay.add(begin)
            except RelayNotStarted as error:
                websockets.count_refused()
                self._refuse(exchange, f"nothing could be started that relays: {error}")
        except BaseException:
            ours.close()
            theirs.close()
            raise
        return theirs

    def _refuse(self, exchange: TransportExchange, reason: str) -> NoReturn:
        """Answer 503 in the place of the application, and raise `WebSocketRefused`."""
        self.begun = self.refused = True
        config = self._websockets.config
        body = f"{config.overloaded}\n".encode()
        headers = [
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Retry-After", str(config.retry_after_seconds)),
        ]
        exchange.set_reason(reason)
        exchange.respond("503 Service Unavailable", headers, len(body))
        exchange.finish(body)
        self._websockets.request_log.message(messages.WEBSOCKET_REFUSED, reason=reason)
        raise WebSocketRefused(errno.EAGAIN, reason)

    def finish(self) -> None:
        """End it, once the application has returned: what it has sent is still passed on.

        Returns when the client's stream has all of it, or takes no more.
        """
        link, application, exchange = self._link, self._socket, self._exchange
        try:
            if link is not None and exchange is not None and application is not None:
                answer = self._websockets.unanswered(exchange.request_id, secure=link.client.secure)
                with suppress(OSError):
                    application.shutdown(socket.SHUT_RD)
                self._websockets.relay.finish(link, answer)
                if link.output.frames:
                    link.done.wait(CLOSE_SECONDS)
                with suppress(OSError):
                    application.shutdown(socket.SHUT_RDWR)
                if application.fileno() < 0:  # it may be detached, and open elsewhere
                    self._websockets.relay.end_application(link)
                link.done.wait()
        finally:
            if application is not None:
                application.close()
            if link is not None and exchange is not None:
                self._conclude(exchange, link, link.lost, aborted=False)

    def cut(self, reason: str) -> None:
        """End it at once, under the thread that has the exchange. The connection is reset."""
        link, exchange = self._link, self._exchange
        if link is not None and exchange is not None:
            self._conclude(exchange, link, reason, aborted=True)

    def lose(self, reason: str) -> None:
        """Exchange nothing more with the client. The call goes on, and reads the end."""
        link = self._link
        if link is not None:
            self._websockets.relay.lose(link, reason)

    def close_in_child(self) -> None:
        """Close the application's socket, in a forked child: the parent has the connection."""
        if self._socket is not None:
            self._socket.close()

    def look(self) -> None:
        """Look at the client's stream: another thread has taken input off the socket."""
        link = self._link
        if link is not None:
            self._websockets.relay.pump(link)

    def _conclude(
        self, exchange: TransportExchange, link: Link, reason: str, *, aborted: bool
    ) -> None:
        self._link = self._exchange = None
        self._websockets.relay.remove(link)
        self._websockets.forget(self)
        output = link.output
        status = output.status
        if not output.begun:
            status = "" if reason else "501 Not Implemented"
        elif not status:
            status = "101 Switching Protocols"  # whatever to
            if not reason:
                exchange.set_reason("the application has sent no HTTP response")
        exchange.end_relay(
            status,
            output.headers,
            (link.received, output.sent),
            reason,
            reset=bool(reason),
            aborted=aborted,
        )
