"""What was measured so far, in a file: an interrupted run goes on from there."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.counting import Count
from harness.footprint import Figure
from harness.load import Sample
from harness.servers import Candidate

Key = tuple[str, Candidate, int]
"""Scenario, candidate, and number of the round."""


@dataclass
class Results:
    """All that a run of the benchmarks has found; every addition is written at once."""

    path: Path
    about: dict[str, Any]
    """What was asked for, and where it was measured."""
    outcomes: dict[Key, Sample | str] = field(default_factory=dict)
    """What was measured, or why that failed."""
    figures: list[Figure] = field(default_factory=list)
    counts: list[Count] = field(default_factory=list)

    def add(self, key: Key, outcome: Sample | str) -> None:
        """Keep the outcome of a run."""
        self.outcomes[key] = outcome
        scenario, candidate, number = key
        line: dict[str, Any] = {"scenario": scenario, "peer": candidate.peer}
        line |= {"threads": candidate.threads, "round": number}
        if isinstance(outcome, str):
            line["failure"] = outcome
        else:
            line["sample"] = dataclasses.asdict(outcome)
        self._write(line)

    def add_figures(self, figures: list[Figure]) -> None:
        """Keep what was measured of a server at rest."""
        self.figures += figures
        self._write({"figures": [dataclasses.asdict(figure) for figure in figures]})

    def add_count(self, count: Count) -> None:
        """Keep what a request costs a server."""
        self.counts.append(count)
        self._write({"count": dataclasses.asdict(count)})

    def of(self, scenario: str, candidate: Candidate, rounds: int) -> list[Sample | None]:
        """Return a candidate's samples by round; None for what failed or is still to come."""
        found = (self.outcomes.get((scenario, candidate, each)) for each in range(1, rounds + 1))
        return [None if isinstance(outcome, str) else outcome for outcome in found]

    def failures(self, scenario: str, candidate: Candidate) -> list[str]:
        """Return why runs of a candidate failed."""
        return [
            outcome
            for (name, whose, _), outcome in self.outcomes.items()
            if (name, whose) == (scenario, candidate) and isinstance(outcome, str)
        ]

    def _write(self, line: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def begin(path: Path, about: dict[str, Any]) -> Results:
    """Return empty results; what the file held before is gone."""
    path.write_text(json.dumps({"about": about}) + "\n", "utf-8")
    return Results(path, about)


def read(path: Path) -> Results:
    """Return what a file holds. A last line that was cut off is left out.

    Raises `OSError` or `ValueError` where there are no results.
    """
    first, *lines = path.read_text("utf-8").splitlines()
    results = Results(path, json.loads(first)["about"])
    for text in lines:
        try:
            line = json.loads(text)
        except ValueError:
            # What is added from now on must not continue this line.
            good = [first, *lines[: lines.index(text)]]
            path.write_text("".join(f"{each}\n" for each in good), "utf-8")
            break
        if "figures" in line:
            results.figures += [Figure(**figure) for figure in line["figures"]]
            continue
        if "count" in line:
            results.counts.append(Count(**line["count"]))
            continue
        key = (line["scenario"], Candidate(line["peer"], line["threads"]), line["round"])
        results.outcomes[key] = line.get("failure") or Sample(**line["sample"])
    return results
