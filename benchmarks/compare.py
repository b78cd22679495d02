"""Compare the speed of two checkouts in pairs: `make compare BASE=/path/to/another/checkout`.

Both servers run at once, on the same core, and take turns of a second under the same load. A pair
of turns gives a ratio of rates. What slows the machine for longer than a turn slows both, so that
the ratio stays. The median of all ratios is shown with its 95 % interval, which assumes nothing of
how they are distributed. The status is 1 where an interval ends below `ENOUGH`: this checkout is
then slower than the other one for certain.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from harness import environment, installing, load, report
from harness.scenarios import SCENARIOS, Scenario
from harness.servers import Candidate, running
from harness.turns import interval, order

USUAL = ("hello", "flask", "mixed", "blocking")
"""The scenarios of the benchmarks that are compared unless others are named."""
NAMES = tuple(each.name for each in SCENARIOS if each.setup.ours == "" and not each.idle)
PAIRS = 30
TURN_SECONDS = 1
ENOUGH = 0.98
BUILD_SECONDS = 1200.0


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


def speaks_tls(name: str) -> bool:
    """Return whether a scenario's load is over TLS."""
    return any(each.setup.tls for each in SCENARIOS if each.name == name)


def threads_of(scenario: Scenario) -> int:
    """Return the number of threads that our own server has first in a scenario."""
    return next(each.threads for each in scenario.candidates if each.peer == "penstock")


def compare(
    name: str, checkouts: tuple[Path, Path], transport: str, pairs: int, threads: int | None
) -> Compared:
    """Take turns, this checkout and then the other one, and the other way round.

    ``threads`` is None for as many as the scenario has first.
    """
    scenario = next(each for each in SCENARIOS if each.name == name)
    rates: tuple[list[float], list[float]] = ([], [])
    with ExitStack() as stack:
        name_of_ours = "penstock" if transport == "native" else "penstock-python"
        candidate = Candidate(name_of_ours, threads_of(scenario) if threads is None else threads)
        servers = [
            stack.enter_context(running(candidate, scenario.setup, checkout / "src"))
            for checkout in checkouts
        ]
        for turn in range(-1, pairs):
            for place in order((0, 1), turn):
                background = scenario.background
                seconds = max(TURN_SECONDS, scenario.least_seconds)
                taken = load.apply(servers[place], scenario.load, background, seconds)
                servers[place].wait_until_ready()
                if taken.errors:
                    raise environment.EnvironmentProblem(f"{name}: {taken.errors} errors")
                if turn >= 0:  # the first is to warm up
                    rates[place].append(taken.rate)
    return Compared(name, *rates)


def prepare(checkouts: tuple[Path, Path], transport: str, *, tls: bool) -> None:
    """Install what is needed, and build the native transport of both."""
    if why := installing.prepare([], tls=tls).get(installing.TLS_LOAD):
        raise environment.EnvironmentProblem(f"{installing.TLS_LOAD} makes the load: {why}")
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
    about_only = f"of: {', '.join(NAMES)}; default: {', '.join(USUAL)}"
    add("--only", action="append", choices=NAMES, metavar="NAME", help=about_only)
    add("--pairs", type=int, default=PAIRS, help=f"of turns of a second; default: {PAIRS}")
    add("--transport", choices=("native", "python"), default="native")
    add("--threads", type=int, help="of each server; default: what the scenario has first")
    arguments = parser.parse_args()
    checkouts = (environment.ROOT, arguments.base.resolve())
    environment.end_as_interrupted()
    found = []
    try:
        with environment.sole_run():
            names = arguments.only or USUAL
            prepare(checkouts, arguments.transport, tls=any(map(speaks_tls, names)))
            for name in names:
                print(f"{name}: {2 * arguments.pairs} turns", file=sys.stderr)
                found.append(
                    compare(
                        name, checkouts, arguments.transport, arguments.pairs, arguments.threads
                    )
                )
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
