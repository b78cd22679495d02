"""A server of several processes that is told to stop loses nothing, and does not take for ever."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from support.invariant import eventually
from support.lifecycle import Supervised, write_app
from support.load import Load
from support.server_process import BUSY_SECONDS, ServerProcess
from support.wire import Client


def was_cut_off(client: Client) -> bool:
    """Return True if no response of the application arrived."""
    answer = client.read_to_end()
    return answer == b"" or answer.startswith(b"HTTP/1.1 504 ")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_fault_33_sigterm_under_load_loses_no_request(
    tmp_path: Path, transport: str, workers: str
) -> None:
    with Supervised(tmp_path, "-w", workers, "--transport", transport) as server:
        with Load(server.address, keep_alive=8, closing=8, until_refused=True) as load:
            load.wait_for(400)
            server.signal(signal.SIGTERM)
            counts = load.join()
        assert server.wait() == 0
        assert not server.members()
    counts.check()
    assert counts.announced >= 8
    assert counts.refused == 16
    assert "stopped" in server.lines[-1]


def test_fault_33_idle_connections_may_ask_once_more_while_the_server_lingers(
    tmp_path: Path, transport: str
) -> None:
    with Supervised(tmp_path, "-w", "2", "--transport", transport) as server:
        # They rest for longer than a drain without lingering would take.
        with Load(server.address, keep_alive=24, closing=0, pause=0.3, until_refused=True) as load:
            load.wait_for(48)
            server.signal(signal.SIGTERM)
            counts = load.join()
        assert server.wait() == 0
    counts.check()
    assert counts.closed_idle == 0
    assert counts.announced >= 24


def test_a_request_in_progress_is_finished_before_the_server_leaves(
    tmp_path: Path, transport: str
) -> None:
    with Supervised(tmp_path, "-w", "2", "--transport", transport) as server:
        with (
            server.begin("/hold?1&", "first") as first,
            server.begin("/hold?2&", "second") as second,
        ):
            workers = server.workers()
            server.signal(signal.SIGTERM)
            for worker in workers:
                server.wait_until_it_lets_go(worker)
            server.let_go("first")
            server.let_go("second")
            for number, client in ((b"1", first), (b"2", second)):
                response = client.read_response()
                assert response.body.startswith(number)
                assert response.header("Connection") == "close"
        assert server.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_sigint_and_sigquit_leave_at_once(
    tmp_path: Path, transport: str, number: signal.Signals
) -> None:
    with Supervised(tmp_path, "-w", "2", "--transport", transport) as server:
        with server.begin("/hold?1&", "held") as client:
            status, taken = server.seconds_to_exit(number)
            assert status == 0
            assert was_cut_off(client)
        assert taken < BUSY_SECONDS
        assert not server.members()


def test_a_second_sigterm_goes_on_with_the_stop(tmp_path: Path, transport: str) -> None:
    """GNU timeout, preStop hooks and supervisors send it to the group, and once more."""
    with Supervised(
        tmp_path, "-w", "2", "--transport", transport, "--graceful-timeout", "60s"
    ) as server:
        with server.begin("/hold?1&", "held") as client:
            server.signal(signal.SIGTERM)
            server.wait_for_line("stopping: finishing")
            server.signal(signal.SIGTERM)
            server.wait_for_line("stopping already: SIGINT or SIGQUIT cuts off")
            assert server.process.poll() is None
            server.signal(signal.SIGQUIT)
            assert server.wait() == 0
            assert was_cut_off(client)


@pytest.mark.parametrize("second", [signal.SIGQUIT, signal.SIGINT])
def test_fault_33_a_second_signal_leaves_at_once(
    tmp_path: Path, transport: str, second: signal.Signals
) -> None:
    with Supervised(
        tmp_path, "-w", "2", "--transport", transport, "--graceful-timeout", "60s"
    ) as server:
        with server.begin("/hold?1&", "held") as client:
            server.signal(signal.SIGTERM)
            server.wait_for_line("stopping")
            status, taken = server.seconds_to_exit(second)
            assert status == 0
            assert was_cut_off(client)
        assert taken < BUSY_SECONDS
        assert not server.members()


@pytest.mark.parametrize("view", ["/stubborn?1&", "/deaf?1&", "/keep-the-gil?1&"])
def test_what_never_ends_delays_the_stop_by_graceful_timeout_at_most(
    tmp_path: Path, transport: str, view: str
) -> None:
    with Supervised(
        tmp_path, "-w", "2", "--transport", transport, "--graceful-timeout", "2s"
    ) as server:
        with server.begin(view, "held"):
            status, taken = server.seconds_to_exit(signal.SIGTERM)
        assert taken < 2 + BUSY_SECONDS
        assert status == 1
        assert not server.members()
    assert any("graceful_timeout" in line for line in server.lines)


def test_with_a_shutdown_delay_readiness_is_negative_at_once_and_clients_are_served_on(
    tmp_path: Path, transport: str
) -> None:
    arguments = ("--shutdown-delay", "4s", "--ready-path", "/readyz", "--health-path", "/healthz")
    with Supervised(tmp_path, "-w", "2", "--transport", transport, *arguments) as server:
        assert server.ask("/readyz").status == 200
        with Load(server.address, keep_alive=6, closing=6, until_refused=True) as load:
            load.wait_for(100)
            server.signal(signal.SIGTERM)
            assert eventually(lambda: server.ask("/readyz").status == 503, 3)
            # All of them: a balancer asks whichever worker it comes to.
            assert {server.ask("/readyz").status for _ in range(20)} == {503}
            load.wait_for(100)
            assert server.ask("/healthz").status == 200
            assert load.counts.refused == 0
            counts = load.join()
        assert server.wait() == 0
    counts.check()


@pytest.mark.parametrize(
    ("busy", "status"), [(False, 0), (True, 1)], ids=["idle", "with a request"]
)
def test_a_worker_that_crashes_during_the_shutdown_delay_counts_if_it_had_a_request(
    tmp_path: Path, busy: bool, status: int
) -> None:
    with Supervised(tmp_path, "-w", "1", "--shutdown-delay", "2s") as server:
        (worker,) = server.workers()
        client = server.begin("/hold?1&", "held") if busy else Client(server.address)
        with client:
            server.signal(signal.SIGTERM)
            server.wait_for_line("not ready any more")
            os.kill(worker, signal.SIGKILL)
            assert server.wait() == status


def test_one_graceful_timeout_covers_the_shutdown_delay_and_the_drain(
    tmp_path: Path, transport: str
) -> None:
    arguments = ("--shutdown-delay", "5s", "--graceful-timeout", "6s")
    with Supervised(tmp_path, "--transport", transport, *arguments) as server:
        with server.begin("/hold?1&", "held") as client:
            status, taken = server.seconds_to_exit(signal.SIGTERM)
            assert was_cut_off(client)
        assert status == 1
        assert 5 <= taken < 5 + 5  # a timeout of its own after the delay would end at 10.5 s


def test_sigint_ends_a_shutdown_delay(tmp_path: Path) -> None:
    with Supervised(tmp_path, "--shutdown-delay", "25s") as server:
        server.signal(signal.SIGTERM)
        server.wait_for_line("stopping|shutdown_delay")
        status, taken = server.seconds_to_exit(signal.SIGINT)
        assert (status, taken < BUSY_SECONDS) == (0, True)


def test_a_stop_while_workers_boot_is_a_stop(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("import threading\nthreading.Event().wait(30)\n")
    server = Supervised(tmp_path, "-w", "2")
    try:
        assert eventually(lambda: len(server.workers()) == 2)
        status, taken = server.seconds_to_exit(signal.SIGTERM)
        assert (status, taken < BUSY_SECONDS) == (0, True)
        assert not server.members()
    finally:
        server.kill()


def test_the_port_is_free_when_the_server_has_left(tmp_path: Path, transport: str) -> None:
    with Supervised(tmp_path, "-w", "2", "--transport", transport) as server:
        assert server.stop() == 0
        with pytest.raises(ConnectionRefusedError):
            Client(server.address)


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGHUP])
def test_fault_29_exit_handlers_of_the_application_run_in_its_worker(
    tmp_path: Path, told: signal.Signals
) -> None:
    write_app(tmp_path, "one")
    with (tmp_path / "shop.py").open("a") as module:
        module.write(
            "import atexit, os, pathlib, threading\n"
            "atexit.register(threading.Event().wait, 60)  # the first, and so the last to run\n"
            "atexit.register(lambda: pathlib.Path('left').write_text(str(os.getpid())))\n"
        )
    with Supervised(tmp_path, "--graceful-timeout", "3s") as server:
        [worker] = server.workers()
        server.signal(told)
        assert eventually((tmp_path / "left").exists)
        assert eventually(lambda: (tmp_path / "left").read_text() == str(worker))
        assert eventually(lambda: worker not in server.members())


SLOW_APP = """
import threading

def app(environ, start_response):
    threading.Event().wait(0.5)
    start_response("200 OK", [("Content-Length", "4")])
    return [b"done"]
"""


def test_sigterm_as_soon_as_clients_can_connect_loses_no_request(
    tmp_path: Path, transport: str
) -> None:
    (tmp_path / "slow_app.py").write_text(SLOW_APP)
    address = str(tmp_path / "socket")
    arguments = ("slow_app:app", "--bind", f"unix:{address}", "--transport", transport)
    server = ServerProcess(*arguments, cwd=tmp_path)
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(BUSY_SECONDS)
            # The workers have not yet reported that they serve. It connects without a pause, since
            # that takes them a few milliseconds.
            assert connects(client, address), server.lines_so_far()
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            server.signal(signal.SIGTERM)
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")
        assert server.wait() == 0
    finally:
        server.kill()


def connects(client: socket.socket, address: str) -> bool:
    end = time.monotonic() + BUSY_SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            client.connect(address)
            return True
    return False
