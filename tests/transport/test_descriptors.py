"""More descriptors than select() knows, and fewer than there are clients."""

from __future__ import annotations

import json
import os
import resource
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from penstock.config.budgets import possible_descriptors
from support.server_process import ServerProcess
from support.serving import eventually, get, post
from support.wire import Client

SUPPORT = Path(__file__).parents[1] / "support"

MANY = 1100

pytestmark = pytest.mark.parametrize("threads", ["1", "4"])


@pytest.fixture
def room_for_many() -> Iterator[None]:
    """Let this process, which is the clients, have many descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = MANY + 200
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.skip(f"this system allows {hard} open files, and the test needs {needed}")
    if soft != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def usage(client: Client) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(client.request("GET", "/").body)
    return report


@pytest.mark.parametrize("streamed", ["--stream-requests", "--no-stream-requests"])
@pytest.mark.usefixtures("room_for_many")
def test_more_than_1024_connections_are_served(transport: str, threads: str, streamed: str) -> None:
    arguments = ["self_reporting:app", "--transport", transport, "--threads", threads, streamed]
    arguments += ["--queue", str(MANY)]  # all ask at once
    with ServerProcess(*arguments, cwd=SUPPORT) as server, ExitStack() as stack:
        clients = [stack.enter_context(Client(server.address)) for _ in range(MANY)]
        for client in clients:
            client.send(get())
        for client in clients:
            assert client.read_response().status == 200
        assert usage(clients[0])["descriptors"] > 1024
        for client in clients[-5:]:  # these have the highest descriptors
            client.send(post(b"", "Expect: 100-continue", length=5))
            assert client.read_response().status == 100
            client.send(b"hello")
            assert json.loads(client.read_response().body)["body"] == 5


def test_EMFILE_on_accept_does_not_spin_and_passes(transport: str, threads: str) -> None:
    limits = {"LIMIT_NOFILE": "64"}
    arguments = ("self_reporting:app", "--transport", transport, "--threads", threads)
    with ServerProcess(*arguments, cwd=SUPPORT, environ=limits) as server, ExitStack() as stack:
        crowd = [stack.enter_context(Client(server.address)) for _ in range(100)]
        for client in crowd:
            client.send(get("/plain")[:-2])
        # Before the first of them has been within its head for long enough to make room.
        server.wait_for_line("PEN-2010 accepting connections on .* is paused: Too many open files")
        before = usage_of_process(server)
        threading.Event().wait(1.5)
        assert usage_of_process(server) - before < 0.3
        with Client(server.address) as newcomer:
            newcomer.send(get("/plain"))
            assert newcomer.read_response().status == 200
        for client in crowd:
            client.close()
        with Client(server.address) as control:
            eventually(lambda: usage(control)["descriptors"] < 60)


def test_fault_41_idle_connections_make_room_where_descriptors_run_out(
    transport: str, threads: str
) -> None:
    limits = {"LIMIT_NOFILE": "64"}
    arguments = ("self_reporting:app", "--transport", transport, "--threads", threads)
    with ServerProcess(*arguments, cwd=SUPPORT, environ=limits) as server, ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(Client(server.address))
        with Client(server.address) as newcomer:  # long before any of them expires
            assert newcomer.request("GET", "/plain").status == 200


def usage_of_process(server: ServerProcess) -> float:
    """Return the seconds of processor time that the server has used so far."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_the_reserve_is_left_to_the_application_beside_the_workers_own_descriptors(
    transport: str, threads: str
) -> None:
    room = 100
    reserve = str(possible_descriptors() - room)
    arguments = ("self_reporting:app", "--transport", transport, "--threads", threads)
    # More than fit: as many as fit would be evicted before.
    limits = ("--max-connections", "1000", "--max-unfinished-heads", "1000")
    command = (*arguments, "--workers", "1", "--descriptor-reserve", reserve, *limits)
    with ServerProcess(*command, cwd=SUPPORT) as server, ExitStack() as stack:
        for _ in range(room):
            client = stack.enter_context(Client(server.address))
            client.send(get("/plain")[:-2])  # so that it is not closed to make room
        server.wait_for_line("PEN-2020 accepting connections on .* is paused")
        pid = server.process.pid
        [worker] = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        assert len(os.listdir(f"/proc/{worker}/fd")) <= room
