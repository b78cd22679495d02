"""Measure Penstock beside other servers: `python benchmarks/run.py`, or `make bench`.

Makes what it needs in .bench/, checks what each server keeps of PEP 3333, measures, prints tables,
and writes those of a page with pictures into docs/performance/ when all of that page was measured.
The servers of a scenario run at once and take the load by turns. What was measured is kept as it
comes: `--resume` goes on where a run was interrupted, and `--report` shows what there is.
"""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from harness import conformance, counting, environment, footprint, installing, load, page, results
from harness.idle import idle_connections
from harness.results import Results
from harness.scenarios import FAST, INDEX_PAGE, SCENARIOS, Scenario
from harness.servers import PEERS, Candidate, Kind, Running, running
from harness.slow_readers import slow_readers
from harness.turns import order

FOOTPRINT = "footprint"
COUNTS = "counts"
COUNTED = (*FAST, "penstock-python")
RESULTS = environment.VENV / "results.jsonl"
WARM_UP_SECONDS = 2
"""All servers of a scenario are warmed up at once: each gets a share of that."""
QUIET = 0.1
"""What share of a core others may have in a run; where they have more, it is taken again."""
FAILURES = 2
"""Failures after which a peer's runs of a scenario are given up."""
AT_ONCE = 4
"""Servers that are started, or checked, at a time: they wait more than they compute."""

FAULTS = (environment.EnvironmentProblem, OSError, subprocess.SubprocessError)

ROUNDS, SECONDS, RETRIES = 4, 1, 1
ROUNDS_ASIDE = 2
"""Rounds of a server that is not compared with in a scenario."""


@dataclass(frozen=True)
class Plan:
    """What to measure, how often and how long."""

    scenarios: tuple[Scenario, ...]
    at_rest: tuple[Candidate, ...]
    rounds: int
    seconds: int
    retries: int
    """How often a disturbed run is taken again."""
    breaches: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """What each server fails in, by the need's name."""

    def turns(self, scenario: Scenario) -> list[tuple[int, Candidate]]:
        """Return the turns of a scenario in order: each candidate once, then each once more.

        One that stands aside takes part in the first rounds alone, unless a target is about it.
        """
        needed = {name for name in PEERS if self._is_needed(name, scenario)}
        return [
            (number, candidate)
            for number in range(1, self.rounds + 1)
            for candidate in order(scenario.candidates, number)
            if number <= ROUNDS_ASIDE or candidate.peer in needed
        ]

    def _is_needed(self, peer: str, scenario: Scenario) -> bool:
        asked = {target.against.peer for target in scenario.targets if target.against}
        return peer in asked or not conformance.failed(self.breaches.get(peer, {}), scenario.needs)

    def seconds_of(self, scenario: Scenario) -> float:
        """Return about how long a turn takes."""
        measured = max(self.seconds, scenario.least_seconds)
        return 2 * measured if scenario.with_and_without else measured

    def minutes(self) -> float:
        """Return about how long all takes on a quiet machine."""
        turns = sum(
            (self.seconds_of(each) + TURN_SECONDS) * len(self.turns(each)) + SCENARIO_SECONDS
            for each in self.scenarios
        )
        return (turns + AT_REST_SECONDS * len(self.at_rest)) / 60


TURN_SECONDS, SCENARIO_SECONDS, AT_REST_SECONDS = 0.2, 8.0, 15.0
"""What a turn takes beside its load, a scenario before its first turn, and a server at rest."""


def main() -> int:
    """Run the command; return its exit status."""
    arguments = _arguments()
    environment.end_as_interrupted()
    if arguments.plan:
        _show_plan(arguments)
        return 0
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
    if not (arguments.no_page or arguments.report):
        for path in page.write(findings):
            print(f"Written: {path.relative_to(environment.ROOT)}")
    return 0


def _arguments() -> argparse.Namespace:
    names = [scenario.name for scenario in SCENARIOS] + [FOOTPRINT, COUNTS]
    parser = argparse.ArgumentParser(description="Measure Penstock beside other servers.")
    add = parser.add_argument
    add("--rounds", type=_positive, help=f"default: {ROUNDS}")
    add("--seconds", type=_positive, help=f"of a run; default: {SECONDS}")
    add("--retries", type=int, help=f"of a disturbed run, at most; default: {RETRIES}")
    add("--quick", action="store_true", help="one round of a second each, which no page is made of")
    only = "of: " + ", ".join(names)
    add("--only", action="append", choices=names, metavar="NAME", help=only)
    pages = sorted({scenario.page for scenario in SCENARIOS})
    about_page = f"all that a page shows; of: {', '.join(pages)}"
    add("--page", choices=pages, metavar="PAGE", help=about_page)
    add("--plan", action="store_true", help="measure nothing; show what, and how long that takes")
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


def _show_plan(arguments: argparse.Namespace) -> None:
    plan = _plan(_asked(arguments) | {"missing": {}})
    for scenario in plan.scenarios:
        print(f"{scenario.name:<16} {len(scenario.candidates):>3} servers  {scenario.title}")
    extra = COUNTING_MINUTES if COUNTS in _asked(arguments)["names"] else 0
    print(f"{plan.rounds} rounds: about {plan.minutes() + extra:.0f} minutes on a quiet machine")


