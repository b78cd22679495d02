"""What is compared with what, and whether a target is reached."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from harness.load import Sample
from harness.scenarios import FLOOR, NGINX, SLOW_GUNICORN, Measure, Scenario, Target
from harness.servers import PEERS, Candidate, Kind

Samples = Mapping[Candidate, Sequence[Sample | None]]
"""What was measured, one for each round; None where that failed."""

TOLERABLE_ERRORS = 0.001
"""A share of requests. A peer that fails more of them is no measure for others."""


@dataclass(frozen=True)
class Verdict:
    """A target, and what was measured of it."""

    scenario: Scenario
    target: Target
    value: float | None
    """None where it was not measured."""
    by_cpu: float | None = None
    """The same ratio by processor time for a request, which others disturb less than the rate."""

    @property
    def met(self) -> bool:
        """Whether the target is reached, in two decimals."""
        if self.value is None:
            return False
        shown = round(self.value, 2)
        return (
            shown <= self.target.bound
            if self.target.measure.at_most
            else (shown >= self.target.bound)
        )


def verdicts(scenario: Scenario, samples: Samples) -> list[Verdict]:
    """Return one for each target of the scenario whose candidate was to be measured."""
    return [
        Verdict(scenario, target, value(scenario, samples, target), by_cpu(samples, target))
        for target in scenario.targets
        if target.candidate in samples
    ]


def value(scenario: Scenario, samples: Samples, target: Target) -> float | None:
    """Return what was measured for a target; None where something for it is missing."""
    ours = target.candidate
    match target.measure:
        case Measure.BEST_PEER:
            best = best_peer(samples, ours.threads)
            return None if best is None else ratio(samples, ours, best)
        case Measure.NGINX:
            return ratio(samples, ours, NGINX)
        case Measure.FLOOR:
            return ratio(samples, ours, FLOOR)
        case Measure.WAITRESS:
            return ratio(samples, ours, Candidate("waitress", ours.threads))
        case Measure.GUNICORN:
            return ratio(samples, ours, SLOW_GUNICORN)
        case Measure.ONE_THREAD:
            return ratio(samples, ours, Candidate(ours.peer, 1))
        case Measure.UNSUPERVISED:
            return ratio(samples, ours, Candidate("penstock-alone", ours.threads))
        case Measure.ALONE:
            return median(samples[ours], lambda run: run.alone and run.rate / run.alone)
        case Measure.LAW:
            law = scenario.law
            return median(samples[ours], lambda run: law and run.rate / law)
        case Measure.P99_MS:
            return median(samples[ours], lambda run: run.p99_ms)
        case Measure.IDLE_KIB:
            return median(samples[ours], lambda run: run.idle_kib)


def by_cpu(samples: Samples, target: Target) -> float | None:
    """Return how many times the processor time of ours the other takes for a request.

    None where the target compares with no other server, or something was not measured.
    """
    ours = target.candidate
    match target.measure:
        case Measure.BEST_PEER:
            others = sound_peers(samples, ours.threads)
        case Measure.NGINX:
            others = [NGINX]
        case Measure.FLOOR:
            others = [FLOOR]
        case _:
            return None
    costs = [cost for other in others if (cost := ratio(samples, other, ours, _cost))]
    return min(costs, default=None)


def best_peer(samples: Samples, threads: int) -> Candidate | None:
    """Return the fastest WSGI peer with ``threads`` threads, or with one where it has no more."""
    rates = {
        candidate: median(samples[candidate], _rate) or 0.0
        for candidate in sound_peers(samples, threads)
    }
    return max(rates, key=rates.__getitem__, default=None)


def sound_peers(samples: Samples, threads: int) -> list[Candidate]:
    """Return the WSGI peers with ``threads`` threads that answered correctly."""
    return [
        candidate
        for candidate, runs in samples.items()
        if PEERS[candidate.peer].kind is Kind.PEER
        and candidate.threads == (threads if PEERS[candidate.peer].threaded else 1)
        and is_sound(runs)
        and median(runs, _rate)
    ]


def threads_to_compare_with(samples: Samples, candidate: Candidate) -> int:
    """Return the number of threads of those that a row of the table is compared with.

    A server without threads is compared with others that have one, where there are such.
    """
    found = {each.threads for each in samples if PEERS[each.peer].threaded}
    return candidate.threads if candidate.threads in found or not found else max(found)


def is_sound(runs: Sequence[Sample | None]) -> bool:
    """Whether requests failed seldom enough for the rate to say something."""
    good = [run for run in runs if run is not None]
    requests = sum(run.requests for run in good)
    return sum(run.errors for run in good) <= TOLERABLE_ERRORS * requests


def ratio(
    samples: Samples,
    candidate: Candidate,
    other: Candidate,
    figure: Callable[[Sample], float] | None = None,
) -> float | None:
    """Return the median, over the rounds, of a rate, or another figure, against another's."""
    found = ratios(samples, candidate, other, figure)
    return statistics.median(found) if found else None


def ratios(
    samples: Samples,
    candidate: Candidate,
    other: Candidate,
    figure: Callable[[Sample], float] | None = None,
) -> list[float]:
    """Return what `ratio` is the median of.

    Compared within a round: what slows the machine down for a while slows both.
    """
    figure = figure or _rate
    pairs = zip(samples.get(candidate, ()), samples.get(other, ()), strict=False)
    return [
        figure(ours) / figure(theirs)
        for ours, theirs in pairs
        if ours and theirs and figure(theirs)
    ]


def median(runs: Sequence[Sample | None], figure: Callable[[Sample], float | None]) -> float | None:
    """Return the median of a figure over the runs that have it."""
    figures = [found for run in runs if run and (found := figure(run)) is not None]
    return statistics.median(figures) if figures else None


def _rate(run: Sample) -> float:
    return run.rate


def _cost(run: Sample) -> float:
    return run.cpu_us
