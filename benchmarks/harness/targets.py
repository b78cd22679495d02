"""What is compared with what, and whether a target is reached."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from harness.load import Sample
from harness.scenarios import FLOOR_WSGI, Measure, Scenario, Target
from harness.servers import PEERS, Candidate, Kind
from harness.turns import quartiles

Samples = Mapping[Candidate, Sequence[Sample | None]]
"""What was measured, one for each round; None where that failed."""

TOLERABLE_ERRORS = 0.001
"""A share of requests. A peer that fails more of them is no measure for others."""


@dataclass(frozen=True)
class Verdict:
    """A target, and what was measured of it."""

    scenario: str
    """The title."""
    server: str
    what: str
    bound: float
    at_most: bool
    value: float | None
    """None where it was not measured."""
    digits: int = 2
    quartiles: tuple[float, float] | None = None
    """Of the ratios that the value is the median of."""
    compared_with: str = ""
    """The best peer, where one was looked for."""
    by_cpu: float | None = None
    """The same ratio by processor time for a request, which others disturb less than the rate."""
    bare_loop: float | None = None
    """What the bare loop has in the place of ours; None where it was not measured."""

    @property
    def met(self) -> bool:
        """Whether the target is reached, in the decimals that are shown."""
        return self.value is not None and self._reaches(self.value)

    @property
    def is_out_of_reach(self) -> bool:
        """Whether the target is missed, and the bare loop misses it as well.

        A loop that is slower than ours is no limit.
        """
        if self.value is None or self.bare_loop is None or self.met:
            return False
        return self.value <= self.bare_loop and not self._reaches(self.bare_loop)

    def _reaches(self, value: float) -> bool:
        shown = round(value, self.digits)
        return shown <= self.bound if self.at_most else shown >= self.bound


def verdicts(scenario: Scenario, samples: Samples, aside: Collection[str] = ()) -> list[Verdict]:
    """Return one for each target of the scenario whose candidate was to be measured.

    ``aside`` are the peers that fail in what the scenario needs: none of them is the best.
    """
    lawful = {candidate: runs for candidate, runs in samples.items() if candidate.peer not in aside}
    return [
        _verdict(scenario, lawful, samples, target)
        for target in scenario.targets
        if target.candidate in samples
    ]


def _verdict(scenario: Scenario, lawful: Samples, samples: Samples, target: Target) -> Verdict:
    other = _other(lawful, target)
    is_searched = target.measure in (Measure.BEST_PEER, Measure.P999_BY_PEER)
    return Verdict(
        scenario=scenario.title,
        server=str(target.candidate),
        what=target.what,
        bound=target.bound,
        at_most=target.measure.at_most,
        value=value(scenario, samples, target, other),
        quartiles=_quartiles(samples, target, other),
        compared_with=str(other) if other and is_searched else "",
        by_cpu=_by_cpu(lawful, target, other),
        bare_loop=_bare_loop(samples, target, other),
    )


def value(
    scenario: Scenario, samples: Samples, target: Target, other: Candidate | None
) -> float | None:
    """Return what was measured for a target; None where something for it is missing.

    ``other`` is whose figure that of the candidate is compared with, where that is so.
    """
    runs = samples[target.candidate]
    match target.measure:
        case Measure.BEST_PEER | Measure.PEER | Measure.ONE_THREAD:
            return ratio(samples, target.candidate, other) if other else None
        case Measure.P999_BY_PEER:
            return ratio(samples, target.candidate, other, _p999) if other else None
        case Measure.ALONE:
            return median(runs, lambda run: run.alone and run.rate / run.alone)
        case Measure.LAW:
            law = scenario.law
            return median(runs, lambda run: law and run.rate / law)
        case Measure.P99_MS:
            return median(runs, lambda run: run.p99_ms)
        case Measure.P99_BY_P50:
            return median(runs, lambda run: run.p50_ms and run.p99_ms / run.p50_ms)
        case Measure.IDLE_KIB:
            return median(runs, lambda run: run.idle_kib)
        case Measure.PEAK_MIB:
            return max((run.peak_mib for run in runs if run and run.peak_mib), default=None)


def _quartiles(
    samples: Samples, target: Target, other: Candidate | None
) -> tuple[float, float] | None:
    if other is None:
        return None
    figure = _p999 if target.measure is Measure.P999_BY_PEER else _rate
    found = ratios(samples, target.candidate, other, figure)
    return quartiles(found) if len(found) > 1 else None


def _other(lawful: Samples, target: Target) -> Candidate | None:
    match target.measure:
        case Measure.BEST_PEER:
            return best_peer(lawful, target.candidate)
        case Measure.P999_BY_PEER:
            tails = {
                peer: tail
                for peer in sound_peers(lawful, target.threads)
                if (tail := median(lawful[peer], lambda run: run.p999_ms))
            }
            return min(tails, key=tails.__getitem__, default=None)
        case Measure.ONE_THREAD:
            return Candidate(target.peer, 1)
        case _:
            return target.against


def _by_cpu(lawful: Samples, target: Target, other: Candidate | None) -> float | None:
    """Return how many times the processor time of ours another takes for a request.

    That is the cheapest peer where the best is looked for, and not the fastest. None where the
    target is not one of rates against another server's, or something was not measured.
    """
    match target.measure:
        case Measure.BEST_PEER:
            others = sound_peers(lawful, target.threads)
        case Measure.PEER:
            others = [other] if other else []
        case _:
            return None
    costs = [ratio(lawful, each, target.candidate, _cost) for each in others]
    return min((cost for cost in costs if cost), default=None)


def _bare_loop(samples: Samples, target: Target, other: Candidate | None) -> float | None:
    """Return the rate of the bare loop against that of the best peer, in the same rounds.

    None where that is not what the target is about, where the bare loop was not measured, and where
    it failed too many requests to say something.
    """
    if target.measure is not Measure.BEST_PEER or other is None:
        return None
    if not is_sound(samples.get(FLOOR_WSGI, ())):
        return None
    return ratio(samples, FLOOR_WSGI, other)


def best_peer(samples: Samples, ours: Candidate) -> Candidate | None:
    """Return the fastest peer, by the ratios to ours.

    Those with as many threads as ours are looked at, or with one where a peer has no more.
    """
    rates = {
        peer: found
        for peer in sound_peers(samples, ours.threads)
        if (found := ratio(samples, peer, ours))
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


def ours_to_compare_with(samples: Samples, candidate: Candidate) -> Candidate | None:
    """Return our own row that a row of the table is compared with: of as many threads.

    A row without such a one, as that of a server without threads, is compared with the first.
    """
    ours = [each for each in samples if each.peer == "penstock"]
    same = [each for each in ours if each.threads == candidate.threads]
    return next(iter((*same, *ours)), None)


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


def _p999(run: Sample) -> float:
    return run.p999_ms or 0.0
