"""How descriptors and memory of a server's processes go while it is disturbed."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from dataclasses import dataclass, field

from harness import processes
from support.lifecycle import Supervised

SAMPLE_SECONDS = 1.0
PARTS = 10
"""Parts that the time is reported in."""
SETTLED_SECONDS = 5.0
"""A supervisor's first seconds, in which it still takes what it keeps."""
MOST_DESCRIPTORS = 8
"""That a supervisor may hold more at the end than at the beginning: a worker comes or goes."""


@dataclass
class Reading:
    """The server at one moment."""

    at: float
    requests: int
    supervisor: int
    resident_kib: int
    descriptors: int
    workers_kib: list[int] = field(default_factory=list)
    workers_descriptors: list[int] = field(default_factory=list)


def described(counts: Counter[str]) -> str:
    """Return counts as text."""
    return ", ".join(f"{count} x {name}" for name, count in counts.items()) or "none"


class Watch:
    """Takes readings, and reports growth."""

    def __init__(self, server: Supervised) -> None:
        self.readings: list[Reading] = []
        self._server = server

    def look(self, requests: int) -> None:
        """Take a reading where one is due."""
        now = time.monotonic()
        if self.readings and now - self.readings[-1].at < SAMPLE_SECONDS:
            return
        pid = self._server.supervisor
        reading = Reading(
            at=now,
            requests=requests,
            supervisor=pid,
            resident_kib=processes.own_resident_kib(pid),
            descriptors=processes.descriptor_count(pid),
        )
        for worker in self._server.workers():
            if size := processes.own_resident_kib(worker):
                reading.workers_kib.append(size)
                reading.workers_descriptors.append(processes.descriptor_count(worker))
        if reading.resident_kib and reading.workers_kib:
            self.readings.append(reading)

    def problems(self, most_growth_kib: int) -> list[str]:
        """Print how it went; return what has grown, a line each."""
        readings = self.readings
        print(
            "part  requests/s  supervisor KiB  descriptors  workers KiB (median, most)  descriptors"
        )
        size = max(1, -(-len(readings) // PARTS))
        parts = [readings[start : start + size] for start in range(0, len(readings), size)]
        for number, part in enumerate(parts, 1):
            self._print(number, part)
        found = []
        if len(parts) > 2:
            grown = _median_of_workers(parts[-1]) - _median_of_workers(parts[1])
            if grown > most_growth_kib:
                found.append(f"the workers' median memory grew by {grown:,.0f} KiB")
        return found + self._supervisors(most_growth_kib)

    def _print(self, number: int, part: list[Reading]) -> None:
        seconds = part[-1].at - part[0].at
        rate = (part[-1].requests - part[0].requests) / seconds if seconds else 0.0
        most = max(max(reading.workers_kib) for reading in part)
        print(
            f"{number:>4}  {rate:>10,.0f}"
            f"  {_resident(part):>14,.0f}"
            f"  {_descriptors(part):>11,.0f}"
            f"  {_median_of_workers(part):>14,.0f}, {most:>10,.0f}"
            f"  {max(max(r.workers_descriptors) for r in part):>11,}"
        )

    def _supervisors(self, most_growth_kib: int) -> list[str]:
        """Compare each supervisor's end with its beginning, and the last one with the first."""
        lives: dict[int, list[Reading]] = {}
        for reading in self.readings:
            lives.setdefault(reading.supervisor, []).append(reading)
        found, decided = [], []
        for life in lives.values():
            rest = [r for r in life if r.at - life[0].at >= SETTLED_SECONDS]
            if len(rest) > 2 * SETTLED_SECONDS:
                decided.append(rest)
        if len(decided) > 1:
            decided.append([*decided[0], *decided[-1]])
        for rest in decided:
            third = len(rest) // 3
            early, late = rest[:third], rest[-third:]
            grown = _resident(late) - _resident(early)
            if grown > most_growth_kib:
                found.append(f"supervisor {rest[-1].supervisor} grew by {grown:,.0f} KiB")
            more = _descriptors(late) - _descriptors(early)
            if more > MOST_DESCRIPTORS:
                found.append(f"supervisor {rest[-1].supervisor} has {more:.0f} descriptors more")
        print(f"supervisors: {len(lives)}")
        return found


def _resident(readings: list[Reading]) -> float:
    return statistics.median(reading.resident_kib for reading in readings)


def _descriptors(readings: list[Reading]) -> float:
    return statistics.median(reading.descriptors for reading in readings)


def _median_of_workers(readings: list[Reading]) -> float:
    return statistics.median(size for reading in readings for size in reading.workers_kib)
