"""Connections of the control socket and of ``--admin``: HTTP/1.1 for probes and for people.

Parsing and framing are those of `penstock.http1`. This module adds the socket: it never blocks,
because the loop that it runs in also looks after the workers. It answers the requests of a
connection in their order, each now or later. It limits connections, sizes and waits.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import os
import selectors
import socket
import time
from collections.abc import Callable, Generator, Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from penstock import messages
from penstock.control.address import Peer, peer_of
from penstock.http1 import (
    CONNECTION_CLOSED,
    CONTINUE,
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
from penstock.http1.statuses import REASON_PHRASES
from penstock.listeners import Listener
from penstock.records import dataclass
from penstock.transport.date import ServerFields

if TYPE_CHECKING:
    from penstock.control.socket_file import SocketFile

MAX_CONNECTIONS = 64
"""Enough for probes and people; each costs the supervisor a descriptor."""

REQUEST_SECONDS = 5.0
"""From the first byte of a request to its last: a request is one packet."""

WRITE_SECONDS = 5.0
"""For the client to read a part of the response."""

LONGEST_WRITE_SECONDS = 60.0
"""For the client to read all of it, however steadily it reads."""

IDLE_SECONDS = 60.0
"""For the next request on a connection: probes come about every ten seconds."""

ANSWER_SECONDS = 3600.0
"""For the outcome of a command: a reload waits for an application that may boot for long."""

REFUSED_SECONDS = 1.0
"""For a client of another user to send a request, to which the response is 403."""

LINGER_SECONDS = 1.0
"""For the client to read the last response and to close the connection."""

REST_SECONDS = 0.5
"""How long accepting pauses when the system has no descriptor for another connection."""

BACKLOG = 64
"""Connections to the control socket that wait to be accepted: as many as may be open."""

ADMIN_BACKLOG = 1024
"""Those to the admin address. Where they are more, the kernel drops the attempt of a probe, which
then comes a second later: as late as many a probe gives up."""

LIMITS = ParserLimits(
    request_line=4096, fields=64, field_size=4096, head=8192, chunk_overhead=1024, body=8192
)
"""Limits of a request: every request defined here is shorter than a line."""

_RECEIVE_BYTES = 8192
_ACCEPT_BATCH = 16
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_WOULD_BLOCK = (BlockingIOError, InterruptedError)
_TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True)
class Response:
    """A response without the fields that its connection adds."""

    status: int
    body: bytes
    content_type: str = _TEXT
    fields: tuple[tuple[str, str], ...] = ()

    @classmethod
    def json(
        cls, status: int, value: Mapping[str, Any], fields: tuple[tuple[str, str], ...] = ()
    ) -> Response:
        """Return a response with a JSON object.

        It is ASCII, so that a terminal does not act on bytes that a client of the server has sent.
        """
        body = json.dumps(value, indent=2).encode("ascii") + b"\n"
        return cls(status, body, "application/json", fields)

    @classmethod
    def compact(
        cls, status: int, value: Mapping[str, Any], fields: tuple[tuple[str, str], ...] = ()
    ) -> Response:
        """Return the same for programs: without blanks, and made in a tenth of the time."""
        body = json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n"
        return cls(status, body, "application/json", fields)


class Send:
    """Takes the response to one request; the first call counts, at any later time."""

    def __init__(self, proceed: Callable[[], None]) -> None:
        """``proceed`` is called with the response if something waits for it by then."""
        self.response: Response | None = None
        self.waits = False
        self.gone: Callable[[], None] | None = None
        self._proceed = proceed

    def __call__(self, response: Response) -> None:
        """Take the response."""
        if self.response is None:
            self.response = response
            if self.waits:
                self._proceed()

    def when_gone(self, function: Callable[[], None]) -> None:
        """Call a function if the client leaves before there is a response."""
        self.gone = function


Respond = Callable[[Request, Peer | None, Send], None]
"""Is called with each complete request. It calls `Send` now or later."""

Admit = Callable[[Peer | None], Response | None]
"""Returns the response to a client that may not use the service; None where it may."""


class _Late(Exception):
    """The deadline of a wait has passed."""


@dataclass(frozen=True)
class _Wait:
    """What a connection waits for: events of its socket, and a deadline."""

    events: int
    """A mask of the selector; 0 while the response is not known yet."""
    deadline: float
    """On the monotonic clock."""


Steps = Generator[_Wait, None, None]


class Activity(IntEnum):
    """What a connection is doing. The lower ones are evicted first."""

    REFUSED = 0
    """Its client may not use the service, and is about to read that."""
    IDLE = 1
    """It has had a response, and no byte of another request has come."""
    READING = 2
    """The first request is awaited, or a part of a request has come."""
    WRITING = 3
    """The client reads its response, or is to close the connection."""
    WAITING = 4
    """The answer is not known yet: a command is carried out."""


class Connection:
    """One accepted socket. Its life is the generator `_run`, which the loop resumes."""

    def __init__(
        self, service: Service, sock: socket.socket, peer: Peer | None, refusal: Response | None
    ) -> None:
        """Wait for a request; ``refusal`` is the response to a client that may not ask."""
        self.socket = sock
        # Before its first request it is not idle: a probe that has just come is not to be evicted.
        self.activity = Activity.READING if refusal is None else Activity.REFUSED
        self.since = time.monotonic()
        """When this activity began."""
        self.deadline = math.inf
        """When `expire` is due, on the monotonic clock."""
        self._service = service
        self._peer = peer
        self._parser = RequestParser(LIMITS)
        self._watched = 0
        self._steps = self._run() if refusal is None else self._refuse(refusal)

    # -- what the loop calls --------------------------------------------------------------------

    def proceed(self) -> None:
        """Run until the next wait: at the start, when the socket is ready, with a response."""
        self._resume(self._steps.__next__)

    def expire(self, now: float) -> None:
        """Act on the deadline if it has passed at ``now``."""
        if now >= self.deadline:
            self._resume(lambda: self._steps.throw(_Late()))

    def _resume(self, step: Callable[[], _Wait]) -> None:
        """Run until the next wait. A defect, or a lack of memory, ends this connection only."""
        try:
            wait = step()
            self.deadline = wait.deadline
            self._watch(wait.events)
        except (StopIteration, _Late, OSError):
            self.close()
        except Exception:
            service = self._service
            messages.CONTROL_DEFECT.log(service.logger, exc_info=True, address=service.name)
            self.close()

    def _watch(self, events: int) -> None:
        """Wait for these events of the socket. Raises OSError."""
        watched, self._watched = self._watched, events
        selector = self._service.selector
        if events == watched:
            return
        if not watched:
            selector.register(self.socket, events, self.proceed)
        elif events:
            selector.modify(self.socket, events, self.proceed)
        else:
            selector.unregister(self.socket)

    @property
    def worth(self) -> tuple[Activity, float]:
        """The order in which connections are evicted: the lowest first, then the oldest."""
        activity = self.activity
        if activity is Activity.IDLE:
            with contextlib.suppress(OSError):
                if self.socket.recv(1, socket.MSG_PEEK):  # it has not been read yet
                    activity = Activity.READING
        return activity, self.since

    def _enter(self, activity: Activity) -> None:
        if activity is not self.activity:
            self.activity, self.since = activity, time.monotonic()

    def close(self) -> None:
        """Close at once."""
        self.deadline = math.inf
        if self.socket.fileno() >= 0:
            with contextlib.suppress(KeyError, ValueError):  # registering it has failed
                self._watch(0)
            self.socket.close()
            self._service.forget(self)

    def close_in_child(self) -> None:
        """Close the descriptor in a forked child, and nothing else: the parent has the client."""
        close_descriptor(self.socket)

    # -- the life of a connection ---------------------------------------------------------------

    def _run(self) -> Steps:
        """Answer requests until one of them, the client or a deadline ends the connection."""
        close = False
        while not close:
            try:
                request = yield from self._read_request()
            except ProtocolError as error:
                head, body = error_response(error, self._service.date_line())
                yield from self._write(head + body)
                break
            if request is None:
                return
            close = not request.keep_alive or request.version == "HTTP/1.0"
            response = yield from self._answer(request)
            self._parser.start_next_request()
            bodiless = request.method == "HEAD"
            yield from self._write(self._service.encode(response, bodiless, close))
        yield from self._linger()

    def _refuse(self, refusal: Response) -> Steps:
        """Send a refusal with the first byte that comes, or after a moment without one."""
        try:
            if not (yield from self._receive(time.monotonic() + REFUSED_SECONDS)):
                return
        except _Late:
            pass
        yield from self._write(self._service.encode(refusal, False, True))
        yield from self._linger()

    def _read_request(self) -> Generator[_Wait, None, Request | None]:
        """Return the next request; None at the end of the connection. Raises `ProtocolError`."""
        parser = self._parser
        patience = REQUEST_SECONDS if parser.buffered else IDLE_SECONDS
        deadline = time.monotonic() + patience
        request: Request | None = None
        while True:
            event = parser.next_event()
            if event is NEED_DATA:
                is_idle = parser.state is State.IDLE and not parser.buffered
                if self.activity is Activity.WRITING:
                    self._enter(Activity.IDLE if is_idle else Activity.READING)
                try:
                    data = yield from self._receive(deadline)
                except _Late:
                    if is_idle:
                        return None
                    raise ProtocolError(408, "The request did not arrive in time.") from None
                if is_idle:
                    deadline = time.monotonic() + REQUEST_SECONDS
                    self._enter(Activity.READING)
                if data:
                    parser.receive_data(data)
                else:
                    parser.receive_eof()
            elif event is CONNECTION_CLOSED:
                return None
            elif isinstance(event, Request):
                request = event
                if request.body_expected and request.expect_continue and not parser.buffered:
                    with contextlib.suppress(OSError):  # such a client gets no response either
                        self.socket.send(CONTINUE)
            elif isinstance(event, EndOfMessage):
                return request
            # A piece of a body is dropped: no request needs one.

    def _answer(self, request: Request) -> Generator[_Wait, None, Response]:
        """Return the response to a request, when it is known."""
        send = Send(self.proceed)
        self._service.respond(request, self._peer, send)
        if send.response is None:
            send.waits = True
            self._enter(Activity.WAITING)
            events = selectors.EVENT_READ if send.gone is not None else 0
            deadline = time.monotonic() + ANSWER_SECONDS
            try:
                while send.response is None:
                    yield _Wait(events, deadline)
                    if send.response is None and self._has_left():
                        if send.gone is not None:
                            send.gone()
                        raise ConnectionResetError(errno.ECONNRESET, "the client has left")
                    events = 0  # it has sent more: that it leaves is not seen behind that
            except _Late:
                return Response(504, b"no outcome within an hour; it may still come\n")
            finally:
                send.waits = False
        return send.response

    def _has_left(self) -> bool:
        """Return True if the client has closed its side."""
        try:
            return not self.socket.recv(1, socket.MSG_PEEK)
        except _WOULD_BLOCK:
            return False
        except OSError:
            return True

    def _receive(self, deadline: float) -> Generator[_Wait, None, bytes]:
        """Return what the client sends next; empty at the end of its stream."""
        while True:
            yield _Wait(selectors.EVENT_READ, deadline)
            with contextlib.suppress(*_WOULD_BLOCK):
                return self.socket.recv(_RECEIVE_BYTES)

    def _write(self, output: bytes) -> Steps:
        """Send a response; each part that the client reads gives it more time."""
        if self.activity is not Activity.REFUSED:
            self._enter(Activity.WRITING)
        view = memoryview(output)
        now = time.monotonic()
        deadline, last = now + WRITE_SECONDS, now + LONGEST_WRITE_SECONDS
        while view:
            try:
                view = view[self.socket.send(view) :]
                deadline = time.monotonic() + WRITE_SECONDS
            except _WOULD_BLOCK:
                yield _Wait(selectors.EVENT_WRITE, min(deadline, last))

    def _linger(self) -> Steps:
        """Wait for the client to close: a close with unread input would reset the response."""
        deadline = time.monotonic() + LINGER_SECONDS
        self.socket.shutdown(socket.SHUT_WR)
        while (yield from self._receive(deadline)):
            pass


class Service:
    """A listener and its connections. Only the thread of the selector's loop may use it."""

    def __init__(
        self,
        listener: Listener | SocketFile,
        selector: selectors.BaseSelector,
        logger: logging.Logger,
        respond: Respond,
        admit: Admit | None = None,
        *,
        waits: bool = False,
    ) -> None:
        """Begin to accept, unless it ``waits`` for `take_over`.

        ``listener`` listens already; `close` closes it. The data of the selector's keys are
        functions that the loop calls when the socket is ready. Raises OSError where the selector
        cannot take the listener.
        """
        self.listener = listener
        self.selector = selector
        self.logger = logger
        self._respond = respond
        self._admit = admit
        self._fields = ServerFields(None)
        self._connections: set[Connection] = set()
        self._watching = False
        self._closed = False
        self._resume_at = math.inf  # when accepting goes on after a pause
        self._reported = False  # the lack of descriptors
        if not waits:
            self._watch()

    @property
    def name(self) -> str:
        """The address, for logs and people."""
        return self.listener.name

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection, whose client may wait for a response."""
        return bool(self._connections)

    # -- what the loop calls --------------------------------------------------------------------

    def accept(self) -> None:
        """Accept the connections that wait, up to a batch."""
        for _ in range(_ACCEPT_BATCH):
            if self._closed:
                return  # the event is older than that
            is_full = len(self._connections) >= MAX_CONNECTIONS
            if is_full and all(c.activity is Activity.WAITING for c in self._connections):
                self._unwatch()  # until one is closed
                return
            try:
                sock, _address = self.listener.socket.accept()
            except _WOULD_BLOCK:
                self._reported = False
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    continue  # that client has gone already (ECONNABORTED and its kind)
                if not self._evict():
                    self._pause(error)
                    return
                continue
            if is_full:
                self._evict()
            sock.setblocking(False)
            peer = peer_of(sock) if sock.family == socket.AF_UNIX else None
            refusal = self._admit(peer) if self._admit is not None else None
            connection = Connection(self, sock, peer, refusal)
            self._connections.add(connection)
            connection.proceed()

    def expire(self, now: float) -> None:
        """Act on the deadlines that have passed at ``now``; must be called once a second or so."""
        for connection in list(self._connections):
            connection.expire(now)
        if now >= self._resume_at:
            self._watch()

    def take_over(self) -> None:
        """Begin to accept on the socket that a predecessor passed and used until now."""
        self.listener.take_over()
        self._watch()

    def stop_accepting(self, *, keep_path: bool = False) -> None:
        """Accept no more; connected clients still get responses. May be called again.

        ``keep_path`` leaves the path of a unix socket where it is: another process has the socket.
        """
        if self._closed:
            return
        self._closed = True
        self._unwatch()
        if keep_path:
            self.listener.disown()
        self.listener.close()

    def close(self) -> None:
        """Close everything now. Responses that were given just before have been sent."""
        self.stop_accepting()
        for connection in list(self._connections):
            connection.close()

    def close_in_child(self) -> None:
        """Close all descriptors in a forked child, and leave the selector and the path alone."""
        self._closed = True
        close_descriptor(self.listener.socket)
        if not isinstance(self.listener, Listener):
            self.listener.close_directory()
        for connection in self._connections:
            connection.close_in_child()
        self._connections.clear()

    # -- what connections call ------------------------------------------------------------------

    def respond(self, request: Request, peer: Peer | None, send: Send) -> None:
        """Have a request answered; a defect is answered with 500."""
        try:
            self._respond(request, peer, send)
        except Exception:
            messages.CONTROL_DEFECT.log(self.logger, exc_info=True, address=self.name)
            send(Response(500, b"internal error; see the log\n"))

    def encode(self, response: Response, bodiless: bool, close: bool) -> bytes:
        """Return the bytes of a response; ``bodiless`` where it answers HEAD."""
        fields = [
            ("Content-Type", response.content_type),
            ("Content-Length", str(len(response.body))),
            ("Cache-Control", "no-store"),
            *response.fields,
        ]
        if close:
            fields.append(("Connection", "close"))
        status = f"{response.status} {REASON_PHRASES.get(response.status, '')}"
        head = encode_head(status, fields, self.date_line())
        return head if bodiless else head + response.body

    def date_line(self) -> str:
        """Return the line of Date, with its CRLF."""
        return self._fields.now()

    def forget(self, connection: Connection) -> None:
        """Remove a closed connection, which makes room for another."""
        self._connections.discard(connection)
        if self._resume_at == math.inf:
            self._watch()

    # -- accepting ------------------------------------------------------------------------------

    def _least_worth(self) -> Connection | None:
        """Return the connection that can best be done without; None if there is none.

        That is one of a refused client, or else the one that has been idle for longest, the oldest
        with an unfinished request, or the oldest that has been answered and does not read or close.
        A client that waits for the outcome of a command keeps its connection.
        """
        candidates = [c for c in self._connections if c.activity is not Activity.WAITING]
        return min(candidates, key=lambda connection: connection.worth, default=None)

    def _evict(self) -> bool:
        """Close that connection; return False if there is none."""
        connection = self._least_worth()
        if connection is None:
            return False
        connection.close()
        return True

    def _pause(self, error: OSError) -> None:
        self._unwatch()
        self._resume_at = time.monotonic() + REST_SECONDS
        if not self._reported:  # once per shortage, not twice a second
            self._reported = True
            messages.CONTROL_OUT_OF_FILES.log(self.logger, address=self.name, error=error.strerror)

    def _watch(self) -> None:
        if not self._watching and not self._closed:
            self.selector.register(self.listener.socket, selectors.EVENT_READ, self.accept)
            self._watching = True
        self._resume_at = math.inf

    def _unwatch(self) -> None:
        if self._watching:
            self._watching = False
            self.selector.unregister(self.listener.socket)


def close_descriptor(sock: socket.socket) -> None:
    """Close the descriptor of a socket and nothing else."""
    descriptor = sock.detach()
    if descriptor >= 0:
        with contextlib.suppress(OSError):
            os.close(descriptor)
