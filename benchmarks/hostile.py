"""Measure an honest client beside an attack: `python benchmarks/hostile.py`.

An attacker holds or floods 1,000 to 10,000 connections, with half a core and 20 Mbit/s. Beside it
an honest client of another address sends 50 requests a second, whether or not earlier ones have
been answered, each on a connection of its own or over one that stays, in turns. What counts is how
long its answers take, and whether the server's memory, descriptors and temporary files stay within
bounds.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import socket
import statistics
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from harness import environment, installing, processes
from harness.attacks import ATTACKS, Attack, Attacker
from harness.servers import HOST, PEERS, Candidate, Kind, Setup, running

THREADS = 4
SECONDS = 60.0
FEW, MANY = 1_000, 10_000
RATE = 50
ANSWER_SECONDS = 10.0
HONEST = "127.0.3.1"
HONEST_PRIORITY = -15
HONEST_CONNECTIONS = 64
"""Of the honest client: that many answers may be late at a time before it sends late itself."""
OPENING_SECONDS = 5.0
"""For the attacker to open its connections, before the honest client's times count."""
REQUEST = b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n"
PAGE = environment.ROOT / "docs" / "performance" / "hostile.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


@dataclass
class Honest:
    """What the honest client saw. Times are seconds."""

    times: list[float] = field(default_factory=list)
    failed: int = 0


@dataclass(frozen=True)
class Measured:
    """One server under one attack."""

    server: str
    attack: str
    connections: int
    honest: Honest
    open: int
    """Hostile connections at the end."""
    grown_kib: int
    descriptors: int
    spooled: int
    """The most bytes of temporary files."""
    core: float
    """The share of its core that the server used."""

    def row(self) -> list[str]:
        """Return the cells of a table."""
        times = self.honest.times
        hundredths = statistics.quantiles(times, n=100) if len(times) > 1 else [float("nan")] * 99
        return [
            self.server,
            self.attack,
            f"{self.connections:,}",
            f"{self.open:,}",
            f"{hundredths[49] * 1000:.1f}",
            f"{hundredths[98] * 1000:.1f}",
            f"{max(times, default=float('nan')) * 1000:.0f}",
            f"{self.honest.failed}",
            f"{self.grown_kib / 1024:+.0f}",
            f"{self.descriptors:,}",
            f"{self.spooled / (1 << 20):.0f}",
            f"{self.core:.0%}",
        ]


HEADINGS = (
    "server",
    "attack",
    "connections",
    "open at the end",
    "p50 ms",
    "p99 ms",
    "longest ms",
    "failed",
    "memory MiB",
    "descriptors",
    "spooled MiB",
    "core",
)