COUNTING_MINUTES = 4
"""What counting takes, of all servers."""


def _measured(arguments: argparse.Namespace) -> tuple[Results, tuple[Scenario, ...]]:
    if arguments.resume:
        # Of the snapshot that was taken then: what was measured must not change on the way.
        found, scenarios = _stored()
        environment.raise_descriptor_limit()
    else:
        about = _asked(arguments)
        tls = FOOTPRINT in about["names"] or any(
            each.setup.tls for each in SCENARIOS if each.name in about["names"]
        )
        proxies = {each.setup.proxy for each in SCENARIOS if each.name in about["names"]}
        programs = [proxy.program for proxy in proxies if proxy]
        about["missing"] = installing.prepare(about["peers"], tls=tls, programs=programs)
        about["breaches"] = _breaches(_present(about))
        scenarios = _scenarios(about)
        found = results.begin(RESULTS, about | _circumstances(about))
    _measure(_plan(found.about), found)
    if COUNTS in found.about["names"] and not found.counts:
        present = _present(found.about)
        for counted in counting.of_peers([name for name in COUNTED if name in present]):
            found.add_count(counted)
    return found, scenarios


def _plan(about: dict[str, Any]) -> Plan:
    at_rest = tuple(c for c in footprint.CANDIDATES if c.peer in _present(about))
    if FOOTPRINT not in about["names"]:
        at_rest = ()
    return Plan(
        _scenarios(about),
        at_rest,
        about["rounds"],
        about["seconds"],
        about["retries"],
        about.get("breaches", {}),
    )


