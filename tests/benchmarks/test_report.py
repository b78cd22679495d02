from __future__ import annotations

from pathlib import Path

import pytest

from harness import report
from harness.environment import ROOT, EnvironmentProblem
from harness.load import Answered, Sample, parse
from harness.scenarios import SCENARIOS
from harness.servers import Candidate

OURS = Candidate("penstock", 4)
THEIRS = Candidate("waitress", 4)


def sample(rate: float, errors: int = 0) -> Sample:
    return Sample(rate, cpu_us=20.0, p50_ms=1.0, p99_ms=2.0, errors=errors, disturbance=0.0)


def test_a_ratio_compares_runs_of_the_same_round() -> None:
    samples = {
        OURS: [sample(400), sample(100), sample(900)],
        THEIRS: [sample(r) for r in (100, 50, 300)],
    }
    assert report.ratio(samples, OURS, "waitress") == 3.0


def test_a_ratio_compares_with_as_many_threads_only() -> None:
    samples = {OURS: [sample(400)], Candidate("waitress", 1): [sample(100)]}
    assert report.ratio(samples, OURS, "waitress") is None


def test_a_row_holds_median_extremes_and_all_errors() -> None:
    samples = {OURS: [sample(3000, errors=1), sample(1000, errors=2), sample(2000)]}
    header, row = report.scenario_table(samples)
    cells = dict(zip(header, row, strict=True))
    assert cells["server"] == "penstock, 4 threads"
    assert (cells["requests/s"], cells["min"], cells["max"]) == ("2,000", "1,000", "3,000")
    assert cells["errors"] == "3"


def test_a_server_that_answered_nothing_does_not_break_the_table() -> None:
    samples = {OURS: [sample(100)], THEIRS: [sample(0)]}
    assert report.ratio(samples, OURS, "waitress") is None
    assert len(report.scenario_table(samples)) == 3


def test_columns_of_a_table_are_aligned() -> None:
    table = report.markdown([["a", "number"], ["longer", "1"]])
    assert table.splitlines() == [
        "| a      | number |",
        "| ------ | -----: |",
        "| longer |      1 |",
    ]


def test_figures_replace_what_stands_between_the_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n", "utf-8")
    report.replace_figures(page, "new")
    assert page.read_text("utf-8") == f"before\n{report.BEGIN}\n\nnew\n\n{report.END}\nafter\n"


def test_figures_are_not_written_into_a_page_without_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("prose", "utf-8")
    with pytest.raises(ValueError, match="markers"):
        report.replace_figures(page, "new")
    assert page.read_text("utf-8") == "prose"


def test_the_page_on_performance_has_the_markers() -> None:
    page = (ROOT / "docs" / "performance.md").read_text("utf-8")
    assert page.count(report.BEGIN) == page.count(report.END) == 1


def test_the_counts_are_on_the_last_line_of_wrk() -> None:
    counts = '{"requests": 10, "duration_us": 2000000, "p50_us": 1500, "p99_us": 3000, "errors": 1}'
    output = f"Running 2s test\n  10 requests in 2.00s\n\n{counts}\n"
    assert parse(output) == Answered(requests=10, seconds=2.0, p50_ms=1.5, p99_ms=3.0, errors=1)


def test_what_wrk_says_when_it_fails_is_passed_on() -> None:
    with pytest.raises(EnvironmentProblem, match="unable to connect"):
        parse("unable to connect to 127.0.0.1:1 Connection refused\n")


def test_each_scenario_measures_each_candidate_once() -> None:
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)
    for scenario in SCENARIOS:
        assert len(set(scenario.candidates)) == len(scenario.candidates)
