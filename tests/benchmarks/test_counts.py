from __future__ import annotations

import re

import pytest

import counts
from harness import browser, environment


def test_what_a_browser_sends_is_the_same_for_all_programs_that_make_load() -> None:
    script = (environment.BENCHMARKS / "harness" / "browser.lua").read_text("utf-8")
    fields = re.findall(r'^wrk.headers\["(.*)"\] = "(.*)"$', script, re.MULTILINE)
    assert fields == list(browser.FIELDS)


def test_instructions_are_in_what_callgrind_writes() -> None:
    report = "# callgrind format\nevents: Ir\n\nfn=(1) f\n1 5\n\ntotals: 457763958\n"
    assert counts.instructions(report) == 457763958


@pytest.mark.parametrize(
    "total",
    [
        "100.00    0.249093          22     10988       260 total",
        "100.00    0.249093          22     10988           total",
    ],
)
def test_system_calls_are_in_the_last_line_of_strace(total: str) -> None:
    report = f"% time     seconds  usecs/call     calls    errors syscall\n{total}\n"
    assert counts.system_calls(report) == 10988


def test_a_report_without_a_total_is_no_count() -> None:
    with pytest.raises(counts.CountingFailed):
        counts.instructions("")
    with pytest.raises(counts.CountingFailed):
        counts.system_calls("")


def test_a_count_is_the_difference_of_the_runs_by_request() -> None:
    requests = (counts.LONG - counts.SHORT) * counts.CONNECTIONS
    assert counts.per_request(1_000, 1_000 + 3 * requests) == 3.0


def test_a_count_that_cannot_be_right_is_not_taken_for_a_small_one() -> None:
    with pytest.raises(counts.CountingFailed, match="cannot be right"):
        counts.per_request(1_000_000, 900_000)
