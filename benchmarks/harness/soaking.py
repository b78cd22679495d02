"""The soak's client: good, bad and aborted requests, and whether each was answered as it has to be.

A client is a process of its own. It goes round: a batch of pipelined requests on each of its
connections, then a few requests of every other kind, each on a connection of its own.
"""

from __future__ import annotations

import itertools
import random
import socket
import struct
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Concatenate, ParamSpec

from applications_soak import LARGE, PIECES
from harness.servers import HOST

P = ParamSpec("P")

CONNECTIONS = 16
PIPELINED = 16
ANSWER_SECONDS = 20.0
"""An answer that takes longer counts as lost."""
MOST_FAILURES = 100
"""Failures after which more would teach nothing."""
EXAMPLES = 3
"""Failures of each kind that are described in full."""

FIELDS = (
    b"Host: localhost\r\nUser-Agent: soak\r\nAccept: */*\r\n"
    b"Cookie: session=7d1c9e5ab3f04826\r\n\r\n"
)
CLOSE_WITH_RESET = struct.pack("ii", 1, 0)

BAD = (
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nbad field: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n folded: x\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
    b"GET /" + b"y" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/3.0\r\nHost: a\r\n\r\n",
)
"""Each is answered with a status of 400 or more, and the connection is closed."""

ABORTED = (
    b"",
    b"GET /echo?1 HT",
    b"GET /echo?1 HTTP/1.1\r\nHost: local",
    b"POST /checksum HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + b"x" * 70_000,
    b"POST /checksum HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /echo?1 HTTP/1.1\r\nHost: a\r\n\r\n" * 8,
    b"GET /pieces?1 HTTP/1.1\r\nHost: a\r\n\r\n",
)
"""After each the client goes away, with a reset or without, and waits for nothing."""


class Lost(Exception):
    """A request was not answered, or not as it has to be; the text says how."""


@dataclass
class Tally:
    """What one client has seen."""

    good: int = 0
    bad: int = 0
    aborted: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    @property
    def requests(self) -> int:
        return self.good + self.bad + self.aborted

    def failed(self, kind: str, why: Exception) -> None:
        """Count a failure, and keep some whole."""
        self.failures[kind] += 1
        if self.failures[kind] <= EXAMPLES:
            self.examples.append(f"{kind}: {why}")

    def add(self, other: Tally) -> None:
        """Add what another client has seen."""
        self.good += other.good
        self.bad += other.bad
        self.aborted += other.aborted
        self.failures += other.failures
        self.examples += other.examples


def soak(
    port: int, requests: int, seconds: float, seed: int, tell: Callable[[Tally], None]
) -> None:
    """Send this many requests, or as many as fit into the time; report each round."""
    choice = random.Random(seed)
    bad, aborted = itertools.cycle(BAD), itertools.cycle(ABORTED)
    numbers = itertools.count(choice.randrange(1 << 20))
    end = time.monotonic() + seconds
    sent = failures = 0
    pool = Pool(port)
    try:
        while sent < requests and failures < MOST_FAILURES and time.monotonic() < end:
            tally = Tally()
            _try(tally, "pipelined", pool.ask, numbers)
            _try(tally, "body", _bodies, port, choice)
            _try(tally, "pieces", _pieces, port, next(numbers))
            _try(tally, "large", _large, port)
            if choice.random() < 0.1:  # each writes a traceback into the log
                _try(tally, "defect", _defect, port)
            for _ in range(8):
                _try(tally, "bad", _bad, port, next(bad))
                _try(tally, "abort", _abort, port, next(aborted), choice)
            sent += tally.requests
            failures += sum(tally.failures.values())
            tell(tally)
    finally:
        pool.close()


def _try(
    tally: Tally,
    kind: str,
    step: Callable[Concatenate[Tally, P], None],
    *args: P.args,
    **kwargs: P.kwargs,
) -> None:
    try:
        step(tally, *args, **kwargs)
    except (Lost, OSError) as error:
        tally.failed(kind, error)


