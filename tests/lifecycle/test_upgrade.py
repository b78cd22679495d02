"""SIGUSR2 puts a new supervisor in the old one's place, on its listeners; or changes nothing."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

import pytest

from penstock.supervisor.upgrade import END_SECONDS
from support.invariant import eventually
from support.lifecycle import Supervised, halt, json_of, write_app
from support.load import Load


def has_left(server: Supervised, pid: int) -> bool:
    return pid not in server.members()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_fault_36_an_upgrade_under_load_loses_no_request(
    tmp_path: Path, transport: str, workers: str
) -> None:
    pid_file = tmp_path / "pid"
    with Supervised(
        tmp_path, "-w", workers, "--transport", transport, "--pid", str(pid_file)
    ) as server:
        first = server.supervisor
        assert int(pid_file.read_text()) == first
        with Load(server.address, keep_alive=8, closing=8) as load:
            load.wait_for(200)
            write_app(tmp_path, "two")
            server.signal(signal.SIGUSR2)
            load.wait_until(lambda: server.has_new_supervisor(pid_file))
            assert server.process.wait(20) == 0  # the old one leaves by itself
            server.wait_for_workers(int(workers))
            load.wait_for(200)
            assert server.served_by()[0] == "two"
        assert server.supervisor != first
        assert int(pid_file.read_text()) == server.supervisor
        server.stop()
        assert not pid_file.exists()
    load.counts.check()
    assert load.counts.refused == 0
    assert {tag.partition(":")[0] for tag in load.counts.servers} == {"one", "two"}


def test_an_upgrade_follows_an_upgrade(tmp_path: Path, transport: str) -> None:
    pid_file = tmp_path / "pid"
    with Supervised(tmp_path, "--transport", transport, "--pid", str(pid_file)) as server:
        with Load(server.address, keep_alive=4, closing=4) as load:
            for version in ("two", "three"):
                old = server.supervisor
                write_app(tmp_path, version)
                server.signal(signal.SIGUSR2)
                load.wait_until(lambda: server.has_new_supervisor(pid_file))
                load.wait_until(partial(has_left, server, old))
                assert server.served_by()[0] == version
        server.stop()
    load.counts.check()


def test_fault_36_code_that_does_not_load_is_rolled_back(tmp_path: Path, transport: str) -> None:
    pid_file = tmp_path / "pid"
    with Supervised(
        tmp_path, "-w", "2", "--transport", transport, "--pid", str(pid_file)
    ) as server:
        old = server.workers()
        with Load(server.address, keep_alive=4, closing=4) as load:
            (tmp_path / "shop.py").write_text("raise LookupError('on purpose')\n")
            server.signal(signal.SIGUSR2)
            server.wait_for_line("LookupError: on purpose")
            server.wait_for_line(
                r"\[(ERROR|CRITICAL|WARNING)\].*(old|roll|goes? on|remain|serving)"
            )
            load.wait_for(50)
            assert eventually(lambda: set(server.members()) == old | {server.supervisor})
            assert int(pid_file.read_text()) == server.supervisor
            write_app(tmp_path, "two")
            server.signal(signal.SIGUSR2)
            load.wait_until(lambda: server.has_new_supervisor(pid_file))
            load.wait_until(lambda: not old & set(server.members()))
        assert server.served_by()[0] == "two"
        server.stop()
    load.counts.check()


def test_an_upgrade_that_hangs_is_rolled_back(tmp_path: Path) -> None:
    with Supervised(tmp_path, "--boot-timeout", "1s") as server:
        old = set(server.members())
        write_app(tmp_path, "two", "import threading; threading.Event().wait(30)")
        server.signal(signal.SIGUSR2)
        server.wait_for_line("boot_timeout")
        assert eventually(lambda: set(server.members()) == old)
        assert server.served_by()[0] == "one"
        assert server.stop() == 0


def test_a_supervisor_that_takes_over_and_dies_leaves_no_port_without_a_server(
    tmp_path: Path,
) -> None:
    """Killed before it serves: the old one goes on."""
    with Supervised(tmp_path) as server:
        old = set(server.members())
        write_app(tmp_path, "two", "import threading; threading.Event().wait(30)")
        server.signal(signal.SIGUSR2)
        assert eventually(lambda: len(server.members()) >= 4)
        for pid in set(server.members()) - old:
            os.kill(pid, signal.SIGKILL)
        assert eventually(lambda: set(server.members()) == old)
        assert server.served_by()[0] == "one"
        assert server.stop() == 0


def test_a_new_supervisor_answers_control_though_the_old_one_does_not_say_what_it_has_counted(
    tmp_path: Path,
) -> None:
    """As one of an earlier version does not. Here it stands still."""
    with Supervised(tmp_path, "--control", "control") as server:
        old = server.supervisor
        os.mkfifo(tmp_path / "go")
        write_app(tmp_path, "two", "open('go').close()")
        server.signal(signal.SIGUSR2)
        with open(tmp_path / "go", "w"):  # once the new worker reads it
            halt(old)
        status = json_of(server.control("--control", "control", "--json", "status"))
        assert status["pid"] != old
        os.kill(old, signal.SIGCONT)
        assert eventually(partial(has_left, server, old))
        assert server.served_by()[0] == "two"
        os.kill(status["pid"], signal.SIGTERM)
        server.wait_until_all_have_left()


HANGS = """
import pathlib, signal, threading

def on_starting(server):
    if pathlib.Path("hang").exists():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        pathlib.Path("hangs").touch()
        threading.Event().wait(60)
"""


def test_a_new_supervisor_that_does_not_end_is_killed(tmp_path: Path) -> None:
    """It would hold the listening sockets: clients could connect, and get no answer."""
    (tmp_path / "gunicorn.conf.py").write_text(HANGS)
    with Supervised(tmp_path, "-c", "gunicorn.conf.py") as server:
        (tmp_path / "hang").touch()
        server.signal(signal.SIGUSR2)
        assert eventually((tmp_path / "hangs").exists)
        server.signal(signal.SIGTERM)
        server.wait_until_all_have_left()
        assert server.wait() == 0


def test_sigint_does_not_wait_for_a_new_supervisor_that_does_not_end(
    tmp_path: Path,
) -> None:
    (tmp_path / "gunicorn.conf.py").write_text(HANGS)
    with Supervised(tmp_path, "-c", "gunicorn.conf.py") as server:
        (tmp_path / "hang").touch()
        server.signal(signal.SIGUSR2)
        assert eventually((tmp_path / "hangs").exists)
        server.signal(signal.SIGTERM)
        server.wait_for_line("not upgraded")
        status, taken = server.seconds_to_exit(signal.SIGINT)
        assert status == 0
        assert taken < END_SECONDS - 1
        server.wait_until_all_have_left()
