"""Measure what many workers cost where there are few cores: `benchmarks/scaling.py`.

Serves a bare application with 1, 8 and 32 workers, all on one core, and makes load on another one,
by turns of a second. With more workers than cores nothing can become faster: what the rates lose is
what the workers cost each other. Also counts how many workers one new connection wakes, how the
requests are spread over the workers, and the processor time of the supervisor. The figures are
written into docs/performance/scaling.md. wrk makes the load, which `make bench` has brought here.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from harness import environment, processes
from harness.bare import APPLICATION, write_figures
from harness.servers import free_port

HOST = "127.0.0.1"
WORKERS = (1, 8, 32)
PATIENCE_SECONDS = 60.0
ONE_BY_ONE = 100
"""Connections that are made one after the other, to count what each wakes."""
PAGE = environment.ROOT / "docs" / "performance" / "scaling.md"


@dataclass(frozen=True)
class Load:
    """What clients do."""

    name: str
    connections: int
    closing: bool = False


LOADS = (
    Load("64 connections", 64),
    Load("1,000 connections", 1000),
    Load("a connection each, 64 at a time", 64, closing=True),
)


@dataclass
class Server:
    """A server with a number of workers, and what was measured of it."""

    workers: int
    process: subprocess.Popen[bytes]
    port: int
    control: Path
    rates: dict[Load, list[float]] = field(default_factory=dict)
    spread: dict[Load, list[tuple[float, float]]] = field(default_factory=dict)
    """The smallest and the largest number of requests of a worker, of an even share."""
    supervisor: list[float] = field(default_factory=list)
    """Milliseconds of processor time in each second under load."""

    def requests(self) -> list[int]:
        """Return how many requests each worker has had."""
        command = [
            sys.executable,
            "-m",
            "penstock.control.penstockctl",
            "--control",
            str(self.control),
        ]
        asked = subprocess.run(
            [*command, "workers", "--json"],
            check=True,
            capture_output=True,
            env=variables(),
            timeout=PATIENCE_SECONDS,
        )
        return [worker["requests"] for worker in json.loads(asked.stdout)["workers"]]

    def put_under(self, load: Load, seconds: int) -> None:
        """Put a load on the server for some seconds, and keep what came of it."""
        before, used = self.requests(), own_seconds(self.process.pid)
        rate = wrk(self.port, load, seconds)
        self.supervisor.append((own_seconds(self.process.pid) - used) / seconds * 1000)
        self.rates.setdefault(load, []).append(rate)
        done = [after - count for after, count in zip(self.requests(), before, strict=True)]
        even = sum(done) / len(done)
        self.spread.setdefault(load, []).append((min(done) / even, max(done) / even))

    def wake_ups(self) -> float:
        """Return how many workers a new connection wakes that has one request."""
        woken = 0
        for _ in range(ONE_BY_ONE):
            before = self._once_all_wait()
            ask(self.port)
            after = self._once_all_wait()
            woken += sum(after[worker] != before[worker] for worker in before)
        return woken / ONE_BY_ONE

    def _once_all_wait(self) -> dict[int, list[tuple[int, int]]]:
        """Wait until every worker waits for clients; return its threads that wait."""
        workers, end = processes.tree(self.process.pid)[1:], time.monotonic() + PATIENCE_SECONDS
        while len(found := processes.waiting_workers(workers)) < self.workers:
            if time.monotonic() > end:
                raise SystemExit(f"of {self.workers} workers {len(found)} wait for clients")
            time.sleep(0.001)
        return found


def variables() -> dict[str, str]:
    """Return the environment of the server and of the program that asks it."""
    return environment.server_variables() | {"PYTHONPATH": str(environment.ROOT / "src")}


def own_seconds(pid: int) -> float:
    """Return the processor time of one process."""
    tasks = (processes.PROC / str(pid) / "task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def ask(port: int) -> None:
    """Make a connection, and send one request."""
    with socket.create_connection((HOST, port), PATIENCE_SECONDS) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answer = b""
        while block := client.recv(65536):
            answer += block
    if b" 200 " not in answer[:20]:
        raise SystemExit(f"the server answers {answer[:40]!r}")


def wrk(port: int, load: Load, seconds: int) -> float:
    """Return the rate at which the server answers."""
    command = ["taskset", "-c", str(environment.cores()[1]), str(environment.program("wrk"))]
    command += ["-t1", f"-c{load.connections}", f"-d{seconds}s"]
    if load.closing:
        command += ["-H", "Connection: close"]
    done = subprocess.run(
        [*command, f"http://{HOST}:{port}/"],
        check=True,
        capture_output=True,
        text=True,
        env=environment.server_variables(),
        timeout=PATIENCE_SECONDS,
    )
    for line in done.stdout.splitlines():
        if line.startswith("Requests/sec:"):
            return float(line.split()[1])
    raise SystemExit(f"wrk says no rate:\n{done.stdout}")


@contextmanager
def serving(workers: int, folder: Path) -> Iterator[Server]:
    """Run a server on the first core for as long as the block lasts."""
    port, control = free_port(), folder / f"control-{workers}"
    command = ["taskset", "-c", str(environment.cores()[0]), sys.executable, "-m", "penstock"]
    command += ["bare:app", "--bind", f"{HOST}:{port}", "--control", str(control)]
    command += ["--workers", str(workers), "--threads", "4", "--transport", "native"]
    log = folder / f"log-{workers}"
    with (
        log.open("wb") as errors,
        subprocess.Popen(command, cwd=folder, env=variables(), stderr=errors) as process,
    ):
        try:
            end = time.monotonic() + PATIENCE_SECONDS
            while b" serving " not in log.read_bytes():
                if process.poll() is not None or time.monotonic() > end:
                    raise SystemExit(f"the server has not started:\n{log.read_text()}")
                time.sleep(0.05)
            yield Server(workers, process, port, control)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE_SECONDS)


def table(servers: Sequence[Server], wake_ups: dict[int, float]) -> list[str]:
    """Return the lines of the tables."""
    lines = [
        "| workers | load | requests a second | of one worker's, in pairs | quartiles "
        "| least and most of an even share |",
        "| ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    one = servers[0]
    for load in LOADS:
        for server in servers:
            rates = server.rates[load]
            ratios = [rate / alone for rate, alone in zip(rates, one.rates[load], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            least, most = (
                statistics.median(kind) for kind in zip(*server.spread[load], strict=True)
            )
            lines.append(
                f"| {server.workers} | {load.name} | {statistics.median(rates):,.0f} "
                f"| {middle:.2f} | {low:.2f} to {high:.2f} | {least:.2f} to {most:.2f} |"
            )
    lines += [
        "",
        "| workers | workers woken for a connection "
        "| processor time of the supervisor, ms in a second |",
        "| ---: | ---: | ---: |",
    ]
    for server in servers:
        busy = statistics.median(server.supervisor)
        lines.append(f"| {server.workers} | {wake_ups[server.workers]:.2f} | {busy:.1f} |")
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the tables, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=int, default=1)
    given = parser.parse_args(argv)
    environment.raise_descriptor_limit()
    if environment.program("wrk") is None:
        raise SystemExit("wrk is not here: `make bench` brings it")
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        (folder / "bare.py").write_text(APPLICATION)
        servers = [stack.enter_context(serving(count, folder)) for count in WORKERS]
        wake_ups = {server.workers: server.wake_ups() for server in servers}
        for _ in range(given.rounds):
            for load in LOADS:
                for server in servers:
                    server.put_under(load, given.seconds)
        found = table(servers, wake_ups)
    print("\n".join(found))
    head = (
        f"{environment.machine()}; {time.strftime('%Y-%m-%d', time.gmtime())}. Native transport, "
        f"4 threads a worker; {given.rounds} rounds of {given.seconds} s, by turns; medians. The "
        f"machine's load was {os.getloadavg()[1]:.1f} processes on {os.cpu_count()} cores."
    )
    write_figures(PAGE, [head, "", *found])


if __name__ == "__main__":
    main()
