"""Hostile clients: many connections that hold, flood or break, from one process with a bound.

The attacker has half a processor core and 20 Mbit/s, whatever the attack: what a single cheap
machine can do. It sends from 127.0.2.1 on, to the server under test alone, for a fixed time.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

SOURCES = 50
"""Addresses of the loopback network that connections come from."""
CORE_SHARE = 0.5
BYTES_PER_SECOND = 20_000_000 / 8
BURST_BYTES = 256 << 10
CONNECTS_PER_TURN = 200
IP_BIND_ADDRESS_NO_PORT = 24
RESET = struct.pack("ii", 1, 0)
HELLO_TLS = bytes.fromhex("16030100a5010000a10303") + bytes(range(150))
"""The first bytes of a TLS handshake."""


@dataclass(frozen=True)
class Attack:
    """What each hostile connection does."""

    name: str
    opening: bytes
    """Sent when the connection is made."""
    then: bytes = b""
    """Sent again and again after that."""
    every: float = 0.0
    """Seconds between two sendings of ``then``; 0 is as fast as the bounds allow."""
    reads: bool = True
    """Whether it reads what the server sends."""
    ends: str = ""
    """``half-close`` or ``reset`` after the opening; nothing where it stays."""
    receive_buffer: int = 0
    floods: bool = False
    """Whether it sends as fast as it can; such attacks come on fewer connections."""


def _get(path: str, rest: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: a\r\n{rest}\r\n".encode()


def _post(framing: str) -> bytes:
    return f"POST /take HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n".encode()


ATTACKS = (
    Attack("slow heads", b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b"x", every=5.0),
    Attack("slow bodies", _post("Content-Length: 1000000"), b"x", every=1.0),
    Attack("slow readers", _get("/bytes-1-mib"), reads=False, receive_buffer=4096),
    Attack("idle", _get("/hello")),
    Attack("tiny chunks", _post("Transfer-Encoding: chunked"), b"1\r\nx\r\n" * 20, floods=True),
    Attack("pipelining", b"", _get("/hello") * 20, floods=True),
    Attack("half-closed", b"GET / HTTP/1.1\r\nHost: a\r\n", ends="half-close"),
    Attack("resets", _get("/hello"), ends="reset", floods=True),
    Attack("TLS to a plain port", HELLO_TLS, floods=True),
)


class _Hostile:
    __slots__ = ("due", "opened", "socket", "unsent")

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.opened = False
        self.unsent = b""
        self.due = 0.0


class Attacker:
    """Keeps a number of hostile connections to one address going until a time."""

    def __init__(self, address: tuple[str, int], attack: Attack, connections: int) -> None:
        self._address = address
        self._attack = attack
        self._wanted = connections
        self._epoll = select.epoll()
        self._open: dict[int, _Hostile] = {}
        self._waiting: deque[_Hostile] = deque()
        """Those that send ``then`` at a later time, in the order of these times."""
        self._count = 0
        self._allowance = float(BURST_BYTES)

    def run(self, seconds: float, report: Callable[[int], None]) -> None:
        """Attack; ``report`` gets the number of open connections about once a second."""
        began = before = reported = time.monotonic()
        while (now := time.monotonic()) < began + seconds:
            self._allowance += (now - before) * BYTES_PER_SECOND
            self._allowance = min(self._allowance, BURST_BYTES)
            before = now
            for _ in range(min(CONNECTS_PER_TURN, self._wanted - len(self._open))):
                if not self._connect():
                    break
            for descriptor, events in self._epoll.poll(0.01, 512):
                if hostile := self._open.get(descriptor):
                    self._ready(hostile, events, now)
            while self._waiting and self._waiting[0].due <= now:
                hostile = self._waiting.popleft()
                if hostile.socket.fileno() >= 0:
                    hostile.unsent = hostile.unsent or self._attack.then
                    self._watch(hostile, writing=True)
            if now - reported >= 1.0:
                reported = now
                report(len(self._open))
            # Half a core: after so much computing, as much rest.
            ahead = time.process_time() / CORE_SHARE - (time.monotonic() - began)
            if ahead > 0:
                time.sleep(min(ahead, 0.2))
        for hostile in list(self._open.values()):
            self._close(hostile)
        self._epoll.close()

    def _connect(self) -> bool:
        self._count += 1
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        connection.setsockopt(socket.SOL_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        if self._attack.receive_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._attack.receive_buffer)
        try:
            connection.bind((f"127.0.2.{1 + self._count % SOURCES}", 0))
            status = connection.connect_ex(self._address)
        except OSError:
            status = errno.EADDRNOTAVAIL
        if status not in (0, errno.EINPROGRESS):
            connection.close()
            return False
        hostile = self._open[connection.fileno()] = _Hostile(connection)
        self._epoll.register(connection.fileno(), select.EPOLLOUT)
        hostile.unsent = self._attack.opening or self._attack.then
        return True

    def _ready(self, hostile: _Hostile, events: int, now: float) -> None:
        attack = self._attack
        try:
            if events & (select.EPOLLERR | select.EPOLLHUP):
                raise OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
            if events & select.EPOLLIN and not hostile.socket.recv(65536):
                raise OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
            if not events & select.EPOLLOUT or self._allowance <= 0:
                return
            sent = hostile.socket.send(hostile.unsent)
        except BlockingIOError:
            return
        except OSError:
            self._close(hostile)  # a new one takes its place
            return
        self._allowance -= sent
        hostile.unsent = hostile.unsent[sent:]
        if hostile.unsent:
            return
        if attack.ends == "reset":
            self._close(hostile)
            return
        if attack.ends == "half-close":
            hostile.socket.shutdown(socket.SHUT_WR)
        if not attack.then:
            self._watch(hostile, writing=False)
        elif attack.every:
            hostile.due = now + attack.every
            self._waiting.append(hostile)
            self._watch(hostile, writing=False)
        else:
            hostile.unsent = attack.then

    def _watch(self, hostile: _Hostile, *, writing: bool) -> None:
        events = select.EPOLLIN if self._attack.reads else 0
        self._epoll.modify(hostile.socket.fileno(), events | (select.EPOLLOUT if writing else 0))

    def _close(self, hostile: _Hostile) -> None:
        del self._open[hostile.socket.fileno()]
        hostile.socket.close()
