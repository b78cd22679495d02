"""The last hour: what `penstockctl doctor`, `penstockctl top` and the dashboard look back on.

Every ten seconds the supervisor keeps one row of numbers, of fixed size, so that an hour takes some
hundred kilobytes whatever the server does. At an upgrade the new supervisor takes the rows over.
"""

from __future__ import annotations

import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from penstock.telemetry.histograms import (
    BOUNDS,
    HISTOGRAM_WORDS,
    SUM,
    TIMES,
    sum_without_websockets,
)

if TYPE_CHECKING:
    from penstock.control.rows import Figures
    from penstock.worker.channel import Message

STEP_SECONDS: Final = 10.0
"""How often a row is kept."""

ROWS: Final = 360
"""How many are kept: those of an hour."""

MOST_HANDED_OVER: Final = 1 << 20
"""Bytes of the rows of an hour, as numbers, that are taken over; they are half of that."""

_BUCKETS = len(BOUNDS) + 1

TOTALS: Final = (
    "accepted",
    "bytes_received",
    "bytes_sent",
    "client_connections",
    "client_left",
    "client_rate",
    "crashed",
    "deadlines_half",
    "deadlines_passed",
    "denied",
    "evicted_body",
    "evicted_head",
    "evicted_idle",
    "handshakes",
    "handshakes_failed",
    "io_bound_refused",
    "log_dropped",
    "log_exceptions",
    "out_spooled",
    "queue_full",
    "queue_timeout",
    "queued",
    "reloads",
    "reloads_failed",
    "requests",
    "resumptions",
    "slow_reader",
    "spool_full",
    "websockets_refused",
)
"""Counts of the status that rows have."""

NOW: Final = ("connections", "in_progress", "io_bound", "waiting", "websockets", "serving")
"""Counts of the status that rows have and that do not only grow."""


def _histogram_names(name: str) -> Iterator[str]:
    for bucket in range(_BUCKETS):
        yield f"{name}.{bucket}"
    yield f"{name}.seconds"


NAMES: Final = (
    "at",
    *TOTALS,
    *NOW,
    "refused",
    "recycled",
    "status.1xx",
    "status.2xx",
    "status.3xx",
    "status.4xx",
    "status.5xx",
    "threads",
    "busy",
    "memory",
    "largest_worker",
    "oldest_worker",
    "youngest_worker",
    "listen_queue",
    "listen_overflows",
    "cpu_seconds",
    "throttled_seconds",
    "oom_kills",
    "spooled",
    *(part for name in (*TIMES, "lock_wait") for part in _histogram_names(name)),
)
"""What the numbers of a row are. `docs/control.md` describes them."""


def row_of(figures: Figures) -> list[float]:
    """Return the row for what the server counts now."""
    counts = figures["status"]["counts"]
    serving = [row for row in figures["workers"] if row["serving"]]
    memory = [row["memory"] or 0 for row in figures["workers"]]
    ages = [row["age"] for row in serving]
    times = sum_without_websockets(figures["series"])
    classes = [0] * 5
    for code, number in figures["statuses"].items():
        classes[min(max(code // 100, 1), 5) - 1] += number
    return [
        time.time(),
        *(counts[name] for name in (*TOTALS, *NOW)),
        sum(figures["refused"]),
        sum(figures["recycled"].values()),
        *classes,
        sum(row["threads"] for row in serving),
        sum(row["busy"] for row in serving),
        sum(memory),
        max(memory, default=0),
        max(ages, default=0.0),
        min(ages, default=0.0),
        sum(figures["listen_queues"].values()),
        figures["listen_overflows"] or 0,
        figures["cpu_seconds"],
        figures["throttled_seconds"] or 0.0,
        figures["oom_kills"] or 0,
        figures["spooled"],
        *(
            value
            for index in range(len(TIMES))
            for value in _numbers(times[index * HISTOGRAM_WORDS : (index + 1) * HISTOGRAM_WORDS])
        ),
        *_numbers(figures["lock_waits"]),
    ]


def _numbers(words: Sequence[int]) -> Iterator[float]:
    yield from words[:SUM]
    yield words[SUM] / 1e9


class History:
    """The rows of the last hour, the oldest first."""

    def __init__(self, figures: Callable[[], Figures]) -> None:
        """``figures`` returns what the server counts now."""
        self._figures = figures
        self._rows: deque[array[float]] = deque(maxlen=ROWS)
        self._due = 0.0

    def tick(self, now: float) -> None:
        """Keep a row where one is due."""
        if now >= self._due:
            self._due = now + STEP_SECONDS
            self._rows.append(array("d", row_of(self._figures())))

    def hand_over(self) -> Message:
        """Return all rows, for the supervisor that takes over.

        Most numbers are those of the row before: they are compressed, so that the channel's socket
        takes the message at once.
        """
        import base64  # at an upgrade alone
        import zlib

        values = array("d")
        for row in self._rows:
            values += row
        rows = base64.b64encode(zlib.compress(values.tobytes(), 1)).decode()
        return {"event": "history", "names": list(NAMES), "bounds": list(BOUNDS), "rows": rows}

    def take_over(self, message: Message) -> None:
        """Keep the rows of the supervisor before this one, before its own.

        That may be of another version: rows without all of the numbers are left out.
        """
        import base64
        import zlib

        names = list(message["names"])
        if message["bounds"] != list(BOUNDS) or not {*NAMES} <= {*names}:
            return
        packed = base64.b64decode(message["rows"])
        values = array("d", zlib.decompressobj().decompress(packed, MOST_HANDED_OVER))
        places = [names.index(name) for name in NAMES]
        begins = range(0, len(values) - len(names) + 1, len(names))
        rows = [values[begin : begin + len(names)] for begin in begins]
        earlier = [array("d", [row[place] for place in places]) for row in rows]
        self._rows = deque([*earlier, *self._rows], maxlen=ROWS)

    def since(self, at: float, most: int | None = None) -> Mapping[str, object]:
        """Return the names, the rows that are later than ``at`` (since the epoch), and one of now.

        ``most`` limits the rows to the oldest of them; with it ``more`` says how many are left out.
        """
        later = [row for row in self._rows if row[0] > at]
        chosen = later[:most]
        return {
            "step": STEP_SECONDS,
            "names": list(NAMES),
            "bounds": list(BOUNDS),
            "rows": [row.tolist() for row in chosen],
            "more": len(later) - len(chosen),
            "now": row_of(self._figures()),
        }
