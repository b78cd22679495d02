"""The relay between clients and the applications that speak WebSocket with them.

An application that takes the socket of a handshake has one end of a pair of sockets. The relay has
the other end and the client's stream, and passes bytes between the two. So the application has a
real socket, also where the client speaks TLS; and the server counts the bytes, keeps the write
deadline, and can send a close frame when it stops.

One thread does this for all of a transport's WebSockets. It exists while there are any, and never
waits for a client or an application. Nor does any method here, but for the lock, and no call that
blocks is made with it.
"""

from __future__ import annotations

import math
import selectors
import socket
import threading
import time
from contextlib import ExitStack, closing, suppress
from selectors import EVENT_READ, EVENT_WRITE
from typing import TYPE_CHECKING

from penstock.transport.log_lines import CLIENT_STALLED, lost_client
from penstock.transport.waker import Waker
from penstock.transport.websocket_output import GOING_AWAY, WebSocketOutput

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.transport import ClientStream
    from penstock.transport.config import TransportConfig

BLOCK_BYTES = 64 * 1024
"""The most bytes that are taken at once from either side. As many wait at most for each side: while
the one takes none, nothing is read from the other."""

BLOCKS_PER_TURN = 4
"""How many blocks of one direction are passed on before other WebSockets have their turn."""

_NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)


class RelayNotStarted(Exception):
    """There is no thread, no descriptor or no memory for a relay; the text is the system's."""


