"""Measure Penstock beside other servers: `python benchmarks/run.py`, or `make bench`.

Makes what it needs in .bench/, measures in interleaved rounds, prints tables, and writes them with
pictures into docs/performance/ when everything was measured. What was measured is kept as it comes:
`--resume` goes on where a run was interrupted, and `--report` shows what there is.
"""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from typing import Any

from harness import environment, footprint, installing, load, page, results
from harness.idle import idle_connections
from harness.results import Results
from harness.scenarios import SCENARIOS, Scenario
from harness.servers import PEERS, Candidate, Kind, running

FOOTPRINT = "footprint"
RESULTS = environment.VENV / "results.jsonl"
WARM_UP_SECONDS = 1
QUIET = 0.1
"""What share of a core others may have in a run; where they have more, it is taken again."""
START_SECONDS = 0.5
"""About what starting, checking and ending a server takes; for the first estimate alone."""
FAILURES = 2
"""Failures after which a peer's runs of a scenario are given up."""

ROUNDS, SECONDS, RETRIES = 3, 2, 1


@dataclass(frozen=True)
class Plan:
    """What to measure, how often and how long."""

    scenarios: tuple[Scenario, ...]
    at_rest: tuple[Candidate, ...]
    rounds: int
    seconds: int
    retries: int
    """How often a disturbed run is taken again."""

    def runs(self) -> list[tuple[int, Scenario, Candidate]]:
        """Return all runs in order: everything once, then everything again.

        So a machine that gets slower, or busy, for a while does not favour one server.
        """
        return [
            (number, scenario, candidate)
            for number in range(1, self.rounds + 1)
            for scenario in self.scenarios
            for candidate in scenario.candidates
        ]

    def seconds_of(self, scenario: Scenario) -> float:
        """Return about how long a run takes."""
        measured = max(self.seconds, scenario.least_seconds)
        each = START_SECONDS + WARM_UP_SECONDS + measured
        return 2 * each if scenario.with_and_without else each


