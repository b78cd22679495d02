"""Measure a server that gets more requests than it can answer: `python benchmarks/overload.py`.

A view takes 20 ms and runs in four threads, so that 200 requests a second are its capacity. Clients
arrive at 0.5 to 10 times that, and each waits for 1.5 s. What counts is goodput: answers that come
while the client still waits. A server that answers everything in turn answers clients that have
left, and its goodput falls to nothing.

Writes docs/performance/overload.md's figures and picture when everything was measured.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import dataclass, replace

from harness import environment, installing, plots, processes
from harness.open_loop import Arrivals, OpenLoop, Outcome
from harness.servers import HOST, PEERS, Candidate, Kind, Setup, running

THREADS = 4
VIEW_SECONDS = 0.020
CAPACITY = THREADS / VIEW_SECONDS
LOADS = (0.5, 1.0, 2.0, 5.0, 10.0)
PATIENCE_SECONDS = 1.5
WARM_UP_SECONDS = 15.0
"""An overload has to last for 10 s before the server sheds load by its own rule."""
SECONDS = 20.0
HEALTH_PATH = "/healthz"
SERVERS = ("penstock", "penstock-python", "gunicorn", "waitress", "granian")
PAGE = environment.ROOT / "docs" / "performance" / "overload.md"
PICTURE = PAGE.with_suffix(".svg")
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


@dataclass(frozen=True)
class Measured:
    """One server under one load."""

    server: str
    load: float
    outcome: Outcome
    capacity: float
    """Answers a second of this server with the same view and no more load than it takes."""
    grown_kib: int

    def row(self) -> list[str]:
        """Return the cells of a table."""
        outcome = self.outcome
        return [
            self.server,
            f"{self.load:g}",
            f"{outcome.goodput:.0f}",
            f"{outcome.goodput / min(self.load * CAPACITY, CAPACITY):.2f}",
            _milliseconds(outcome.useful, 50),
            _milliseconds(outcome.useful, 99),
            f"{len(outcome.shed) / max(1, outcome.sent):.0%}",
            _milliseconds(outcome.shed, 50),
            f"{outcome.left / max(1, outcome.sent):.0%}",
            f"{outcome.failed / max(1, outcome.sent):.0%}",
            _milliseconds(outcome.probes, 99),
            f"{self.grown_kib / 1024:+.1f}",
        ]


HEADINGS = (
    "server",
    "load",
    "goodput, 1/s",
    "of what is possible",
    "p50 ms",
    "p99 ms",
    "shed",
    "shed p50 ms",
    "left",
    "failed",
    "health p99 ms",
    "memory MiB",
)


def measure(server: str, load: float, seconds: float, warm_up: float) -> Measured:
    """Run one server under one load."""
    ours = PEERS[server].kind is Kind.OURS
    flags = f"--health-path {HEALTH_PATH}" if ours else ""
    with running(Candidate(server, THREADS), Setup(ours=flags)) as process:
        arrivals = Arrivals(load * CAPACITY, seconds, PATIENCE_SECONDS, "/block-20-ms")
        # The first load of a process makes it take memory that it keeps.
        OpenLoop(HOST, process.port, replace(arrivals, rate=CAPACITY / 2, seconds=2.0), None).run(0)
        before = processes.resident_kib(process.pid)
        probe = HEALTH_PATH if ours else None
        outcome = OpenLoop(HOST, process.port, arrivals, probe).run(warm_up)
        grown = processes.resident_kib(process.pid) - before
    return Measured(server, load, outcome, CAPACITY, grown)


def _milliseconds(times: list[float], rank: int) -> str:
    if not times:
        return "-"
    if len(times) == 1:
        return f"{times[0] * 1000:.1f}"
    return f"{statistics.quantiles(times, n=100, method='inclusive')[rank - 1] * 1000:.1f}"


def table(results: list[Measured]) -> list[str]:
    """Return the lines of a table in Markdown."""
    rows = [list(HEADINGS), ["---"] + ["---:"] * (len(HEADINGS) - 1)]
    rows += [result.row() for result in results]
    return [f"| {' | '.join(row)} |" for row in rows]


def main() -> int:
    """Run the command; return its exit status."""
    arguments = _arguments()
    environment.end_as_interrupted()
    try:
        with environment.sole_run():
            missing = installing.prepare(list(arguments.servers))
            results = []
            for load in arguments.loads:
                for server in arguments.servers:
                    if why := missing.get(server):
                        print(f"{server} is left out: {why}", file=sys.stderr)
                        continue
                    try:
                        result = measure(server, load, arguments.seconds, arguments.warm_up)
                    except environment.EnvironmentProblem as problem:
                        # It ended, say: that is no reason to lose the rows of the others.
                        print(f"{server} at {load:g} is left out: {problem}", file=sys.stderr)
                        continue
                    results.append(result)
                    print(" | ".join(result.row()), f"(late {result.outcome.late * 1000:.0f} ms)",
                          file=sys.stderr, flush=True)  # fmt: skip
    except environment.EnvironmentProblem as problem:
        print(problem, file=sys.stderr)
        return 1
    print("\n".join(table(results)))
    if arguments.write:
        write(results, arguments)
    return 0


def write(results: list[Measured], arguments: argparse.Namespace) -> None:
    """Put the figures between their marks in the page, and draw the picture."""
    curves = {
        server: [(each.load, each.outcome.goodput) for each in results if each.server == server]
        for server in arguments.servers
    }
    title = "Answers a second that come within 1.5 s, by offered load"
    ours = {server for server in curves if PEERS[server].kind is Kind.OURS}
    PICTURE.write_text(plots.lines(title, curves, ours, mark=CAPACITY))
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    said = [
        BEGIN,
        "",
        f"Measured on {environment.machine()}: {THREADS} threads, a view of 20 ms, "
        f"{arguments.seconds:g} s after {arguments.warm_up:g} s of the same load. "
        f"Load 1 is the capacity, {CAPACITY:.0f} requests a second.",
        "",
        *table(results),
        "",
        f"![{title}]({PICTURE.name})",
        "",
        END,
    ]
    PAGE.write_text(before + "\n".join(said) + after)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--servers", nargs="+", default=SERVERS, choices=sorted(PEERS))
    parser.add_argument("--loads", nargs="+", type=float, default=LOADS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="measured, for each load")
    parser.add_argument("--warm-up", type=float, default=WARM_UP_SECONDS)
    parser.add_argument("--write", action="store_true", help="write docs/performance/overload.md")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
