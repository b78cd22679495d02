from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness import installing, page, report
from harness.counting import Count
from harness.environment import EnvironmentProblem
from harness.load import Answered, Sample, parse
from harness.scenarios import NGINX, SCENARIOS, Load, Scenario
from harness.servers import PEERS, Candidate
from harness.targets import Samples, Verdict

OURS = Candidate("penstock", 4)
THEIRS = Candidate("waitress", 4)
SCENARIO = Scenario("name", "Title", "About.", (OURS, THEIRS), Load("/", 1))


def sample(rate: float, errors: int = 0) -> Sample:
    return Sample(rate, 20.0, p50_ms=1.0, p99_ms=2.0, requests=9999, errors=errors, disturbance=0.0)


def cells(samples: Samples) -> list[dict[str, str]]:
    header, *rows = report.scenario_table(SCENARIO, samples)
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_a_row_holds_median_extremes_and_all_errors() -> None:
    [row] = cells({OURS: [sample(3000, errors=1), sample(1000, errors=2), sample(2000)]})
    assert row["server"] == "penstock, 4 threads"
    assert row["requests/s"] == "2,000"
    assert row["errors"] == "3"


def test_a_row_compares_with_ours() -> None:
    ours, theirs = cells({OURS: [sample(100)], THEIRS: [sample(50)]})
    assert (ours["x penstock"], theirs["x penstock"]) == ("1.00", "0.50")


def test_a_server_that_answered_nothing_does_not_break_the_table() -> None:
    ours, theirs = cells({OURS: [sample(0)], THEIRS: [sample(100)]})
    assert (theirs["x penstock"], ours["requests/s"]) == ("", "0.0")


def test_a_server_that_stands_aside_comes_last_and_in_parentheses() -> None:
    samples = {THEIRS: [sample(50)], OURS: [sample(100)]}
    _, *rows = report.scenario_table(SCENARIO, samples, {"waitress": "never calls close()"})
    assert [row[0] for row in rows] == ["penstock, 4 threads", "(waitress, 4 threads)"]
    assert report.aside_lines({"waitress": "never calls\nclose()"}) == [
        "- waitress is not compared with: it never calls close()"
    ]


def test_a_count_that_failed_has_a_reason_and_no_figure() -> None:
    found = [Count("granian", "hello", None, 3.0, "callgrind: ended"), Count("a", "hello", 5.0)]
    table = report.counts_table(found, lambda count: count.instructions, 0)
    assert table == [["server", "hello"], ["a", "5"]]
    assert report.count_failure_lines(found) == ["- granian: not counted: callgrind: ended"]


def test_a_server_that_failed_has_a_row_and_a_reason() -> None:
    [row] = cells({THEIRS: [None]})
    assert (row["requests/s"], row["errors"]) == ("", "failed")
    lines = report.failure_lines({THEIRS: ["ended:\nwith a `traceback`"], OURS: []})
    assert lines == ["- waitress, 4 threads: 1 run failed; `ended: with a 'traceback'`"]


def test_a_round_that_failed_is_left_out_of_the_median() -> None:
    [row] = cells({OURS: [sample(3000), None, sample(1000)]})
    assert row["requests/s"] == "2,000"


def test_many_errors_are_marked() -> None:
    [row] = cells({THEIRS: [sample(100, errors=5000)]})
    assert row["errors"] == "5,000 (!)"


def test_a_ratio_is_shown_with_its_quartiles() -> None:
    ours = [sample(rate) for rate in (100, 120, 90)]
    _, theirs = cells({OURS: [sample(100)] * 3, THEIRS: ours})
    assert theirs["x penstock"] == "1.00 (0.95 to 1.10)"


def test_the_share_of_its_core_that_made_the_load_is_shown() -> None:
    [row] = cells({OURS: [replace(sample(100), load_share=0.974)]})
    assert row["load core"] == "97%"


