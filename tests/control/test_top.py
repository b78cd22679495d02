"""`penstockctl top`: what one screen has, in 80 columns and 24 lines and in others."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from penstock.control import top
from penstock.control.past import Past
from penstock.control.top import View, bar, milliseconds, screen
from support.control_loop import FakeSupervisor, request, worker
from support.past import answer, rows


def view(workers: int = 2, requests: int = 3) -> View:
    status: Any = FakeSupervisor().status()
    return View(
        status,
        [worker(number, 100 + number) for number in range(1, workers + 1)],
        [request(101, f"/reports/{number}") for number in range(requests)],
        Past(answer(rows(10))).last(10),
        {1: 12.5},
    )


@pytest.mark.parametrize(("width", "height"), [(79, 24), (40, 10), (20, 3), (200, 60)])
@pytest.mark.parametrize(("workers", "requests"), [(1, 0), (2, 3), (40, 200)])
def test_a_screen_fits_into_its_terminal(
    width: int, height: int, workers: int, requests: int
) -> None:
    lines = screen(view(workers, requests), width, height, 0)
    assert len(lines) == height
    assert max(map(len, lines)) <= width


def test_a_screen_of_80_columns_shows_rates_threads_workers_and_requests() -> None:
    lines = screen(view(), 79, 24, 1)
    text = "\n".join(lines)
    assert "requests 10.0/s   p50 17.5 ms" in text
    assert "threads  ██░░░░░░░░░░░░░░░░░░ 1/8" in text
    assert [line for line in lines if line.startswith(">")] == [
        line for line in lines if "/reports/1" in line
    ]
    assert lines[-1].startswith("q quit")
    assert any("12" in line and "101" in line for line in lines)


def test_a_screen_of_80_columns_cuts_no_figure_of_a_busy_server_off() -> None:
    shown = view(requests=0)
    shown = replace(
        shown,
        workers=[
            {**row, "busy": 16, "threads": 16, "age": 9e6, "memory": 1023 << 20, "pid": 4194304}
            for row in shown.workers
        ],
    )
    lines = screen(shown, 79, 24, 0)
    assert [line for line in lines if "16/16" in line] == [
        line for line in lines if "4194304" in line
    ]
    assert "shed 0  refused 0" in lines[4]
    assert lines[-1].endswith("r recycle its worker")
    assert not any("…" in line for line in lines)


def test_the_selected_request_is_on_the_screen_however_many_there_are() -> None:
    for selected in (0, 5, 150, 199):
        lines = screen(view(requests=200), 79, 24, selected)
        [line] = [line for line in lines if line.startswith(">")]
        assert line.endswith(f"/reports/{selected}")


def test_workers_that_do_not_fit_are_counted() -> None:
    lines = screen(view(workers=40), 79, 24, 0)
    assert any(" more" in line for line in lines)
    assert any("/reports/0" in line for line in lines)


REFUSED = {
    "worker": 1,
    "pid": 101,
    "at": 1.8e9,
    "client": "203.0.113.7",
    "id": "4f2a-1",
    "status": 400,
    "reason": "The Host field is not valid.",
    "rule": "RFC 9112, section 3.2",
    "setting": "",
    "line": "GET / HTTP/1.1",
    "excerpt": "GET / HTTP/1.1\r\nHost: a b\r\n",
    "begin": 0,
    "position": 23,
    "received": 27,
}


def test_a_refused_request_is_shown_with_an_arrow_at_the_fault() -> None:
    shown = replace(view(), notable={"refused": {"refused": [REFUSED], "left_out": 0}})
    lines = screen(shown, 100, 40, 0, listed="refused")
    assert len(lines) == 40
    assert "REFUSED" in lines
    [arrow] = [number for number, line in enumerate(lines) if line.strip() == "^"]
    assert "Host: a b" in lines[arrow - 1]
    assert lines[arrow - 1][lines[arrow].index("^")] == " "
    assert not any("/reports/0" in line for line in lines)
    # One that was not asked for yet leaves the running requests there.
    assert any("/reports/0" in line for line in screen(shown, 100, 40, 0, listed="slow"))


FAILED = {
    "worker": 12,
    "pid": 4194304,
    "at": 1.8e9,
    "took": 20.0015,
    "client": "203.0.113.7:51234",
    "id": "6699-ee51a-7dfbe9bad96f9faf",
    "status": 504,
    "method": "GET",
    "path": "/orders/7?...",
    "reason": "timeout after 20 s",
}


@pytest.mark.parametrize("name", ["slow", "failed"])
def test_a_list_in_80_columns_shows_which_requests_they_were(name: str) -> None:
    shown = replace(view(), notable={name: {name: [FAILED], "seconds": 600.0}})
    [line] = [line for line in screen(shown, 79, 24, 0, listed=name) if "504" in line]
    assert "08:00:00" in line
    assert "GET /orders/7?..." in line
    assert ("timeout after 20 s" in line) == (name == "failed")
    assert "…" not in line


def test_the_rule_of_a_refused_request_is_whole_in_80_columns() -> None:
    row = REFUSED | {"reason": "Both Content-Length and Transfer-Encoding are there."}
    shown = replace(view(), notable={"refused": {"refused": [row], "left_out": 0}})
    lines = screen(shown, 79, 40, 0, listed="refused")
    assert max(map(len, lines)) <= 79
    assert not any("…" in line for line in lines)
    text = " ".join(" ".join(lines).split())
    assert "Both Content-Length and Transfer-Encoding are there. (RFC 9112, section 3.2)" in text
    [arrow] = [number for number, line in enumerate(lines) if line.strip() == "^"]
    assert "Host: a b" in lines[arrow - 1]


def test_a_selection_above_the_requests_is_a_worker() -> None:
    for selected, number in ((-1, 40), (-2, 39), (-40, 1)):
        [line] = [line for line in screen(view(40), 79, 24, selected) if line.startswith(">")]
        assert line.split()[1:3] == [str(number), str(100 + number)]
    shown = view(2, 0)
    assert [top.selection(shown, wanted) for wanted in (-9, -2, 0, 9)] == [-2, -2, -1, -1]
    assert [top.worker_of(shown, selected) for selected in (-2, -1)] == [1, 2]
    shown = view(2, 3)
    assert [top.selection(shown, wanted) for wanted in (-9, 0, 9)] == [-2, 0, 2]
    assert top.worker_of(shown, 2) == 1
    assert top.selection(view(0, 0), 0) == 0
    assert top.worker_of(view(0, 0), 0) is None


STACKS = """worker 1 (pid 101)
thread a: GET /1 (request 4f2a-1, 0.1 s old)
  File "x.py", line 1, in one
