"""Measure Penstock beside other WSGI servers: `python benchmarks/run.py`, or `make bench`.

Makes what it needs in .bench/, measures in interleaved rounds, prints tables, and writes them into
docs/performance.md when everything was measured.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, replace

from harness import environment, footprint, load, report
from harness.scenarios import SCENARIOS, Scenario
from harness.servers import PEERS, Candidate, running

PAGE = environment.ROOT / "docs" / "performance.md"
FOOTPRINT = "footprint"
WARM_UP_SECONDS = 1
QUIET = 0.1
"""What share of a core others may have in a run; where they have more, it is taken again."""
START_SECONDS = 0.8
"""About what starting and ending a server takes; for the estimate alone."""


@dataclass(frozen=True)
class Plan:
    """What to measure, how often and how long."""

    scenarios: tuple[Scenario, ...]
    footprint: bool
    rounds: int
    seconds: int
    retries: int
    """How often a disturbed run is taken again."""
    write_page: bool

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


def main() -> int:
    """Run the command; return its exit status."""
    plan = _plan(_arguments())
    try:
        with environment.sole_run():
            environment.prepare()
            text = _measure(plan)
    except environment.EnvironmentProblem as problem:
        print(problem, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted: nothing was written.", file=sys.stderr)
        return 130
    print(f"\n{text}")
    if plan.write_page:
        report.replace_figures(PAGE, text)
        print(f"Written to {PAGE.relative_to(environment.ROOT)}")
    return 0


def _arguments() -> argparse.Namespace:
    names = [scenario.name for scenario in SCENARIOS] + [FOOTPRINT]
    parser = argparse.ArgumentParser(description="Measure Penstock beside other WSGI servers.")
    parser.add_argument("--rounds", type=_positive, default=5, help="default: %(default)s")
    parser.add_argument("--seconds", type=_positive, default=5, help="of a run; default: 5")
    parser.add_argument(
        "--retries", type=int, default=2, help="of a disturbed run, at most; default: 2"
    )
    parser.add_argument(
        "--only", action="append", choices=names, metavar="NAME", help="of: " + ", ".join(names)
    )
    parser.add_argument(
        "--peer",
        action="append",
        choices=list(PEERS),
        metavar="PEER",
        help="of: " + ", ".join(PEERS),
    )
    parser.add_argument("--no-page", action="store_true", help=f"do not write docs/{PAGE.name}")
    return parser.parse_args()


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


def _plan(arguments: argparse.Namespace) -> Plan:
    names = arguments.only or [scenario.name for scenario in SCENARIOS] + [FOOTPRINT]
    peers = arguments.peer or list(PEERS)
    scenarios = tuple(
        replace(chosen, candidates=tuple(c for c in chosen.candidates if c.peer in peers))
        for chosen in SCENARIOS
        if chosen.name in names
    )
    complete = arguments.only is None and arguments.peer is None
    return Plan(
        scenarios,
        FOOTPRINT in names and "penstock" in peers,
        arguments.rounds,
        arguments.seconds,
        arguments.retries,
        # A page with some figures of today and some of last month would compare apples and pears.
        write_page=complete and not arguments.no_page,
    )


def _measure(plan: Plan) -> str:
    samples: dict[str, dict[Candidate, list[load.Sample]]] = {
        scenario.name: {candidate: [] for candidate in scenario.candidates}
        for scenario in plan.scenarios
    }
    figures = footprint.measure() if plan.footprint else []
    runs = plan.runs()
    each = START_SECONDS + WARM_UP_SECONDS + plan.seconds
    for done, (number, scenario, candidate) in enumerate(runs):
        left = (len(runs) - done) * each
        _progress(
            f"round {number} of {plan.rounds}, {scenario.name}: {candidate}",
            f"about {left / 60:.0f} min left" if left > 90 else f"about {left:.0f} s left",
        )
        sample = _run(scenario, candidate, plan)
        samples[scenario.name][candidate].append(sample)
        _progress_result(f"{sample.rate:,.0f} requests/s", sample.disturbance)
    return _text(plan, samples, figures)


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
    with running(candidate) as server:
        load.apply(server, scenario.load, scenario.background, WARM_UP_SECONDS)
        # The warm-up ends in the middle of requests; a server may be busy for a while with that.
        server.wait_until_ready()
        return load.apply(server, scenario.load, scenario.background, seconds)


def _text(
    plan: Plan,
    samples: dict[str, dict[Candidate, list[load.Sample]]],
    figures: list[footprint.Figure],
) -> str:
    measured = {candidate.peer for of_one in samples.values() for candidate in of_one}
    measured |= {footprint.CANDIDATE.peer} if figures else set()
    versions = environment.versions([peer for peer in PEERS if peer in measured])
    how = f"Rounds: {plan.rounds}, of {plan.seconds} s"
    how += f", a disturbed run taken again up to {plan.retries} times"
    date = time.strftime("%Y-%m-%d", time.gmtime())
    parts = [f"{', '.join(versions)}. {environment.machine()}. {how}; {date}.\n"]
    if runs := [run for of_one in samples.values() for each in of_one.values() for run in each]:
        parts.append(report.disturbance(runs))
    parts += [report.section(scenario, samples[scenario.name]) for scenario in plan.scenarios]
    if figures:
        parts.append(f"### At rest\n\n{report.markdown(report.footprint_table(figures))}\n")
    return "\n".join(parts)


def _progress(what: str, left: str) -> None:
    print(f"{what:<60} {left:>18}", end="", file=sys.stderr, flush=True)


def _progress_result(result: str, disturbance: float) -> None:
    note = f"  (disturbed: {disturbance:.0%})" if disturbance > QUIET else ""
    print(f"  {result:>20}{note}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
