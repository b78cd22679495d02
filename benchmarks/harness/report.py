"""From samples to tables, on the terminal and in the page on performance."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from harness.footprint import Figure
from harness.load import Sample
from harness.scenarios import Scenario
from harness.servers import Candidate

BEGIN = "<!-- Measured figures begin: benchmarks/run.py writes what stands between these lines. -->"
END = "<!-- Measured figures end. -->"

COMPARED_WITH = ("waitress", "gunicorn")

Samples = Mapping[Candidate, Sequence[Sample]]
"""One sample for each round."""

Row = Sequence[str]


def scenario_table(samples: Samples) -> list[Row]:
    """Return a row for each candidate, after one with the columns' names."""
    header = ["server", "requests/s", "min", "max", "CPU µs/request", "p50 ms", "p99 ms"]
    header += [f"x {peer}" for peer in COMPARED_WITH]
    return [[*header, "errors"], *(_row(candidate, samples) for candidate in samples)]


def footprint_table(figures: Iterable[Figure]) -> list[Row]:
    """Return a row for each figure, after one with the columns' names."""
    rows = ([figure.name, figure.value, figure.target] for figure in figures)
    return [["what", "measured", "target"], *rows]


def disturbance(runs: Sequence[Sample]) -> str:
    """Return a sentence on how quiet the machine was."""
    shares = [run.disturbance for run in runs]
    return (
        "Other processes, and the machine's host, had at most "
        f"{statistics.median(shares):.0%} of a core in half of the runs, and {max(shares):.0%} "
        "in the worst.\n"
    )


def ratio(samples: Samples, candidate: Candidate, peer: str) -> float | None:
    """Return the median, over the rounds, of a rate against a peer's with as many threads.

    Compared within a round: what slows the machine down for a while slows both.
    """
    theirs = samples.get(Candidate(peer, candidate.threads))
    if not theirs:
        return None
    pairs = zip(samples[candidate], theirs, strict=False)
    ratios = [ours.rate / other.rate for ours, other in pairs if other.rate]
    return statistics.median(ratios) if ratios else None


def markdown(rows: Sequence[Row]) -> str:
    """Return a table in Markdown, its columns aligned so that it reads well as text too."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    ruler = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = []
    for row in (rows[0], ruler, *rows[1:]):
        first, *others = zip(row, widths, strict=True)
        cells = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def section(scenario: Scenario, samples: Samples) -> str:
    """Return what the page says of one scenario."""
    table = markdown(scenario_table(samples))
    return f"### {scenario.title}\n\n{scenario.about}\n\n{table}\n"


def replace_figures(page: Path, text: str) -> None:
    """Write text between the page's markers. Raises ValueError where they are missing."""
    before, begin, rest = page.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page} has lost the markers of the measured figures")
    page.write_text(f"{before}{BEGIN}\n\n{text.strip()}\n\n{END}{after}", "utf-8")


def _row(candidate: Candidate, samples: Samples) -> Row:
    runs = samples[candidate]
    rates = [run.rate for run in runs]
    ratios = (ratio(samples, candidate, peer) for peer in COMPARED_WITH)
    return [
        str(candidate),
        *(f"{rate:,.0f}" for rate in (statistics.median(rates), min(rates), max(rates))),
        f"{statistics.median(run.cpu_us for run in runs):,.1f}",
        f"{statistics.median(run.p50_ms for run in runs):,.2f}",
        f"{statistics.median(run.p99_ms for run in runs):,.2f}",
        *("" if value is None else f"{value:.2f}" for value in ratios),
        str(sum(run.errors for run in runs)),
    ]
