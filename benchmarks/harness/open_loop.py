"""An open load: requests arrive when they arrive, whether or not the server keeps up.

Each request is a client of its own: it connects, asks, waits for as long as its patience lasts, and
leaves. The times between arrivals are exponential (a Poisson process), from a seed, so that every
server gets the same arrivals. A closed load, as wrk makes it, slows down with the server, and so
cannot show overload.
"""

from __future__ import annotations

import errno
import heapq
import random
import select
import socket
import struct
import time
from dataclasses import dataclass, field

SOURCES = 200
"""Clients come from this many addresses of the loopback network, 127.0.1.1 and on: one address has
too few ports for all connections of a minute."""
MOST_OPEN = 15_000
"""Clients at a time; one that finds no place counts as failed."""
RECEIVE_BYTES = 65536
IP_BIND_ADDRESS_NO_PORT = 24
RESET = struct.pack("ii", 1, 0)
PROBE_SECONDS = 0.05
"""How often the health check is asked for, over one connection of its own."""
PROBE_PATIENCE_SECONDS = 5.0


@dataclass(frozen=True)
class Arrivals:
    """What arrives: clients a second, for how long, what they ask and how long they wait."""

    rate: float
    seconds: float
    patience: float
    path: str
    seed: int = 1


@dataclass
class Outcome:
    """What became of the clients that arrived after the warm-up. Times are seconds."""

    seconds: float = 0.0
    sent: int = 0
    useful: list[float] = field(default_factory=list)
    """How long each client waited that got a 200 within its patience."""
    shed: list[float] = field(default_factory=list)
    """How long each client waited that got a 503 or 429."""
    left: int = 0
    """Clients whose patience ended."""
    failed: int = 0
    """Clients that got a reset, or anything else."""
    late: float = 0.0
    """By how much the load was late at most: the figures count where this is small."""
    probes: list[float] = field(default_factory=list)
    """How long each health check took; the patience of a check where it had no answer."""

    @property
    def goodput(self) -> float:
        """Return useful answers a second."""
        return len(self.useful) / self.seconds if self.seconds else 0.0


class _Client:
    __slots__ = ("counts", "data", "sent_at", "socket")

    def __init__(self, connection: socket.socket, sent_at: float, counts: bool) -> None:
        self.socket = connection
        self.sent_at = sent_at
        self.counts = counts
        self.data = b""


