from __future__ import annotations

from dataclasses import replace

import pytest

from harness import targets
from harness.load import Sample
from harness.scenarios import FLOOR, FLOOR_WSGI, NGINX, Load, Measure, Scenario, Target
from harness.servers import Candidate

OURS = Candidate("penstock", 1)
BJOERN = Candidate("bjoern", 1)
GRANIAN = Candidate("granian", 1)
SCENARIO = Scenario("name", "Title", "About.", (OURS,), Load("/", 1), law=200.0)


def sample(rate: float, errors: int = 0) -> Sample:
    return Sample(rate, 20.0, p50_ms=1.0, p99_ms=2.0, requests=1000, errors=errors, disturbance=0.0)


def test_a_ratio_compares_runs_of_the_same_round() -> None:
    samples = {
        OURS: [sample(400), sample(100), sample(900)],
        BJOERN: [sample(rate) for rate in (100, 50, 300)],
    }
    assert targets.ratio(samples, OURS, BJOERN) == 3.0


def test_a_ratio_leaves_out_a_round_in_which_either_failed() -> None:
    samples = {OURS: [sample(400), None, sample(900)], BJOERN: [sample(100), sample(1), None]}
    assert targets.ratio(samples, OURS, BJOERN) == 4.0


def test_there_is_no_ratio_to_what_was_not_measured_or_answered_nothing() -> None:
    assert targets.ratio({OURS: [sample(400)]}, OURS, BJOERN) is None
    assert targets.ratio({OURS: [sample(400)], BJOERN: [sample(0)]}, OURS, BJOERN) is None


def test_the_best_peer_is_the_one_with_the_highest_ratio_to_ours() -> None:
    # While the machine was slow all were, and GRANIAN had no turn then.
    samples: targets.Samples = {
        OURS: [sample(rate) for rate in (900, 900, 90)],
        BJOERN: [sample(rate) for rate in (810, 810, 81)],
        GRANIAN: [sample(800), sample(800), None],
        NGINX: [sample(1000)] * 3,
    }
    assert targets.best_peer(samples, OURS) == BJOERN


def test_peers_without_threads_are_compared_with_whatever_the_threads() -> None:
    eight = Candidate("penstock", 8)
    samples = {
        OURS: [sample(900)],
        eight: [sample(900)],
        BJOERN: [sample(500)],
        Candidate("granian", 8): [sample(300)],
        GRANIAN: [sample(900)],
    }
    assert targets.best_peer(samples, eight) == BJOERN
    assert targets.best_peer(samples, OURS) == GRANIAN


def test_a_row_is_compared_with_ours_of_as_many_threads_or_else_with_the_first() -> None:
    eight = Candidate("penstock", 8)
    samples: targets.Samples = {OURS: [], eight: [], BJOERN: [], Candidate("granian", 8): []}
    assert targets.ours_to_compare_with(samples, Candidate("granian", 8)) == eight
    assert targets.ours_to_compare_with(samples, BJOERN) == OURS
    assert targets.ours_to_compare_with({eight: [], BJOERN: []}, BJOERN) == eight
    assert targets.ours_to_compare_with({BJOERN: []}, BJOERN) is None


def test_a_peer_that_fails_requests_is_not_the_best() -> None:
    samples = {
        OURS: [sample(500)],
        BJOERN: [sample(900, errors=2)],
        GRANIAN: [sample(300, errors=1)],
    }
    assert targets.best_peer(samples, OURS) == GRANIAN
    del samples[GRANIAN]
    assert targets.best_peer(samples, OURS) is None


def test_a_peer_that_was_never_measured_is_not_the_best() -> None:
    assert targets.best_peer({OURS: [sample(1)], BJOERN: [None, None]}, OURS) is None


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (Target(Measure.BEST_PEER, 1.0), 2.0),
        (Target(Measure.PEER, 1.0, against=NGINX), 1.0),
        (Target(Measure.PEER, 1.0, against=FLOOR), 0.5),
        (Target(Measure.ONE_THREAD, 1.0), 1.0),
        (Target(Measure.ALONE, 1.0), 0.8),
        (Target(Measure.LAW, 1.0), 0.5),
        (Target(Measure.P99_MS, 1.0), 2.0),
        (Target(Measure.P99_BY_P50, 1.0), 2.0),
        (Target(Measure.P999_BY_PEER, 1.0), 1.5),
        (Target(Measure.IDLE_KIB, 1.0), 0.7),
        (Target(Measure.PEAK_MIB, 1.0), 40.0),
    ],
)
def test_each_measure_compares_with_what_it_says(target: Target, expected: float) -> None:
    samples = {
        OURS: [replace(sample(100), alone=125.0, idle_kib=0.7, p999_ms=9.0, peak_mib=40.0)],
        BJOERN: [replace(sample(50), p999_ms=8.0)],
        Candidate("waitress", 1): [replace(sample(10), p999_ms=6.0)],
        NGINX: [sample(100)],
        FLOOR: [sample(200)],
    }
    [verdict] = targets.verdicts(replace(SCENARIO, targets=(target,)), samples)
    assert verdict.value == expected