def _breaches(peers: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return what each server fails in, by its name and the need's, with the reason."""
    checked = [peer for peer in peers if PEERS[peer].kind is not Kind.REFERENCE]
    print("Checking what each server keeps of PEP 3333", file=sys.stderr)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = dict(zip(checked, pool.map(_breaches_of, checked), strict=True))
    for peer, breaches in found.items():
        for need, why in breaches.items():
            print(f"{peer} fails in {need}: {why}", file=sys.stderr)
    return found


def _breaches_of(peer: str) -> dict[str, str]:
    try:
        found = conformance.breaches(Candidate(peer, 1))
    except FAULTS as problem:
        return {need.name: f"does not run: {problem}" for need in conformance.Need}
    return {need.name: why for need, why in found.items()}


def _asked(arguments: argparse.Namespace) -> dict[str, Any]:
    rounds, seconds, retries = (1, 1, 0) if arguments.quick else (ROUNDS, SECONDS, RETRIES)
    names = [
        each.name
        for each in SCENARIOS
        if (each.page == arguments.page if arguments.page else each.usual)
    ]
    if arguments.page in (None, INDEX_PAGE):
        names += [FOOTPRINT, COUNTS]
    return {
        "names": arguments.only or names,
        "peers": arguments.peer or list(PEERS),
        "rounds": arguments.rounds or rounds,
        "seconds": arguments.seconds or seconds,
        "retries": retries if arguments.retries is None else arguments.retries,
        "quick": arguments.quick,
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
        and not (each.setup.tls and installing.TLS_LOAD in about["missing"])
        and not (each.setup.proxy and each.setup.proxy.program in about["missing"])
    )
    return tuple(scenario for scenario in chosen if scenario.candidates)


def _measure(plan: Plan, found: Results) -> None:
    """Measure what the results do not hold yet."""
    left = {
        scenario: [
            (number, candidate)
            for number, candidate in plan.turns(scenario)
            if (scenario.name, candidate, number) not in found.outcomes
        ]
        for scenario in plan.scenarios
    }
    pace = _Pace(sum(plan.seconds_of(each) * len(turns) for each, turns in left.items()))
    if not found.figures:
        for candidate in plan.at_rest:
            _progress(f"at rest: {candidate}", pace.left())
            _measure_at_rest(candidate, found)
    for scenario, turns in left.items():
        with Field(scenario) as field:
            field.start({candidate for _, candidate in turns})
            for number, candidate in turns:
                what = f"round {number} of {plan.rounds}, {scenario.name}: {candidate}"
                _progress(what, pace.left())
                _take(plan, found, field, number, candidate)
                pace.note(plan.seconds_of(scenario))


class _Pace:
    """How long measuring takes, from what it took so far."""

    def __init__(self, expected: float) -> None:
        """``expected`` is in seconds, of measuring alone."""
        self._expected = expected
        self._done = 0.0
        self._began = time.monotonic()

    def note(self, expected: float) -> None:
        self._done += expected

    def left(self) -> str:
        taken = time.monotonic() - self._began
        pace = taken / self._done if self._done else 1.0
        seconds = pace * (self._expected - self._done)
        return (
            f"about {seconds / 60:.0f} min left" if seconds > 90 else f"about {seconds:.0f} s left"
        )


class Field:
    """The servers of one scenario: each runs until the end, or a failure, and then anew."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self._started: dict[Candidate, tuple[ExitStack, Running, Running]] = {}

    def __enter__(self) -> Field:
        """Start nothing yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """End all servers."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(self.end, list(self._started)))

    def start(self, candidates: Iterable[Candidate]) -> None:
        """Start the servers of all candidates, and warm them up.

        One that does not start fails in its first turn, where the reason is kept.
        """
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(self._try_to_start, candidates))
        servers = {
            server.port: server
            for _, measured, plain in self._started.values()
            for server in (measured, plain)
        }
        try:
            load.warm_up(list(servers.values()), self.scenario.plain().load, WARM_UP_SECONDS)
        except FAULTS as problem:
            print(f"warming up: {problem}", file=sys.stderr)

    def _try_to_start(self, candidate: Candidate) -> None:
        try:
            self.servers(candidate)
        except FAULTS:
            pass

    def servers(self, candidate: Candidate) -> tuple[Running, Running]:
        """Return a candidate's server, and the one without what the scenario adds.

        Starts them where they do not run. Raises one of `FAULTS`.
        """
        if candidate not in self._started:
            scenario = self.scenario
            with ExitStack() as stack:
                measured = plain = stack.enter_context(running(candidate, scenario.setup))
                if scenario.with_and_without and scenario.plain().setup != scenario.setup:
                    plain = stack.enter_context(running(candidate, scenario.plain().setup))
                asked = scenario.load
                for server in {measured.port: measured, plain.port: plain}.values():
                    server.verify(asked.path, asked.posted, asked.answered)
                self._started[candidate] = (stack.pop_all(), measured, plain)
        return self._started[candidate][1:]

    def end(self, candidate: Candidate) -> None:
        """End a candidate's servers."""
        stack, *_ = self._started.pop(candidate, (ExitStack(),))
        try:
            stack.close()
        except environment.EnvironmentProblem:
            pass  # it has ended by itself, which is in the results

    def sample(self, candidate: Candidate, seconds: int) -> load.Sample:
        """Let a candidate have its turn. Raises one of `FAULTS`."""
        measured, plain = self.servers(candidate)
        scenario = self.scenario
        seconds = max(seconds, scenario.least_seconds)
        alone = each = None
        if scenario.with_and_without:
            alone = _turn(plain, scenario.plain(), seconds).rate
        with ExitStack() as stack:
            if scenario.idle:
                held = idle_connections(measured.pid, measured.port, scenario.idle)
                each = stack.enter_context(held)
            if scenario.slow_readers:
                stack.enter_context(slow_readers(measured.port, scenario.slow_readers))
            sample = _turn(measured, scenario, seconds, alone)
        return dataclasses.replace(sample, alone=alone, idle_kib=each)


def _turn(
    server: Running, scenario: Scenario, seconds: int, capacity: float | None = None
) -> load.Sample:
    # The load ends in the middle of requests. A server may be busy for a while with that, and the
    # next turn is another server's.
    server.wait_until_ready()
    sample = load.apply(server, scenario.load, scenario.background, seconds, capacity)
    server.wait_until_ready()
    return sample


def _measure_at_rest(candidate: Candidate, found: Results) -> None:
    try:
        figures = footprint.measure(candidate)
    except FAULTS as problem:
        print(f"  failed: {problem}", file=sys.stderr)
        return
    found.add_figures(figures)
    print(f"  {figures[0].shown:>20}", file=sys.stderr)


def _take(plan: Plan, found: Results, field: Field, number: int, candidate: Candidate) -> None:
    """Take one turn; where it fails, that is what was found."""
    key = (field.scenario.name, candidate, number)
    failures = found.failures(field.scenario.name, candidate)
    if len(failures) >= FAILURES and PEERS[candidate.peer].kind is not Kind.OURS:
        found.add(key, failures[-1])
        print("  given up", file=sys.stderr)
        return
    try:
        sample = _least_disturbed(field, candidate, plan)
    except FAULTS as problem:
        field.end(candidate)
        found.add(key, str(problem))
        print(f"  failed: {problem}", file=sys.stderr)
        return
    found.add(key, sample)
    note = f"  (disturbed: {sample.disturbance:.0%})" if sample.disturbance > QUIET else ""
    note += f"  ({sample.errors:,} errors)" if sample.errors else ""
    print(f"  {f'{sample.rate:,.0f} requests/s':>20}{note}", file=sys.stderr)


def _least_disturbed(field: Field, candidate: Candidate, plan: Plan) -> load.Sample:
    """Return the first undisturbed sample, or else the least disturbed one.

    What is chosen by is what others did, never how well the server did.
    """
    best = field.sample(candidate, plan.seconds)
    for _ in range(plan.retries):
        if best.disturbance > QUIET:
            again = field.sample(candidate, plan.seconds)
            best = min(best, again, key=lambda sample: sample.disturbance)
    return best


def _progress(what: str, left: str) -> None:
    print(f"{what:<60} {left:>18}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