class OpenLoop:
    """Sends the arrivals to one address, and probes its health check meanwhile."""

    def __init__(self, host: str, port: int, arrivals: Arrivals, probe: str | None) -> None:
        """Prepare; ``probe`` is the path of the health check, None without one."""
        self._address = (host, port)
        self._arrivals = arrivals
        self._request = f"GET {arrivals.path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        self._probe_request = f"GET {probe} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        self._has_probe = probe is not None
        self._random = random.Random(arrivals.seed)
        self._epoll = select.epoll()
        self._clients: dict[int, _Client] = {}
        self._leaving: list[tuple[float, int, _Client]] = []
        self._count = 0
        self._prober: socket.socket | None = None
        self._probed_at = 0.0
        self.outcome = Outcome()

    def run(self, warm_up: float) -> Outcome:
        """Send everything, and return what became of it. The first ``warm_up`` seconds are extra.

        Raises nothing for what the server does.
        """
        arrivals, outcome = self._arrivals, self.outcome
        began = time.monotonic()
        counted_from, counted_to = began + warm_up, began + warm_up + arrivals.seconds
        # The load lasts until the last client that counts has its answer or has left: a server must
        # not look better because it empties its queue behind the load.
        ends_at = counted_to + arrivals.patience
        outcome.seconds = arrivals.seconds
        due, next_probe = began, began
        while True:
            now = time.monotonic()
            while due <= now and due < ends_at:
                counts = counted_from <= due < counted_to
                if counts:
                    outcome.late = max(outcome.late, now - due)
                self._arrive(due, counts)
                due += self._random.expovariate(arrivals.rate)
            while self._leaving and self._leaving[0][0] <= now:
                self._give_up(heapq.heappop(self._leaving)[2])
            if self._has_probe and now >= next_probe and now < ends_at:
                next_probe = now + PROBE_SECONDS
                self._probe(now, now >= counted_from)
            if now >= ends_at and not self._clients:
                break
            wait = min(due if now < ends_at else now + 0.1, next_probe if now < ends_at else 1e18)
            if self._leaving:
                wait = min(wait, self._leaving[0][0])
            for descriptor, events in self._epoll.poll(max(0.0, wait - now), 256):
                if self._prober is not None and descriptor == self._prober.fileno():
                    self._probe_answered(counted_from)
                elif client := self._clients.get(descriptor):
                    self._ready(client, events)
        self._drop_prober()
        self._epoll.close()
        return outcome

    # -- the clients ------------------------------------------------------------------------------

    def _arrive(self, due: float, counts: bool) -> None:
        self._count += 1
        self.outcome.sent += counts
        if len(self._clients) >= MOST_OPEN:
            self.outcome.failed += counts
            return
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        connection.setsockopt(socket.SOL_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        connection.bind((f"127.0.1.{1 + self._count % SOURCES}", 0))
        status = connection.connect_ex(self._address)
        if status not in (0, errno.EINPROGRESS):
            connection.close()
            self.outcome.failed += counts
            return
        # Patience counts from the moment at which the client should have sent: a load that is late
        # itself must not make a server look better.
        client = _Client(connection, due, counts)
        self._clients[connection.fileno()] = client
        self._epoll.register(connection.fileno(), select.EPOLLOUT)
        heapq.heappush(self._leaving, (due + self._arrivals.patience, self._count, client))

    def _ready(self, client: _Client, events: int) -> None:
        try:
            if events & select.EPOLLOUT:
                client.socket.send(self._request.encode())
                self._epoll.modify(client.socket.fileno(), select.EPOLLIN)
                return
            block = client.socket.recv(RECEIVE_BYTES)
        except OSError:
            self._end(client, None)
            return
        client.data += block
        if not block or b"\r\n\r\n" in client.data:
            self._end(client, client.data[9:12])

    def _end(self, client: _Client, status: bytes | None) -> None:
        took = time.monotonic() - client.sent_at
        if client.counts:
            if status == b"200":
                self.outcome.useful.append(took)
            elif status in (b"503", b"429"):
                self.outcome.shed.append(took)
            else:
                self.outcome.failed += 1
        # A reset leaves no port behind in TIME_WAIT; everything of interest has been read.
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._close(client)

    def _give_up(self, client: _Client) -> None:
        """Leave as a browser does whose user has closed the page: the kernel sends FIN."""
        if client.socket.fileno() < 0:
            return
        self.outcome.left += client.counts
        self._close(client)

    def _close(self, client: _Client) -> None:
        del self._clients[client.socket.fileno()]
        client.socket.close()

    # -- the health check -------------------------------------------------------------------------

    def _probe(self, now: float, counts: bool) -> None:
        if self._probed_at:
            if now - self._probed_at < PROBE_PATIENCE_SECONDS:
                return  # the one before has no answer yet
            if counts:
                self.outcome.probes.append(PROBE_PATIENCE_SECONDS)
            self._drop_prober()
        try:
            if self._prober is None:
                self._prober = socket.create_connection(self._address, 1.0)
                self._prober.setblocking(False)
                self._epoll.register(self._prober.fileno(), select.EPOLLIN)
            self._prober.send(self._probe_request)
            self._probed_at = now
        except OSError:
            self._drop_prober()
            if counts:
                self.outcome.probes.append(PROBE_PATIENCE_SECONDS)

    def _probe_answered(self, counted_from: float) -> None:
        assert self._prober is not None
        try:
            data = self._prober.recv(RECEIVE_BYTES)
        except OSError:
            data = b""
        if data and self._probed_at >= counted_from:
            good = data[9:12] == b"200"
            took = time.monotonic() - self._probed_at
            self.outcome.probes.append(took if good else PROBE_PATIENCE_SECONDS)
        self._probed_at = 0.0
        if not data:
            self._drop_prober()

    def _drop_prober(self) -> None:
        if self._prober is not None:
            self._prober.close()
        self._prober, self._probed_at = None, 0.0