def test_a_peer_that_stands_aside_is_not_the_best_but_can_be_asked_for() -> None:
    asked = (Target(Measure.BEST_PEER, 1.0), Target(Measure.PEER, 1.0, against=BJOERN))
    samples = {OURS: [sample(90)], BJOERN: [sample(100)], GRANIAN: [sample(30)]}
    best, named = targets.verdicts(replace(SCENARIO, targets=asked), samples, aside={"bjoern"})
    assert (best.value, best.compared_with) == (3.0, "granian, 1 thread")
    assert (named.value, named.what) == (0.9, "rate against bjoern, 1 thread")


def test_by_processor_time_the_cheapest_other_counts() -> None:
    cheap, dear, wrong = (replace(sample(50), cpu_us=cost) for cost in (30.0, 60.0, 1.0))
    samples = {
        OURS: [sample(100)],
        BJOERN: [dear],
        GRANIAN: [cheap],
        Candidate("waitress", 1): [replace(wrong, errors=500)],
        NGINX: [replace(cheap, cpu_us=10.0)],
    }
    asked = (
        Target(Measure.BEST_PEER, 1.0),
        Target(Measure.PEER, 1.0, against=NGINX),
        Target(Measure.PEER, 1.0, against=FLOOR),
        Target(Measure.ALONE, 1.0),
    )
    found = targets.verdicts(replace(SCENARIO, targets=asked), samples)
    assert [verdict.by_cpu for verdict in found] == [1.5, 0.5, None, None]


def test_the_bare_loop_is_compared_with_the_best_peer_in_the_same_rounds() -> None:
    samples: targets.Samples = {
        OURS: [sample(90), sample(90), sample(9)],
        BJOERN: [sample(100), sample(100), sample(10)],
        GRANIAN: [sample(50)] * 3,
        FLOOR_WSGI: [sample(120), None, sample(14)],
    }
    asked = (
        Target(Measure.BEST_PEER, 1.5),
        Target(Measure.PEER, 1.0, against=NGINX),
        Target(Measure.ALONE, 1.0),
    )
    found = targets.verdicts(replace(SCENARIO, targets=asked), samples)
    assert [verdict.bare_loop for verdict in found] == [pytest.approx(1.3), None, None]
    assert found[0].compared_with == "bjoern, 1 thread"


@pytest.mark.parametrize("runs", [None, [None], [sample(200, errors=2)]])
def test_a_bare_loop_that_was_not_measured_or_failed_requests_says_nothing(
    runs: list[Sample | None] | None,
) -> None:
    samples: dict[Candidate, list[Sample | None]] = {OURS: [sample(90)], BJOERN: [sample(100)]}
    if runs is not None:
        samples[FLOOR_WSGI] = runs
    scenario = replace(SCENARIO, targets=(Target(Measure.BEST_PEER, 3.0),))
    [verdict] = targets.verdicts(scenario, samples)
    assert verdict.bare_loop is None
    assert not verdict.is_out_of_reach


@pytest.mark.parametrize(
    ("value", "bare_loop", "is_out_of_reach"),
    [
        (0.8, 0.894, True),
        (0.8, 0.896, False),
        (0.8, 1.2, False),
        (0.9, 0.8, False),
        (0.8, None, False),
        (None, 0.8, False),
    ],
)
def test_a_target_is_out_of_reach_where_ours_and_the_bare_loop_miss_it(
    value: float | None, bare_loop: float | None, is_out_of_reach: bool
) -> None:
    verdict = targets.Verdict("hello", "penstock", "rate", 0.9, False, value, bare_loop=bare_loop)
    assert verdict.is_out_of_reach is is_out_of_reach


@pytest.mark.parametrize("measure", Measure)
def test_nothing_measured_is_no_value_and_reaches_no_target(measure: Measure) -> None:
    scenario = replace(SCENARIO, targets=(Target(measure, 1.0),))
    [verdict] = targets.verdicts(scenario, {OURS: [None]})
    assert verdict.value is None
    assert not verdict.met


@pytest.mark.parametrize(
    ("at_most", "value", "met"),
    [
        (False, 0.904, True),
        (False, 0.896, True),
        (False, 0.894, False),
        (True, 0.9, True),
        (True, 0.91, False),
    ],
)
def test_a_target_is_reached_as_it_is_shown(at_most: bool, value: float, met: bool) -> None:
    assert targets.Verdict("hello", "penstock", "rate", 0.9, at_most, value).met is met


def test_a_target_of_a_candidate_that_was_not_asked_for_has_no_verdict() -> None:
    scenario = replace(SCENARIO, targets=(Target(Measure.LAW, 1.0, threads=8),))
    assert targets.verdicts(scenario, {OURS: [sample(1)]}) == []
