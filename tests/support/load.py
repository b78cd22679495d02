"""A load that counts exactly how each of its requests ends.

Some clients keep their connections and others open one for each request. Every request has a
number of its own, which the answer has to begin with, and every answer is read whole. What the
server did not announce (`Connection: close`) is a loss: nothing is tried again in silence.

The clients share one thread and one selector, so that a request is never late for want of a thread.
"""

from __future__ import annotations

import errno
import itertools
import selectors
import socket
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Self

from support.wire import Response, parse_field, parse_head

ANSWER_WITHIN = 20.0
"""Seconds that an answer may take; after that it counts as lost."""

AT_MOST = 60.0
"""Seconds after which a load stops by itself: a test that failed must not go on for ever."""

RETRY_AFTER = 0.01
"""Seconds until a client that was refused asks again."""

MOST_EXAMPLES = 5
"""Losses that are described in full."""

MOST_SEEN = 300
"""Bytes of a broken answer that are kept."""

Address = tuple[str, int] | str


class Ending(Enum):
    """How a request that was not answered as it should be came to its end."""

    SERVER_ERROR = "was answered with a server's error"
    WRONG = "got a wrong answer"
    BROKEN = "got a broken response"
    ENDED = "ended without a response, on a new connection"
    RACED = "ended without a response, on a connection that had been kept open"
    TIMEOUT = "had no answer in time"


@dataclass(frozen=True)
class Asked:
    """A request as it is sent, and what its answer has to begin with."""

    target: str
    data: bytes
    answer: bytes


@dataclass(frozen=True)
class Loss:
    """A request that was lost."""

    ending: Ending
    target: str
    at: float
    """Seconds on the monotonic clock."""
    port: int
    """The client's; 0 for a unix socket."""
    earlier: int
    """Answers on the same connection before."""
    server: str
    """What the last of them said of its server; empty on a new connection."""
    why: str
    seen: bytes
    """What had come of the answer."""

    def __str__(self) -> str:
        return (
            f"{self.target} {self.ending.value} ({self.why}; port {self.port}, after "
            f"{self.earlier} answers of {self.server!r}, seen {self.seen!r})"
        )


@dataclass
class Counts:
    """How all requests ended. The load's thread writes; any thread may read the numbers."""

    answered: int = 0
    refused: int = 0
    """Connections that were never accepted; their requests have not been sent."""
    announced: int = 0
    """Answers with `Connection: close` on connections that the client would have kept."""
    closed_idle: int = 0
    """Kept connections that the server had closed before the client wanted to use them again."""
    connections: int = 0
    losses: list[Loss] = field(default_factory=list)
    servers: Counter[str] = field(default_factory=Counter)
    """How many answers each server gave: what follows the number in an answer."""
    slowest: float = 0.0
    """Seconds of the longest wait for an answer."""

    def of(self, ending: Ending) -> int:
        """Return how many requests ended so."""
        return sum(loss.ending is ending for loss in self.losses)

    def check(self) -> None:
        """Fail where anything at all was lost."""
        told = "\n".join(map(str, self.losses[:MOST_EXAMPLES]))
        assert not self.losses, f"{len(self.losses)} lost, {self.answered} answered:\n{told}"

    def __str__(self) -> str:
        kinds = Counter(loss.ending.name for loss in self.losses)
        return (
            f"{self.answered} answered on {self.connections} connections, {dict(kinds)} lost, "
            f"{self.refused} refused, {self.announced} announced to be the last, "
            f"{self.closed_idle} closed while idle, {self.slowest:.3f} s at most"
        )


def mixture(number: int) -> Asked:
    """Return mostly small requests, with some uploads and some streamed answers among them."""
    if number % 16 == 5:
        return upload(number, number % 3 * 40_000)
    if number % 16 == 11:
        return plain(number, "/pieces")
    return plain(number)


def plain(number: int, path: str = "/echo") -> Asked:
    """Return a GET whose answer begins with the number."""
    return _asked("GET", f"{path}?{number}", b"", b"%d " % number)


