"""What a comparison in pairs concludes from its ratios."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise, permutations

import pytest

from compare import NAMES, USUAL, Compared, threads_of
from harness.scenarios import SCENARIOS
from harness.turns import interval, order, quartiles


def test_the_interval_of_ten_values_ends_with_the_second_and_the_ninth() -> None:
    # Of the usual table for the sign test: fewer than 2 of 10 coins, with a chance of 2.1 % in all.
    assert interval([float(number) for number in range(1, 11)]) == (2.0, 9.0)


def test_the_interval_of_thirty_values_ends_with_the_tenth_and_the_twenty_first() -> None:
    assert interval([float(number) for number in range(30, 0, -1)]) == (10.0, 21.0)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_few_values_are_their_own_interval(count: int) -> None:
    values = [float(number) for number in range(count)]
    assert interval(values) == (values[0], values[-1])


def test_the_interval_holds_the_median_in_95_of_100_samples_and_more() -> None:
    choice = random.Random(7)
    held = 0
    for _ in range(1000):
        low, high = interval([choice.lognormvariate(0, 1) for _ in range(30)])
        held += low <= 1.0 <= high
    assert held >= 940


def test_a_row_has_the_medians_of_rates_and_of_the_ratios_of_pairs() -> None:
    found = Compared("hello", rates=[100.0, 50.0, 102.0], others=[100.0, 50.0, 100.0])
    assert found.row() == ["hello", "100", "100", "1.000", "1.000 to 1.020"]


def test_what_is_compared_is_among_the_scenarios() -> None:
    known = {scenario.name: scenario for scenario in SCENARIOS}
    assert [threads_of(known[name]) for name in USUAL] == [1, 1, 8, 64]
    assert set(USUAL) < set(NAMES) < set(known)


def test_no_server_always_comes_after_the_same_other_one() -> None:
    assert order("abc", 1) == ["a", "b", "c"]
    assert order("abc", 2) == ["c", "b", "a"]
    assert order("abc", 3) == ["b", "c", "a"]
    before = [
        (first, second)
        for number in range(1, 7)
        for first, second in pairwise(order("abc", number))
    ]
    assert {before.count(pair) for pair in permutations("abc", 2)} == {2}
    assert Counter(order("abc", number)[0] for number in range(1, 7)) == {"a": 2, "b": 2, "c": 2}


def test_quartiles_hold_the_middle_half() -> None:
    assert quartiles([4.0, 1.0, 5.0, 2.0, 3.0]) == (2.0, 4.0)
    assert quartiles([7.0]) == (7.0, 7.0)
