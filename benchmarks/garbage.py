"""Measure what the setting gc is worth: `.venv/bin/python benchmarks/garbage.py`.

Serves a Django project of 200 models with the admin and templates, which this script writes, and a
Flask application with a page of objects. Each mode of the setting gets the same arrivals, at half
of what the server can answer, in turns: a round has one run of each mode, so that ratios are of
runs that follow one another. It needs Django and Flask in the environment that runs it, as `make
serve` installs them, and writes the figures of docs/performance/gc.md.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness import environment, processes
from harness.open_loop import Arrivals, OpenLoop, Outcome
from harness.projects import HOST, SCENARIOS, Scenario, server, told, write_project

MODES = ("default", "700,10,10", "idle", "off")
"""``700,10,10`` is what Python 3.11 and 3.12 have by default, and counts its passes."""
SHARE = 0.5
"""Of its capacity: with more, what one sees is the queue."""
WARM_UP_SECONDS = 2.0
CALIBRATION_SECONDS = 3.0
PATIENCE_SECONDS = 10.0
PAGE = environment.ROOT / "docs" / "performance" / "gc.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


@dataclass
class Run:
    """One mode in one round."""

    outcome: Outcome
    memory: int
    """Resident memory of the worker, in KiB."""
    counts: dict[str, int] = field(default_factory=dict)

    def milliseconds(self, percent: float) -> float:
        """Return a percentile of the response times."""
        times = sorted(self.outcome.useful) or [0.0]
        return 1000 * times[min(len(times) - 1, int(len(times) * percent / 100))]


def capacity(folder: Path, scenario: Scenario, transport: str) -> float:
    """Return how many answers a second the server can give, over one connection."""
    with server(folder, scenario, "default", transport) as port:
        with socket.create_connection((HOST, port)) as client:
            request = f"GET {scenario.path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
            reader = client.makefile("rb")
            answers, begun = 0, time.monotonic()
            while (now := time.monotonic()) - begun < CALIBRATION_SECONDS:
                client.sendall(request)
                if b" 200 " not in reader.readline():
                    raise SystemExit(f"{scenario.name} does not answer with 200")
                size = 0
                while (line := reader.readline()) != b"\r\n":
                    name, _, value = line.partition(b":")
                    size = int(value) if name.lower() == b"content-length" else size
                reader.read(size)
                answers += 1
                if now - begun < CALIBRATION_SECONDS / 3:
                    answers, last = 0, now
            return answers / (time.monotonic() - last)


def run(folder: Path, scenario: Scenario, mode: str, transport: str, arrivals: Arrivals) -> Run:
    """Return how one mode has done."""
    with server(folder, scenario, mode, transport) as port:
        outcome = OpenLoop(HOST, port, arrivals, None).run(WARM_UP_SECONDS)
        rows = told(folder, "workers")["workers"]
        assert isinstance(rows, list)
        counts = told(folder, "status")["counts"]
        assert isinstance(counts, dict)
        return Run(outcome, processes.resident_kib(rows[0]["pid"]), counts)


def table(scenario: Scenario, runs: dict[str, list[Run]], rate: float) -> str:
    """Return the figures of a scenario."""
    lines = [
        f"### {scenario.name}",
        "",
        f"{rate:.0f} requests a second.",
        "",
        "| gc | p50 ms | p99 ms | p99.9 ms | worst ms | p99 against default | memory MiB "
        "| passes 0/1/2 | seconds in them |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for mode, done in runs.items():
        ratios = [
            one.milliseconds(99) / other.milliseconds(99)
            for one, other in zip(done, runs["default"], strict=True)
        ]
        passes = [sum(each.counts[f"gc_passes_{n}"] for each in done) for n in range(3)]
        spent = sum(each.counts[f"gc_nanoseconds_{n}"] for each in done for n in range(3)) / 1e9
        figures = [
            statistics.median(each.milliseconds(percent) for each in done)
            for percent in (50, 99, 99.9, 100)
        ]
        counted = any(passes)
        lines.append(
            "| "
            + " | ".join(
                [
                    f"`{mode}`",
                    *(f"{figure:.1f}" for figure in figures),
                    f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
                    f"{statistics.median(each.memory for each in done) / 1024:.1f}",
                    "/".join(map(str, passes)) if counted else "-",
                    f"{spent:.3f}" if counted else "-",
                ]
            )
            + " |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the tables, and write the page when all was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--transport", default="native")
    parser.add_argument("--modes", default=" ".join(MODES))
    parser.add_argument("--scenario", type=int, help="one of them, from 0; the page stays")
    given = parser.parse_args(argv)
    modes = given.modes.split()
    chosen = SCENARIOS if given.scenario is None else SCENARIOS[given.scenario :][:1]
    tables = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_project(folder)
        for scenario in chosen:
            rate = SHARE * capacity(folder, scenario, given.transport)
            runs: dict[str, list[Run]] = {mode: [] for mode in modes}
            for number in range(given.rounds):
                turned = modes[number % len(modes) :] + modes[: number % len(modes)]
                for mode in turned:
                    arrivals = Arrivals(
                        rate, given.seconds, PATIENCE_SECONDS, scenario.path, seed=number + 1
                    )
                    runs[mode].append(run(folder, scenario, mode, given.transport, arrivals))
            tables.append(table(scenario, runs, rate))
            print(tables[-1], flush=True)
    if given.scenario is None:
        head = (
            f"{environment.machine()}, {given.transport} transport, one worker of 4 threads. "
            f"Rounds: {given.rounds}, of {given.seconds:g} s; "
            f"{time.strftime('%Y-%m-%d', time.gmtime())}. Passes and seconds are those of all "
            "rounds together, with the warm-up."
        )
        text = PAGE.read_text()
        before, after = text.partition(BEGIN)[0], text.partition(END)[2]
        figures = "\n\n".join([BEGIN, head, *tables, END])
        PAGE.write_text(before + figures + after)


if __name__ == "__main__":
    main()
