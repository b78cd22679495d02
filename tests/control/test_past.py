"""The last hour in figures: differences of counts, means, and quantiles of histograms."""

from __future__ import annotations

import pytest

from penstock.control.past import Past, Times
from support.past import answer, rows


@pytest.fixture
def past() -> Past:
    return Past(answer(rows(10)))


def test_counts_have_what_they_grew_by(past: Past) -> None:
    assert past.seconds == 600
    assert past.grown("requests") == 6000
    assert past.rate("requests") == 10
    assert past.now("requests") == 6000
    assert past.mean("threads") == 8


def test_the_last_minutes_begin_with_the_row_before_them(past: Past) -> None:
    last = past.last(60)
    assert last.seconds == 60
    assert last.grown("requests") == 600
    assert past.last(65).seconds == 70
    assert past.last(1e9).seconds == 600
    assert past.last(0).seconds == 0
    assert past.last(0).rate("requests") == 0


def test_times_are_those_between_the_first_row_and_the_last(past: Past) -> None:
    times = past.last(60).times("duration")
    assert times.count == 600
    assert times.mean == pytest.approx(0.02)
    assert times.quantile(0.5) == pytest.approx(0.0175)
    assert times.quantile(1.0) == pytest.approx(0.025)


def test_quantiles_are_interpolated_within_their_bucket() -> None:
    times = Times((0.1, 1.0, 10.0), (50, 40, 9, 1), 60.0)
    assert times.quantile(0.0) == 0.0
    assert times.quantile(0.25) == pytest.approx(0.05)
    assert times.quantile(0.5) == pytest.approx(0.1)
    assert times.quantile(0.7) == pytest.approx(0.1 + 0.9 * 20 / 40)
    assert times.quantile(0.999) == 10.0  # beyond the last bound it is that
    assert times.share_above(0.1) == pytest.approx(0.5)
    assert times.share_above(10.0) == pytest.approx(0.01)
    nothing = Times((0.1,), (0, 0), 0.0)
    assert (nothing.quantile(0.5), nothing.mean, nothing.share_above(0.1)) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"names": ["at"], "bounds": [], "rows": [[1.0, 2.0]], "now": [1.0]},
        {"names": ["at"], "bounds": [], "rows": [["x"]], "now": [1.0]},
        {"names": None, "bounds": [], "rows": [], "now": [1.0]},
    ],
)
def test_an_answer_of_another_kind_is_refused(broken: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Past(broken)
