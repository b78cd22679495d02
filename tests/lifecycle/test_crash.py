"""A worker that dies: whom that costs an answer, how soon it is replaced, what the log tells."""

from __future__ import annotations

import os
import re
import signal
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from harness import processes
from support.invariant import eventually
from support.lifecycle import Supervised, halt, write_app
from support.load import Load
from support.server_process import BUSY_SECONDS
from support.wire import Client

DEATHS = {
    "SIGKILL": "SIGKILL",
    "segfault": "SIGSEGV",
    "exit": "7",
    "abort": "SIGABRT",
}
"""How the application ends its worker, and what the log calls that."""

SUCCESSOR_WITHIN = 1.0
"""Seconds, and as much again for a machine that is busy with other tests."""


def is_dead(pid: int) -> bool:
    return processes.state(pid) in ("", "Z")


@pytest.mark.parametrize("how", DEATHS)
def test_fault_25_a_worker_that_dies_has_a_successor_within_a_second(
    tmp_path: Path, transport: str, how: str
) -> None:
    with Supervised(tmp_path, "--transport", transport) as server:
        (old,) = server.workers()
        with Client(server.address) as client:
            client.send(f"GET /die?1&{how} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            assert client.read_to_end() == b""
        begin = time.monotonic()
        # No client is refused meanwhile: new ones wait in the queue.
        version, new = server.served_by()
        assert time.monotonic() - begin < SUCCESSOR_WITHIN + BUSY_SECONDS
        assert version == "one"
        assert new != old
        assert server.wait_for_workers(1) == {new}
        line = server.wait_for_line(rf"\b{old}\b.*{DEATHS[how]}")
        assert re.search(r"\[(ERROR|CRITICAL)\]", line)
        assert server.stop() == 0


def test_the_log_names_what_a_dead_worker_was_at(tmp_path: Path, transport: str) -> None:
    with Supervised(tmp_path, "--transport", transport) as server:
        (old,) = server.workers()
        with server.begin("/hold?5&", "held") as held:
            name, port = held.socket.getsockname()
            os.kill(old, signal.SIGKILL)
            assert held.read_to_end() == b""
        line = server.wait_for_line(r"GET /hold\?5&")
        told = re.search(r"GET (\S+) \(request (\S+), ([\d.]+) s old, from (\S+)\)", line)
        assert told, line
        assert told[4] == f"{name}:{port}"
        assert re.fullmatch(r"[\x21-\x7e]+", told[2])
        assert float(told[3]) < 30
        server.wait_for_workers(1, {old})
        assert re.search(rf"\b{old}\b.*SIGKILL", "\n".join(server.lines_so_far()))


def test_fault_31_only_connections_of_the_dead_worker_fail(tmp_path: Path, transport: str) -> None:
    with Supervised(tmp_path, "-w", "2", "--transport", transport) as server:
        killed: dict[int, set[int]] = {}
        with Load(server.address, keep_alive=12, closing=6) as load:
            for _ in range(3):
                load.wait_for(200)
                before = server.wait_for_workers(2)
                victim = min(before)
                # While it stands still nothing is accepted or closed: just its clients may fail.
                # (Of a signal that it could handle it would die running, and accept meanwhile.)
                halt(victim)
                killed[victim] = processes.peer_ports(victim)
                os.kill(victim, signal.SIGKILL)
                eventually(partial(is_dead, victim))
                server.wait_for_workers(2, {victim})
        counts = load.counts
        # A port may come again: then it is of one client of each of two dead workers.
        theirs = Counter(port for ports in killed.values() for port in ports)
        assert not [str(loss) for loss in counts.losses if loss.port not in theirs]
        assert Counter(loss.port for loss in counts.losses) <= theirs
        assert counts.refused == 0
        assert len(counts.servers) >= 3, counts  # the last one may have come too late
        assert server.stop() == 0


def test_a_worker_that_crashes_again_and_again_is_held_back_loudly_and_others_serve(
    tmp_path: Path, transport: str
) -> None:
    # All that are started after the first two die while they boot.
    count = tmp_path / "count"
    crash = (
        "import os, pathlib\n"
        f"count = pathlib.Path({str(count)!r})\n"
        "with count.open('a') as file:\n"
        "    file.write('.')\n"
        "if count.stat().st_size > 2:\n"
        "    os.kill(os.getpid(), 11)\n"
    )
    write_app(tmp_path, "one", crash)
    with Supervised(tmp_path, "-w", "2", "--transport", transport) as server:
        victim, healthy = sorted(server.wait_for_workers(2))
        with Load(server.address, keep_alive=0, closing=4) as load:
            os.kill(victim, signal.SIGKILL)
            server.wait_for_line(
                r"\[(ERROR|CRITICAL)\].*(again and again|the next attempt)", within=30
            )
            load.wait_for(200)
            tried = count.stat().st_size
            assert healthy in server.workers()
        counts = load.counts
        assert counts.refused == 0
        # The victim was at requests of its own.
        assert len(counts.losses) <= 4, counts
        assert tried <= 12, "it is started without a pause"
        write_app(tmp_path, "two")
        server.wait_for_workers(2, {victim})
        assert eventually(lambda: server.served_by()[0] == "two", 15)
        assert server.stop() == 0


def test_fault_32_workers_of_a_dead_supervisor_finish_and_leave_the_port(
    tmp_path: Path, transport: str
) -> None:
    with Supervised(
        tmp_path, "-w", "2", "--transport", transport, "--drain-linger", "0s"
    ) as server:
        workers = server.workers()
        with server.begin("/hold?3&", "held") as held:
            os.kill(server.supervisor, signal.SIGKILL)
            server.process.wait(10)
            # The requests in progress are finished, and no other program can take the port before.
            eventually(lambda: len(server.members()) < 2)
            (left,) = server.members()
            assert left in workers
            server.wait_until_it_lets_go(left)
            # So the next server can begin, though this one is not at its end.
            with Supervised(tmp_path, "--bind", f"127.0.0.1:{server.port}") as successor:
                assert successor.served_by()[1] != left
                assert successor.stop() == 0
            server.let_go("held")
            assert held.read_response().body.startswith(b"3 one:")
        server.wait_until_all_have_left()
        with pytest.raises(ConnectionRefusedError):
            Client(server.address)


def test_fault_32_a_dead_supervisor_under_load_loses_nothing(
    tmp_path: Path, transport: str
) -> None:
    with Supervised(tmp_path, "-w", "2", "--transport", transport) as server:
        with Load(server.address, keep_alive=8, closing=4, until_refused=True) as load:
            load.wait_for(300)
            os.kill(server.supervisor, signal.SIGKILL)
            counts = load.join()
        server.wait_until_all_have_left()
    counts.check()


def test_fault_32_a_worker_that_boots_does_not_outlive_its_supervisor(tmp_path: Path) -> None:
    """However long the import hangs: it would never be ordered to serve, and holds the sockets."""
    with Supervised(tmp_path, "--drain-linger", "0s") as server:
        write_app(tmp_path, "two", "import threading; threading.Event().wait(30)")
        old = server.workers()
        server.signal(signal.SIGHUP)
        assert eventually(lambda: len(server.workers()) > len(old))
        os.kill(server.supervisor, signal.SIGKILL)
        server.process.wait(10)
        server.wait_until_all_have_left()
        with pytest.raises(ConnectionRefusedError):
            Client(server.address)


def test_fault_31_the_log_of_requests_has_a_line_for_each_that_ended_with_its_worker(
    tmp_path: Path, transport: str
) -> None:
    access = tmp_path / "access.log"
    arguments = ("--access-logfile", str(access), "--transport", transport)
    with Supervised(tmp_path, *arguments) as server:
        (old,) = server.workers()
        with server.begin("/hold?5&", "held") as held:
            os.kill(old, signal.SIGKILL)
            assert held.read_to_end() == b""
        server.wait_for_workers(1, {old})
        assert server.ask("/echo?6").status == 200
        assert server.stop() == 0
    lines = access.read_text().splitlines()
    assert len([line for line in lines if "/hold?5&" in line]) == 1, lines
    assert len([line for line in lines if "/echo?6 " in line]) == 1, lines
