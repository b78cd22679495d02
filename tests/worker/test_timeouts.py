"""Which timeout a path has."""

from __future__ import annotations

import pytest

from penstock.config.sources import settings_from_kwargs
from penstock.worker.timeouts import REMEMBERED_PATHS, shortest_timeout, timeouts_by_path


def test_without_patterns_there_is_nothing_to_ask() -> None:
    assert timeouts_by_path(settings_from_kwargs(timeout=7)) is None


@pytest.mark.parametrize(
    ("path", "timeout"),
    [
        ("/", 7.0),
        ("/reports/a", 300.0),
        ("/reports/a/b", 300.0),
        ("/reports", 7.0),
        ("/Reports/a", 7.0),
        ("/events/a", 0.0),
        ("/a.json", 0.5),
        ("/b.json", 7.0),
    ],
)
def test_the_first_pattern_that_matches_the_path_counts(path: str, timeout: float) -> None:
    patterns = ["/reports/*=5m", "/events/*=0", "/reports/a=1s", "/[ac].json=500ms"]
    timeout_of = timeouts_by_path(settings_from_kwargs(timeout=7, timeout_for=patterns))
    assert timeout_of is not None
    assert timeout_of(path) == timeout


def test_of_endless_paths_a_few_are_remembered() -> None:
    timeout_of = timeouts_by_path(settings_from_kwargs(timeout_for=["/a*=1"]))
    assert timeout_of is not None
    for number in range(3 * REMEMBERED_PATHS):
        assert timeout_of(f"/a{number}") == 1.0
    assert timeout_of.cache_info().currsize == REMEMBERED_PATHS  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("timeout", "patterns", "shortest"),
    [(30, [], 30.0), (0, [], 0.0), (0, ["/a=9"], 9.0), (30, ["/a=0", "/b=2"], 2.0)],
)
def test_the_shortest_timeout_leaves_out_what_has_none(
    timeout: float, patterns: list[str], shortest: float
) -> None:
    settings = settings_from_kwargs(timeout=timeout, timeout_for=patterns)
    assert shortest_timeout(settings) == shortest