def upload(number: int, size: int) -> Asked:
    """Return a POST whose answer begins with the number and the checksum of its body."""
    body = (b"%d." % number) * (size // len(b"%d." % number) + 1)
    return _asked("POST", f"/upload?{number}", body, b"%d:%08x " % (number, zlib.crc32(body)))


def _asked(method: str, target: str, body: bytes, answer: bytes) -> Asked:
    length = f"Content-Length: {len(body)}\r\n" if method == "POST" else ""
    head = f"{method} {target} HTTP/1.1\r\nHost: load\r\n{length}"
    return Asked(target, head.encode() + b"\r\n" + body, answer)


class BrokenResponse(Exception):
    """What came is no response, or more or less than one."""


def take_response(buffer: bytearray, *, ended: bool = False) -> Response | None:
    """Take a whole response from the beginning of the buffer; None while some of it is missing.

    ``ended`` says that nothing more will come. Raises `BrokenResponse`.
    """
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    try:
        response = parse_head(bytes(buffer[: end + 4]))
        if response.header("Transfer-Encoding") == "chunked":
            size = _take_chunks(buffer, end + 4, response)
        elif (length := response.header("Content-Length")) is not None:
            size = end + 4 + int(length)
            response.body = bytes(buffer[end + 4 : size])
        else:
            size = len(buffer) if ended else None
            response.body = bytes(buffer[end + 4 :])
    except (AssertionError, ValueError) as error:
        raise BrokenResponse(repr(error)) from None
    if size is None or len(buffer) < size:
        return None
    del buffer[:size]
    return response


def _take_chunks(buffer: bytearray, start: int, response: Response) -> int | None:
    """Decode a chunked body (RFC 9112, section 7.1); return where it ends, None if not yet."""
    blocks: list[bytes] = []
    while (line := buffer.find(b"\r\n", start)) >= 0:
        size = int(bytes(buffer[start:line]), 16)
        start = line + 2
        if size == 0:
            while (line := buffer.find(b"\r\n", start)) > start:
                response.trailers.append(parse_field(bytes(buffer[start:line])))
                start = line + 2
            response.body = b"".join(blocks)
            return None if line < 0 else line + 2
        if len(buffer) < start + size + 2:
            return None
        assert buffer[start + size : start + size + 2] == b"\r\n", "no line end after a chunk"
        blocks.append(bytes(buffer[start : start + size]))
        start += size + 2
    return None


class Load:
    """Clients that ask as fast as they are answered, from `start` until `stop`.

    Used as ``with Load(address, keep_alive=8, closing=4) as load:``; the block's end stops it.
    """

    def __init__(
        self,
        address: Address,
        *,
        keep_alive: int = 8,
        closing: int = 4,
        pause: float = 0.0,
        ask: Callable[[int], Asked] = mixture,
        until_refused: bool = False,
        answer_within: float = ANSWER_WITHIN,
        at_most: float = AT_MOST,
    ) -> None:
        """Take the number of clients of each kind.

        ``pause`` is how many seconds a client rests after an answer; with ``until_refused`` it
        stops when it is refused, instead of asking again; the last two are in seconds.
        """
        self.counts = Counts()
        self.address = address
        self.ask = ask
        self.pause = pause
        self.until_refused = until_refused
        self.answer_within = answer_within
        self.numbers = itertools.count(1)
        self.selector = selectors.DefaultSelector()
        self._clients = [_Client(self, True) for _ in range(keep_alive)]
        self._clients += [_Client(self, False) for _ in range(closing)]
        self._at_most = at_most
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self._trouble: BaseException | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> Counts:
        """Wait for the answers to what has been sent, and send no more."""
        self._stop.set()
        self._thread.join(self.answer_within + 10)
        assert not self._thread.is_alive(), "the load does not end"
        if self._trouble is not None:
            raise self._trouble
        return self.counts

    def join(self, within: float = 30.0) -> Counts:
        """Wait until every client has left because it was refused."""
        self._thread.join(within)
        return self.stop()

    @property
    def is_alive(self) -> bool:
        """Whether it goes on."""
        return self._thread.is_alive()

    def wait_for(self, answers: int, within: float = 30.0) -> None:
        """Wait until this many more requests are answered."""
        wanted = self.counts.answered + answers
        self.wait_until(lambda: self.counts.answered >= wanted, within)

    def wait_until(self, condition: Callable[[], object], within: float = 30.0) -> None:
        """Wait until a condition holds while the load goes on."""
        end = time.monotonic() + within
        pause = threading.Event()
        while not condition():
            assert self._thread.is_alive(), f"the load has ended: {self.counts} {self._trouble!r}"
            assert time.monotonic() < end, f"the condition did not hold in time: {self.counts}"
            pause.wait(0.005)

    def _run(self) -> None:
        try:
            self._loop()
        except BaseException as error:
            self._trouble = error
        finally:
            for client in self._clients:
                client.close()
            self.selector.close()

    def _loop(self) -> None:
        end = time.monotonic() + self._at_most
        while True:
            now = time.monotonic()
            stopping = self._stop.is_set() or now > end
            for client in self._clients:
                client.look(now, stopping)
            if not any(client.asked or client.due < float("inf") for client in self._clients):
                return
            for key, _ in self.selector.select(0.01):
                key.data.on_event()


class _Client:
    """One client, with one connection at a time. The load's thread alone uses it."""

    def __init__(self, load: Load, keep_alive: bool) -> None:
        self._load = load
        self._keep_alive = keep_alive
        self.due = 0.0
        """When it asks next, on the monotonic clock; infinite when it never will."""
        self.asked: Asked | None = None
        self._socket: socket.socket | None = None
        self._connecting = False
        self._earlier = 0
        self._server = ""
        self._port = 0
        self._out = memoryview(b"")
        self._in = bytearray()
        self._since = 0.0

    def look(self, now: float, stopping: bool) -> None:
        """Ask what is due, and give up what is overdue."""
        if self.asked is not None:
            if now - self._since > self._load.answer_within:
                self._lost(Ending.TIMEOUT, f"{self._load.answer_within} s")
        elif stopping:
            self.due = float("inf")
        elif self.due <= now:
            self._begin(now)

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._load.selector.unregister(self._socket)
            self._socket.close()
            self._socket = None
        self._in.clear()
        self._earlier = 0
        self._server = ""

    def on_event(self) -> None:
        """Go on with what the socket is ready for."""
        assert self._socket is not None
        if self.asked is None:
            return
        try:
            if self._connecting and not self._connected():
                return
            if self._out:
                self._send()
            self._receive()
        except BlockingIOError:
            pass
        except (ConnectionError, TimeoutError) as error:
            self._over(error)

    def _begin(self, now: float) -> None:
        if self._socket is not None and self._was_closed():
            self.close()
        asked = self._load.ask(next(self._load.numbers))
        data = asked.data
        if not self._keep_alive:
            data = data.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
        self.asked, self._out, self._since = asked, memoryview(data), now
        if self._socket is None:
            self._connect()
        if self._socket is not None and not self._connecting:
            self._watch(selectors.EVENT_READ | selectors.EVENT_WRITE)
            self.on_event()

    def _was_closed(self) -> bool:
        """Return True if the server has closed a connection that is idle."""
        assert self._socket is not None
        try:
            early = self._socket.recv(MOST_SEEN, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except ConnectionError:
            early = b""
        if early:
            self.asked = Asked("(nothing)", b"", b"")
            self._in += early
            self._lost(Ending.BROKEN, "bytes without a request")
        else:
            self._load.counts.closed_idle += 1
        return True

    def _connect(self) -> None:
        address = self._load.address
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        connection = socket.socket(family, socket.SOCK_STREAM)
        connection.setblocking(False)
        self._socket, self._connecting = connection, True
        self._load.selector.register(connection, selectors.EVENT_WRITE, self)
        code = connection.connect_ex(address)
        if code not in (0, errno.EINPROGRESS):
            self._over(OSError(code, errno.errorcode.get(code, "")))

    def _connected(self) -> bool:
        """Return True if the connection is made; otherwise count the failure."""
        assert self._socket is not None
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._over(OSError(code, errno.errorcode.get(code, "")))
            return False
        self._connecting = False
        self._load.counts.connections += 1
        if self._socket.family != socket.AF_UNIX:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._port = self._socket.getsockname()[1]
        return True

    def _watch(self, events: int) -> None:
        assert self._socket is not None
        self._load.selector.modify(self._socket, events, self)

    def _send(self) -> None:
        assert self._socket is not None
        sent = self._socket.send(self._out)
        self._out = self._out[sent:]
        self._watch(selectors.EVENT_READ | (selectors.EVENT_WRITE if self._out else 0))

    def _receive(self) -> None:
        assert self._socket is not None
        data = self._socket.recv(1 << 18)
        self._in += data
        try:
            response = take_response(self._in, ended=not data)
        except BrokenResponse as error:
            self._lost(Ending.BROKEN, str(error))
            return
        if response is not None:
            self._answered(response)
        elif not data:
            self._over(EOFError("closed"))

    def _answered(self, response: Response) -> None:
        asked, counts = self.asked, self._load.counts
        assert asked is not None
        seen = f"{response.status} ".encode() + response.body[:MOST_SEEN]
        if self._in:
            self._lost(Ending.BROKEN, f"{len(self._in)} bytes too many", seen)
        elif response.status >= 500:
            self._lost(Ending.SERVER_ERROR, response.reason, seen)
        elif response.status != 200 or not response.body.startswith(asked.answer):
            self._lost(Ending.WRONG, f"instead of {asked.answer!r}", seen)
        elif self._out:
            self._lost(Ending.WRONG, "answered before it was sent", seen)
        else:
            now = time.monotonic()
            counts.answered += 1
            counts.slowest = max(counts.slowest, now - self._since)
            self._server = response.body[len(asked.answer) - 1 :].rpartition(b" ")[2].decode()
            counts.servers[self._server] += 1
            self._earlier += 1
            self._rest(now, response.header("Connection") == "close")

    def _rest(self, now: float, last: bool) -> None:
        self.asked = None
        self.due = now + self._load.pause
        if last and self._keep_alive:
            self._load.counts.announced += 1
        if last or not self._keep_alive:
            self.close()

    def _over(self, error: Exception) -> None:
        """The connection is at its end, and the answer is not there."""
        if self._connecting and getattr(error, "errno", 0) in _NEVER_ACCEPTED:
            self._load.counts.refused += 1
            self.close()
            self.asked = None
            forever = self._load.until_refused and error.errno != errno.EAGAIN  # type: ignore[attr-defined]
            self.due = float("inf") if forever else time.monotonic() + RETRY_AFTER
            return
        ending = Ending.RACED if self._earlier else Ending.ENDED
        self._lost(Ending.BROKEN if self._in else ending, repr(error))

    def _lost(self, ending: Ending, why: str, seen: bytes | None = None) -> None:
        assert self.asked is not None
        self._load.counts.losses.append(
            Loss(
                ending=ending,
                target=self.asked.target,
                at=time.monotonic(),
                port=self._port,
                earlier=self._earlier,
                server=self._server,
                why=why,
                seen=bytes(self._in[:MOST_SEEN]) if seen is None else seen,
            )
        )
        self.close()
        self.asked = None
        self.due = time.monotonic() + RETRY_AFTER


_NEVER_ACCEPTED = (errno.ECONNREFUSED, errno.EAGAIN, errno.ENOENT)
"""No process listens, the queue of a unix socket is full, its file is not there."""
