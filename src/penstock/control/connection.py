"""A small HTTP/1.1 server on somebody else's selector: for control and health, not for the public.

It never blocks: the loop that it lives in also looks after the workers. It reads with the parser of
`penstock.http1`, answers a connection's requests in their order, each now or later, and takes up
little: few connections, small requests, and a deadline for everything that is waited for.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING

from penstock.control.address import Peer, peer_of
from penstock.http1 import (
    CONNECTION_CLOSED,
    NEED_DATA,
    EndOfMessage,
    ParserLimits,
    ProtocolError,
    Request,
    RequestParser,
    State,
    encode_head,
    error_response,
)
from penstock.http1.reason_phrases import REASON_PHRASES
from penstock.transport.date import ServerFields

if TYPE_CHECKING:
    import logging

    from penstock.listeners import Listener

MAX_CONNECTIONS = 64
"""Probes and people, not traffic; each costs the supervisor a descriptor."""

REQUEST_SECONDS = 5.0
"""For a request, from its first byte to its last: it is one packet."""

WRITE_SECONDS = 5.0
"""For the client to take a part of the answer."""

IDLE_SECONDS = 60.0
"""For the next request on a connection: probes come every ten seconds or so."""

ANSWER_SECONDS = 3600.0
"""For the answer to be found: a reload waits for an application that may boot for long."""

REFUSED_SECONDS = 1.0
"""For somebody who is not let in to send a request, to which the answer can be no."""

LINGER_SECONDS = 1.0
"""For the client to read an answer that ended the connection, and to close it."""

REST_SECONDS = 0.5
"""How long accepting rests when the system has no descriptor for another connection."""

BACKLOG = 64
"""Connections that wait to be accepted: as many as there may be."""

LIMITS = ParserLimits(
    request_line=4096, fields=64, field_size=4096, head=8192, chunk_overhead=1024, body=8192
)
"""Of a request: nothing that is asked here is longer than a line."""

_RECEIVE_BYTES = 8192
_ACCEPT_BATCH = 16
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_WOULD_BLOCK = (BlockingIOError, InterruptedError)


@dataclass(frozen=True)
class Reply:
    """A response, without what its connection adds."""

    status: int
    body: bytes
    content_type: str
    fields: tuple[tuple[str, str], ...] = ()


Send = Callable[[Reply], None]
"""Takes the response to one request: the first call counts, at any later time."""

Respond = Callable[[Request, Peer | None, Send], None]
"""Is called with each complete request, and has to call `Send` in the end."""

Admit = Callable[[Peer | None], Reply | None]
"""Tells what to answer, whatever is asked, to somebody who may not ask; None lets them in."""


class _Phase(Enum):
    READING = "waiting for a request, or in the middle of one"
    ANSWERING = "the answer to its request is not known yet"
    WRITING = "the kernel has not taken all of the answer"
    LINGERING = "closed for writing, read from until the client closes too"
    CLOSED = "closed"


_READING, _ANSWERING, _WRITING, _LINGERING, _CLOSED = _Phase


def close_descriptor(sock: socket.socket) -> None:
    """Close a socket's descriptor and nothing else."""
    descriptor = sock.detach()
    if descriptor >= 0:
        with contextlib.suppress(OSError):
            os.close(descriptor)


