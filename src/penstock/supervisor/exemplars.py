"""Exemplars of the histogram of durations: the request that was last counted in each bucket.

They are taken from the slow and failed requests that workers report, so that a request costs
nothing for them, and fast requests have none.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import Any

from penstock.telemetry.histograms import BOUNDS, LEFT, Exemplar, series_number


class Exemplars:
    """The last request of each bucket of each series. Bounded: there are 1,800 buckets in all."""

    def __init__(self) -> None:
        self._found: dict[int, dict[int, Exemplar]] = {}

    def add(self, request: Mapping[str, Any]) -> None:
        """Take a slow or failed request that `penstock.supervisor.reports.is_noted` has accepted.

        A worker that runs hostile code may have written its texts.
        """
        name = "trace_id" if request["trace_id"] else "request_id"
        value = request["trace_id"] or request["id"]
        duration = float(request["duration"])
        if not duration or not value.isascii() or not value.isprintable():
            return
        # As it was counted: a client that got no response has left before.
        status = str(request["status"] or LEFT)
        series = series_number(request["method"], status, request["protocol"])
        exemplar = Exemplar({name: value}, duration, float(request["at"]))
        self._found.setdefault(series, {})[bisect_left(BOUNDS, duration)] = exemplar

    def by_series(self) -> Mapping[int, Mapping[int, Exemplar]]:
        """Return them by the number of their series and of their bucket."""
        return self._found
