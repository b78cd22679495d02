"""Sends metrics to a statsd server, under the names that gunicorn has for them.

The supervisor sends what has been counted since the last time, and no worker sends anything: a
request costs nothing more. The times of requests come from a histogram, so that what is sent of
them is right within the width of a bucket.
"""

from __future__ import annotations

import contextlib
import math
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from penstock.telemetry.histograms import BOUNDS, Histogram

DATAGRAM_BYTES: Final = 1432
"""The most that one datagram has: what an Ethernet frame takes without being cut in pieces."""

DATAGRAMS: Final = 64
"""The most that are sent at once. Some dozens of lines fit into one, and there are some hundreds of
lines at most."""

_LOGS: Final = {
    "log.warning": "log_warnings",
    "log.error": "log_errors",
    "log.exception": "log_exceptions",
    "log.critical": "log_criticals",
}

COUNTS: Final = tuple(_LOGS.values())
"""Which counts are sent."""


class Totals(NamedTuple):
    """What has been counted since the start, and how many there are now."""

    statuses: Mapping[int, int]
    """Requests by status code."""
    durations: Histogram
    """Of all requests."""
    counts: Mapping[str, int]
    """Of `penstock.telemetry.scoreboard.COUNTED`, those of `COUNTS`."""
    workers: int
    """Workers that there are to be."""
    backlog: int | None
    """Connections that wait to be accepted; None where that is not known, or not to be sent."""


class Statsd:
    """Sends to one statsd server. It never waits."""

    def __init__(self, sock: socket.socket, prefix: str = "", tags: str = "") -> None:
        """``sock`` is connected to the server; ``tags`` are DogStatsD's, with commas."""
        self._lead = f"{prefix.rstrip('.')}.gunicorn." if prefix else "gunicorn."
        self._end = f"|#{tags}" if tags else ""
        self._socket = sock
        self._socket.setblocking(False)

    def send(self, before: Totals, now: Totals) -> None:
        """Send what has happened between the two. What cannot be sent now is dropped."""
        for datagram in _datagrams(self.lines(before, now)):
            with contextlib.suppress(OSError):  # no server listens, or the buffer is full
                self._socket.send(datagram)

    def lines(self, before: Totals, now: Totals) -> Iterator[str]:
        """Yield the lines for what has happened between the two."""
        requests = 0
        for code, total in sorted(now.statuses.items()):
            if more := total - before.statuses.get(code, 0):
                requests += more
                yield self._line(f"request.status.{code}", more, "c")
        if requests:
            yield self._line("requests", requests, "c")
        for seconds, number in representatives(before.durations, now.durations):
            # A timer of a sample stands for as many values as the rate says.
            rate = f"|@{1 / number:.9g}" if number > 1 else ""
            yield self._line("request.duration", round(seconds * 1000, 3), f"ms{rate}")
        for name, count in _LOGS.items():
            if more := now.counts[count] - before.counts[count]:
                yield self._line(name, more, "c")
        yield self._line("workers", now.workers, "g")
        if now.backlog is not None:
            yield self._line("backlog", now.backlog, "g")

    def _line(self, name: str, value: float, kind: str) -> str:
        return f"{self._lead}{name}:{value:g}|{kind}{self._end}"

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def representatives(before: Histogram, now: Histogram) -> Iterator[tuple[float, int]]:
    """Yield times in seconds, each with how often it stands for one, between two histograms.

    Times beyond the first bucket are taken to be in the middle of their bucket, and those of the
    first one to have what is left of the sum.
    """
    counts = [new - old for old, new in zip(before.counts, now.counts, strict=True)]
    left = now.seconds - before.seconds
    lower = (0.0, *BOUNDS)
    upper = (*BOUNDS, 2 * BOUNDS[-1])
    found = []
    for begin, end, number in list(zip(lower, upper, counts, strict=True))[1:]:
        middle = math.sqrt(begin * end)
        left -= middle * number
        found.append((middle, number))
    if counts[0] > 0:
        found.insert(0, (min(max(left / counts[0], 0.0), BOUNDS[0]), counts[0]))
    yield from ((seconds, number) for seconds, number in found if number > 0)


def connected(address: str) -> socket.socket:
    """Return a socket of datagrams for ``host:port`` or ``unix:PATH``; may wait for a resolver.

    Raises OSError.
    """
    family: int = socket.AF_UNIX
    place: str | tuple[Any, ...] = address.removeprefix("unix:").removeprefix("//")
    if not address.startswith("unix:"):
        host, _, port = address.rpartition(":")
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)
        family, _, _, _, place = found[0]
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.connect(place)
    except BaseException:
        sock.close()
        raise
    return sock


def _datagrams(lines: Iterable[str]) -> Sequence[bytes]:
    """Return the lines in datagrams, as many in each as it takes."""
    datagrams = [b""]
    for line in lines:
        data = line.encode()
        if datagrams[-1] and len(datagrams[-1]) + 1 + len(data) > DATAGRAM_BYTES:
            datagrams.append(b"")
        datagrams[-1] += b"\n" + data if datagrams[-1] else data
    return [datagram for datagram in datagrams[:DATAGRAMS] if datagram]
