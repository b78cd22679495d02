"""What the supervisor takes from a worker, whose application may write anything."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.supervisor.reports import is_report

CHILD = [4711, "sleep: sleep 600"]


@pytest.mark.parametrize(
    "message",
    [
        {"event": "ready"},
        {"event": "ready", "status": "x", "files": 5, "left": None},  # they mean nothing here
        {"event": "children", "left": []},
        {"event": "children", "left": [CHILD, [1, "a" * 100]]},
        {"event": "changed", "files": {"a.py": [1, 2, 3], "b.py": None}},
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
    ],
)
def test_anything_else_is_refused(message: dict[str, Any]) -> None:
    assert not is_report(message)
