"""Memory that runs out: whom the kernel kills, what the log says, and how it is kept from that."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.invariant import eventually
from support.lifecycle import Supervised
from support.load import Load, plain
from support.wire import Client

LIMIT_MIB = 160
HOG = 'echo $$ >"$0/cgroup.procs" && exec "$@"'
"""Enters the group, and becomes what follows."""


def own_group() -> Path | None:
    """Return the directory of this process's memory group; None where it is not to be found."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        root = Path("/sys/fs/cgroup")
        if "memory" in controllers.split(","):
            return root / "memory" / path.lstrip("/")
        if not controllers and (root / "cgroup.controllers").exists():
            return root / path.lstrip("/")
    return None


@pytest.fixture
def group() -> Iterator[Path]:
    """Make a group with little memory for one server."""
    parent = own_group()
    if parent is None:
        pytest.skip("there are no memory groups here")
    folder = parent / f"penstock-test-{os.getpid()}"
    limit = "memory.limit_in_bytes" if "memory/" in f"{parent}/" else "memory.max"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no memory group can be made here: {error}")
    try:
        try:
            (folder / limit).write_text(str(LIMIT_MIB << 20))
        except OSError as error:
            pytest.skip(f"no limit can be set here: {error}")
        yield folder
    finally:
        # Its processes have been waited for, but the kernel takes a moment.
        eventually(lambda: not (folder / "cgroup.procs").read_text())
        folder.rmdir()


def confined(folder: Path, group: Path, *arguments: str) -> Supervised:
    """Return a server that has as much memory as its group, and no more."""
    python = ("sh", "-c", HOG, str(group), sys.executable)
    return Supervised(folder, *arguments, python=python)


def test_fault_26_a_worker_that_the_kernel_kills_for_want_of_memory_is_told_as_such(
    tmp_path: Path, transport: str, group: Path
) -> None:
    with confined(tmp_path, group, "--transport", transport) as server:
        (old,) = server.workers()
        with Client(server.address) as client:
            client.send(b"GET /grow?1&600 HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.read_to_end() == b""
        line = server.wait_for_line(rf"\[ERROR\].*\b{old}\b.*SIGKILL")
        assert "by the kernel" in line
        assert "memory" in line
        server.wait_for_line("GET /grow")
        server.wait_for_workers(1, {old})
        assert server.served_by()[0] == "one"
        assert server.stop() == 0


def test_a_worker_is_replaced_before_its_share_of_the_containers_memory_is_used_up(
    tmp_path: Path, transport: str, group: Path
) -> None:
    arguments = ("--transport", transport, "--max-memory", "50%")
    with confined(tmp_path, group, *arguments) as server:
        (old,) = server.workers()
        with Load(server.address, keep_alive=2, closing=2, ask=plain) as load:
            assert server.ask(f"/grow?1&{LIMIT_MIB // 2}").status == 200
            server.wait_for_workers(1, {old})
            load.wait_for(50)
        assert server.stop() == 0
    load.counts.check()
    assert load.counts.refused == 0
    assert any("max_memory" in line for line in server.lines)
