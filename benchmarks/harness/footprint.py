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
from harness.servers import HOST, PLAIN, Candidate, Running, Setup, running
from harness.targets import Verdict

CANDIDATES = (Candidate("penstock", 4), Candidate("penstock-python", 4))
REQUESTS = 1000
IDLE_CONNECTIONS = 1000
RUNS = 5
MOST_MEMORY_MIB = 21.0
MOST_START_SECONDS = 0.15
"""Of the native transport."""
VARIANTS = (
    ("with TLS", Setup(tls=True)),
    ("with metrics (--admin)", Setup(ours="--admin 127.0.0.1:0")),
)


@dataclass(frozen=True)
class Figure:
    """One measured value, and what it may be at most."""

    peer: str
    name: str
    value: float
    unit: str = ""
    digits: int = 0
    at_most: float | None = None

    @property
    def shown(self) -> str:
        """Return the value with its unit."""
        return f"{self.value:,.{self.digits}f} {self.unit}".rstrip()

    @property
    def bound_shown(self) -> str:
        return "" if self.at_most is None else f"{self.at_most:g} {self.unit}".rstrip()

    def verdict(self) -> Verdict | None:
        """Return whether the bound holds; None where there is none."""
        if self.at_most is None:
            return None
        what = f"{self.name}, {self.unit}" if self.unit else self.name
        return Verdict("At rest", self.peer, what, self.at_most, True, self.value, self.digits)


def measure(candidate: Candidate) -> list[Figure]:
    """Measure everything of one server; takes some seconds."""
    peer = candidate.peer
    is_native = peer == "penstock"
    with running(candidate) as server:
        figures = [_memory(server, "after the start", MOST_MEMORY_MIB if is_native else None)]
        _send_requests(server)
        figures.append(_memory(server, f"after {REQUESTS:,} requests", None))
        figures += _idle_connections(server)
    for what, setup in VARIANTS:
        with running(candidate, setup) as server:
            figures.append(_memory(server, what, None))
    starts = statistics.median(_start_seconds(candidate) for _ in range(RUNS))
    name = f"start to the first answer, median of {RUNS}"
    most = MOST_START_SECONDS if is_native else None
    figures.append(Figure(peer, name, starts, "s", 3, most))
    versions = statistics.median(_version_seconds() for _ in range(RUNS))
    figures.append(Figure(peer, f"`penstock --version`, median of {RUNS}", versions, "s", 3))
    return figures


def _memory(server: Running, when: str, at_most: float | None) -> Figure:
    # The last of the tree: the worker, or the only process.
    mebibytes = processes.own_resident_kib(processes.tree(server.pid)[-1]) / 1024
    name = f"resident memory of a worker with a bare application, {when}"
    return Figure(server.candidate.peer, name, mebibytes, "MiB", 1, at_most)


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
        Figure(peer, f"resident memory for each connection, {what}", each, "KiB", 1),
        Figure(peer, f"threads more, {what}", now - before),
    ]


def _start_seconds(candidate: Candidate) -> float:
    """Return how long it takes from the start of the command to the first answer."""
    started = time.perf_counter()
    with running(candidate, PLAIN, poll_seconds=0.001):
        return time.perf_counter() - started


def _version_seconds() -> float:
    started = time.perf_counter()
    subprocess.run(
        [environment.BIN / "penstock", "--version"],
        check=True,
        stdout=subprocess.DEVNULL,
        env=environment.server_variables(),
        cwd=environment.VENV,
        timeout=30,
    )
    return time.perf_counter() - started


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