thread b: GET /2 (request 4f2a-2, 9.0 s old)
  File "x.py", line 2, in two
not shown: 1 idle thread"""


def test_the_stack_of_the_request_comes_before_those_of_other_threads() -> None:
    lines = top.own_first(STACKS, "4f2a-2").splitlines()
    assert lines[:3] == STACKS.splitlines()[0:1] + STACKS.splitlines()[3:5]
    assert sorted(line for line in lines if line) == sorted(STACKS.splitlines())
    # One that has ended meanwhile, and a worker.
    assert top.own_first(STACKS, "4f2a-3") == top.own_first(STACKS, "") == STACKS


def test_long_lines_of_a_stack_go_on_in_the_next_line() -> None:
    assert top.folded(["", "abcdefghij", "abc"], 4) == ["", "abcd", "efgh", "ij", "abc"]


def test_what_clients_send_cannot_act_on_the_terminal() -> None:
    shown = view(requests=1)
    shown.requests[0]["target"] = "/\x1b[2J\x07"  # type: ignore[index]
    assert not any("\x1b" in line or "\x07" in line for line in screen(shown, 200, 24, 0))


def test_bars_and_times() -> None:
    assert (bar(0.0, 4), bar(0.5, 4), bar(2.0, 4)) == ("░░░░", "██░░", "████")
    assert [milliseconds(s) for s in (0.0, 0.0012, 0.25, 2.5)] == [
        "0.0 ms",
        "1.2 ms",
        "250 ms",
        "2.5 s",
    ]


def test_the_form_for_programs_is_json_with_the_quantiles() -> None:
    value = json.loads(json.dumps(top.as_json(view())))
    assert value["rate"] == 10
    assert value["times"]["duration"]["p99"] == pytest.approx(0.02485)
    assert value["now"]["threads"] == 8