def ask(port: int, ends_at: float, counted_from: float) -> Honest:
    """Send requests at a steady rate until a time, whether or not earlier ones have been answered.

    Several threads send them in turns. Each has a connection that stays, and uses it for every
    second request.
    """
    seen = Honest()
    lock = threading.Lock()
    began = time.monotonic()
    numbers = itertools.count()

    def send_requests() -> None:
        kept: socket.socket | None = None
        for turn in itertools.count():
            due = began + next(numbers) / RATE
            if due >= ends_at:
                break
            time.sleep(max(0.0, due - time.monotonic()))
            keep = bool(turn % 2)
            connection = kept if keep else None
            try:
                if connection is None:
                    connection = socket.create_connection((HOST, port), ANSWER_SECONDS, (HONEST, 0))
                good = _answered(connection)
            except OSError:
                good, keep = False, False
                if connection is kept:
                    kept = None
            # From when it was due: where all threads wait, sending it late must not look better.
            took = time.monotonic() - due
            if due >= counted_from:
                with lock:
                    if good:
                        seen.times.append(took)
                    else:
                        seen.failed += 1
            if keep:
                kept = connection
            elif connection is not None:
                connection.close()
        if kept is not None:
            kept.close()

    threads = [threading.Thread(target=send_requests) for _ in range(HONEST_CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen


def _answered(connection: socket.socket) -> bool:
    """Send a request; return True if its answer is the right one. Raises `OSError`."""
    connection.sendall(REQUEST)
    data = b""
    while b"Hello, world!\n" not in data:
        block = connection.recv(4096)
        if not block:
            raise ConnectionError
        data += block
    return data.startswith(b"HTTP/1.1 200 ")


def _honest_process(pipe: Connection, port: int, seconds: float) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # It stands for a machine of its own: it does not wait while the attacker computes.
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, HONEST_PRIORITY)
    with environment.on_core(environment.cores()[1]):
        now = time.monotonic()
        pipe.send(ask(port, now + OPENING_SECONDS + seconds, now + OPENING_SECONDS))


def measure(server: str, attack: Attack, connections: int, seconds: float) -> Measured:
    """Run one server under one attack."""
    context = get_context("fork")
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        # As a service has it: idle clients of other addresses do not matter to the bounds.
        flags = f"--temp-dir {folder}" if PEERS[server].kind is Kind.OURS else ""
        with running(Candidate(server, THREADS), Setup(ours=flags)) as process:
            before = processes.resident_kib(process.pid)
            used = processes.cpu_seconds(process.pid)
            theirs, ours = context.Pipe()
            honest = context.Process(target=_honest_process, args=(ours, process.port, seconds))
            honest.start()
            last, highest = 0, (0, 0, 0)

            def look(count: int) -> None:
                nonlocal last, highest
                members = processes.tree(process.pid)
                last = count
                highest = (
                    max(highest[0], processes.resident_kib(process.pid) - before),
                    max(highest[1], *map(processes.descriptor_count, members)),
                    max(highest[2], sum(_temporary_bytes(member, folder) for member in members)),
                )

            began = time.monotonic()
            attacker = Attacker((HOST, process.port), attack, connections)
            with environment.on_core(environment.cores()[1]):
                attacker.run(OPENING_SECONDS + seconds, look)
            took = time.monotonic() - began
            used = processes.cpu_seconds(process.pid) - used
            seen = theirs.recv() if theirs.poll(2 * ANSWER_SECONDS) else Honest(failed=-1)
            honest.join(ANSWER_SECONDS)
            if honest.is_alive():
                honest.kill()
                honest.join()
    return Measured(server, attack.name, connections, seen, last, *highest, used / took)


def _temporary_bytes(pid: int, folder: str) -> int:
    """Return the size of the unnamed files that a process has open in a folder."""
    total = 0
    descriptors = Path(f"/proc/{pid}/fd")
    try:
        names = os.listdir(descriptors)
    except OSError:
        return 0
    for name in names:
        path = descriptors / name
        try:
            if os.readlink(path).startswith(folder):
                total += path.stat().st_size
        except OSError:
            continue
    return total


def table(results: list[Measured]) -> list[str]:
    """Return the lines of a table in Markdown."""
    rows = [list(HEADINGS), ["---", "---"] + ["---:"] * (len(HEADINGS) - 2)]
    rows += [result.row() for result in results]
    return [f"| {' | '.join(row)} |" for row in rows]


def main() -> int:
    """Run the command; return its exit status."""
    arguments = _arguments()
    environment.end_as_interrupted()
    results: list[Measured] = []
    try:
        with environment.sole_run():
            installing.prepare(arguments.servers)
            environment.raise_descriptor_limit()
            for attack in ATTACKS:
                if arguments.attacks and attack.name not in arguments.attacks:
                    continue
                for connections in arguments.connections:
                    for server in arguments.servers:
                        result = measure(server, attack, connections, arguments.seconds)
                        results.append(result)
                        print(" | ".join(result.row()), file=sys.stderr, flush=True)
    except environment.EnvironmentProblem as problem:
        print(problem, file=sys.stderr)
        return 1
    print("\n".join(table(results)))
    if arguments.write:
        text = PAGE.read_text()
        before, _, rest = text.partition(BEGIN)
        said = [
            BEGIN,
            "",
            f"Measured on {environment.machine()}, {arguments.seconds:g} s for each line.",
            "",
            *table(results),
            "",
            END,
        ]
        PAGE.write_text(before + "\n".join(said) + rest.partition(END)[2])
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    ours = ["penstock", "penstock-python"]
    parser.add_argument("--servers", nargs="+", default=ours, choices=sorted(PEERS))
    parser.add_argument("--attacks", nargs="+", choices=[attack.name for attack in ATTACKS])
    parser.add_argument("--connections", nargs="+", type=int, default=[FEW, MANY])
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--write", action="store_true", help="write docs/performance/hostile.md")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