class Pool:
    """Keep-alive connections with pipelined requests, whose answers all look like the first one."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.connections: list[socket.socket] = []
        self.head = b""
        """What comes before each body, with the time cut out of its Date."""
        self.date = slice(0, 0)

    def ask(self, tally: Tally, numbers: Iterator[int]) -> None:
        """Send a batch on each connection, and check the answers to all."""
        while len(self.connections) < CONNECTIONS:
            self.connections.append(_connect(self.port))
        if not self.head:
            self._learn(tally)
        try:
            asked = []
            for connection in self.connections:
                batch = [b"%08d" % (next(numbers) % 10**8) for _ in range(PIPELINED)]
                lines = (b"GET /echo?" + number + b" HTTP/1.1\r\n" + FIELDS for number in batch)
                connection.sendall(b"".join(lines))
                asked.append(batch)
            for connection, batch in zip(self.connections, asked, strict=True):
                self._check(connection, batch)
                tally.good += len(batch)
        except (OSError, Lost):
            self.close()  # what is left of this round would be taken for answers of the next
            raise

    def close(self) -> None:
        """Close all connections."""
        while self.connections:
            self.connections.pop().close()

    def _learn(self, tally: Tally) -> None:
        connection = self.connections[0]
        connection.sendall(b"GET /echo?00000000 HTTP/1.1\r\n" + FIELDS)
        answer = _until(connection, b"\r\n\r\n00000000")
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise Lost(f"answered {answer[:60]!r}")
        start = answer.index(b"\r\nDate: ") + len(b"\r\nDate: ")
        self.date = slice(start, answer.index(b"\r\n", start))
        self.head = self._without_date(answer[:-8])
        tally.good += 1

    def _without_date(self, head: bytes) -> bytes:
        return head[: self.date.start] + head[self.date.stop :]

    def _check(self, connection: socket.socket, batch: list[bytes]) -> None:
        head_size = len(self.head) + self.date.stop - self.date.start
        size = head_size + 8
        answers = _exactly(connection, size * len(batch))
        for number, start in zip(batch, range(0, len(answers), size), strict=True):
            head, body = answers[start : start + head_size], answers[start + head_size :][:8]
            if body != number or self._without_date(head) != self.head:
                raise Lost(f"{number!r} was answered {head + body!r}")


def _bodies(tally: Tally, port: int, choice: random.Random) -> None:
    """Post bodies, short and spooled, with a length and in chunks, one after the other."""
    with _connect(port) as connection:
        for size in (choice.randrange(1, 1000), choice.randrange(60_000, 200_000)):
            body = choice.randbytes(size)
            parts = (body[: size // 2], body[size // 2 :])
            chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts if part)
            framed = (
                b"Content-Length: %d\r\n" % size + FIELDS + body,
                b"Transfer-Encoding: chunked\r\n" + FIELDS + chunks + b"0\r\n\r\n",
            )
            for message in framed:
                connection.sendall(b"POST /checksum HTTP/1.1\r\n" + message)
                _until(connection, b"\r\n\r\n%08x" % zlib.crc32(body))
                tally.good += 1


def _pieces(tally: Tally, port: int, number: int) -> None:
    with _connect(port) as connection:
        connection.sendall(b"GET /pieces?%08d HTTP/1.1\r\n" % number + FIELDS)
        answer = _until(connection, b"\r\n0\r\n\r\n")
        if answer.count(b"\r\n8\r\n%08d" % number) != PIECES:
            raise Lost(f"answered {answer[:300]!r}")
        tally.good += 1


def _large(tally: Tally, port: int) -> None:
    with _connect(port) as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nConnection: close\r\n" + FIELDS)
        head, _, body = _until_closed(connection).partition(b"\r\n\r\n")
        if body != LARGE:
            raise Lost(f"{len(body)} bytes of {len(LARGE)} came after {head!r}")
        tally.good += 1


def _defect(tally: Tally, port: int) -> None:
    with _connect(port) as connection:
        connection.sendall(b"GET /fail HTTP/1.1\r\nConnection: close\r\n" + FIELDS)
        answer = _until_closed(connection)
        if not answer.startswith(b"HTTP/1.1 500 "):
            raise Lost(f"answered {answer[:60]!r}")
        tally.good += 1


def _bad(tally: Tally, port: int, message: bytes) -> None:
    with _connect(port) as connection:
        connection.sendall(message)
        answer = _until_closed(connection)
        if not answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5")):
            raise Lost(f"{message[:60]!r} was answered {answer[:60]!r}")
        tally.bad += 1


def _abort(tally: Tally, port: int, message: bytes, choice: random.Random) -> None:
    with _connect(port) as connection:
        # The server may be the first to give up; that is no loss.
        with suppress(ConnectionError):
            connection.sendall(message)
        if choice.random() < 0.5:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, CLOSE_WITH_RESET)
    tally.aborted += 1


def _connect(port: int) -> socket.socket:
    return socket.create_connection((HOST, port), ANSWER_SECONDS)


def _exactly(connection: socket.socket, size: int) -> bytes:
    blocks = []
    while size > 0:
        block = connection.recv(min(size, 1 << 18))
        if not block:
            raise Lost(f"the connection was closed with {size} bytes missing")
        size -= len(block)
        blocks.append(block)
    return b"".join(blocks)


def _until(connection: socket.socket, end: bytes) -> bytes:
    answer = b""
    while not answer.endswith(end):
        block = connection.recv(1 << 18)
        if not block:
            raise Lost(f"the connection was closed after {answer[:300]!r}")
        answer += block
        if len(answer) > 1 << 16:
            raise Lost(f"no end in {answer[:300]!r}")
    return answer


def _until_closed(connection: socket.socket) -> bytes:
    blocks = []
    while block := connection.recv(1 << 18):
        blocks.append(block)
    return b"".join(blocks)
