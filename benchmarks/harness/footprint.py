"""What Penstock costs while it does little: memory, idle connections, the start of the command."""

from __future__ import annotations

import http.client
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from harness import environment, processes
from harness.idle import idle_connections
from harness.servers import HOST, Candidate, Running, running

CANDIDATES = (Candidate("penstock", 4), Candidate("penstock-python", 4))
REQUESTS = 1000
IDLE_CONNECTIONS = 1000
VERSION_RUNS = 10


@dataclass(frozen=True)
class Figure:
    """One measured value, and what it should be."""

    peer: str
    name: str
    value: str
    target: str


def measure(candidate: Candidate) -> list[Figure]:
    """Measure everything of one server; takes some seconds."""
    with running(candidate) as server:
        figures = [_memory(server, "after the start")]
        _send_requests(server)
        figures.append(_memory(server, f"after {REQUESTS:,} requests"))
        figures += _idle_connections(server)
    return [*figures, _version_time(candidate)]


def _memory(server: Running, when: str) -> Figure:
    mebibytes = processes.resident_kib(server.pid) / 1024
    name = f"resident memory of a bare application, {when}"
    return Figure(server.candidate.peer, name, f"{mebibytes:.1f} MiB", "< 30")


def _send_requests(server: Running) -> None:
    with _connection(server) as connection:
        for _ in range(REQUESTS):
            _ask(connection)


def _idle_connections(server: Running) -> list[Figure]:
    peer = server.candidate.peer
    before = processes.thread_count(server.pid)
    with idle_connections(server.pid, server.port, IDLE_CONNECTIONS) as each:
        now = processes.thread_count(server.pid)
    what = f"with {IDLE_CONNECTIONS:,} idle keep-alive connections"
    return [
        Figure(peer, f"resident memory for each connection, {what}", f"{each:.1f} KiB", "< 20"),
        Figure(peer, f"threads before, and {what}", f"{before}, {now}", "the same"),
    ]


def _version_time(candidate: Candidate) -> Figure:
    seconds = []
    for _ in range(VERSION_RUNS):
        started = time.perf_counter()
        subprocess.run(
            [environment.BIN / "penstock", "--version"],
            check=True,
            stdout=subprocess.DEVNULL,
            env=environment.server_variables(),
            cwd=environment.VENV,
            timeout=30,
        )
        seconds.append(time.perf_counter() - started)
    name = f"`penstock --version`, median of {VERSION_RUNS} runs"
    return Figure(candidate.peer, name, f"{statistics.median(seconds):.3f} s", "< 0.2")


@contextmanager
def _connection(server: Running) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(HOST, server.port, timeout=10)
    try:
        yield connection
    finally:
        connection.close()


def _ask(connection: http.client.HTTPConnection) -> None:
    connection.request("GET", "/hello")
    response = connection.getresponse()
    response.read()
    # A connection that is closed would count as idle, and cost nothing.
    if response.status != 200 or response.will_close:
        raise environment.EnvironmentProblem("penstock did not answer, or closed the connection")
