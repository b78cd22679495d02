"""How a server stops: what is lost (nothing), how long it may take, and which status it leaves.

The statuses are those of docs/exit-statuses.md.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from penstock.listeners import open_listeners
from support.invariant import eventually, faulty_server, probe
from support.server_process import BUSY_SECONDS, ServerProcess
from support.wire import Client

HELLO = b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n"


@dataclass
class Tally:
    """What one client of the load has seen."""

    served: int = 0
    refused: int = 0
    lost: list[str] = field(default_factory=list)
    told_to_close: int = 0


class Load:
    """Clients that ask as fast as they are answered, and count exactly what became of it.

    A request is lost when it was sent on a connection that the server had not announced to close
    and no whole response came. A connection that is refused at connect was never accepted.
    """

    def __init__(self, address: tuple[str, int], clients: int, keep_alive: bool) -> None:
        self.tallies = [Tally() for _ in range(clients)]
        self._address = address
        self._keep_alive = keep_alive
        self._threads = [
            threading.Thread(target=self._run, args=(tally,), daemon=True) for tally in self.tallies
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, tally: Tally) -> None:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            try:
                client = Client(self._address)
            except ConnectionError:
                tally.refused += 1
                return
            with client:
                self._ask_on(client, tally)

    def _ask_on(self, client: Client, tally: Tally) -> None:
        headers = {} if self._keep_alive else {"Connection": "close"}
        end = time.monotonic() + 20
        while time.monotonic() < end:
            try:
                response = client.request("GET", "/hello", headers)
            except (OSError, AssertionError) as error:
                tally.lost.append(repr(error))
                return
            if not response.complete or response.body != b"hello":
                tally.lost.append(f"{response.status} {response.body!r}")
            tally.served += 1
            if response.header("Connection") == "close":
                tally.told_to_close += self._keep_alive
                return

    def served(self) -> int:
        return sum(tally.served for tally in self.tallies)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(20)
        assert not any(thread.is_alive() for thread in self._threads)


@pytest.mark.parametrize("keep_alive", [True, False], ids=["keep-alive", "a connection each"])
@pytest.mark.parametrize("threads", ["1", "4"])
def test_fault_33_sigterm_under_load_loses_no_request(threads: str, keep_alive: bool) -> None:
    with faulty_server("--threads", threads, "--drain-linger", "1s") as server:
        load = Load(server.address, 8, keep_alive)
        assert eventually(lambda: load.served() > 400)
        server.signal(signal.SIGTERM)
        load.join()
        assert server.wait() == 0
    lost = [reason for tally in load.tallies for reason in tally.lost]
    assert not lost, f"{len(lost)} of {load.served()}: {lost[:3]}"
    assert all(tally.refused == 1 for tally in load.tallies)
    if keep_alive:
        # One who was told early may have come again before the queue was closed.
        assert all(tally.told_to_close >= 1 for tally in load.tallies)
    assert "stopped" in server.lines[-1]


def in_the_middle_of(server: ServerProcess, path: str, begun: int = 1) -> Client:
    """Return a client whose request the application is at."""
    client = Client(server.address)
    client.send(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    assert eventually(lambda: json.loads(probe(server, "/tell"))["begun"] == begun)
    return client


def refuses_connections(server: ServerProcess) -> bool:
    """Return True if the server has closed its listening socket."""
    try:
        Client(server.address).close()
    except ConnectionError:
        return True
    return False


def seconds_to_exit(server: ServerProcess, number: signal.Signals) -> tuple[int, float]:
    begin = time.monotonic()
    server.signal(number)
    return server.wait(), time.monotonic() - begin


def test_fault_33_a_request_in_flight_is_finished_and_told_that_it_is_the_last() -> None:
    with faulty_server("--drain-linger", "5s") as server:
        with in_the_middle_of(server, "/hold") as client, Client(server.address) as second:
            assert second.request("GET", "/hello").status == 200
            server.signal(signal.SIGTERM)
            assert eventually(lambda: refuses_connections(server))
            # A connection that was there before still gets its answer while the server lingers.
            assert second.request("GET", "/release").header("Connection") == "close"
            response = client.read_response()
            assert response.body == b"held"
            assert response.header("Connection") == "close"
        assert server.wait() == 0


def test_fault_33_connections_in_the_accept_queue_are_served(tmp_path: Path) -> None:
    with faulty_server("--threads", "1") as server:
        with Client(server.address) as holder:
            holder.send(f"GET /hold-until-file?{tmp_path}/go HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            # One thread, and it is busy: a client that connects now waits in the accept queue.
            waiting = [Client(server.address) for _ in range(20)]
            for client in waiting:
                client.send(HELLO)
            server.signal(signal.SIGTERM)
            server.wait_for_line("stopping")
            (tmp_path / "go").touch()
            assert holder.read_response().body == b"held"
            for client in waiting:
                response = client.read_response()
                assert (response.body, response.header("Connection")) == (b"hello", "close")
                client.close()
        assert server.wait() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can ignore new connections")
def test_fault_33_newcomers_are_turned_away_before_the_queue_is_emptied() -> None:
    (listener,) = open_listeners(["127.0.0.1:0"], 10)
    address = listener.socket.getsockname()
    with Client(address) as early, socket.socket() as late:
        listener.ignore_new_connections()
        late.settimeout(0.2)
        with pytest.raises(TimeoutError):
            late.connect(address)
        accepted, _ = listener.socket.accept()
        with pytest.raises(BlockingIOError):
            listener.socket.accept()
        # The one that was in time notices nothing, and neither does the end of its connection.
        early.send(HELLO)
        with accepted:
            accepted.settimeout(10)
            assert accepted.recv(1000) == HELLO
        assert early.is_closed_by_server()
    listener.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_sigint_and_sigquit_leave_at_once(number: signal.Signals) -> None:
    with faulty_server() as server:
        with in_the_middle_of(server, "/hold") as client:
            status, taken = seconds_to_exit(server, number)
            assert status == 0
            assert client.read_response().status == 504
            assert client.read_to_end() == b""
    assert taken < BUSY_SECONDS
    # The probe has its answer, but its thread may not have come so far as to count it as done.
    assert [
        line for line in server.lines if re.search("requests in progress are cut off: [12] ", line)
    ]


def test_a_second_sigterm_goes_on_with_the_stop() -> None:
    """GNU timeout, preStop hooks and supervisors send it to the group, and once more."""
    with faulty_server("--drain-linger", "5s") as server:
        with in_the_middle_of(server, "/hold") as client, Client(server.address) as second:
            assert second.request("GET", "/hello").status == 200
            server.signal(signal.SIGTERM)
            assert eventually(lambda: refuses_connections(server))
            server.signal(signal.SIGTERM)
            assert second.request("GET", "/release").header("Connection") == "close"
            assert client.read_response().status == 200
        assert server.wait() == 0


@pytest.mark.parametrize("second", [signal.SIGQUIT, signal.SIGINT])
def test_fault_33_a_second_signal_leaves_at_once(second: signal.Signals) -> None:
    with faulty_server("--graceful-timeout", "60s") as server:
        with in_the_middle_of(server, "/hold") as client:
            server.signal(signal.SIGTERM)
            server.wait_for_line("stopping")
            status, taken = seconds_to_exit(server, second)
            assert status == 0
            assert client.read_response().status == 504
            assert client.read_to_end() == b""
    assert taken < BUSY_SECONDS


@pytest.mark.parametrize("path", ["/hold", "/spin", "/deadlock"])
@pytest.mark.parametrize("threads", ["1", "4"])
def test_a_stuck_request_delays_the_stop_by_graceful_timeout_at_most(
    path: str, threads: str
) -> None:
    with faulty_server("--graceful-timeout", "2s", "--threads", threads) as server:
        with Client(server.address) as client:
            client.send(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            with Client(server.address) as other:
                other.send(HELLO)  # behind it, or beside it
                status, taken = seconds_to_exit(server, signal.SIGTERM)
    assert taken < 2 + BUSY_SECONDS
    assert status == 1
    cut = [line for line in server.lines if "are cut off" in line]
    assert len(cut) == 1
    assert "graceful_timeout" in cut[0]


@pytest.mark.parametrize("path", ["/start-thread", "/hang-at-exit"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_fault_29_threads_and_exit_handlers_of_the_application_do_not_keep_the_process(
    path: str, number: signal.Signals
) -> None:
    with faulty_server("--graceful-timeout", "4s") as server:
        probe(server, path)
        status, taken = seconds_to_exit(server, number)
    assert status == 0
    assert taken < 4 + BUSY_SECONDS
    assert "stopped" in server.lines[-1]


def test_a_log_that_nobody_reads_does_not_keep_the_process(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with faulty_server("--access-logfile", str(fifo), "--graceful-timeout", "4s") as server:
            with Client(server.address) as client:
                for _ in range(2000):
                    client.request("GET", "/hello")
            status, taken = seconds_to_exit(server, signal.SIGTERM)
    finally:
        os.close(reader)
    assert status == 0
    assert taken < 4 + BUSY_SECONDS


def test_an_idle_server_stops_at_once_and_its_port_is_free() -> None:
    with faulty_server() as server:
        status, taken = seconds_to_exit(server, signal.SIGTERM)
        assert (status, taken < BUSY_SECONDS) == (0, True)
        with pytest.raises(ConnectionRefusedError):
            Client(server.address)
        with faulty_server("--bind", f"127.0.0.1:{server.port}") as successor:
            probe(successor)


def test_idle_keep_alive_connections_do_not_hold_up_a_stop_for_longer_than_drain_linger() -> None:
    with faulty_server("--drain-linger", "0.5s") as server:
        clients = [Client(server.address) for _ in range(20)]
        for client in clients:
            assert client.request("GET", "/hello").status == 200
        status, taken = seconds_to_exit(server, signal.SIGTERM)
        assert status == 0
        assert 0.4 < taken < BUSY_SECONDS
        for client in clients:
            assert client.is_closed_by_server()
            client.close()
