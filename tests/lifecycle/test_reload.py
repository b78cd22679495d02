"""SIGHUP puts new code and settings in place, and loses nothing; or it changes nothing."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from support.invariant import eventually
from support.lifecycle import Supervised, write_app
from support.load import Load
from support.wire import Client

BROKEN = {
    "a syntax error": ("def (:", "SyntaxError"),
    "an exception": ("raise LookupError('on purpose')", "LookupError: on purpose"),
    "an exit": ("import sys; sys.exit(9)", "SystemExit: 9"),
    "no application": ("", "app"),
    "a death": ("import os; os._exit(11)", "11"),
}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_fault_34_reloads_under_load_lose_no_request_and_serve_the_new_code(
    tmp_path: Path, transport: str, workers: str
) -> None:
    with Supervised(tmp_path, "-w", workers, "--transport", transport) as server:
        with Load(server.address, keep_alive=8, closing=8) as load:
            for version in ("two", "three"):
                load.wait_for(200)
                old = server.workers()
                write_app(tmp_path, version)
                server.signal(signal.SIGHUP)
                server.wait_for_workers(int(workers), old)
                load.wait_for(200)
                assert {server.served_by()[0] for _ in range(10)} == {version}
        assert server.process.poll() is None
        assert server.stop() == 0
    load.counts.check()
    assert load.counts.refused == 0
    assert {tag.partition(":")[0] for tag in load.counts.servers} == {"one", "two", "three"}


def test_fault_34_many_reloads_at_once_are_one_after_the_other(
    tmp_path: Path, transport: str
) -> None:
    with Supervised(tmp_path, "-w", "2", "--transport", transport) as server:
        old = server.workers()
        with Load(server.address, keep_alive=4, closing=4) as load:
            # Each finds the one before further on its way: booting, being let in, serving.
            for turn in range(1, 25):
                server.signal(signal.SIGHUP)
                load.wait_for(25 * turn)
            server.wait_for_workers(2, old)
        assert len(server.workers()) == 2
        assert server.stop() == 0
    load.counts.check()


def test_idle_connections_may_ask_once_more_before_their_worker_leaves(
    tmp_path: Path, transport: str
) -> None:
    with Supervised(tmp_path, "-w", "2", "--transport", transport) as server:
        with Load(server.address, keep_alive=24, closing=0, pause=0.2) as load:
            load.wait_for(48)
            old = server.workers()
            server.signal(signal.SIGHUP)
            server.wait_for_workers(2, old)
            load.wait_for(48)
        assert server.stop() == 0
    load.counts.check()
    # Each was told that it is the last, and none was closed without a word.
    assert load.counts.closed_idle == 0
    assert load.counts.announced >= 24


def test_old_workers_finish_what_they_are_at_while_new_ones_serve(
    tmp_path: Path, transport: str
) -> None:
    with Supervised(tmp_path, "--transport", transport) as server:
        with server.begin("/hold?8&", "held") as held:
            (old,) = server.workers()
            write_app(tmp_path, "two")
            server.signal(signal.SIGHUP)
            server.wait_until_it_lets_go(old)
            assert server.served_by()[0] == "two"
            server.let_go("held")
            response = held.read_response()
            assert response.body.startswith(b"8 one:")
            assert response.header("Connection") == "close"
        server.wait_for_workers(1)
        assert server.stop() == 0


@pytest.mark.parametrize("what", BROKEN)
def test_fault_35_code_that_does_not_load_is_rolled_back(
    tmp_path: Path, transport: str, what: str
) -> None:
    code, told = BROKEN[what]
    with Supervised(tmp_path, "-w", "2", "--transport", transport) as server:
        old = server.workers()
        with Load(server.address, keep_alive=4, closing=4) as load:
            (tmp_path / "shop.py").write_text(code + "\n")
            server.signal(signal.SIGHUP)
            server.wait_for_line(r"\[(ERROR|CRITICAL|WARNING)\].*(old|roll|goes? on|remain)")
            load.wait_for(100)
            assert eventually(lambda: server.workers() == old)
            # It can be mended.
            write_app(tmp_path, "two")
            server.signal(signal.SIGHUP)
            server.wait_for_workers(2, old)
            assert server.served_by()[0] == "two"
        assert server.stop() == 0
    load.counts.check()
    text = "\n".join(server.lines)
    assert told in text
    if "Error" in told:
        assert "shop.py" in text  # the traceback


def test_fault_35_code_that_hangs_while_it_loads_is_rolled_back(
    tmp_path: Path, transport: str
) -> None:
    with Supervised(tmp_path, "--transport", transport, "--boot-timeout", "1s") as server:
        old = server.workers()
        write_app(tmp_path, "two", "import threading; threading.Event().wait(30)")
        with Load(server.address, keep_alive=2, closing=2) as load:
            server.signal(signal.SIGHUP)
            server.wait_for_line("boot_timeout")
            assert eventually(lambda: server.workers() == old)
            load.wait_for(20)
        assert server.stop() == 0
    load.counts.check()
    assert {tag.partition(":")[0] for tag in load.counts.servers} == {"one"}


def settings(folder: Path, text: str) -> None:
    (folder / "penstock.toml").write_text(text)


def test_a_reload_reads_the_settings_anew(tmp_path: Path, transport: str) -> None:
    settings(tmp_path, "threads = 1\ntimeout = 20\n")
    other = tmp_path / "gunicorn.conf.py"
    other.write_text("daemon = True\n")
    with Supervised(tmp_path, "--transport", transport) as server:
        assert "1 thread" in server.start_line
        other.write_text(f"{other.read_text()}spew = True\n")
        old = server.workers()
        # One thread, and it is held: this worker serves no other client.
        with server.begin("/hold?1&", "first") as first:
            settings(tmp_path, "threads = 3\ntimeout = 10\nworkers = 2\n")
            server.signal(signal.SIGHUP)
            assert eventually(lambda: server.workers() >= old and len(server.workers()) == 3)
            left = float(server.ask("/left").body.split()[0])
            assert 5 < left <= 10
            server.let_go("first")
            assert first.read_response().status == 200
        server.wait_for_workers(2, old)
        assert server.stop() == 0
    # What was warned of at the start is so still: a reload warns of what has come.
    for ignored in ("daemon", "spew"):
        assert "".join(server.lines).count(f"has {ignored},") == 1


def test_settings_that_are_wrong_leave_everything_as_it_was(tmp_path: Path, transport: str) -> None:
    settings(tmp_path, "threads = 2\n")
    with Supervised(tmp_path, "--transport", transport) as server:
        old = server.workers()
        settings(tmp_path, "threads = 'many'\n")
        server.signal(signal.SIGHUP)
        line = server.wait_for_line("threads")
        assert "[ERROR]" in line or "[CRITICAL]" in line
        assert server.served_by()[1] in old
        assert server.workers() == old
        assert server.stop() == 0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def binds(folder: Path, *ports: int) -> None:
    listed = ", ".join(f'"127.0.0.1:{port}"' for port in ports)
    settings(folder, f"bind = [{listed}]\n")


def test_a_reload_takes_an_address_more_and_lets_go_of_one(tmp_path: Path, transport: str) -> None:
    first, second, third = free_port(), free_port(), free_port()
    binds(tmp_path, first, second)
    with Supervised(tmp_path, "--transport", transport, bind=None) as server:
        old = server.workers()
        binds(tmp_path, first, third)
        with Load(("127.0.0.1", first), keep_alive=4, closing=4) as stays:
            with Load(("127.0.0.1", second), keep_alive=4, closing=8, until_refused=True) as leaves:
                leaves.wait_for(100)
                server.signal(signal.SIGHUP)
                gone = leaves.join()
            server.wait_for_workers(1, old)
            stays.wait_for(50)
            with Client(("127.0.0.1", third)) as client:
                assert client.request("GET", "/echo?1").status == 200
        assert server.stop() == 0
    stays.counts.check()
    assert stays.counts.refused == 0
    # Clients that were in time at the removed address are answered, and all others are refused.
    gone.check()
    assert gone.refused == 12


def test_a_reload_that_cannot_have_an_address_changes_nothing(
    tmp_path: Path, transport: str
) -> None:
    first = free_port()
    binds(tmp_path, first)
    with Supervised(tmp_path, "--transport", transport, bind=None) as server:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            old = server.workers()
            binds(tmp_path, first, taken.getsockname()[1])
            server.signal(signal.SIGHUP)
            server.wait_for_line(r"\[(ERROR|CRITICAL)\].*in use")
            assert server.served_by()[0] == "one"
            assert server.workers() == old
        assert server.stop() == 0


def test_a_reload_opens_the_logs_by_their_names(tmp_path: Path, transport: str) -> None:
    access = tmp_path / "access.log"
    with Supervised(tmp_path, "--transport", transport, "--access-logfile", str(access)) as server:
        server.ask("/echo?1")
        access.rename(tmp_path / "access.log.1")
        old = server.workers()
        server.signal(signal.SIGHUP)
        server.wait_for_workers(1, old)
        server.ask("/echo?2")
        assert server.stop() == 0
    assert "/echo?1 " in (tmp_path / "access.log.1").read_text()
    assert "/echo?2 " in access.read_text()


def test_a_reload_takes_the_supervisor_to_another_log(tmp_path: Path) -> None:
    settings = tmp_path / "penstock.toml"
    settings.write_text("error_logfile = 'first.log'\n")
    first, second = tmp_path / "first.log", tmp_path / "second.log"
    server = Supervised(tmp_path)
    try:
        eventually(lambda: first.exists() and "serving shop:app" in first.read_text())
        settings.write_text("error_logfile = 'second.log'\nlog_level = 'debug'\n")
        server.signal(signal.SIGHUP)
        eventually(lambda: second.exists() and "serving shop:app" in second.read_text())
        before = first.read_text()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    finally:
        server.kill()
    assert "[DEBUG] received SIGTERM" in second.read_text()
    assert first.read_text() == before


NO_FORK = """
import errno, os, posix

def refuse():
    raise BlockingIOError(errno.EAGAIN, "no process is left")

def on_reload(server):
    os.fork = refuse if os.path.exists("no-fork") else posix.fork
"""


def test_a_reload_for_which_no_process_can_be_started_is_rolled_back(tmp_path: Path) -> None:
    """As with --preload, where the preloader is that process."""
    (tmp_path / "gunicorn.conf.py").write_text(NO_FORK)
    (tmp_path / "no-fork").touch()
    with Supervised(tmp_path, "-w", "2", "-c", "gunicorn.conf.py") as server:
        workers = server.workers()
        server.signal(signal.SIGHUP)
        server.wait_for_line(
            "not reloaded, the old workers go on: a worker cannot be started: no process is left"
        )
        assert server.ask("/echo?1").status == 200
        assert server.workers() == workers
        (tmp_path / "no-fork").unlink()
        server.signal(signal.SIGHUP)
        server.wait_for_workers(2, without=workers)
        assert server.stop() == 0
