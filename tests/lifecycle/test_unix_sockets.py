"""A unix socket lives through reloads and upgrades under load, and its path is gone at the end."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from support.lifecycle import Supervised, write_app
from support.load import Load


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "socket")


def test_reloads_leave_the_socket_where_it_is(tmp_path: Path, transport: str, path: str) -> None:
    arguments = ("-w", "2", "--transport", transport, "--bind", f"unix:{path}")
    with Supervised(tmp_path, *arguments) as server:
        with Load(path, keep_alive=6, closing=6) as load:
            load.wait_for(100)
            for version in ("two", "three"):
                old = server.workers()
                write_app(tmp_path, version)
                server.signal(signal.SIGHUP)
                server.wait_for_workers(2, old)
                load.wait_for(100)
        assert server.stop() == 0
    load.counts.check()
    assert load.counts.refused == 0
    assert not Path(path).exists()


def test_an_upgrade_hands_the_socket_over(tmp_path: Path, transport: str, path: str) -> None:
    pid_file = tmp_path / "pid"
    arguments = ("--transport", transport, "--bind", f"unix:{path}", "--pid", str(pid_file))
    with Supervised(tmp_path, *arguments) as server:
        with Load(path, keep_alive=6, closing=6) as load:
            load.wait_for(100)
            server.signal(signal.SIGUSR2)
            load.wait_until(lambda: server.has_new_supervisor(pid_file))
            assert server.process.wait(20) == 0
            load.wait_for(100)
            assert Path(path).exists()
        server.stop()
    load.counts.check()
    assert load.counts.refused == 0
    assert not Path(path).exists()


def test_a_stop_under_load_loses_no_request(tmp_path: Path, transport: str, path: str) -> None:
    arguments = ("-w", "2", "--transport", transport, "--bind", f"unix:{path}")
    with Supervised(tmp_path, *arguments) as server:
        with Load(path, keep_alive=6, closing=6, until_refused=True) as load:
            load.wait_for(200)
            server.signal(signal.SIGTERM)
            counts = load.join()
        assert server.wait() == 0
    counts.check()
    assert not Path(path).exists()