def main() -> int:
    """Run the command; return its exit status."""
    arguments = _arguments()
    environment.end_as_interrupted()
    try:
        with environment.sole_run():
            found, scenarios = _stored() if arguments.report else _measured(arguments)
    except environment.EnvironmentProblem as problem:
        print(problem, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. --resume goes on from here; --report shows it.", file=sys.stderr)
        return 130
    findings = page.Findings(found, scenarios)
    print(f"\n{findings.text(with_pictures=False)}")
    # A page with some figures of today and some of last month would compare apples and pears.
    if found.about["complete"] and not (arguments.no_page or arguments.report):
        for path in page.write(findings):
            print(f"Written: {path.relative_to(environment.ROOT)}")
    return 0


def _arguments() -> argparse.Namespace:
    names = [scenario.name for scenario in SCENARIOS] + [FOOTPRINT]
    parser = argparse.ArgumentParser(description="Measure Penstock beside other servers.")
    add = parser.add_argument
    add("--rounds", type=_positive, help=f"default: {ROUNDS}")
    add("--seconds", type=_positive, help=f"of a run; default: {SECONDS}")
    add("--retries", type=int, help=f"of a disturbed run, at most; default: {RETRIES}")
    add("--quick", action="store_true", help="one round of a second each, which no page is made of")
    only = "of: " + ", ".join(names)
    add("--only", action="append", choices=names, metavar="NAME", help=only)
    peers = "of: " + ", ".join(PEERS)
    add("--peer", action="append", choices=list(PEERS), metavar="PEER", help=peers)
    add("--no-page", action="store_true", help="do not write docs/performance/")
    add("--resume", action="store_true", help="go on with the run that was interrupted")
    add("--report", action="store_true", help="measure nothing; show what the last run found")
    return parser.parse_args()


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


def _stored() -> tuple[Results, tuple[Scenario, ...]]:
    try:
        found = results.read(RESULTS)
    except (OSError, ValueError):
        raise environment.EnvironmentProblem("There are no results of an earlier run.") from None
    return found, _scenarios(found.about)


def _measured(arguments: argparse.Namespace) -> tuple[Results, tuple[Scenario, ...]]:
    if arguments.resume:
        # Of the snapshot that was taken then: what was measured must not change on the way.
        found, scenarios = _stored()
        environment.raise_descriptor_limit()
    else:
        about = _asked(arguments)
        about["missing"] = installing.prepare(about["peers"])
        scenarios = _scenarios(about)
        found = results.begin(RESULTS, about | _circumstances(about))
    about = found.about
    at_rest = tuple(c for c in footprint.CANDIDATES if c.peer in _present(about))
    if FOOTPRINT not in about["names"]:
        at_rest = ()
    plan = Plan(scenarios, at_rest, about["rounds"], about["seconds"], about["retries"])
    _measure(plan, found)
    return found, scenarios


def _asked(arguments: argparse.Namespace) -> dict[str, Any]:
    rounds, seconds, retries = (1, 1, 0) if arguments.quick else (ROUNDS, SECONDS, RETRIES)
    everything = arguments.only is None and arguments.peer is None
    return {
        "names": arguments.only or [scenario.name for scenario in SCENARIOS] + [FOOTPRINT],
        "peers": arguments.peer or list(PEERS),
        "rounds": arguments.rounds or rounds,
        "seconds": arguments.seconds or seconds,
        "retries": retries if arguments.retries is None else arguments.retries,
        "complete": everything and not arguments.quick,
    }


def _circumstances(about: dict[str, Any]) -> dict[str, Any]:
    present = _present(about)
    distributions = [PEERS[peer].distributions for peer in present]
    names = list(dict.fromkeys(name for several in distributions for name in several))
    return {
        "versions": environment.versions(names, [*present, "wrk"]),
        "machine": environment.machine(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def _present(about: dict[str, Any]) -> list[str]:
    return [peer for peer in about["peers"] if peer not in about["missing"]]


def _scenarios(about: dict[str, Any]) -> tuple[Scenario, ...]:
    present = _present(about)
    chosen = (
        replace(each, candidates=tuple(c for c in each.candidates if c.peer in present))
        for each in SCENARIOS
        if each.name in about["names"]
    )
    return tuple(scenario for scenario in chosen if scenario.candidates)


def _measure(plan: Plan, found: Results) -> None:
    """Measure what the results do not hold yet."""
    runs = [run for run in plan.runs() if (run[1].name, run[2], run[0]) not in found.outcomes]
    if not found.figures:
        for candidate in plan.at_rest:
            _progress(f"at rest: {candidate}", _seconds_left(plan, runs, 1.0))
            _measure_at_rest(candidate, found)
    expected = spent = 0.0
    for done, (number, scenario, candidate) in enumerate(runs):
        pace = spent / expected if spent else 1.0
        _progress(
            f"round {number} of {plan.rounds}, {scenario.name}: {candidate}",
            _seconds_left(plan, runs[done:], pace),
        )
        started = time.monotonic()
        _take(plan, found, number, scenario, candidate)
        spent += time.monotonic() - started
        expected += plan.seconds_of(scenario)


def _measure_at_rest(candidate: Candidate, found: Results) -> None:
    try:
        figures = footprint.measure(candidate)
    except (environment.EnvironmentProblem, OSError, subprocess.SubprocessError) as problem:
        print(f"  failed: {problem}", file=sys.stderr)
        return
    found.add_figures(figures)
    print(f"  {figures[0].value:>20}", file=sys.stderr)


def _take(
    plan: Plan, found: Results, number: int, scenario: Scenario, candidate: Candidate
) -> None:
    """Take one run; where it fails, that is what was found."""
    key = (scenario.name, candidate, number)
    failures = found.failures(scenario.name, candidate)
    if len(failures) >= FAILURES and PEERS[candidate.peer].kind is not Kind.OURS:
        found.add(key, failures[-1])
        print("  given up", file=sys.stderr)
        return
    try:
        sample = _run(scenario, candidate, plan)
    except (environment.EnvironmentProblem, OSError, subprocess.SubprocessError) as problem:
        found.add(key, str(problem))
        print(f"  failed: {problem}", file=sys.stderr)
        return
    found.add(key, sample)
    note = f"  (disturbed: {sample.disturbance:.0%})" if sample.disturbance > QUIET else ""
    note += f"  ({sample.errors:,} errors)" if sample.errors else ""
    print(f"  {f'{sample.rate:,.0f} requests/s':>20}{note}", file=sys.stderr)


def _run(scenario: Scenario, candidate: Candidate, plan: Plan) -> load.Sample:
    """Return the first undisturbed sample, or else the least disturbed one.

    What is chosen by is what others did, never how well the server did.
    """
    best = _sample(scenario, candidate, plan.seconds)
    for _ in range(plan.retries):
        if best.disturbance > QUIET:
            again = _sample(scenario, candidate, plan.seconds)
            best = min(best, again, key=lambda sample: sample.disturbance)
    return best


def _sample(scenario: Scenario, candidate: Candidate, seconds: int) -> load.Sample:
    seconds = max(seconds, scenario.least_seconds)
    alone = None
    if scenario.with_and_without:
        alone = _sample(replace(scenario.plain(), with_and_without=False), candidate, seconds).rate
    asked = scenario.load
    with running(candidate, scenario.setup) as server:
        server.verify(asked.path, asked.posted, asked.answered)
        load.apply(server, asked, scenario.background, WARM_UP_SECONDS)
        # The warm-up ends in the middle of requests; a server may be busy for a while with that.
        server.wait_until_ready()
        if not scenario.idle:
            sample = load.apply(server, asked, scenario.background, seconds)
            return dataclasses.replace(sample, alone=alone)
        with idle_connections(server.pid, server.port, scenario.idle) as each:
            sample = load.apply(server, asked, scenario.background, seconds)
            return dataclasses.replace(sample, alone=alone, idle_kib=each)


def _seconds_left(plan: Plan, runs: list[tuple[int, Scenario, Candidate]], pace: float) -> str:
    left = pace * sum(plan.seconds_of(scenario) for _, scenario, _ in runs)
    return f"about {left / 60:.0f} min left" if left > 90 else f"about {left:.0f} s left"


def _progress(what: str, left: str) -> None:
    print(f"{what:<60} {left:>18}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
