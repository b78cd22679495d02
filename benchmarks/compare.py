"""Compare the speed of two checkouts in pairs: `make compare BASE=/path/to/another/checkout`.

Both servers run at once, on the same core, and take turns of a second under the same load. A pair
of turns gives a ratio of rates. What slows the machine for longer than a turn slows both, so that
the ratio stays. The median of all ratios is shown with its 95 % interval, which assumes nothing of
how they are distributed. The status is 1 where an interval ends below `ENOUGH`: this checkout is
then slower than the other one for certain.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness import environment, installing, load, report
from harness.scenarios import SCENARIOS, Scenario
from harness.servers import HOST, Candidate, Running, free_port

NAMES = ("hello", "flask", "mixed", "blocking")
"""The scenarios of the benchmarks that are compared."""
PAIRS = 30
TURN_SECONDS = 1
ENOUGH = 0.98
CONFIDENCE = 0.95
BUILD_SECONDS = 1200.0
STOP_SECONDS = 10.0


@dataclass(frozen=True)
class Compared:
    """The ratios of one scenario: this checkout's rate to the other one's, pair by pair."""

    name: str
    rates: list[float]
    others: list[float]

    @property
    def ratios(self) -> list[float]:
        """Return the ratio of each pair."""
        return [rate / other for rate, other in zip(self.rates, self.others, strict=True)]

    def row(self) -> list[str]:
        """Return the cells of a table."""
        low, high = interval(self.ratios)
        return [
            self.name,
            f"{statistics.median(self.others):,.0f}",
            f"{statistics.median(self.rates):,.0f}",
            f"{statistics.median(self.ratios):.3f}",
            f"{low:.3f} to {high:.3f}",
        ]


def interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the interval that holds the median of what ``values`` are a sample of.

    Each value is above that median or below it, as a coin falls. So the median is between the
    values of ranks k and n + 1 - k unless fewer than k of n coins fall on one side.
    """
    ordered = sorted(values)
    count = len(ordered)
    beyond = (1 - confidence) / 2
    below, rank = 0.0, 0
    while rank < count // 2 and (below := below + math.comb(count, rank) / 2**count) <= beyond:
        rank += 1
    rank = max(rank, 1)
    return ordered[rank - 1], ordered[count - rank]


def threads_of(scenario: Scenario) -> int:
    """Return the number of threads that our own server has first in a scenario."""
    return next(each.threads for each in scenario.candidates if each.peer == "penstock")


@contextmanager
def serving(checkout: Path, scenario: Scenario, transport: str) -> Iterator[Running]:
    """Run the server of a checkout, pinned to the core for servers."""
    port = free_port()
    threads = threads_of(scenario)
    python = str(environment.BIN / "python")
    command = ["taskset", "-c", str(environment.cores()[0]), python, "-m", "penstock"]
    command += [scenario.setup.application, "--bind", f"{HOST}:{port}", "--threads", str(threads)]
    command += ["--transport", transport]
    path = os.pathsep.join([str(checkout / "src"), str(environment.BENCHMARKS)])
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=environment.VENV,
        env=environment.server_variables() | {"PYTHONPATH": path},
        start_new_session=True,
    )
    server = Running(Candidate("penstock", threads), process, port)
    try:
        server.wait_until_ready()
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def compare(name: str, checkouts: tuple[Path, Path], transport: str, pairs: int) -> Compared:
    """Take turns, this checkout and then the other one, and the other way round."""
    scenario = next(each for each in SCENARIOS if each.name == name)
    rates: tuple[list[float], list[float]] = ([], [])
    with ExitStack() as stack:
        servers = [stack.enter_context(serving(each, scenario, transport)) for each in checkouts]
        for turn in range(-1, pairs):
            for place in (0, 1) if turn % 2 else (1, 0):
                background = scenario.background
                taken = load.apply(servers[place], scenario.load, background, TURN_SECONDS)
                if taken.errors:
                    raise environment.EnvironmentProblem(f"{name}: {taken.errors} errors")
                if turn >= 0:  # the first is to warm up
                    rates[place].append(taken.rate)
    return Compared(name, *rates)


def prepare(checkouts: tuple[Path, Path], transport: str) -> None:
    """Install what is needed, and build the native transport of both."""
    installing.prepare([])
    for checkout in checkouts if transport == "native" else ():
        subprocess.run(
            [str(checkout / "scripts" / "build-native"), str(environment.VENV)],
            cwd=checkout,
            env=os.environ | {"PENSTOCK_NATIVE": "require"},
            check=True,
            timeout=BUILD_SECONDS,
        )


def main() -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description="Compare the speed of two checkouts in pairs.")
    add = parser.add_argument
    add("base", type=Path, help="the other checkout")
    add("--only", action="append", choices=NAMES, metavar="NAME", help=f"of: {', '.join(NAMES)}")
    add("--pairs", type=int, default=PAIRS, help=f"of turns of a second; default: {PAIRS}")
    add("--transport", choices=("native", "python"), default="native")
    arguments = parser.parse_args()
    checkouts = (environment.ROOT, arguments.base.resolve())
    environment.end_as_interrupted()
    found = []
    try:
        with environment.sole_run():
            prepare(checkouts, arguments.transport)
            for name in arguments.only or NAMES:
                print(f"{name}: {2 * arguments.pairs} turns", file=sys.stderr)
                found.append(compare(name, checkouts, arguments.transport, arguments.pairs))
    except (environment.EnvironmentProblem, OSError, subprocess.SubprocessError) as problem:
        print(problem, file=sys.stderr)
        return 1
    header = ["scenario", "base, requests/s", "here, requests/s", "ratio", "95 % interval"]
    print(report.markdown([header, *(each.row() for each in found)]))
    slower = [each.name for each in found if interval(each.ratios)[1] < ENOUGH]
    if slower:
        print(f"Slower than {ENOUGH} of the other checkout: {', '.join(slower)}")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
