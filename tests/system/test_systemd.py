"""What systemd is told, over sockets such as systemd listens on."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.system.systemd import Notifier

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"


class Manager:
    """A service manager's end."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(10)
        self.socket.bind(address.replace("@", "\0", 1))
        self.environ = {"NOTIFY_SOCKET": address, "HOME": "/"}

    def lines(self) -> list[str]:
        return self.socket.recv(4096).decode().split("\n")


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    paths = {"path": str(tmp_path / "notify"), "abstract": f"@penstock-test-{os.getpid()}"}
    found = Manager(paths[request.param])
    yield found
    found.socket.close()


def test_each_message_is_what_systemd_expects(manager: Manager) -> None:
    notifier = Notifier(manager.environ)
    assert notifier.enabled
    assert notifier.ready("serving shop:app\non :8000")
    pid = os.getpid()
    assert manager.lines() == ["READY=1", f"MAINPID={pid}", "STATUS=serving shop:app on :8000"]
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert notifier.reloading("reading settings again")
    reloading, stamp, status = manager.lines()
    assert (reloading, status) == ("RELOADING=1", "STATUS=reading settings again")
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert before <= int(stamp.removeprefix("MONOTONIC_USEC=")) <= now
    notifier.status("2 workers")
    assert manager.lines() == ["STATUS=2 workers"]
    notifier.hand_over(42)
    assert manager.lines() == ["MAINPID=42"]
    notifier.watchdog()
    assert manager.lines() == ["WATCHDOG=1"]
    notifier.stopping("finishing requests")
    assert manager.lines() == ["STOPPING=1", "STATUS=finishing requests"]
    notifier.close()


def test_what_is_forked_does_not_see_the_variables_and_a_successor_gets_them(
    manager: Manager,
) -> None:
    pid = str(os.getpid())
    manager.environ |= {"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": pid}
    address = manager.environ["NOTIFY_SOCKET"]
    notifier = Notifier(manager.environ)
    assert manager.environ == {"HOME": "/"}
    assert notifier.variables_for(77) == {
        "NOTIFY_SOCKET": address,
        "WATCHDOG_USEC": "20000000",
        "WATCHDOG_PID": "77",
    }


@pytest.mark.parametrize(
    ("variables", "interval"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_told_at_half_its_time_and_only_by_whom_it_waits_for(
    variables: dict[str, str], interval: float | None
) -> None:
    assert Notifier({"NOTIFY_SOCKET": "/run/x", **variables}).watchdog_interval == interval


@pytest.mark.parametrize("address", ["", "@", "vsock:2:1234", "relative", "/nowhere/notify"])
def test_where_nobody_listens_nothing_happens(address: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"})
    assert not notifier.ready("x")
    assert not notifier.stopping("x")
    notifier.close()


def test_without_a_manager_nothing_happens() -> None:
    notifier = Notifier({})
    assert not notifier.enabled
    assert not notifier.watchdog()


def test_a_manager_that_does_not_read_blocks_nobody(manager: Manager) -> None:
    notifier = Notifier(manager.environ)
    sent = 0
    while notifier.watchdog():  # until the queue is full
        sent += 1
        assert sent < 1_000_000
    assert manager.lines() == ["WATCHDOG=1"]
    assert notifier.watchdog(), "it goes on when there is room again"
    notifier.close()


# The units of deploy/


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_systemd_understands_every_line_of_the_units(tmp_path: Path) -> None:
    for name in ("penstock.service", "penstock.socket"):
        unit = (DEPLOY / name).read_text()
        # The program is not installed here, and one that is missing is an error.
        here = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", unit, flags=re.MULTILINE)
        (tmp_path / name).write_text(here)
    units = [str(tmp_path / name) for name in ("penstock.service", "penstock.socket")]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    ours = [line for line in done.stderr.splitlines() if "penstock" in line]
    assert not ours
    assert done.returncode == 0, done.stderr


def test_the_service_waits_until_the_server_says_that_it_is_ready() -> None:
    unit = (DEPLOY / "penstock.service").read_text()
    assert "\nType=notify\n" in unit
    assert "\nExecReload=/bin/kill -HUP $MAINPID\n" in unit
    assert re.search(r"^WatchdogSec=\d+$", unit, re.MULTILINE)
