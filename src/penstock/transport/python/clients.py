"""What one client may have of a worker: connections, and requests by time."""

from __future__ import annotations

import time
from math import ceil
from typing import TYPE_CHECKING

from penstock.edge.client import client_of, key_of
from penstock.telemetry.scoreboard import CLIENT_CONNECTIONS, CLIENT_RATE, DENIED
from penstock.transport.decisions import client_has_room

if TYPE_CHECKING:
    from penstock.edge.rate_limit import RateLimit, RateTable
    from penstock.telemetry.scoreboard import Slot
    from penstock.transport.config import TransportConfig

NO_ADDRESS = 0
"""The client of all without an address: of unix sockets, and those that a proxy does not name."""


def share_key(address: str) -> int:
    """Return the client by which what the server can do is shared; ``address`` may be empty."""
    client = client_of(address)
    return NO_ADDRESS if client is None else key_of(client)


def named(address: str, port: str) -> bytes:
    """Return a client's address and port as the scoreboard shows them; empty for a unix socket."""
    return f"{address}:{port}".encode("latin-1") if address and port else address.encode("latin-1")


class Clients:
    """Who may connect, and how many connections each client has. Only the leader touches it."""

    def __init__(self, config: TransportConfig, slot: Slot) -> None:
        self._config = config
        self._words = slot.words
        self._connections: dict[int, int] = {}

    def admit(self, peer: str) -> tuple[bool, int | None]:
        """Return whether a new connection is kept, and the key under which it is counted.

        The key is to be given to `leave`; None where connections are not counted.
        """
        config = self._config
        if config.networks is None and not config.max_connections_per_client:
            return True, None
        client = client_of(peer)
        if config.networks is not None and not config.networks.admits(client):
            self._words[DENIED] += 1
            return False, None
        if client is None or not config.max_connections_per_client:
            return True, None
        if config.forwarded.peers.trusts(peer):
            return True, None  # the connections of a proxy are of all its clients
        key = key_of(client)
        count = self._connections.get(key, 0)
        if not client_has_room(config, count):
            self._words[CLIENT_CONNECTIONS] += 1
            return False, None
        self._connections[key] = count + 1
        return True, key

    def leave(self, key: int) -> None:
        """Take note that a connection is closed."""
        count = self._connections.pop(key) - 1
        if count:
            self._connections[key] = count


class ClientRate:
    """How many requests each client sends, among those of all workers. For the leader."""

    def __init__(self, limit: RateLimit, table: RateTable, slot: Slot) -> None:
        self._limit = limit
        self._table = table
        self._words = slot.words

    def take(self, peer: str) -> int:
        """Count a request; return 0, or in how many seconds the client may ask again."""
        client = client_of(peer)
        if client is None:
            return 0
        wait = self._table.take(self._limit, key_of(client), time.monotonic_ns())
        if not wait:
            return 0
        self._words[CLIENT_RATE] += 1
        return max(1, ceil(wait / 1e9))