class Link:
    """One client's stream, and the socket whose other end the application has.

    The relay's lock guards all of it.
    """

    __slots__ = (
        "_answer",
        "_application_gone",
        "_config",
        "_deadline_taken",
        "_finishing",
        "_said_going_away",
        "_taken",
        "_to_application",
        "_to_client",
        "application",
        "application_ended",
        "client",
        "client_ended",
        "deadline",
        "done",
        "draining",
        "lost",
        "output",
        "received",
        "watched",
    )

    def __init__(
        self, client: ClientStream, application: socket.socket, config: TransportConfig
    ) -> None:
        application.setblocking(False)
        self.client = client
        self.application = application
        self._config = config
        self.output = WebSocketOutput()
        self.received = len(client.early)
        """Bytes that have come from the client."""
        self._to_application: bytes | memoryview = client.early
        self._to_client = b""
        self._taken = self._deadline_taken = 0  # bytes that the client's stream has taken
        self.deadline = math.inf
        """When the client must have taken more, on the monotonic clock."""
        self.client_ended = False
        self.application_ended = False
        self._application_gone = False  # it takes nothing more
        self.lost = ""
        """Why nothing more can be exchanged with the client; empty while it can."""
        self.draining = False
        self._said_going_away = False
        self._finishing = False
        self._answer = b""
        self.done = threading.Event()
        """Set once all that the application has sent has left, or is lost."""
        self.watched: dict[int, int] = {}
        """What the selector watches: events by descriptor."""

    def pump(self, now: float) -> None:
        """Pass on what there is, as far as either side takes it."""
        self._flush_to_client(now)
        for _ in range(BLOCKS_PER_TURN):
            if not self._take_from_application(now):
                break
        self._flush_to_application()
        for _ in range(BLOCKS_PER_TURN):
            if not self._take_from_client():
                break
        if self.lost or (self._finishing and self._output_ends and not self._to_client):
            self.done.set()

    @property
    def _output_ends(self) -> bool:
        """Whether nothing more that the application sends is passed on."""
        return self.application_ended or self.output.closed or self._said_going_away

    def interest(self) -> tuple[int, int]:
        """Return the events to wait for: of the client's stream, and of the application's end."""
        if self.lost:
            return 0, 0
        reads_client = not (self._to_application or self.client_ended or self._application_gone)
        client = EVENT_READ * reads_client
        application = EVENT_READ * (not self._to_client and not self.application_ended)
        if self._to_client:
            client |= EVENT_WRITE
        if self._to_application:
            application |= EVENT_WRITE
        return client, application

    def holds_input(self) -> bool:
        """Return True if the client's stream has input of which no event tells."""
        return bool(self.interest()[0] & EVENT_READ) and self.client.holds_input

    def drain(self, now: float) -> None:
        """Send a close frame with 1001 as soon as one may follow what the application has sent."""
        self.draining = True
        self._say_going_away()
        self._flush_to_client(now)

    def finish(self, answer: bytes) -> None:
        """Note that the application has returned: what it has sent is still passed on.

        The client gets ``answer`` where that is nothing.
        """
        self._finishing = True
        self._answer = answer
        if self.application_ended:
            self._end_output()

    def lose(self, reason: str) -> None:
        """Note that the client is gone, or takes no data: the application reads the end."""
        if self.lost:
            return
        self.lost = reason
        self.output.sent = max(0, self.output.sent - len(self._to_client))
        self._to_client = self._to_application = b""
        self.deadline = math.inf
        self.client.lose()
        with suppress(OSError):
            self.application.shutdown(socket.SHUT_RDWR)
        self.done.set()

    def expire(self, now: float) -> None:
        """Act on the deadline: a client that has taken too little is given up."""
        if self._taken - self._deadline_taken >= self._config.least_progress:
            self._set_deadline(now)
        else:
            self.lose(CLIENT_STALLED)

    # -- from the application to the client -----------------------------------------------------

    def _take_from_application(self, now: float) -> bool:
        """Pass a block on; return True if there may be another one."""
        if self._to_client or self.application_ended or self.lost:
            return False
        try:
            data = self.application.recv(BLOCK_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self.application_ended = True
            self._end_output()
            self._flush_to_client(now)
            return False
        if self._said_going_away:
            return True  # nothing may follow a close frame
        self._to_client = data[: self.output.follow(data, to_boundary=self.draining)]
        self._say_going_away()
        self._flush_to_client(now)
        return not self._to_client

    def _say_going_away(self) -> None:
        if self.draining and not self._said_going_away and self.output.at_boundary:
            self._said_going_away = True
            self._to_client += GOING_AWAY
            self.output.sent += len(GOING_AWAY)

    def _end_output(self) -> None:
        if self.output.begun:
            if not self._to_client:
                with suppress(OSError):  # or once it has returned: the connection lingers then
                    self.client.shut_down()
        elif self._finishing and self._answer:
            self._to_client, self._answer = self._answer, b""

    def _flush_to_client(self, now: float) -> None:
        while self._to_client:
            try:
                sent = self.client.send(self._to_client)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self.lose(f"client disconnected: {lost_client(error)}")
                return
            if not sent:
                if self.deadline == math.inf:
                    self._set_deadline(now)
                return
            self._taken += sent
            self._to_client = self._to_client[sent:]
        self.deadline = math.inf

    def _set_deadline(self, now: float) -> None:
        self.deadline = now + self._config.write_timeout
        self._deadline_taken = self._taken

    # -- from the client to the application -----------------------------------------------------

    def _take_from_client(self) -> bool:
        """Pass a block on; return True if there may be another one."""
        if self._to_application or self.client_ended or self._application_gone or self.lost:
            return False
        try:
            data = self.client.receive(BLOCK_BYTES)
        except BlockingIOError:
            return False
        except OSError as error:
            self.lose(f"client disconnected: {lost_client(error)}")
            return False
        if data:
            self.received += len(data)
            self._to_application = data
        else:
            self.client_ended = True
        self._flush_to_application()
        return self.client.holds_input and not self._to_application

    def _flush_to_application(self) -> None:
        if self._to_application:
            try:
                sent = self.application.send(self._to_application, _NO_SIGNAL)
            except BlockingIOError:
                return
            except OSError:  # it has closed its end
                self._application_gone = True
                self._to_application = b""
                return
            self._to_application = memoryview(self._to_application)[sent:]
            if self._to_application:
                return
            self._to_application = b""
        if self.client_ended:
            with suppress(OSError):
                self.application.shutdown(socket.SHUT_WR)


class Relay:
    """The links of one transport, and the thread that attends to them. Any thread may call it."""

    def __init__(self, on_defect: Callable[[], None]) -> None:
        """``on_defect`` logs an exception of ours, which ends the link that has met it."""
        # Guards all below, and the links. It is held for as long as one turn of a link takes.
        self._lock = threading.Lock()
        self._links: set[Link] = set()
        self._holding: set[Link] = set()  # those with input of which no event tells
        self._limited: set[Link] = set()  # those with a deadline: few, where many are idle
        self._selector: selectors.BaseSelector | None = None
        self._waker: Waker | None = None  # these two exist while the thread does
        self._thread = 0  # its ident
        self._draining = False
        self._on_defect = on_defect

    def add(self, make: Callable[[], Link]) -> None:
        """Attend to the link that ``make`` returns, from now on.

        Raises `RelayNotStarted`, without a call of ``make``, where there can be no thread for it.
        """
        with self._lock:
            if self._selector is None:
                self._start()
            link = make()  # the thread ends where this fails
            self._links.add(link)
            if self._draining:
                link.draining = True
            self._attend(link, time.monotonic())

    def remove(self, link: Link) -> None:
        """Forget a link: when this returns, its client's stream is no longer used."""
        with self._lock:
            if link not in self._links:
                return
            self._links.discard(link)
            self._holding.discard(link)
            self._limited.discard(link)
            self._watch(link, 0, 0)
            link.application.close()
            link.done.set()
            if not self._links and self._waker is not None:
                self._waker.wake()

    def pump(self, link: Link) -> None:
        """Look at a link now: another thread may have met what an event would have told."""
        with self._lock:
            if link in self._links:
                self._attend(link, time.monotonic())

    def lose(self, link: Link, reason: str) -> None:
        """See `Link.lose`."""
        with self._lock:
            if link in self._links:
                link.lose(reason)
                self._update(link)

    def finish(self, link: Link, answer: bytes) -> None:
        """See `Link.finish`."""
        with self._lock:
            if link in self._links:
                link.finish(answer)
                self._attend(link, time.monotonic())

    def end_application(self, link: Link) -> None:
        """Take what the application has sent, and nothing that is still to come."""
        with self._lock:
            if link in self._links:
                with suppress(OSError):
                    link.application.shutdown(socket.SHUT_RD)
                self._attend(link, time.monotonic())

    def drain(self) -> None:
        """Have each client told that the server goes away: now, and each that is still to come."""
        with self._lock:
            self._draining = True
            now = time.monotonic()
            for link in list(self._links):
                link.drain(now)
                self._attend(link, now)

    def close_in_child(self) -> None:
        """Close what is the parent's, in a forked child, where no thread holds the lock."""
        self._lock = threading.Lock()
        for link in self._links:
            link.application.close()
            link.done = threading.Event()
            link.done.set()  # its thread may be the one that has forked
        self._links = set()
        if self._selector is not None and self._waker is not None:
            self._selector.close()
            self._waker.close()

    # -- the thread -----------------------------------------------------------------------------

    def _start(self) -> None:
        with ExitStack() as undo:
            try:
                selector = undo.enter_context(selectors.DefaultSelector())
                waker = undo.enter_context(closing(Waker()))
                selector.register(waker.reader, EVENT_READ)
                threading.Thread(
                    target=self._run,
                    args=(selector, waker),
                    name="penstock-websockets",
                    daemon=True,
                ).start()
            except (OSError, RuntimeError) as error:
                raise RelayNotStarted(str(error)) from error
            undo.pop_all()
        self._selector, self._waker = selector, waker

    def _run(self, selector: selectors.BaseSelector, waker: Waker) -> None:
        self._thread = threading.get_ident()
        timeout: float | None = 0.0
        while True:
            events = selector.select(timeout)
            with self._lock:
                now = time.monotonic()
                for key, _ in events:
                    link = key.data
                    if link is None:
                        waker.handle_events(EVENT_READ)
                    elif link in self._links:
                        self._attend(link, now)
                for link in list(self._holding):
                    self._attend(link, now)
                timeout = self._expire(now)
                if not self._links:  # `add` has added one before it gives the lock up
                    selector.close()
                    waker.close()
                    self._selector = self._waker = None
                    return

    def _expire(self, now: float) -> float | None:
        """Act on the deadlines that have passed; return how long the thread may wait."""
        nearest = now if self._holding else math.inf
        for link in list(self._limited):
            if link.deadline <= now:
                link.expire(now)
                self._update(link)
            nearest = min(nearest, link.deadline)
        return None if nearest == math.inf else max(0.0, nearest - now)

    def _attend(self, link: Link, now: float) -> None:
        deadline = link.deadline
        try:
            link.pump(now)
            self._update(link)
        except Exception:
            self._on_defect()
            link.lose("response cut off: a defect of the server")
            self._limited.discard(link)
            self._watch(link, 0, 0)
        if link.holds_input():
            self._holding.add(link)
        else:
            self._holding.discard(link)
        # A deadline or input that another thread has found: the thread has to wait for less.
        news = link.deadline < deadline or link in self._holding
        if news and self._waker is not None and threading.get_ident() != self._thread:
            self._waker.wake()

    def _update(self, link: Link) -> None:
        self._watch(link, *link.interest())
        if link.deadline == math.inf:
            self._limited.discard(link)
        else:
            self._limited.add(link)

    def _watch(self, link: Link, client: int, application: int) -> None:
        """Have the selector watch what has changed of a link."""
        selector = self._selector
        if selector is None:
            return
        for descriptor, events in (
            (link.client.descriptor, client),
            (link.application.fileno(), application),
        ):
            before = link.watched.get(descriptor, 0)
            if events == before or descriptor < 0:
                continue
            link.watched[descriptor] = events
            if not before:
                selector.register(descriptor, events, link)
            elif events:
                selector.modify(descriptor, events, link)
            else:
                selector.unregister(descriptor)
