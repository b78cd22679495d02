"""What systemd is told by a server that lives its life."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.lifecycle import Supervised, write_app
from support.server_process import START_WITHIN


class Manager:
    """The end of the notify socket that is systemd's."""

    def __init__(self, folder: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(folder / "notify"))
        self.environ = {"NOTIFY_SOCKET": str(folder / "notify")}

    def wait_for(self, line: str) -> list[str]:
        """Return the next message that has this line in it."""
        end = time.monotonic() + START_WITHIN
        while True:
            self.socket.settimeout(max(0.01, end - time.monotonic()))
            lines = self.socket.recv(4096).decode().split("\n")
            if line in lines:
                return lines


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    found = Manager(tmp_path)
    yield found
    found.socket.close()


def test_it_is_told_when_the_server_serves_reloads_and_stops(
    tmp_path: Path, manager: Manager
) -> None:
    with Supervised(tmp_path, environ=manager.environ) as server:
        ready = manager.wait_for("READY=1")
        assert f"MAINPID={server.supervisor}" in ready
        old = server.workers()
        write_app(tmp_path, "two")
        server.signal(signal.SIGHUP)
        assert any(line.startswith("MONOTONIC_USEC=") for line in manager.wait_for("RELOADING=1"))
        manager.wait_for("READY=1")
        server.wait_for_workers(1, old)
        server.signal(signal.SIGTERM)
        manager.wait_for("STOPPING=1")
        assert server.wait() == 0


def test_a_reload_that_fails_leaves_the_service_active(tmp_path: Path, manager: Manager) -> None:
    with Supervised(tmp_path, environ=manager.environ) as server:
        manager.wait_for("READY=1")
        write_app(tmp_path, "two", "raise LookupError")
        server.signal(signal.SIGHUP)
        manager.wait_for("RELOADING=1")
        assert "STATUS=serving; the last reload failed" in manager.wait_for("READY=1")
        assert server.stop() == 0


def test_the_watchdog_hears_that_the_supervisor_lives(tmp_path: Path, manager: Manager) -> None:
    with Supervised(tmp_path, environ=manager.environ | {"WATCHDOG_USEC": "200000"}) as server:
        for _ in range(3):
            manager.wait_for("WATCHDOG=1")
        assert server.stop() == 0


def test_workers_cannot_speak_for_the_server(tmp_path: Path, manager: Manager) -> None:
    said = "import os; assert 'NOTIFY_SOCKET' not in os.environ"
    write_app(tmp_path, "one", said)
    with Supervised(tmp_path, environ=manager.environ) as server:
        assert server.ask().status == 200
        assert server.stop() == 0


def test_after_an_upgrade_the_new_supervisor_is_the_main_process(
    tmp_path: Path, manager: Manager
) -> None:
    with Supervised(tmp_path, environ=manager.environ) as server:
        manager.wait_for("READY=1")
        old = server.supervisor
        os.kill(old, signal.SIGUSR2)
        lines = manager.wait_for("READY=1")
        (main,) = (line for line in lines if line.startswith("MAINPID="))
        server.supervisor = int(main.removeprefix("MAINPID="))
        assert server.supervisor != old
        assert server.process.wait(START_WITHIN) == 0
        assert server.ask().status == 200
        assert server.stop() == 0
