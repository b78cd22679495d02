"""What the supervisor takes from a worker, whose application may write anything."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.supervisor.reports import is_report
from support.noted import CALL, REFUSED

CHILD = [4711, "sleep: sleep 600"]

PROFILE = {
    "event": "profile",
    "error": "",
    "seconds": 1.5,
    "samples": 10,
    "late": 0,
    "cost": 0.01,
    "frames": ["GET /", "view"],
    "stacks": [[9, [0, 1]], [1, []]],
}


@pytest.mark.parametrize(
    "message",
    [
        {"event": "ready"},
        {"event": "ready", "status": "x", "files": 5, "left": None},  # they mean nothing here
        {"event": "children", "left": []},
        {"event": "children", "left": [CHILD, [1, "a" * 100]]},
        {"event": "changed", "files": {"a.py": [1, 2, 3], "b.py": None}},
        {"event": "noted", "kind": "slow", "request": CALL},
        {"event": "noted", "kind": "failed", "request": CALL},
        {"event": "noted", "kind": "refused", "request": REFUSED},
        {"event": "noted", "kind": "refused", "request": REFUSED | {"position": None}},
        PROFILE,
        PROFILE | {"frames": [], "stacks": []},
    ],
)
def test_a_report_has_the_fields_of_its_event(message: dict[str, Any]) -> None:
    assert is_report(message)


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"event": ["ready"]},
        {"event": "unknown"},
        {"event": "children"},
        {"event": "children", "left": {"a": 1}},
        {"event": "children", "left": [4711]},
        {"event": "children", "left": [[True, "sh"]]},
        {"event": "children", "left": [["4711", "sh"]]},
        {"event": "children", "left": [CHILD, [1, "a" * 101]]},
        {"event": "changed", "files": {"a.py": [1, 2]}},
        {"event": "failed", "message": "", "traceback": "", "status": 256, "watched": 0},
        {"event": "noted", "kind": "other", "request": CALL},
        {"event": "noted", "kind": "refused", "request": CALL},
        {"event": "noted", "kind": "slow", "request": CALL | {"more": 1}},
        {"event": "noted", "kind": "slow", "request": CALL | {"path": "/" * 305}},
        {"event": "noted", "kind": "slow", "request": CALL | {"trace_id": "4" * 33}},
        {"event": "noted", "kind": "slow", "request": CALL | {"took": float("inf")}},
        {"event": "noted", "kind": "slow", "request": CALL | {"took": float("nan")}},
        {"event": "noted", "kind": "slow", "request": CALL | {"took": True}},
        {"event": "noted", "kind": "slow", "request": CALL | {"status": -1}},
        {"event": "noted", "kind": "refused", "request": REFUSED | {"position": "1"}},
        {"event": "noted", "kind": "refused", "request": REFUSED | {"excerpt": "x" * 321}},
        PROFILE | {"frames": [1, 2]},
        PROFILE | {"stacks": [[1, [0, 2]]]},
        PROFILE | {"stacks": [[1, [-1]]]},
        PROFILE | {"stacks": [[1.5, [0]]]},
        PROFILE | {"stacks": [[0]]},
        PROFILE | {"stacks": [7]},
        PROFILE | {"seconds": "1"},
    ],
)
def test_anything_else_is_refused(message: dict[str, Any]) -> None:
    assert not is_report(message)
