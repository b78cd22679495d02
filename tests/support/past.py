"""The last hour of a server that there is not: rows as `penstock.supervisor.history` keeps them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from penstock.control.doctor import Evidence
from penstock.control.past import Past
from penstock.supervisor.history import NAMES, STEP_SECONDS
from penstock.telemetry.histograms import BOUNDS

BEGIN = 1.8e9

Numbers = dict[str, float]


def rows(minutes: float, change: Callable[[float, Numbers], None] | None = None) -> list[Numbers]:
    """Return a row for every ten seconds of a server with two workers of four threads.

    It has ten requests a second, of which each takes the application 20 ms. ``change`` is called
    with the seconds since the first row and the row's numbers.
    """
    found = []
    for number in range(round(minutes * 60 / STEP_SECONDS) + 1):
        seconds = number * STEP_SECONDS
        row = dict.fromkeys(NAMES, 0.0)
        requests = 10 * seconds
        row |= {
            "at": BEGIN + seconds,
            "requests": requests,
            "accepted": requests / 10,
            "connections": 12,
            "status.2xx": requests,
            "threads": 8,
            "busy": 1,
            "memory": 160e6,
            "largest_worker": 80e6,
            "cpu_seconds": 0.2 * seconds,
            "lock_wait.0": seconds,
            "lock_wait.seconds": 0.0001 * seconds,
        }
        for name in ("duration", "first_byte", "application"):
            row[f"{name}.2"] = requests  # up to 25 ms
            row[f"{name}.seconds"] = 0.02 * requests
        row["queue.0"] = requests
        if change is not None:
            change(seconds, row)
        found.append(row)
    return found


def answer(numbers: list[Numbers]) -> dict[str, Any]:
    """Return what the control socket answers to ``/history``."""
    values = [[row[name] for name in NAMES] for row in numbers]
    return {
        "step": STEP_SECONDS,
        "names": list(NAMES),
        "bounds": list(BOUNDS),
        "rows": values[:-1],
        "now": values[-1],
    }


def evidence(
    minutes: float = 30,
    change: Callable[[float, Numbers], None] | None = None,
    requests: list[dict[str, Any]] | None = None,
    stacks: dict[str, str] | None = None,
    **status: Any,
) -> Evidence:
    """Return what `penstockctl doctor` judges such a server by."""
    known = {
        "threads": 4,
        "workers": 2,
        "cpus": 4.0,
        "state": "serving",
        "counts": {"serving": 2, "stuck": 0, "halted": 0},
        "crashes": {},
        "last_crashes": [],
        "certificates": [],
        "last_reload": None,
        "top_client": None,
        "trusted_proxies": ["127.0.0.0/8", "10.1.0.0/16"],
        "unknown_proxies": [],
    }
    past = Past(answer(rows(minutes, change)))
    return Evidence(past, known | status, requests or [], stacks or {})
