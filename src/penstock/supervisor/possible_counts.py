"""What a worker can have counted at most, for a supervisor that adds its counts to the totals.

A worker that runs hostile code can write any number into its slot. One number near 2**64 would
make a total too large for the numbers of Prometheus and of JSON, which are exact up to 2**53: what
other workers count would change nothing any more. The limits are far above what a machine can do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from penstock.telemetry.histograms import HISTOGRAM_WORDS, SUM, read_series, read_statuses
from penstock.telemetry.refusals import RULES
from penstock.telemetry.scoreboard import (
    ACCEPTED,
    COUNTED,
    LOCK_WAITS,
    REFUSED,
    STARTED,
)

if TYPE_CHECKING:
    from penstock.telemetry.scoreboard import Slot

EVENTS_A_SECOND: Final = 10_000_000
"""Requests, connections and other events of one worker. A core serves less than 100,000."""

BYTES_A_SECOND: Final = 1_000_000_000_000

NANOSECONDS_A_SECOND: Final = 1_000_000_000_000_000
"""Of a sum of times: that of a million requests at once."""


def impossible_count(slot: Slot, age: float) -> str:
    """Return what a worker cannot have counted in ``age`` seconds; empty where all is possible."""
    seconds = age + 1.0
    for name, count, a_second in _counts(slot):
        if count > a_second * seconds:
            return f"{name} {count}"
    return ""


def _counts(slot: Slot) -> Iterator[tuple[str, int, int]]:
    """Yield each count with its name, and how much may be added to it in a second."""
    words = slot.words
    yield "requests", words[STARTED], EVENTS_A_SECOND
    yield "accepted", words[ACCEPTED], EVENTS_A_SECOND
    for name, word in COUNTED.items():
        yield name, words[word], _A_SECOND.get(name.rstrip("012"), EVENTS_A_SECOND)
    for code, number in read_statuses(slot).items():
        yield f"status {code}", number, EVENTS_A_SECOND
    for number in slot.read(range(REFUSED, REFUSED + len(RULES))):
        yield "refused", number, EVENTS_A_SECOND
    times = [
        slot.read(range(LOCK_WAITS, LOCK_WAITS + HISTOGRAM_WORDS)),
        *read_series(slot).values(),
    ]
    for histograms in times:
        for index, number in enumerate(histograms):
            is_sum = index % HISTOGRAM_WORDS == SUM
            yield "times", number, NANOSECONDS_A_SECOND if is_sum else EVENTS_A_SECOND


_A_SECOND: Final = {
    "bytes_received": BYTES_A_SECOND,
    "bytes_sent": BYTES_A_SECOND,
    "gc_nanoseconds_": NANOSECONDS_A_SECOND,
}
"""What may grow faster than by events."""
