"""What Penstock costs while it does little: memory, idle connections, the start of the command."""

from __future__ import annotations

import http.client
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from harness import environment, processes
from harness.servers import HOST, Candidate, Running, running

CANDIDATE = Candidate("penstock", 4)
REQUESTS = 1000
IDLE_CONNECTIONS = 1000
VERSION_RUNS = 10


@dataclass(frozen=True)
class Figure:
    """One measured value, and what it should be."""

    name: str
    value: str
    target: str


def measure() -> list[Figure]:
    """Measure everything; takes some seconds."""
    with running(CANDIDATE) as server:
        figures = [_memory(server, "after the start")]
        _send_requests(server)
        figures.append(_memory(server, f"after {REQUESTS:,} requests"))
        figures += _idle_connections(server)
    return [*figures, _version_time()]


def _memory(server: Running, when: str) -> Figure:
    mebibytes = processes.resident_kib(server.pid) / 1024
    return Figure(f"resident memory of a bare application, {when}", f"{mebibytes:.1f} MiB", "< 30")


def _send_requests(server: Running) -> None:
    with _connection(server) as connection:
        for _ in range(REQUESTS):
            _ask(connection)


def _idle_connections(server: Running) -> list[Figure]:
    """Open connections that send one request each and then stay silent."""
    memory = processes.resident_kib(server.pid)
    threads = processes.thread_count(server.pid)
    with ExitStack() as open_connections:
        for _ in range(IDLE_CONNECTIONS):
            _ask(open_connections.enter_context(_connection(server)))
        each = (processes.resident_kib(server.pid) - memory) / IDLE_CONNECTIONS
        now = processes.thread_count(server.pid)
    what = f"with {IDLE_CONNECTIONS:,} idle keep-alive connections"
    return [
        Figure(f"resident memory for each connection, {what}", f"{each:.1f} KiB", "< 20"),
        Figure(f"threads before, and {what}", f"{threads}, {now}", "the same"),
    ]


def _version_time() -> Figure:
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
    return Figure(name, f"{statistics.median(seconds):.3f} s", "< 0.2")


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