def test_columns_are_there_where_the_scenario_gives_them() -> None:
    scenario = replace(SCENARIO, idle=10, with_and_without=True)
    run = replace(sample(90), alone=100.0, idle_kib=0.5)
    header, row = report.scenario_table(scenario, {NGINX: [sample(45)], OURS: [run]})[::2]
    shown = dict(zip(header, row, strict=True))
    assert (shown["x without"], shown["KiB/idle"]) == ("0.90", "0.50")
    assert "p99.9 ms" not in shown


def test_a_target_that_is_missed_stands_out() -> None:
    missed = Verdict("hello", "penstock", "p99", 2.5, at_most=True, value=3.0, by_cpu=1.25)
    reached = Verdict("hello", "penstock", "rate", 0.9, at_most=False, value=0.95)
    unknown = Verdict("hello", "penstock", "rate", 0.9, at_most=False, value=None)
    spread = replace(reached, quartiles=(0.9, 1.0))
    _, *rows = report.targets_table([missed, reached, unknown, spread])
    assert [row[-5:] for row in rows] == [
        ["at most 2.5", "3.00", "", "**no**", "1.25"],
        ["at least 0.9", "0.95", "", "yes", ""],
        ["at least 0.9", "not measured", "", "**no**", ""],
        ["at least 0.9", "0.95 (0.90 to 1.00)", "", "yes", ""],
    ]


def test_a_target_that_the_bare_loop_misses_is_out_of_reach() -> None:
    missed = Verdict("hello", "penstock", "rate", 1.15, at_most=False, value=1.0, bare_loop=1.1)
    reachable = replace(missed, bare_loop=1.2)
    reached = replace(missed, value=1.2)
    header, *rows = report.targets_table([missed, reachable, reached])
    shown = [dict(zip(header, row, strict=True)) for row in rows]
    assert [(row["bare loop"], row["reached"]) for row in shown] == [
        ("1.10", "no: out of reach"),
        ("1.20", "**no**"),
        ("1.10", "yes"),
    ]


def test_columns_of_a_table_are_aligned() -> None:
    table = report.markdown([["a", "number"], ["longer", "1"]])
    assert table.splitlines() == [
        "| a      | number |",
        "| ------ | -----: |",
        "| longer |      1 |",
    ]


@pytest.mark.parametrize("markers", [report.FIGURES, report.COUNTS])
def test_figures_replace_what_stands_between_the_markers(
    tmp_path: Path, markers: tuple[str, str]
) -> None:
    path = tmp_path / "page.md"
    first, last = markers
    path.write_text(f"before\n{first}\nold\n{last}\nafter\n", "utf-8")
    report.replace_figures(path, "new", markers)
    assert path.read_text("utf-8") == f"before\n{first}\n\nnew\n\n{last}\nafter\n"


def test_figures_are_not_written_into_a_page_without_markers(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("prose", "utf-8")
    with pytest.raises(ValueError, match="markers"):
        report.replace_figures(path, "new")
    assert path.read_text("utf-8") == "prose"


def test_the_page_on_performance_has_the_markers() -> None:
    text = page.PAGE.read_text("utf-8")
    for marker in (*report.FIGURES, *report.COUNTS):
        assert text.count(marker) == 1


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


def test_each_scenario_has_the_candidates_that_its_targets_are_about() -> None:
    for scenario in SCENARIOS:
        assert {target.candidate for target in scenario.targets} <= set(scenario.candidates)


def test_each_peer_is_measured_somewhere_and_each_distribution_is_pinned() -> None:
    measured = {candidate.peer for scenario in SCENARIOS for candidate in scenario.candidates}
    assert measured == set(PEERS)
    lines = installing.PINS.read_text("utf-8").splitlines()
    pinned = {line.partition("==")[0] for line in lines if "==" in line}
    wanted = {name for peer in PEERS.values() for name in peer.distributions}
    assert wanted - {"penstock"} <= pinned
