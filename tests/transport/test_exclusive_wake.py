"""Where the kernel wakes one worker for a client, no client waits for one that does not accept."""

from __future__ import annotations

import os
import select
import threading
from contextlib import ExitStack

import pytest

from harness import processes
from penstock.listeners import Listener, open_listeners, parse_address
from penstock.telemetry.scoreboard import (
    ACCEPTED,
    ACCEPTING,
    CONNECTIONS,
    POLLED,
    SERVING,
    STATE,
    Scoreboard,
    Slot,
)
from support.serving import Gate, connect, eventually, get
from support.transports import BareServer, serving
from support.wire import DEADLINE

pytestmark = pytest.mark.skipif(
    not hasattr(select, "EPOLLEXCLUSIVE") or not processes.EVENT_WAITS,
    reason="the kernel wakes all workers, or its system calls have other numbers",
)


class OtherWorker:
    """A worker that is woken for a client, and does not accept."""

    def __init__(self, listener: Listener) -> None:
        """Watch a listener: the kernel wakes those first that have watched it for longer."""
        self._epoll = select.epoll()
        self._epoll.register(listener.socket.fileno(), select.EPOLLIN | select.EPOLLEXCLUSIVE)
        self._end, self._ended = os.pipe()
        self._epoll.register(self._end, select.EPOLLIN)
        self._woken_by: list[int] = []
        self._thread = threading.Thread(target=self._wait)

    def _wait(self) -> None:
        self._woken_by = [descriptor for descriptor, _ in self._epoll.poll(DEADLINE)]

    @property
    def is_waiting(self) -> bool:
        """Whether `wait` was called."""
        return self._thread.ident is not None

    def wait(self) -> None:
        """Wait for a client from now on."""
        self._thread.start()
        task = self._thread.native_id
        assert task is not None
        eventually(lambda: processes.waits_for_events(os.getpid(), task))

    def was_woken(self) -> bool:
        """Return True once a client has ended the wait that still waits to be accepted."""
        self._thread.join()
        return bool(self._woken_by)

    def close(self) -> None:
        """Watch no longer."""
        os.write(self._ended, b"x")
        if self.is_waiting:
            self._thread.join()
        self._epoll.close()
        os.close(self._end)
        os.close(self._ended)


def slots(threads: int, connections: int = 0) -> tuple[Slot, Slot]:
    """Return the slots of two workers, of which the second one serves, and would accept."""
    board = Scoreboard(2, threads)
    own, other = board.take(), board.take()
    assert own is not None
    assert other is not None
    other.words[STATE] = SERVING
    other.words[ACCEPTING] = 1
    other.words[POLLED] = 1
    other.words[CONNECTIONS] = connections
    return own, other


def waits(server: BareServer) -> bool:
    """Return True if the server's leader waits for events."""
    return server.word(POLLED) == 1


def begin_calls(server: BareServer, gate: Gate, count: int, stack: ExitStack) -> None:
    """Begin calls that last until the gate is opened, one after the other."""
    for number in range(1, count + 1):
        stack.enter_context(connect(server)).send(get("/wait"))
        eventually(lambda: gate.inside == number)  # noqa: B023 -- it is called here alone


@pytest.mark.parametrize("threads", [1, 3])
def test_a_client_that_woke_a_worker_which_does_not_accept_is_accepted_at_the_next_look(
    transport: str, threads: int
) -> None:
    own, _ = slots(threads)
    (listener,) = open_listeners(["127.0.0.1:0"], 64)
    with ExitStack() as stack:
        other = OtherWorker(listener)
        stack.callback(other.close)
        other.wait()
        server = stack.enter_context(
            serving(Gate(), transport, threads=threads, slot=own, listener=listener)
        )
        eventually(lambda: waits(server))
        client = stack.enter_context(connect(server))
        client.send(get("/"))
        assert other.was_woken()
        assert waits(server)
        assert server.word(ACCEPTED) == 0
        server.transport.look_for_clients()
        assert client.read_response().status == 200


def test_with_every_thread_in_a_call_a_worker_is_woken_beside_another_and_not_in_its_place(
    transport: str,
) -> None:
    own, _ = slots(2)
    (listener,) = open_listeners(["127.0.0.1:0"], 64)
    gate = Gate()
    with ExitStack() as stack:
        server = stack.enter_context(
            serving(
                gate,
                transport,
                threads=2,
                slot=own,
                listener=listener,
                health_path="/healthz",
                busy_accept_seconds=0.05,
            )
        )
        stack.callback(gate.open)
        begin_calls(server, gate, 2, stack)
        eventually(lambda: server.word(ACCEPTING) == 0)
        other = OtherWorker(listener)
        stack.callback(other.close)
        for _ in range(2):  # with the first one the server goes behind the other worker
            client = stack.enter_context(connect(server))
            client.send(get("/healthz"))
            assert client.read_response().body == b"no\n"
            if not other.is_waiting:
                other.wait()


def test_a_call_that_may_keep_the_lock_has_the_worker_woken_beside_another() -> None:
    """The leader of the Python transport has to have the interpreter lock to accept."""
    own, _ = slots(3, connections=1)
    (listener,) = open_listeners(["127.0.0.1:0"], 64)
    gate = Gate()
    with ExitStack() as stack:
        server = stack.enter_context(
            serving(gate, "python", threads=3, slot=own, listener=listener)
        )
        stack.callback(gate.open)
        begin_calls(server, gate, 1, stack)
        other = OtherWorker(listener)
        stack.callback(other.close)
        for _ in range(2):  # with the first one the server goes behind the other worker
            with connect(server) as client:
                assert client.request("GET", "/").status == 200
            if not other.is_waiting:
                other.wait()


@pytest.mark.parametrize("threads", [1, 3])
def test_a_worker_at_its_limit_of_connections_leaves_clients_to_others_at_once(
    transport: str, threads: int
) -> None:
    own, other = slots(threads)
    (listener,) = open_listeners(["127.0.0.1:0"], 64)
    copy = listener.socket.dup()
    copy.setblocking(False)
    with ExitStack() as stack:
        full = stack.enter_context(
            serving(
                Gate(),
                transport,
                threads=threads,
                slot=own,
                listener=listener,
                max_connections=2,
                evict_idle_seconds=DEADLINE,
                keep_alive=DEADLINE,
            )
        )
        for _ in range(2):
            client = stack.enter_context(connect(full))
            assert client.request("GET", "/").status == 200
        eventually(lambda: waits(full))
        stack.enter_context(
            serving(
                Gate(),
                transport,
                threads=threads,
                slot=other,
                listener=Listener(copy, parse_address("127.0.0.1:0")),
            )
        )
        for _ in range(10):
            with connect(full) as client:
                assert client.request("GET", "/").status == 200
        assert full.word(ACCEPTED) == 2
