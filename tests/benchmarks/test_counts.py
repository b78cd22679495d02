from __future__ import annotations

import re

import pytest

import counts
from harness import browser, counting, environment
from harness.counting import Count


def test_what_a_browser_sends_is_the_same_for_all_programs_that_make_load() -> None:
    script = (environment.BENCHMARKS / "harness" / "browser.lua").read_text("utf-8")
    fields = re.findall(r'^wrk.headers\["(.*)"\] = "(.*)"$', script, re.MULTILINE)
    assert fields == list(browser.FIELDS)


def test_the_fields_that_vary_are_the_same_for_all_programs_that_make_load() -> None:
    script = (environment.BENCHMARKS / "harness" / "varied.lua").read_text("utf-8")
    named = re.findall(r'^   +wrk.headers\["(.*)"\] = ', script, re.MULTILINE)
    request = browser.varied(browser.head("127.0.0.1:8000", "/"), 1).decode()
    for name in named:
        assert request.count(f"\r\n{name}: ") == 1
    assert named


def test_two_requests_in_a_row_vary() -> None:
    head = browser.head("a", "/")
    found = {browser.varied(head, number) for number in range(100)}
    assert len(found) == 100


def test_instructions_are_in_what_callgrind_writes() -> None:
    report = "# callgrind format\nevents: Ir\nsummary: 457763958\n\nfn=(1) f\n1 5\n\ntotals: 1\n"
    assert counting.instructions(report) == 457763958


@pytest.mark.parametrize(
    "total",
    [
        "100.00    0.249093          22     10988       260 total",
        "100.00    0.249093          22     10988           total",
    ],
)
def test_system_calls_are_in_the_last_line_of_strace(total: str) -> None:
    report = f"% time     seconds  usecs/call     calls    errors syscall\n{total}\n"
    assert counting.system_calls(report) == 10988


def test_a_report_without_a_total_is_no_count() -> None:
    with pytest.raises(counting.CountingFailed):
        counting.instructions("")
    with pytest.raises(counting.CountingFailed):
        counting.system_calls("")


def test_a_count_that_cannot_be_right_is_not_taken_for_a_small_one() -> None:
    assert counting.per_request(300, 100) == 3.0
    with pytest.raises(counting.CountingFailed, match="cannot be right"):
        counting.per_request(100, 100)


@pytest.mark.parametrize(
    ("answer", "complete"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", True),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", True),
    ],
)
def test_a_response_is_complete_once_its_body_is(answer: bytes, complete: bool) -> None:
    assert counting.is_complete(answer) is complete


def line(counted: float, bound: counts.Bound, digits: int = 2) -> counts.Line:
    return counts.Line("native", "hello", "system calls", counted, bound, digits)


def test_a_change_of_more_than_a_hundredth_is_marked_in_either_direction() -> None:
    bound = counts.Bound(released=100.0)
    found = [line(counted, bound).row()[5] for counted in (98.0, 99.5, 100.5, 102.0)]
    assert found == ["**-2.0%**", "-0.5%", "+0.5%", "**+2.0%**"]


def test_a_bound_that_is_exceeded_is_marked() -> None:
    bound = counts.Bound(at_most=2.11)
    assert line(2.11, bound).row()[-1] == "2.11"
    assert line(2.12, bound).row()[-1] == "2.11 (exceeded)"
    assert not line(9.0, counts.Bound()).is_exceeded


def test_the_share_of_the_server_is_what_the_application_does_not_take() -> None:
    found = counts.lines("native", [Count("penstock", "Flask", 350_000.0, 2.1)], alone=310_000.0)
    assert [(each.what, each.counted) for each in found] == [
        ("instructions", 350_000.0),
        ("instructions without the application's", 40_000.0),
        ("system calls", 2.1),
    ]


def test_each_request_that_is_counted_has_bounds() -> None:
    for cases, transports in ((counts.USUAL, counts.TRANSPORTS), (counts.NATIVE_TOO, ("native",))):
        for case in cases:
            for transport in transports:
                assert (transport, case.name) in counts.INSTRUCTIONS
                assert (transport, case.name) in counts.SYSTEM_CALLS
