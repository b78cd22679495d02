"""What one turn of the loop does, and which client is next where a turn is not enough.

The tests end each turn after one piece of work, so that every turn is too short. What counts is the
order of the calls. There is one thread, which is with the application until all clients have sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import groupby
from typing import Any
from wsgiref.types import StartResponse

import pytest

from penstock.telemetry.scoreboard import Scoreboard, Slot
from support.serving import Environ, Gate, connect, eventually, get
from support.transports import BareServer, serving
from support.wire import Client

SHORT: dict[str, Any] = {"few_events_turn_seconds": 0.0, "shared_turn_seconds": 0.0}
FLOODS = ("127.0.2.1", "127.0.2.2", "127.0.2.3")
HONEST = "127.0.3.1"
ANSWERS_PER_TURN = 16
"""As the constant of the native transport."""
EACH = 4
"""Connections of each address that floods."""


class Busy:
    """A server whose only thread is with the application, and clients that have connected."""

    def __init__(self, server: BareServer, gate: Gate, clients: ExitStack) -> None:
        self.gate = gate
        self._server = server
        self._clients = clients

    def connect(self, source: str, *, accepted: bool = True) -> Client:
        """Return a client of an address, which the server has accepted and answered."""
        client = self._clients.enter_context(connect(self._server, source=source))
        if accepted:
            assert client.request("GET", "/before").status == 200
        return client

    def keep(self) -> None:
        """Have the thread stay with the application until the gate opens."""
        self._clients.enter_context(connect(self._server)).send(get("/wait"))
        eventually(lambda: self.gate.inside == 1)

    def calls(self) -> list[str]:
        """Return the paths of the calls since the gate has opened."""
        return self.gate.seen[self.gate.seen.index("/wait") + 1 :]


@contextmanager
def busy(transport: str, slot: Slot | None = None, **config: Any) -> Iterator[Busy]:
    gate = Gate()
    with serving(gate, transport, slot=slot, **SHORT | config) as server, ExitStack() as clients:
        try:
            yield Busy(server, gate, clients)
        finally:
            gate.open()


def flood(server: Busy) -> list[Client]:
    return [server.connect(source) for source in FLOODS for _ in range(EACH)]


@pytest.mark.parametrize("pipelined", [1, 10])
def test_a_client_with_one_request_is_before_the_second_ones_of_clients_with_many_connections(
    transport: str, pipelined: int
) -> None:
    with busy(transport) as server:
        hostile, honest = flood(server), server.connect(HONEST)
        server.keep()
        for client in hostile:
            client.send(get("/flood") * pipelined)
        honest.send(get("/honest"))
        server.gate.open()
        assert honest.read_response().body == b"/honest"
        for client in hostile:
            for _ in range(pipelined):
                assert client.read_response().body == b"/flood"
        # One in the first turn, which is in the order of arrival, and one of each client.
        assert server.calls().index("/honest") <= 1 + len(FLOODS)


def test_a_new_connection_is_accepted_and_served_while_others_have_more_to_do(
    transport: str,
) -> None:
    with busy(transport) as server:
        hostile = flood(server)
        server.keep()
        for client in hostile:
            client.send(get("/flood") * 10)
        honest = server.connect(HONEST, accepted=False)
        honest.send(get("/honest"))
        server.gate.open()
        assert honest.read_response().body == b"/honest"
        for client in hostile:
            for _ in range(10):
                client.read_response()
        # Of 120. It takes a poll to accept it, and one to find its request.
        assert server.calls().index("/honest") <= 3 * (1 + len(FLOODS))


def test_a_worker_beside_which_no_other_serves_accepts_all_that_wait_in_one_turn(
    transport: str,
) -> None:
    own = Scoreboard(2, 1).take()  # the other slot is for a successor, which has not begun
    with busy(transport, own) as server:
        server.keep()
        hostile = [server.connect(it, accepted=False) for it in FLOODS for _ in range(5 * EACH)]
        for client in hostile:
            client.send(get("/flood"))
        honest = server.connect(HONEST, accepted=False)
        honest.send(get("/honest"))
        server.gate.open()
        assert honest.read_response().body == b"/honest"
        for client in hostile:
            client.read_response()
        # Of 60, which are before it in the accept queue. It takes a poll to find its request.
        assert server.calls().index("/honest") <= 2 * (1 + len(FLOODS))


def test_the_requests_of_one_client_are_served_in_the_order_of_their_arrival(
    transport: str,
) -> None:
    with busy(transport) as server:
        clients = [server.connect(HONEST) for _ in range(10)]
        server.keep()
        for number, client in enumerate(clients):
            client.send(get(f"/{number}"))
        server.gate.open()
        for client in clients:
            client.read_response()
        assert server.calls() == [f"/{number}" for number in range(10)]


def test_a_connection_with_more_than_one_read_takes_has_one_turn_as_others(transport: str) -> None:
    config: dict[str, Any] = {"few_events_turn_seconds": 10.0, "shared_turn_seconds": 10.0}
    with busy(transport, **config) as server:
        long, short = server.connect(HONEST), server.connect(HONEST)
        server.keep()
        for client, name, field in ((long, "/long", "X: " + "x" * 4000), (short, "/short", "X: x")):
            client.send(get(name, field) * 30)
        server.gate.open()
        for _ in range(30):
            long.read_response()
            short.read_response()
        calls = server.calls()
        # Up to the last of the short ones: between two of them at most one turn of the others, in
        # which native code sends the answers to some pipelined requests together.
        ended = calls[: len(calls) - calls[::-1].index("/short")]
        most = ANSWERS_PER_TURN if transport == "native" else 1
        assert max(len(list(turn)) for path, turn in groupby(ended) if path == "/long") <= most


def test_bodies_in_many_chunks_that_one_turn_does_not_read_are_read_whole(transport: str) -> None:
    chunk = b"20\r\n" + b"x" * 32 + b"\r\n"
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    with busy(transport, body_memory=1000) as server:
        clients = [server.connect(source) for source in (*FLOODS, HONEST)]
        server.keep()
        for client in clients:
            client.send(head + chunk * 10_000)
        server.gate.open()
        for client in clients:
            client.send(chunk * 10_000 + b"0\r\n\r\n")
        for client in clients:
            assert client.read_response().status == 200


def test_clients_that_connect_without_a_pause_keep_no_request_waiting(transport: str) -> None:
    count = 300
    accepted: list[int] = []

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        accepted.append(server.snapshot()["connections_accepted"])
        return gate(environ, start_response)

    gate = Gate()
    with serving(application, transport, accept_batch=1, **SHORT) as server, ExitStack() as clients:
        made = Busy(server, gate, clients)
        hostile = flood(made)
        made.keep()
        for client in hostile:
            client.send(get("/flood"))
        for _ in range(count):  # the kernel has completed them
            clients.enter_context(connect(server))
        before = len(accepted)
        gate.open()
        for client in hostile:
            assert client.read_response().body == b"/flood"
        # In each turn one connection is accepted, and one request taken. The first turn is shorter.
        assert accepted[-1] - accepted[before] <= 2 * len(hostile)
