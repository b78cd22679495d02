from __future__ import annotations

from dataclasses import replace

import pytest

from harness import targets
from harness.load import Sample
from harness.scenarios import FLOOR, NGINX, SLOW_GUNICORN, Load, Measure, Scenario, Target
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


def test_the_best_peer_is_the_one_with_the_highest_median() -> None:
    samples = {
        OURS: [sample(900)] * 3,
        BJOERN: [sample(rate) for rate in (100, 110, 500)],
        GRANIAN: [sample(rate) for rate in (120, 120, 130)],
        NGINX: [sample(1000)] * 3,
    }
    assert targets.best_peer(samples, 1) == GRANIAN


def test_peers_without_threads_are_compared_with_whatever_the_threads() -> None:
    samples = {
        BJOERN: [sample(500)],
        Candidate("granian", 8): [sample(300)],
        GRANIAN: [sample(900)],
    }
    assert targets.best_peer(samples, 8) == BJOERN
    assert targets.best_peer(samples, 1) == GRANIAN


def test_a_row_without_threads_is_compared_with_one_thread_where_there_is_such() -> None:
    eight = Candidate("granian", 8)
    assert targets.threads_to_compare_with({BJOERN: [], eight: []}, BJOERN) == 8
    assert targets.threads_to_compare_with({BJOERN: [], eight: [], GRANIAN: []}, BJOERN) == 1
    assert targets.threads_to_compare_with({BJOERN: []}, BJOERN) == 1


def test_a_peer_that_fails_requests_is_not_the_best() -> None:
    samples = {BJOERN: [sample(900, errors=2)], GRANIAN: [sample(300, errors=1)]}
    assert targets.best_peer(samples, 1) == GRANIAN
    assert targets.best_peer({BJOERN: [sample(900, errors=2)]}, 1) is None


def test_a_peer_that_was_never_measured_is_not_the_best() -> None:
    assert targets.best_peer({BJOERN: [None, None]}, 1) is None


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        (Measure.BEST_PEER, 2.0),
        (Measure.NGINX, 1.0),
        (Measure.FLOOR, 0.5),
        (Measure.WAITRESS, 10.0),
        (Measure.GUNICORN, 20.0),
        (Measure.ONE_THREAD, 1.0),
        (Measure.ALONE, 0.8),
        (Measure.LAW, 0.5),
        (Measure.P99_MS, 2.0),
        (Measure.IDLE_KIB, 0.7),
    ],
)
def test_each_measure_compares_with_what_it_says(measure: Measure, expected: float) -> None:
    samples = {
        OURS: [replace(sample(100), alone=125.0, idle_kib=0.7)],
        BJOERN: [sample(50)],
        Candidate("waitress", 1): [sample(10)],
        SLOW_GUNICORN: [sample(5)],
        NGINX: [sample(100)],
        FLOOR: [sample(200)],
    }
    assert targets.value(SCENARIO, samples, Target(measure, 1.0)) == expected


def test_by_processor_time_the_cheapest_other_counts() -> None:
    cheap, dear, wrong = (replace(sample(50), cpu_us=cost) for cost in (30.0, 60.0, 1.0))
    samples = {
        OURS: [sample(100)],
        BJOERN: [dear],
        GRANIAN: [cheap],
        Candidate("waitress", 1): [replace(wrong, errors=500)],
        NGINX: [replace(cheap, cpu_us=10.0)],
    }
    assert targets.by_cpu(samples, Target(Measure.BEST_PEER, 1.0)) == 1.5
    assert targets.by_cpu(samples, Target(Measure.NGINX, 1.0)) == 0.5
    assert targets.by_cpu(samples, Target(Measure.FLOOR, 1.0)) is None
    assert targets.by_cpu(samples, Target(Measure.ALONE, 1.0)) is None


@pytest.mark.parametrize("measure", Measure)
def test_nothing_measured_is_no_value_and_reaches_no_target(measure: Measure) -> None:
    scenario = replace(SCENARIO, targets=(Target(measure, 1.0),))
    [verdict] = targets.verdicts(scenario, {OURS: [None]})
    assert verdict.value is None
    assert not verdict.met


@pytest.mark.parametrize(
    ("measure", "value", "met"),
    [
        (Measure.LAW, 0.904, True),
        (Measure.LAW, 0.896, True),
        (Measure.LAW, 0.894, False),
        (Measure.P99_MS, 0.9, True),
        (Measure.P99_MS, 0.91, False),
    ],
)
def test_a_target_is_reached_as_it_is_shown(measure: Measure, value: float, met: bool) -> None:
    assert targets.Verdict(SCENARIO, Target(measure, 0.9), value).met is met


def test_a_target_of_a_candidate_that_was_not_asked_for_has_no_verdict() -> None:
    scenario = replace(SCENARIO, targets=(Target(Measure.LAW, 1.0, threads=8),))
    assert targets.verdicts(scenario, {OURS: [sample(1)]}) == []
