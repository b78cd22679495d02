"""Measure what a profile costs the worker: `.venv/bin/python benchmarks/profiler_overhead.py`.

One client asks one worker without a pause for a page of Flask's. Windows with a profile
(``penstockctl profile``) and without take turns, so that each pair sees the same machine. Prints by
how much a profile raises the processor time of a request, and lowers the rate.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from harness import processes
from harness.projects import (
    HOST,
    SCENARIOS,
    Scenario,
    server,
    told,
    variables,
    write_project,
)

BETWEEN_SECONDS = 0.3
"""Between two windows, so that the profile has begun, or has ended."""


class Client:
    """Asks for one page over one connection."""

    def __init__(self, port: int, path: str) -> None:
        self._socket = socket.create_connection((HOST, port))
        self._reader = self._socket.makefile("rb")
        self._request = f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()

    def ask_for(self, seconds: float) -> int:
        """Ask for some time; return how many answers came."""
        answers, end = 0, time.monotonic() + seconds
        while time.monotonic() < end:
            self._socket.sendall(self._request)
            size = 0
            while (line := self._reader.readline()) != b"\r\n":
                name, _, value = line.partition(b":")
                size = int(value) if name.lower() == b"content-length" else size
            self._reader.read(size)
            answers += 1
        return answers


def window(client: Client, pid: int, seconds: float) -> tuple[float, float]:
    """Return answers a second, and the worker's processor time for one, in seconds."""
    before, begun = processes.cpu_seconds(pid), time.monotonic()
    answers = client.ask_for(seconds)
    return answers / (time.monotonic() - begun), (processes.cpu_seconds(pid) - before) / answers


def measure(folder: Path, scenario: Scenario, transport: str, given: argparse.Namespace) -> None:
    """Measure one scenario, and print the outcome."""
    costs, rates = [], []
    with server(folder, scenario, "default", transport) as port:
        rows = told(folder, "workers")["workers"]
        assert isinstance(rows, list)
        pid, client = int(rows[0]["pid"]), Client(port, scenario.path)
        client.ask_for(1.0)
        command = [
            sys.executable, "-m", "penstock.control.penstockctl",
            "--control", str(folder / "control"), "profile", str(pid),
            "--seconds", str(round(given.seconds + 2)), "--rate", str(given.rate),
        ]  # fmt: skip
        for number in range(given.pairs):
            pair: dict[bool, tuple[float, float]] = {}
            for profiled in (number % 2 == 0, number % 2 == 1):
                if profiled:
                    profile = subprocess.Popen(
                        command, env=variables(), stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                    )  # fmt: skip
                    client.ask_for(BETWEEN_SECONDS)
                    pair[True] = window(client, pid, given.seconds)
                    profile.terminate()
                    profile.wait()
                    client.ask_for(BETWEEN_SECONDS)
                else:
                    pair[False] = window(client, pid, given.seconds)
            rates.append(pair[True][0] / pair[False][0])
            costs.append(pair[True][1] / pair[False][1])
    print(
        f"{scenario.name}, {transport}, {given.rate} Hz, {given.pairs} pairs of "
        f"{given.seconds:g} s: processor time of a request x {statistics.median(costs):.3f} "
        f"({min(costs):.3f} to {max(costs):.3f}), rate x {statistics.median(rates):.3f} "
        f"({min(rates):.3f} to {max(rates):.3f})",
        flush=True,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the Flask page on both transports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rate", type=int, default=100)
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        write_project(Path(name))
        for transport in ("native", "python"):
            measure(Path(name), SCENARIOS[-1], transport, given)


if __name__ == "__main__":
    main()
