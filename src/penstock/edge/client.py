"""Who a client is, as a key for what is counted for each client, and which networks may connect.

Native code has the same functions in ``client.rs``; ``tests/edge/test_client.py`` runs one table
on both.
"""

from __future__ import annotations

import socket
from bisect import bisect_right
from collections.abc import Iterable, Sequence

from penstock.records import dataclass

Client = bytes
"""An address: the four bytes of IPv4, or the sixteen of IPv6."""

_MAPPED = bytes(10) + b"\xff\xff"
_IPV4 = 1 << 32


def client_of(peer: str) -> Client | None:
    """Return the client of a connection, whose peer is this address; None for a unix socket.

    This is the one place that decides who the client is.
    """
    if not peer:
        return None
    if ":" not in peer:
        return socket.inet_pton(socket.AF_INET, peer)
    packed = socket.inet_pton(socket.AF_INET6, peer.partition("%")[0])
    # A listener for both families shows IPv4 addresses in this form.
    return packed[12:] if packed.startswith(_MAPPED) else packed


def key_of(client: Client) -> int:
    """Return the 64 bits under which a client is counted: its IPv4 address, or its /64 network.

    A provider gives each customer a /64 of IPv6 at least, of which one computer may use every
    address. The bit above an IPv4 address sets it apart: no network of IPv6 in use begins with 31
    bits of 0.
    """
    if len(client) == 4:
        return _IPV4 | int.from_bytes(client, "big")
    return int.from_bytes(client[:8], "big")


@dataclass(frozen=True, slots=True)
class Ranges:
    """The addresses of a family as ranges: each begins at a start, and ends before the next."""

    starts: Sequence[int]
    """In ascending order; the first is 0."""
    admitted: Sequence[bool]
    """Of each range whether its clients may connect."""

    def admits(self, address: int) -> bool:
        """Return True if a client of this address may connect."""
        return self.admitted[bisect_right(self.starts, address) - 1]


@dataclass(frozen=True, slots=True)
class Networks:
    """Which clients may connect, compiled for the look-up at each accept."""

    ipv4: Ranges
    ipv6: Ranges

    def admits(self, client: Client | None) -> bool:
        """Return True if a client may connect; the clients of a unix socket always may."""
        if client is None:
            return True
        ranges = self.ipv4 if len(client) == 4 else self.ipv6
        return ranges.admits(int.from_bytes(client, "big"))


def compile_networks(allow: Sequence[str], deny: Sequence[str]) -> Networks | None:
    """Return the look-up for networks that may and may not connect; None where all may.

    They are in the form in which the settings have them, which have checked them.
    The smallest network that contains an address decides, and a denied one before an allowed one
    of the same size. Other addresses are admitted unless some networks are allowed.
    """
    if not allow and not deny:
        return None
    verdicts: dict[int, dict[tuple[int, int], bool]] = {32: {}, 128: {}}
    for networks, admitted in ((allow, True), (deny, False)):
        for text in networks:
            first, slash, length = text.partition("/")
            family = socket.AF_INET6 if ":" in first else socket.AF_INET
            packed = socket.inet_pton(family, first)
            bits = 8 * len(packed)
            size = 1 << (bits - int(length)) if slash else 1
            verdicts[bits][int.from_bytes(packed, "big"), size] = admitted
    return Networks(
        ipv4=_ranges(verdicts[32], not allow, 1 << 32),
        ipv6=_ranges(verdicts[128], not allow, 1 << 128),
    )


def _ranges(verdicts: dict[tuple[int, int], bool], others: bool, end: int) -> Ranges:
    """Return the ranges that networks make: of two, one contains the other, or they are apart."""
    starts: list[int] = []
    admitted: list[bool] = []

    def begin(start: int, verdict: bool) -> None:
        if starts and starts[-1] == start:
            starts.pop()
            admitted.pop()
        if not admitted or admitted[-1] != verdict:
            starts.append(start)
            admitted.append(verdict)

    begin(0, others)
    around: list[tuple[int, bool]] = [(end, others)]  # ends and verdicts, the innermost last

    def leave(until: int) -> None:
        while around[-1][0] <= until < end:
            finish, _ = around.pop()
            begin(finish, around[-1][1])

    # Networks are sorted behind those that contain them.
    for (start, size), verdict in sorted(_by_place(verdicts.items())):
        leave(start)
        begin(start, verdict)
        around.append((start - size, verdict))
    while len(around) > 1:
        finish, _ = around.pop()
        if finish < end:
            begin(finish, around[-1][1])
    return Ranges(tuple(starts), tuple(admitted))


def _by_place(
    verdicts: Iterable[tuple[tuple[int, int], bool]],
) -> Iterable[tuple[tuple[int, int], bool]]:
    """Yield the networks with their sizes negated, so that of equal starts the largest is first."""
    for (start, size), verdict in verdicts:
        yield (start, -size), verdict
