"""Draining while other processes go on with the same listening sockets, and without others."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from penstock.listeners import Listener, open_listeners, parse_address
from penstock.telemetry.scoreboard import ACCEPTING, POLLED, SERVING, STATE, Scoreboard
from support.serving import Gate, connect, eventually, get
from support.transports import serving
from support.wire import DEADLINE, Client


def shared_listener() -> tuple[Listener, socket.socket]:
    """Return a listener, and another descriptor of its socket, which is the other process's."""
    (listener,) = open_listeners(["127.0.0.1:0"], 64)
    other = listener.socket.dup()
    other.settimeout(DEADLINE)
    return listener, other


@pytest.mark.parametrize("threads", [1, 3])
def test_the_queue_is_left_to_the_others(transport: str, threads: int) -> None:
    gate = Gate()
    listener, other = shared_listener()
    with other, serving(gate, transport, threads=threads, listener=listener) as server:
        busy = [connect(server) for _ in range(threads)]
        for client in busy:
            client.send(get("/wait"))
        eventually(lambda: gate.inside == threads)
        server.transport.drain(hand_over=True)
        # Although every thread is with the application.
        eventually(lambda: listener.socket.fileno() < 0)
        eventually(lambda: server.word(ACCEPTING) == 0)
        with connect(server) as newcomer:
            accepted, place = other.accept()
            accepted.close()
            assert place == newcomer.socket.getsockname()
        gate.open()
        for client in busy:
            response = client.read_response()
            assert (response.body, response.header("Connection")) == (b"/wait", "close")
            client.close()
        eventually(server.is_over)


@pytest.mark.parametrize("threads", [1, 3])
def test_who_is_connected_gets_a_last_answer(transport: str, threads: int) -> None:
    listener, other = shared_listener()
    with other, serving(Gate(), transport, threads=threads, listener=listener) as server:
        with connect(server) as client, connect(server) as idle:
            assert client.request("GET", "/").header("Connection") is None
            eventually(lambda: server.snapshot()["connections"] == 2)
            server.transport.drain(hand_over=True)
            eventually(lambda: server.snapshot()["draining"])
            response = client.request("GET", "/")
            assert (response.status, response.header("Connection")) == (200, "close")
            assert idle.read_to_end() == b""
        eventually(server.is_over)


def test_a_later_drain_without_it_changes_nothing(transport: str) -> None:
    listener, other = shared_listener()
    with other, serving(Gate(), transport, listener=listener) as server:
        server.transport.drain(hand_over=True)
        server.transport.drain()
        eventually(server.is_over)
        with Client((server.host, server.port)) as newcomer:  # it was not refused
            accepted, place = other.accept()
            accepted.close()
            assert place == newcomer.socket.getsockname()


class HandshakeUnderWay(Listener):
    """A client whose first segment arrived before new connections were ignored."""

    def ignore_new_connections(self) -> bool:
        return True


@pytest.mark.parametrize("threads", [1, 3])
def test_a_handshake_that_ends_within_the_drain_is_served(transport: str, threads: int) -> None:
    gate = Gate()
    (made,) = open_listeners(["127.0.0.1:0"], 64)
    listener = HandshakeUnderWay(made.socket, parse_address("127.0.0.1:0"))
    with serving(gate, transport, threads=threads, listener=listener) as server:
        with connect(server) as busy, connect(server) as second:
            busy.send(get("/wait"))
            eventually(lambda: gate.inside == 1)
            server.transport.drain()
            if threads > 1:  # with one, no thread looks before the call is over
                eventually(lambda: server.word(ACCEPTING) == 0)
            second.send(get("/second"))
            with connect(server) as late:
                late.send(get("/late"))
                gate.open()
                for client, body in ((busy, b"/wait"), (second, b"/second"), (late, b"/late")):
                    response = client.read_response()
                    assert (response.body, response.header("Connection")) == (body, "close")
        eventually(server.is_over)
        assert listener.socket.fileno() < 0


def test_who_hands_over_while_newcomers_are_left_to_others_does_not_spin(transport: str) -> None:
    """The time at which it would have looked at them again has no meaning any more."""
    gate = Gate()
    scoreboard = Scoreboard(2, 2)
    own, other = scoreboard.take(), scoreboard.take()
    assert other is not None
    listener, others = shared_listener()
    with others, serving(gate, transport, threads=2, slot=own, listener=listener) as server:
        busy = [connect(server) for _ in range(2)]
        for client in busy:
            client.send(get("/wait"))
        eventually(lambda: gate.inside == 2)
        eventually(lambda: server.word(ACCEPTING) == 0)
        other.words[STATE], other.words[ACCEPTING], other.words[POLLED] = SERVING, 1, 1
        with connect(server):  # no worker accepts it, and each looks at it again and again
            threading.Event().wait(0.05)
            server.transport.drain(hand_over=True)
            eventually(lambda: listener.socket.fileno() < 0)
            before = time.process_time()
            threading.Event().wait(0.5)
            assert time.process_time() - before < 0.05
        gate.open()
        for client in busy:
            assert client.read_response().body == b"/wait"
            client.close()
        eventually(server.is_over)
