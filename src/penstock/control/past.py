"""The last hour of a server in figures, as clients of the control socket read `History.since`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from penstock.records import dataclass


@dataclass(frozen=True)
class Times:
    """How long something took in a span of time: a histogram."""

    bounds: Sequence[float]
    counts: Sequence[float]
    """For each bound, and last beyond all of them."""
    seconds: float
    """The sum."""

    @property
    def count(self) -> float:
        """How often it was."""
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """Seconds; 0 where it never was."""
        return self.seconds / self.count if self.count else 0.0

    def quantile(self, share: float) -> float:
        """Return a time in seconds that ``share`` of all do not pass; 0 where there are none.

        It is interpolated within a bucket. Beyond the last bound it is that bound. Where all are in
        the first bucket, they are taken to be spread evenly around their mean.
        """
        rank, seen, lower = share * self.count, 0.0, 0.0
        if self.counts[0] == self.count:
            return share * min(2 * self.mean, self.bounds[0])
        for bound, count in zip(self.bounds, self.counts, strict=False):
            if count and seen + count >= rank:
                return lower + (bound - lower) * (rank - seen) / count
            seen, lower = seen + count, bound
        return lower if self.count else 0.0

    def share_above(self, seconds: float) -> float:
        """Return the share of those that took longer than one of the bounds, from 0 to 1."""
        above = sum(
            count
            for index, count in enumerate(self.counts)
            if index > 0 and self.bounds[index - 1] >= seconds
        )
        return above / self.count if self.count else 0.0


class Past:
    """Rows of numbers, the oldest first, of which the last one is that of now."""

    def __init__(self, answer: Mapping[str, Any]) -> None:
        """``answer`` is what the server has answered. Raises `ValueError` for any other object."""
        try:
            self.names = [str(name) for name in answer["names"]]
            self.bounds = [float(bound) for bound in answer["bounds"]]
            self.rows = [[float(n) for n in row] for row in (*answer["rows"], answer["now"])]
        except (KeyError, TypeError) as error:
            raise ValueError(f"it lacks {error}") from None
        if any(len(row) != len(self.names) for row in self.rows):
            raise ValueError("a row has another length than the names")
        self._places = {name: place for place, name in enumerate(self.names)}

    @property
    def seconds(self) -> float:
        """The span of time that the rows are of."""
        return max(0.0, self.rows[-1][0] - self.rows[0][0])

    @property
    def begin(self) -> float:
        """When the span begins, in seconds since the epoch."""
        return self.rows[0][0]

    def last(self, seconds: float) -> Past:
        """Return the rows of the last ``seconds`` alone, and the one before them."""
        begin = self.rows[-1][0] - seconds
        first = max((i for i, row in enumerate(self.rows) if row[0] <= begin), default=0)
        past = Past.__new__(Past)
        past.names, past.bounds, past._places = self.names, self.bounds, self._places
        past.rows = self.rows[first:]
        return past

    def now(self, name: str) -> float:
        """Return a number of the last row."""
        return self.rows[-1][self._places[name]]

    def values(self, name: str) -> list[float]:
        """Return a number of each row."""
        place = self._places[name]
        return [row[place] for row in self.rows]

    def grown(self, name: str) -> float:
        """Return by how much a count has grown."""
        return self.now(name) - self.rows[0][self._places[name]]

    def rate(self, name: str) -> float:
        """Return by how much it has grown in a second."""
        return self.grown(name) / self.seconds if self.seconds else 0.0

    def mean(self, name: str) -> float:
        """Return the mean of all rows."""
        values = self.values(name)
        return sum(values) / len(values)

    def times(self, name: str) -> Times:
        """Return a histogram of what has happened between the first row and the last."""
        counts = [self.grown(f"{name}.{bucket}") for bucket in range(len(self.bounds) + 1)]
        return Times(self.bounds, counts, self.grown(f"{name}.seconds"))
