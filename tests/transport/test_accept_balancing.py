"""Workers that accept on the same sockets: each takes its share, and what it can serve."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from penstock.listeners import Listener, open_listeners, parse_address
from penstock.telemetry.scoreboard import (
    ACCEPTED,
    ACCEPTING,
    CONNECTIONS,
    DRAINING,
    IO_BOUND_CALLS,
    POLLED,
    QUEUE_FULL,
    SERVING,
    STATE,
    WAITING,
    Scoreboard,
    Slot,
)
from penstock.transport.config import TransportConfig
from support.serving import Gate, connect, eventually, get
from support.transports import BareServer, serving
from support.wire import DEADLINE, Client

MANY = 1000

CONFIG = TransportConfig(threads=1)

DEFERRED_SECONDS = CONFIG.balance_deferrals * CONFIG.balance_pause_seconds
"""How long a connection waits at least that is left to others in vain."""


ALL_WOKEN: dict[str, Any] = {"exclusive_wake": False}
"""The kernel wakes all workers for a client, as it does elsewhere than on Linux."""

NEVER_QUEUES: dict[str, Any] = {"busy_accept_seconds": DEADLINE}
"""No client waits in the accept queue for so long that a busy worker accepts it."""


def scoreboard(slots: int, threads: int = 1) -> list[Slot]:
    """Return the slots of a new scoreboard, all taken."""
    made = Scoreboard(slots, threads)
    taken = [made.take() for _ in range(slots)]
    return [slot for slot in taken if slot is not None]


def pretend(slot: Slot, connections: int) -> None:
    """Have a slot say that its worker would accept."""
    slot.words[STATE] = SERVING
    slot.words[ACCEPTING] = 1
    slot.words[POLLED] = 1
    slot.words[CONNECTIONS] = connections


def seconds_to_answer(server: BareServer) -> float:
    """Return how long a new connection takes to its first answer."""
    before = time.monotonic()
    with connect(server) as client:
        assert client.request("GET", "/").status == 200
    return time.monotonic() - before


@contextmanager
def held(server: BareServer, count: int) -> Iterator[list[Client]]:
    """Hold connections open that the server has accepted."""
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(server)) for _ in range(count)]
        for client in clients:
            assert client.request("GET", "/").status == 200
        yield clients


@pytest.mark.parametrize("threads", [1, 3])
def test_who_has_more_than_another_gives_it_time_and_then_accepts(
    transport: str, threads: int
) -> None:
    own, other = scoreboard(2, threads)
    with serving(Gate(), transport, threads=threads, slot=own, **ALL_WOKEN) as server:
        pretend(other, MANY)
        with held(server, 10):
            pretend(other, 0)
            assert seconds_to_answer(server) >= DEFERRED_SECONDS
            for _ in range(3):  # the other one never does
                seconds_to_answer(server)


def test_calls_out_of_the_count_are_no_reason_to_leave_a_connection_to_another(
    transport: str,
) -> None:
    """Where no new connection has to wait for a thread, one more than another has is no reason."""
    own, other = scoreboard(2, 3)
    with serving(Gate(), transport, threads=3, slot=own, **ALL_WOKEN) as server:
        pretend(other, MANY)
        with held(server, 3):
            pretend(other, 2)
            assert seconds_to_answer(server) >= DEFERRED_SECONDS
            own.words[IO_BOUND_CALLS] = 1
            eventually(lambda: seconds_to_answer(server) < DEFERRED_SECONDS)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("word", "value"),
    [(STATE, DRAINING), (ACCEPTING, 0), (POLLED, 5), (CONNECTIONS, MANY)],
    ids=["drains", "does not accept", "does not look", "has more"],
)
def test_nobody_waits_for_another_that(transport: str, threads: int, word: int, value: int) -> None:
    own, other = scoreboard(2, threads)
    with serving(Gate(), transport, threads=threads, slot=own, **ALL_WOKEN) as server:
        pretend(other, MANY)
        with held(server, 10):
            pretend(other, 0)
            other.words[word] = value
            eventually(lambda: seconds_to_answer(server) < DEFERRED_SECONDS)


@pytest.mark.parametrize("threads", [1, 3])
def test_what_waits_is_left_to_a_worker_that_has_fewer(transport: str, threads: int) -> None:
    own, other = scoreboard(2, threads)
    (listener,) = open_listeners(["127.0.0.1:0"], 64)
    with listener.socket.dup() as others, ExitStack() as stack:
        others.settimeout(DEADLINE)
        server = stack.enter_context(
            serving(Gate(), transport, threads=threads, slot=own, listener=listener, **ALL_WOKEN)
        )
        pretend(other, MANY)
        stack.enter_context(held(server, 10))
        pretend(other, 0)
        for _ in range(20):
            with connect(server) as client:
                accepted, place = others.accept()
                accepted.close()
                assert place == client.socket.getsockname()
        assert server.word(ACCEPTED) == 10


class Busy:
    """A server whose threads are all in the application, for the clients that ask for ``/wait``."""

    def __init__(self, server: BareServer, idle: list[Client], clients: list[Client]) -> None:
        """Set the clients, and those whose connections are idle: none where no thread looks."""
        self._server = server
        self._idle = idle
        self._clients = clients
        self._accepted = server.word(ACCEPTED)

    def accepted_later(self) -> int:
        """Return how many connections the server has accepted since all threads are busy.

        Each client that was there before this was called is accepted by now, or left in the queue.
        """
        for client in self._idle:
            # It sees the end of one only after it has done all that came with the end before it.
            client.end_sending()
            assert client.read_to_end() == b""
        return self._server.word(ACCEPTED) - self._accepted

    def read_responses(self) -> None:
        """Read what the application answers once its gate is open."""
        for client in self._clients:
            assert client.read_response().body == b"/wait"


@contextmanager
def busy(server: BareServer, gate: Gate, threads: int, health: str | None) -> Iterator[Busy]:
    """Keep all threads of a server busy, with requests for ``/wait``."""
    # With one thread and no checks to answer, no thread looks at the sockets meanwhile.
    attended = threads > 1 or health is not None
    with held(server, 2 if attended else 0) as idle, ExitStack() as stack:
        stack.callback(gate.open)
        clients = [stack.enter_context(connect(server)) for _ in range(threads)]
        # One by one: before all threads have started, two at a time may find a short queue full.
        for number, client in enumerate(clients, 1):
            client.send(get("/wait"))
            eventually(lambda: gate.inside == number)  # noqa: B023 -- it is called here alone
        eventually(lambda: server.word(ACCEPTING) == 0 or not attended)
        yield Busy(server, idle, clients)


@pytest.mark.parametrize("health", [None, "/healthz"])
@pytest.mark.parametrize("threads", [1, 3])
def test_with_all_threads_busy_newcomers_are_the_others(
    transport: str, threads: int, health: str | None
) -> None:
    gate = Gate()
    own, other = scoreboard(2, threads)
    (listener,) = open_listeners(["127.0.0.1:0"], 64)
    with (
        listener.socket.dup() as others,
        serving(
            gate, transport, threads=threads, slot=own, listener=listener, health_path=health
        ) as server,
        busy(server, gate, threads, health) as calls,
        ExitStack() as stack,
    ):
        others.settimeout(DEADLINE)
        pretend(other, MANY)
        later = [stack.enter_context(connect(server)) for _ in range(5)]
        assert calls.accepted_later() == 0
        for client in later:
            accepted, place = others.accept()
            accepted.close()
            assert place == client.socket.getsockname()
        gate.open()
        calls.read_responses()


@pytest.mark.parametrize("threads", [1, 3])
def test_with_all_workers_busy_newcomers_wait_for_the_first_that_comes_free(
    transport: str, threads: int
) -> None:
    gate = Gate()
    own, other = scoreboard(2, threads)
    with (
        serving(gate, transport, threads=threads, slot=own, **NEVER_QUEUES) as server,
        busy(server, gate, threads, None) as calls,
    ):
        pretend(other, 0)
        other.words[ACCEPTING] = 0
        with connect(server) as newcomer:
            newcomer.send(get("/newcomer"))
            assert calls.accepted_later() == 0
            gate.open()
            calls.read_responses()
            assert newcomer.read_response().body == b"/newcomer"
        eventually(lambda: server.word(ACCEPTING) == 1)


def test_a_thread_that_is_about_to_call_is_not_one_that_came_free(transport: str) -> None:
    """The worker stops accepting before the last of its threads has begun its call."""
    gate = Gate()
    asked, known = threading.Event(), threading.Event()

    def timeout_for(path: str) -> float:
        if path == "/wait" and gate.inside:
            asked.set()
            assert known.wait(DEADLINE)
        return 60.0

    own, other = scoreboard(2, 2)
    with (
        serving(
            gate, transport, threads=2, slot=own, timeout_for=timeout_for, **NEVER_QUEUES
        ) as server,
        held(server, 2) as idle,
        ExitStack() as stack,
    ):
        stack.callback(gate.open)
        stack.callback(known.set)
        clients = [stack.enter_context(connect(server)) for _ in range(2)]
        clients[0].send(get("/wait"))
        eventually(lambda: gate.inside == 1)
        clients[1].send(get("/wait"))
        assert asked.wait(DEADLINE)
        eventually(lambda: server.word(ACCEPTING) == 0)
        pretend(other, 0)
        other.words[ACCEPTING] = 0
        known.set()
        eventually(lambda: gate.inside == 2)
        calls = Busy(server, idle, clients)
        stack.enter_context(connect(server))
        assert calls.accepted_later() == 0
        gate.open()
        calls.read_responses()


@pytest.mark.parametrize("threads", [2, 3])
def test_a_busy_worker_without_others_accepts_so_that_its_queue_bounds_the_wait(
    transport: str, threads: int
) -> None:
    gate = Gate()
    own, other = scoreboard(2, threads)
    with serving(gate, transport, threads=threads, slot=own, queue=1) as server:
        with busy(server, gate, threads, None):
            other.words[STATE] = DRAINING
            with connect(server) as first, connect(server) as second:
                first.send(get("/queued"))
                eventually(lambda: server.word(WAITING) == 1)
                second.send(get("/refused"))
                assert second.read_response().status == 503
                gate.open()
                assert first.read_response().body == b"/queued"


@pytest.mark.parametrize("threads", [2, 3])
def test_with_all_workers_busy_for_a_second_one_accepts_into_its_queue(
    transport: str, threads: int
) -> None:
    gate = Gate()
    own, other = scoreboard(2, threads)
    with serving(gate, transport, threads=threads, slot=own, queue=1) as server:
        with busy(server, gate, threads, None), ExitStack() as stack:
            pretend(other, 0)
            other.words[ACCEPTING] = 0
            other.words[WAITING] = 1
            before = time.monotonic()
            first = stack.enter_context(connect(server))
            first.send(get("/queued"))
            eventually(lambda: server.word(WAITING) == 1)
            assert time.monotonic() - before >= CONFIG.busy_accept_seconds
            # Requests wait in each worker now, and so no client waits for another second.
            before = time.monotonic()
            second = stack.enter_context(connect(server))
            second.send(get("/refused"))
            response = second.read_response()
            assert (response.status, response.header("retry-after")) == (503, "1")
            gate.open()
            assert first.read_response().body == b"/queued"


def test_a_busy_worker_does_not_wait_for_ever_for_another_that_was_halted_in_its_poll(
    transport: str,
) -> None:
    gate = Gate()
    own, other = scoreboard(2, 2)
    with serving(gate, transport, threads=2, slot=own, busy_accept_seconds=0.1) as server:
        with busy(server, gate, 2, None), connect(server) as client:
            pretend(other, 0)  # it would accept, and never does
            client.send(get("/queued"))
            eventually(lambda: server.word(WAITING) == 1)
            gate.open()
            assert client.read_response().body == b"/queued"


def test_a_busy_worker_leaves_clients_to_another_one_that_has_a_shorter_queue(
    transport: str,
) -> None:
    gate = Gate()
    own, other = scoreboard(2, 2)
    (listener,) = open_listeners(["127.0.0.1:0"], 64)
    patience: dict[str, Any] = {"balance_deferrals": int(DEADLINE / CONFIG.balance_pause_seconds)}
    with (
        listener.socket.dup() as others,
        serving(
            gate,
            transport,
            threads=2,
            slot=own,
            listener=listener,
            busy_accept_seconds=0.1,
            **patience,
        ) as server,
        busy(server, gate, 2, None),
        ExitStack() as stack,
    ):
        others.settimeout(DEADLINE)
        pretend(other, 0)
        other.words[ACCEPTING] = 0
        first = stack.enter_context(connect(server))
        first.send(get("/queued"))
        eventually(lambda: server.word(WAITING) == 1)
        accepted_before = server.word(ACCEPTED)
        client = stack.enter_context(connect(server))
        threading.Event().wait(0.3)  # longer than a busy worker without others leaves it there
        accepted, place = others.accept()
        accepted.close()
        assert place == client.socket.getsockname()
        assert server.word(ACCEPTED) == accepted_before
        other.words[WAITING] = 1
        later = stack.enter_context(connect(server))
        later.send(get("/later"))
        eventually(lambda: server.word(WAITING) == 2)
        gate.open()
        assert later.read_response().body == b"/later"


@pytest.mark.parametrize("threads", [1, 3])
def test_what_was_left_is_taken_when_the_other_accepts_no_more(
    transport: str, threads: int
) -> None:
    gate = Gate()
    own, other = scoreboard(2, threads)
    health = "/healthz"
    with (
        serving(gate, transport, threads=threads, slot=own, health_path=health) as server,
        busy(server, gate, threads, health) as calls,
    ):
        pretend(other, 0)
        with connect(server) as newcomer:
            newcomer.send(get(health))
            assert calls.accepted_later() == 0
            other.words[ACCEPTING] = 0
            assert newcomer.read_response().body == b"no\n"
        assert gate.inside == threads
        gate.open()
        calls.read_responses()


@pytest.mark.parametrize("threads", [2, 3])
def test_alone_on_its_scoreboard_a_busy_worker_accepts(transport: str, threads: int) -> None:
    gate = Gate()
    with (
        serving(gate, transport, threads=threads) as server,
        busy(server, gate, threads, None) as calls,
        connect(server),
    ):
        assert calls.accepted_later() == 1
        gate.open()
        calls.read_responses()


@contextmanager
def family(
    transport: str, workers: int, threads: int, application: Gate | None = None, **config: Any
) -> Iterator[list[BareServer]]:
    """Serve with several transports that share a scoreboard and a listening socket.

    They wait for each other for as long as it takes: a worker that gets no processor for a while,
    on a busy machine, keeps its share. One whose threads have not run yet would have none.
    """
    patience: dict[str, Any] = {
        "responsive_seconds": DEADLINE,
        "balance_deferrals": int(DEADLINE / CONFIG.balance_pause_seconds),
    }
    (listener,) = open_listeners(["127.0.0.1:0"], 1024)
    with ExitStack() as stack:
        servers = []
        for slot in scoreboard(workers, threads):
            copy = listener.socket.dup()
            copy.setblocking(False)
            own = Listener(copy, parse_address("127.0.0.1:0"))
            servers.append(
                stack.enter_context(
                    serving(
                        application or Gate(),
                        transport,
                        threads=threads,
                        slot=slot,
                        listener=own,
                        **patience,
                        **config,
                    )
                )
            )
        listener.socket.close()
        looking = (ACCEPTING, POLLED)
        eventually(lambda: all(it.word(word) for it in servers for word in looking))
        yield servers


def check_shares(servers: list[BareServer], count: int, most: float = 1.3) -> None:
    """Wait until all connections are accepted, and see that each worker has its share of them."""
    eventually(lambda: sum(server.word(CONNECTIONS) for server in servers) == count)
    shares = [server.word(CONNECTIONS) for server in servers]
    assert max(shares) <= most * count / len(shares), shares


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("workers", [2, 4])
def test_connections_that_come_at_once_are_shared_fairly(
    transport: str, workers: int, threads: int
) -> None:
    with family(transport, workers, threads) as servers, ExitStack() as stack:
        place = (servers[0].host, servers[0].port)
        sockets = [stack.enter_context(socket.socket()) for _ in range(64)]
        for sock in sockets:
            sock.setblocking(False)
            sock.connect_ex(place)
        check_shares(servers, 64)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("workers", [2, 4])
def test_connections_that_come_one_after_the_other_are_shared_fairly(
    transport: str, workers: int, threads: int
) -> None:
    with family(transport, workers, threads) as servers, ExitStack() as stack:
        for _ in range(64):
            client = stack.enter_context(connect(servers[0]))
            assert client.request("GET", "/").status == 200
        check_shares(servers, 64)


@pytest.mark.parametrize("workers", [2, 4])
def test_connections_are_shared_fairly_under_load(transport: str, workers: int) -> None:
    stop = threading.Event()

    def load(client: Client) -> None:
        while not stop.is_set():
            assert client.request("GET", "/").status == 200

    with family(transport, workers, 1) as servers, ExitStack() as stack:
        threads = []
        try:
            for _ in range(64):
                client = stack.enter_context(connect(servers[0]))
                threads.append(threading.Thread(target=load, args=(client,)))
                threads[-1].start()
            # All workers of this test share one interpreter lock with their clients, and one that
            # waits for it leaves new connections to others.
            check_shares(servers, 64, most=1.5)
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def test_busy_workers_share_the_clients_that_wait_and_refuse_what_their_queues_do_not_hold(
    transport: str,
) -> None:
    gate = Gate()
    with family(transport, 2, 2, gate, queue=10) as servers, ExitStack() as stack:
        stack.callback(gate.open)
        # Until its threads have come, a worker counts as busy, and the other one takes its share.
        eventually(lambda: all(server.word(ACCEPTING) == 1 for server in servers))
        eventually(lambda: all(server.word(POLLED) == 1 for server in servers))
        busy = [stack.enter_context(connect(servers[0])) for _ in range(4)]
        for client in busy:
            client.send(get("/wait"))
        eventually(lambda: gate.inside == 4)
        clients = [stack.enter_context(connect(servers[0])) for _ in range(30)]
        for client in clients:
            client.send(get("/more"))

        def count(word: int) -> int:
            return sum(server.word(word) for server in servers)

        eventually(lambda: count(WAITING) + count(QUEUE_FULL) == 30)
        waiting = [server.word(WAITING) for server in servers]
        # What was just accepted is not in a queue yet, and the other worker cannot see it.
        assert max(waiting) == 10
        assert min(waiting) >= 7, waiting
        gate.open()
        statuses = sorted(client.read_response().status for client in clients)
        assert statuses == [200] * sum(waiting) + [503] * (30 - sum(waiting))


def test_connections_that_come_and_go_are_all_served(transport: str) -> None:
    with family(transport, 2, 1) as servers:
        for _ in range(200):
            with connect(servers[0]) as client:
                client.send(get("/", "Connection: close"))
                assert client.read_response().status == 200
        # Any of them may accept a connection that comes alone.
        assert sum(server.word(ACCEPTED) for server in servers) == 200
