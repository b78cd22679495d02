"""How many workers there are, how they share clients, and what signals do to the number."""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from pathlib import Path

import pytest

from support.invariant import eventually
from support.lifecycle import Supervised, server_of
from support.load import Load, plain
from support.wire import Client

CLIENTS = 64
ATTEMPTS = 5
"""Of a burst: a worker that gets no processor for a while cannot take its share of it."""
MOST_OF_SHARE = 1.3
"""The most connections of a worker, as a multiple of its share."""


def test_the_start_line_tells_how_many_workers_there_are(tmp_path: Path, transport: str) -> None:
    with Supervised(tmp_path, "-w", "2", "--transport", transport, "--threads", "3") as server:
        assert re.search(r"2 workers", server.start_line), server.start_line
        assert f"{transport} transport" in server.start_line
        workers = server.workers()
        assert len(workers) == 2
        # The workers accept when all are ready, so that no client is refused or waits.
        assert server.served_by()[1] in workers
        assert server.stop() == 0


def test_one_worker_has_a_supervisor_and_none_has_no_worker(tmp_path: Path) -> None:
    with Supervised(tmp_path) as server:
        (worker,) = server.workers()
        assert server.served_by() == ("one", worker)
    with Supervised(tmp_path, "--no-supervisor") as alone:
        assert alone.workers() == set()
        assert alone.served_by() == ("one", alone.process.pid)
        assert alone.stop() == 0


def test_auto_tells_how_it_came_to_the_number(tmp_path: Path) -> None:
    with Supervised(tmp_path, "-w", "auto") as server:
        told = re.search(r"(\d+) workers?\b.*(CPU|processor)", "\n".join(server.lines_so_far()))
        assert told, server.lines
        assert len(server.workers()) == int(told[1])


