"""A request that takes too long: it is named, it is ended, and no other one pays for it."""

from __future__ import annotations

import os
import re
import select
import signal
import time
from pathlib import Path

from support.invariant import eventually
from support.lifecycle import Supervised, halt
from support.load import Load
from support.wire import Client


def test_a_request_over_its_timeout_gets_504_and_its_thread_serves_on_once_it_returns(
    tmp_path: Path, transport: str
) -> None:
    arguments = ("--timeout", "0.6s", "--timeout-grace", "20s", "--threads", "2")
    with Supervised(tmp_path, *arguments, "--transport", transport) as server:
        before = server.workers()
        with Load(server.address, keep_alive=2, closing=2) as load:
            with server.begin("/hold?7&", "late") as late:
                warning = server.wait_for_line(r"\[WARNING\] PEN-6110 GET /hold\?7&")
                assert re.search(r"request \S+", warning)
                assert late.read_response().status == 504
                load.wait_for(20)
                server.let_go("late")
                server.wait_for_line(r"GET /hold\?7&.*: the response is discarded")
            load.wait_for(20)
        load.counts.check()
        assert server.workers() == before
        assert server.stop() == 0
    assert "lifecycle_app.py" in "\n".join(server.lines)  # its stack


def test_a_request_that_does_not_end_costs_its_worker_and_no_other_request(
    tmp_path: Path, transport: str
) -> None:
    access = tmp_path / "access.log"
    arguments = ("--timeout", "0.5s", "--timeout-grace", "0.5s", "--threads", "3")
    more = ("--graceful-timeout", "9s", "--access-logfile", str(access), "--transport", transport)
    with Supervised(tmp_path, *arguments, "--timeout-for", "/hold=20s", *more) as server:
        (old,) = server.workers()
        with server.begin("/hold?4&", "other") as other:
            with Load(server.address, keep_alive=3, closing=3) as load:
                with server.begin("/deaf?3&", "stuck") as stuck:
                    assert b" 504 " in stuck.read_to_end()[:20]  # before the grace has passed
                server.wait_for_line("lifecycle_app.py.*in deaf")
                load.wait_until(lambda: len(server.workers() - {old}) == 1)
                load.wait_for(50)
                # Its sibling has time to finish, though the connection of the stuck request is
                # closed, so that there are as many stuck requests as connections.
                assert not select.select([other.socket], [], [], 0.5)[0], "it was cut off"
                server.let_go("other")
                assert other.read_response().body.startswith(b"4 one:")
                server.wait_for_workers(1, {old})
        # The supervisor has waited for it: a stop that comes before counts what it cut off.
        assert eventually(lambda: not Path(f"/proc/{old}").exists())
        assert server.stop() == 0
    load.counts.check()
    assert load.counts.refused == 0
    lines = [line for line in access.read_text().splitlines() if "/deaf?3&" in line]
    assert len(lines) == 1
    assert '" 504 ' in lines[0]


def test_a_worker_whose_lock_native_code_keeps_is_noticed_told_and_replaced(
    tmp_path: Path, transport: str
) -> None:
    access = tmp_path / "access.log"
    arguments = ("--timeout", "1s", "--timeout-grace", "0.5s", "--graceful-timeout", "1s")
    more = ("--access-logfile", str(access), "--transport", transport)
    with Supervised(tmp_path, "-w", "2", *arguments, *more) as server:
        old = server.workers()
        with server.begin("/keep-the-gil?6&", "stuck") as stuck:
            server.wait_for_line(r"GET /keep-the-gil\?6&", 25)
            server.wait_for_line("in keep_the_gil")  # its stack
            assert eventually(lambda: len(server.workers() - old) == 1)
            assert stuck.read_to_end() == b""
            assert eventually(lambda: len(server.workers() & old) == 1)
        with Load(server.address, keep_alive=2, closing=4) as load:
            load.wait_for(50)
        load.counts.check()
        assert server.stop() == 0
    # Its client got nothing: 504 would say that the server has answered.
    lines = [line for line in access.read_text().splitlines() if "/keep-the-gil?6&" in line]
    assert [line.split('" ')[1][:3] for line in lines] == ["502"]


def test_fault_40_a_worker_that_is_halted_is_not_shot(tmp_path: Path, transport: str) -> None:
    arguments = ("--timeout", "0.5s", "--timeout-grace", "0.3s", "--transport", transport)
    with Supervised(tmp_path, *arguments) as server:
        (worker,) = server.workers()
        halt(worker)
        try:
            with Client(server.address) as client:
                client.send(b"GET /echo?1 HTTP/1.1\r\nHost: a\r\n\r\n")
                client.socket.settimeout(3)
                try:
                    assert client.socket.recv(1) == b"", "a halted worker answers"
                    raise AssertionError("the connection was closed")
                except TimeoutError:
                    pass
                assert server.workers() == {worker}
                os.kill(worker, signal.SIGCONT)
                client.socket.settimeout(10)
                assert client.read_response().status == 200
        finally:
            if worker in server.members():
                os.kill(worker, signal.SIGCONT)
        assert server.workers() == {worker}
        assert server.stop() == 0


def test_fault_40_a_server_that_is_halted_as_a_whole_goes_on_as_before(
    tmp_path: Path, transport: str
) -> None:
    arguments = ("--timeout", "0.5s", "--timeout-grace", "0.3s", "--transport", transport)
    with Supervised(tmp_path, "-w", "2", *arguments) as server:
        workers = server.workers()
        with Load(server.address, keep_alive=4, closing=4) as load:
            load.wait_for(100)
            processes = [server.supervisor, *workers]
            for pid in processes:
                halt(pid)
            # As a container that gets no processor time, or a machine that sleeps.
            until = time.monotonic() + 2
            eventually(lambda: time.monotonic() > until)
            for pid in processes:
                os.kill(pid, signal.SIGCONT)
            load.wait_for(100)
        assert server.workers() == workers
        assert server.stop() == 0
    load.counts.check()


def test_the_application_is_told_its_deadline(tmp_path: Path, transport: str) -> None:
    with Supervised(tmp_path, "--timeout", "9s", "--transport", transport) as server:
        assert 6 < float(server.ask("/left").body.split()[0]) <= 9
    with Supervised(tmp_path, "--timeout", "0", "--transport", transport) as server:
        assert server.ask("/left").body.startswith(b"none")