class Connection:
    """One accepted socket."""

    def __init__(
        self, service: Service, sock: socket.socket, peer: Peer | None, refusal: Reply | None
    ) -> None:
        self._service = service
        self.socket = sock
        self._peer = peer
        self.refusal = refusal
        """What is answered to somebody who may not ask."""
        self._parser = RequestParser(LIMITS)
        self._request: Request | None = None
        self._output = b""
        self._close_after = False
        self._phase = _READING
        self._proceeding = False  # in `_proceed`, which then need not be called
        self._watched = 0
        self.since = time.monotonic()
        """When the last request was answered."""
        patience = IDLE_SECONDS if refusal is None else REFUSED_SECONDS
        self.deadline = self.since + patience
        """When `expire` is due, on the monotonic clock."""

    def handle_events(self, _mask: int) -> None:
        """Do what the socket is ready for."""
        if self._phase is _READING:
            self._service.guard(self, self._read)
        elif self._phase is _WRITING:
            self._service.guard(self, self._proceed)
        elif self._phase is _LINGERING:
            self._service.guard(self, self._discard)

    def expire(self, now: float) -> None:
        """Act on the deadline if it has passed at ``now``."""
        if now < self.deadline:
            return
        if self._phase is _ANSWERING:
            text = "no outcome within an hour; it may still come\n"
            self._answer(Reply(504, text.encode(), "text/plain; charset=utf-8"))
        elif self._phase is _READING and self.refusal is not None:
            self._refuse_peer(self.refusal)
        elif self._phase is _READING and not self.is_idle():
            self._fail(ProtocolError(408, "The request did not arrive in time."))
        else:
            self.close()

    def is_idle(self) -> bool:
        """Tell whether no byte of a request has come since the last answer."""
        state = self._parser.state
        return self._phase is _READING and state is State.IDLE and not self._parser.buffered

    def has_input(self) -> bool:
        """Tell whether the client has sent something that has not been read yet."""
        try:
            return bool(self.socket.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    def watch(self, mask: int) -> None:
        """Have the selector look for the events of ``mask``, 0 for none. Raises OSError."""
        watched, selector = self._watched, self._service.selector
        if mask == watched:
            return
        if not watched:
            selector.register(self.socket, mask, self)
        elif mask:
            selector.modify(self.socket, mask, self)
        else:
            selector.unregister(self.socket)
        self._watched = mask

    def close(self) -> None:
        """Close at once."""
        if self._phase is _CLOSED:
            return
        self._phase = _CLOSED
        self.deadline = math.inf
        self.watch(0)
        self.socket.close()
        self._service.forget(self)

    def abandon(self) -> None:
        """Close the descriptor in a forked child, without a word to client and selector."""
        self._phase = _CLOSED
        close_descriptor(self.socket)

    # -- reading --------------------------------------------------------------------------------

    def _read(self) -> None:
        try:
            data = self.socket.recv(_RECEIVE_BYTES)
        except _WOULD_BLOCK:
            return
        except OSError:
            self.close()
            return
        if self.refusal is not None and data:
            self._refuse_peer(self.refusal)
            return
        if self.is_idle():
            self.deadline = time.monotonic() + REQUEST_SECONDS
        if data:
            self._parser.receive_data(data)
        else:
            self._parser.receive_eof()
        self._proceed()

    def _proceed(self) -> None:
        """Parse, answer and write for as long as there is something to do now."""
        self._proceeding = True
        try:
            while (self._phase is _READING and self._parse()) or (
                self._phase is _WRITING and self._flush()
            ):
                pass
        finally:
            self._proceeding = False

    def _parse(self) -> bool:
        """Take the next event of the parser; tell whether there may be something to do after it."""
        try:
            event = self._parser.next_event()
        except ProtocolError as error:
            self._fail(error)
            return True
        if event is NEED_DATA:
            self.watch(selectors.EVENT_READ)
            return False
        if event is CONNECTION_CLOSED:
            self.close()
        elif isinstance(event, Request):
            self._request = event
            if event.body_expected and event.expect_continue and not self._parser.buffered:
                with contextlib.suppress(OSError):  # whoever cannot take that gets no answer either
                    self.socket.send(_CONTINUE)
        elif isinstance(event, EndOfMessage):
            self._ask()
        return True  # a piece of a body is dropped: there is no use for it here

    def _ask(self) -> None:
        request = self._request
        assert request is not None
        self._phase = _ANSWERING
        self.deadline = time.monotonic() + ANSWER_SECONDS
        self._close_after = not request.keep_alive or request.version == "HTTP/1.0"

        def send(reply: Reply) -> None:
            if self._request is request:
                self._answer(reply)

        self._service.ask(request, self._peer, send)
        if self._phase is _ANSWERING:
            self.watch(0)

    # -- answering ------------------------------------------------------------------------------

    def _answer(self, reply: Reply) -> None:
        if self._phase is not _ANSWERING:
            return
        request, self._request = self._request, None
        bodiless = request is not None and request.method == "HEAD"
        self._parser.start_next_request()
        self._write(self._service.encode(reply, bodiless, self._close_after))

    def _refuse_peer(self, refusal: Reply) -> None:
        self._close_after = True
        self._write(self._service.encode(refusal, False, True))

    def _fail(self, error: ProtocolError) -> None:
        self._close_after = True
        head, body = error_response(error, self._service.date_line())
        self._write(head if error.request_line.startswith("HEAD ") else head + body)

    def _write(self, output: bytes) -> None:
        self._output = output
        self._phase = _WRITING
        self.deadline = time.monotonic() + WRITE_SECONDS
        if not self._proceeding:
            self._proceed()

    def _flush(self) -> bool:
        """Write what the kernel takes; tell whether that was all, and the connection goes on."""
        try:
            sent = self.socket.send(self._output)
        except _WOULD_BLOCK:
            sent = 0
        except OSError:
            self.close()
            return False
        if sent:
            self._output = self._output[sent:]
            self.deadline = time.monotonic() + WRITE_SECONDS
        if self._output:
            self.watch(selectors.EVENT_WRITE)
            return False
        if self._close_after:
            self._linger()
            return False
        self._phase = _READING
        self.since = time.monotonic()
        patience = REQUEST_SECONDS if self._parser.buffered else IDLE_SECONDS
        self.deadline = self.since + patience
        return True

    def _linger(self) -> None:
        """End the connection so that the answer arrives: a close with unread input resets it."""
        self._phase = _LINGERING
        self.deadline = time.monotonic() + LINGER_SECONDS
        try:
            self.socket.shutdown(socket.SHUT_WR)
            self.watch(selectors.EVENT_READ)
        except OSError:
            self.close()

    def _discard(self) -> None:
        try:
            if self.socket.recv(_RECEIVE_BYTES):
                return
        except _WOULD_BLOCK:
            return
        except OSError:
            pass
        self.close()


class Service:
    """A listener and its connections. One thread, that of the selector's loop, may use it."""

    def __init__(
        self,
        listener: Listener,
        selector: selectors.BaseSelector,
        logger: logging.Logger,
        respond: Respond,
        admit: Admit | None = None,
        *,
        waits: bool = False,
    ) -> None:
        """Begin to accept, unless it ``waits`` for `take_over`.

        The keys' data are objects with ``handle_events(mask)``.

        ``listener`` listens already. `close` closes it; raises OSError where the selector cannot
        take it.
        """
        self.listener = listener
        self.selector = selector
        self._logger = logger
        self._respond = respond
        self._admit = admit
        self._fields = ServerFields(None)
        self._connections: set[Connection] = set()
        self._watching = False
        self._closed = False
        self._resume_at = math.inf  # when accepting goes on, where it rests
        self._complained = False
        if not waits:
            self._watch()

    @property
    def name(self) -> str:
        """The address, for logs and humans."""
        return self.listener.name

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection: to somebody who may wait for an answer."""
        return bool(self._connections)

    # -- what the loop calls --------------------------------------------------------------------

    def handle_events(self, _mask: int) -> None:
        """Accept what waits, up to a batch."""
        for count in range(_ACCEPT_BATCH):
            if self._closed:
                return  # the event is older than that
            if len(self._connections) >= MAX_CONNECTIONS:
                if count > 0:
                    return  # whether anybody else waits is for the next poll to say
                if not self._close_idle():
                    self._unwatch()  # until one is closed
                    return
            try:
                sock, _address = self.listener.socket.accept()
            except _WOULD_BLOCK:
                self._complained = False
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    continue  # that client has gone already (ECONNABORTED and its kind)
                if not self._close_idle():
                    self._rest(error)
                    return
                continue
            self._take(sock)

    def next_deadline(self) -> float:
        """Return when `expire` is due next, on the monotonic clock; infinity for never."""
        deadlines = (connection.deadline for connection in self._connections)
        return min(self._resume_at, *deadlines, math.inf)

    def expire(self, now: float) -> None:
        """Act on the deadlines that have passed at ``now``, on the monotonic clock."""
        for connection in list(self._connections):
            self.guard(connection, partial(connection.expire, now))
        if now >= self._resume_at:
            self._watch()

    def take_over(self) -> None:
        """Begin to accept on the socket that a predecessor passed, which was its own until now."""
        self.listener.take_over()
        self._watch()

    def stop_accepting(self, *, keep_path: bool = False) -> None:
        """Accept no more; who is connected still gets answers. May be called again.

        ``keep_path`` leaves the path of a unix socket where it is: another process has the socket.
        """
        if self._closed:
            return
        self._closed = True
        self._unwatch()
        if keep_path:
            self.listener.socket.close()
        else:
            self.listener.close()

    def close(self, *, keep_path: bool = False) -> None:
        """Close everything now. What was answered just before has been sent."""
        self.stop_accepting(keep_path=keep_path)
        for connection in list(self._connections):
            connection.close()

    def abandon(self) -> None:
        """Close all descriptors in a forked child, and leave the selector and the path alone."""
        self._closed = True
        close_descriptor(self.listener.socket)
        for connection in self._connections:
            connection.abandon()
        self._connections.clear()

    # -- what connections call ------------------------------------------------------------------

    def ask(self, request: Request, peer: Peer | None, send: Send) -> None:
        """Have a request answered; a defect of ours is answered, too."""
        try:
            self._respond(request, peer, send)
        except Exception:
            self._logger.exception("internal error in answering %s", self.name)
            send(Reply(500, b"internal error; see the log\n", "text/plain; charset=utf-8"))

    def guard(self, connection: Connection, call: Callable[[], None]) -> None:
        """Confine a defect of ours, or a lack of memory, to the connection that met it."""
        try:
            call()
        except Exception:
            self._logger.exception("internal error on %s; a connection is closed", self.name)
            connection.close()

    def encode(self, reply: Reply, bodiless: bool, close: bool) -> bytes:
        """Return a response's bytes; ``bodiless`` where it answers HEAD."""
        fields = [
            ("Content-Type", reply.content_type),
            ("Content-Length", str(len(reply.body))),
            ("Cache-Control", "no-store"),
            *reply.fields,
        ]
        if close:
            fields.append(("Connection", "close"))
        status = f"{reply.status} {REASON_PHRASES.get(reply.status, '')}"
        return encode_head(status, fields, self.date_line()) + (b"" if bodiless else reply.body)

    def date_line(self) -> str:
        """Return the line of Date, with its CRLF."""
        return self._fields.now()

    def forget(self, connection: Connection) -> None:
        """Let go of a connection that is closed, which makes room for another."""
        self._connections.discard(connection)
        if self._resume_at == math.inf:
            self._watch()

    # -- accepting ------------------------------------------------------------------------------

    def _take(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        peer = peer_of(sock) if sock.family == socket.AF_UNIX else None
        refusal = self._admit(peer) if self._admit is not None else None
        connection = Connection(self, sock, peer, refusal)
        self._connections.add(connection)
        self.guard(connection, partial(connection.watch, selectors.EVENT_READ))

    def _close_idle(self) -> bool:
        """Close the connection that is missed least; tell whether there was one."""
        refused = [c for c in self._connections if c.refusal is not None]
        idle = refused or [c for c in self._connections if c.is_idle() and not c.has_input()]
        if not idle:
            return False
        min(idle, key=lambda connection: connection.since).close()
        return True

    def _rest(self, error: OSError) -> None:
        self._unwatch()
        self._resume_at = time.monotonic() + REST_SECONDS
        if not self._complained:  # once for each time that it begins, not twice a second
            self._complained = True
            self._logger.warning(
                "cannot accept connections on %s for now: %s. Raise the limit on open files "
                "(ulimit -n)",
                self.name,
                error.strerror,
            )

    def _watch(self) -> None:
        if not self._watching and not self._closed:
            self.selector.register(self.listener.socket, selectors.EVENT_READ, self)
            self._watching = True
        self._resume_at = math.inf

    def _unwatch(self) -> None:
        if self._watching:
            self._watching = False
            self.selector.unregister(self.listener.socket)