def test_an_application_that_does_not_load_ends_the_start_with_its_status(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("raise LookupError('on purpose')\n")
    server = Supervised(tmp_path, "-w", "2")
    try:
        assert server.wait() == 4
        text = "\n".join(server.lines)
        assert text.count("Traceback") == 1
        assert 'shop.py", line 1' in text
        assert not server.members()
    finally:
        server.kill()


def test_a_port_in_use_is_told_before_the_application_is_loaded(tmp_path: Path) -> None:
    with Supervised(tmp_path) as server:
        (tmp_path / "shop.py").write_text("raise LookupError('on purpose')\n")
        second = Supervised(tmp_path, "--bind", f"127.0.0.1:{server.port}")
        try:
            assert second.wait() == 7
            assert "in use" in "\n".join(second.lines)
            assert "on purpose" not in "\n".join(second.lines)
        finally:
            second.kill()


def shares(connections: list[Client]) -> Counter[int]:
    """Return how many of the connections each worker has, by asking on all of them."""
    return Counter(server_of(client.request("GET", "/echo?1"))[1] for client in connections)


def fair(found: Counter[int], workers: int) -> bool:
    return max(found.values()) <= MOST_OF_SHARE * sum(found.values()) / workers


def assert_a_burst_is_shared(server: Supervised, workers: int) -> None:
    """Open all connections at once, again where the machine had no time for some worker."""
    tried = []
    for _ in range(ATTEMPTS):
        connections = [Client(server.address) for _ in range(CLIENTS)]
        tried.append(shares(connections))
        for client in connections:
            client.close()
        if fair(tried[-1], workers):
            return
    raise AssertionError(tried)


@pytest.mark.parametrize("workers", [2, 4])
def test_idle_workers_share_a_burst_fairly(tmp_path: Path, transport: str, workers: int) -> None:
    with Supervised(tmp_path, "-w", str(workers), "--transport", transport) as server:
        assert_a_burst_is_shared(server, workers)


@pytest.mark.parametrize("workers", [2, 4])
def test_connections_that_come_one_by_one_are_shared_fairly(
    tmp_path: Path, transport: str, workers: int
) -> None:
    with Supervised(tmp_path, "-w", str(workers), "--transport", transport) as server:
        connections = []
        found: Counter[int] = Counter()
        for _ in range(CLIENTS):
            client = Client(server.address)
            connections.append(client)
            found[server_of(client.request("GET", "/echo?1"))[1]] += 1
        for client in connections:
            client.close()
        assert fair(found, workers), found


@pytest.mark.parametrize("workers", [2, 4])
def test_busy_workers_share_a_burst_fairly(tmp_path: Path, transport: str, workers: int) -> None:
    with Supervised(tmp_path, "-w", str(workers), "--transport", transport) as server:
        with Load(server.address, keep_alive=16, closing=4, ask=plain) as load:
            load.wait_for(50)
            assert_a_burst_is_shared(server, workers)
    load.counts.check()


def test_a_worker_with_all_threads_busy_does_not_accept(tmp_path: Path, transport: str) -> None:
    with Supervised(tmp_path, "-w", "2", "--transport", transport, "--threads", "1") as server:
        (busy,) = {server.served_by()[1]}
        held = []
        # The held request keeps one of the two busy; the other one serves all the rest.
        with server.begin("/hold?1&", "held") as client:
            held.append(client)
            found = {server.served_by()[1] for _ in range(40)}
            server.let_go("held")
            busy = server_of(client.read_response())[1]
        assert found == server.workers() - {busy}
        assert server.stop() == 0


def test_ttin_and_ttou_change_the_number_by_one(tmp_path: Path, transport: str) -> None:
    with Supervised(tmp_path, "-w", "2", "--transport", transport) as server:
        first = server.workers()
        with Load(server.address, keep_alive=4, closing=4) as load:
            server.signal(signal.SIGTTIN)
            assert server.wait_for_workers(3) > first
            for count in (2, 1):
                server.signal(signal.SIGTTOU)
                server.wait_for_workers(count)
            load.wait_for(50)
            # One stays, however often.
            server.signal(signal.SIGTTOU)
            load.wait_for(50)
            assert len(server.workers()) == 1
        load.counts.check()
        # A crash heals to the number that is wanted now.
        assert server.stop() == 0


def test_a_scaled_number_lasts_until_the_setting_changes(tmp_path: Path, transport: str) -> None:
    """Over a reload and an upgrade, each with a line that says which number counts."""
    settings, pid_file = tmp_path / "penstock.toml", tmp_path / "pid"
    settings.write_text(f"workers = 1\npid = {str(pid_file)!r}\n")
    with Supervised(tmp_path, "--transport", transport) as server:

        def has_said(line: str, times: int) -> bool:
            return "\n".join(server.lines_so_far()).count(line) == times

        before = server.workers()
        server.signal(signal.SIGTTIN)
        before |= server.wait_for_workers(2)
        stays = "the number of workers stays 2, as it was scaled (the setting workers is 1)"
        server.signal(signal.SIGHUP)
        assert eventually(lambda: has_said(stays, 1)), server.lines_so_far()
        before |= server.wait_for_serving(2, before)
        assert eventually(lambda: has_said(" serving shop:app on ", 2))
        server.signal(signal.SIGUSR2)
        assert eventually(lambda: server.has_new_supervisor(pid_file))
        server.wait_for_serving(2, before)
        assert has_said(stays, 2)
        assert eventually(lambda: has_said(" serving shop:app on ", 3))
        settings.write_text(settings.read_text().replace("workers = 1", "workers = 3"))
        server.signal(signal.SIGHUP)
        server.wait_for_serving(3)
        changed = "the number of workers is 3, since the setting workers has changed"
        assert has_said(changed, 1)
        assert server.stop() == 0


def test_usr1_opens_the_logs_of_all_workers_again(tmp_path: Path, transport: str) -> None:
    access = tmp_path / "access.log"
    arguments = ("--access-logfile", str(access), "--transport", transport)
    with Supervised(tmp_path, "-w", "2", *arguments) as server:
        with Load(server.address, keep_alive=4, closing=4, ask=plain) as load:
            for turn in range(3):
                load.wait_for(100)
                access.rename(tmp_path / f"access.log.{turn}")
                server.signal(signal.SIGUSR1)
                assert eventually(access.exists)
            load.wait_for(100)
        asked = load.counts.answered
        assert server.stop() == 0
    load.counts.check()
    lines = "".join(path.read_text() for path in tmp_path.glob("access.log*")).splitlines()
    assert len(lines) == asked


def test_winch_means_what_gunicorn_means_by_it(tmp_path: Path) -> None:
    """Of a daemon it retires the workers; one on a terminal's side is let alone."""
    with Supervised(tmp_path, "-w", "2") as server:
        before = server.workers()
        server.signal(signal.SIGWINCH)
        server.signal(signal.SIGHUP)
        assert server.wait_for_workers(2, before)
        assert server.served_by()[0] == "one"
        assert server.stop() == 0


def test_signals_to_a_worker_concern_that_worker_alone(tmp_path: Path, transport: str) -> None:
    """Sent by hand, or by a process manager that tells every process of a group."""
    with Supervised(tmp_path, "-w", "2", "--transport", transport) as server:
        first = server.workers()
        with Load(server.address, keep_alive=4, closing=4) as load:
            load.wait_for(50)
            for number in (signal.SIGHUP, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU):
                for pid in first & set(server.members()):
                    os.kill(pid, number)
            load.wait_for(50)
            server.wait_for_workers(2)
            load.wait_for(50)
        assert server.stop() == 0
    load.counts.check()
