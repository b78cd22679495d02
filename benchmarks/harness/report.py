"""From samples to tables, on the terminal and in the page on performance."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from harness.counting import Count
from harness.footprint import Figure
from harness.load import Sample
from harness.scenarios import Scenario
from harness.servers import Candidate
from harness.targets import Samples, Verdict, is_sound, median, ours_to_compare_with, ratios
from harness.turns import quartiles

FIGURES = (
    "<!-- Measured figures begin: benchmarks/run.py writes what stands between these lines. -->",
    "<!-- Measured figures end. -->",
)
COUNTS = (
    "<!-- Counts begin: benchmarks/counts.py --write writes what stands between these lines. -->",
    "<!-- Counts end. -->",
)

LONGEST_REASON = 160
"""Characters of what a server said when it failed."""

Row = Sequence[str]


def scenario_table(
    scenario: Scenario, samples: Samples, aside: Mapping[str, str] | None = None
) -> list[Row]:
    """Return a row for each candidate, after one with the columns' names.

    ``aside`` are the peers that fail in what the scenario needs; their rows come last.
    """
    columns = _columns(scenario, samples)
    header = ["server", *columns]
    beside = aside or {}
    rows = [
        [_name(candidate, beside), *(cell(candidate) for cell in columns.values())]
        for candidate in sorted(samples, key=lambda each: each.peer in beside)
    ]
    return [header, *rows]


def _name(candidate: Candidate, aside: Mapping[str, str]) -> str:
    return f"({candidate})" if candidate.peer in aside else str(candidate)


def targets_table(verdicts: Iterable[Verdict]) -> list[Row]:
    """Return a row for each target, after one with the columns' names."""
    rows = []
    for verdict in verdicts:
        relation = "at most" if verdict.at_most else "at least"
        measured = "not measured"
        if verdict.value is not None:
            measured = f"{verdict.value:,.{verdict.digits}f}"
        if verdict.quartiles:
            low, high = verdict.quartiles
            measured += f" ({low:.2f} to {high:.2f})"
        row = [verdict.scenario, verdict.server, verdict.what, verdict.compared_with]
        row += [f"{relation} {verdict.bound:,g}", measured, _shown(verdict.bare_loop, 2)]
        rows.append([*row, _reached(verdict), _shown(verdict.by_cpu, 2)])
    header = ["scenario", "server", "what", "best peer", "target"]
    return [[*header, "measured", "bare loop", "reached", "by CPU"], *rows]


def _reached(verdict: Verdict) -> str:
    if verdict.is_out_of_reach:
        return "no: out of reach"
    return "yes" if verdict.met else "**no**"


def footprint_table(figures: Iterable[Figure]) -> list[Row]:
    """Return a row for each figure, after one with the columns' names."""
    rows = [[figure.peer, figure.name, figure.shown, figure.bound_shown] for figure in figures]
    return [["server", "what", "measured", "at most"], *rows]


def counts_table(
    counts: Sequence[Count], figure: Callable[[Count], float | None], digits: int
) -> list[Row]:
    """Return a row for each server with its counts by kind of request."""
    cases = list(dict.fromkeys(count.case for count in counts))
    found = {(count.server, count.case): figure(count) for count in counts}
    servers = dict.fromkeys(server for (server, _), value in found.items() if value is not None)
    rows = [
        [server, *(_shown(found.get((server, case)), digits) for case in cases)]
        for server in servers
    ]
    return [["server", *cases], *rows]


def count_failure_lines(counts: Iterable[Count]) -> list[str]:
    """Return a line of a list for each server that something could not be counted of."""
    reasons = dict.fromkeys((count.server, _one_line(count.failure)) for count in counts)
    return [f"- {server}: not counted: {why}" for server, why in reasons if why]


def breach_lines(breaches: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return a line of a list for each server that does not keep all; ``breaches`` are by need."""
    return [
        f"- {peer} {'; '.join(_one_line(why) for why in found.values())}"
        for peer, found in breaches.items()
        if found
    ]


def aside_lines(aside: Mapping[str, str]) -> list[str]:
    """Return a line of a list for each server that stands aside in a scenario."""
    return [f"- {peer} is not compared with: it {_one_line(why)}" for peer, why in aside.items()]


def disturbance(runs: Sequence[Sample]) -> str:
    """Return a sentence on how quiet the machine was."""
    shares = [run.disturbance for run in runs]
    return (
        "Other processes, and the machine's host, had at most "
        f"{statistics.median(shares):.0%} of a core in half of the runs, and {max(shares):.0%} "
        "in the worst.\n"
    )


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


def section(
    scenario: Scenario,
    samples: Samples,
    failures: Mapping[Candidate, Sequence[str]],
    aside: Mapping[str, str],
    plot: str | None,
) -> str:
    """Return what the page says of one scenario; `plot` is the file of its picture."""
    table = markdown(scenario_table(scenario, samples, aside))
    parts = [f"### {scenario.title}", scenario.about, table]
    if told := [*aside_lines(aside), *failure_lines(failures)]:
        parts.append("\n".join(told))
    if plot is not None:
        parts.append(f"![Requests per second: {scenario.title}]({plot})")
    return "\n\n".join(parts) + "\n"


def failure_lines(failures: Mapping[Candidate, Sequence[str]]) -> list[str]:
    """Return a line of a list for each candidate of which runs failed."""
    lines = []
    for candidate, reasons in failures.items():
        if reasons:
            reason = _one_line(reasons[-1]).replace("`", "'")
            runs = f"{len(reasons)} run{'s' if len(reasons) > 1 else ''}"
            lines.append(f"- {candidate}: {runs} failed; `{reason}`")
    return lines


def _one_line(text: str) -> str:
    return " ".join(text.split())[:LONGEST_REASON]


def replace_figures(page: Path, text: str, markers: tuple[str, str] = FIGURES) -> None:
    """Write text between a page's markers. Raises ValueError where they are missing."""
    first, last = markers
    before, begin, rest = page.read_text("utf-8").partition(first)
    _, end, after = rest.partition(last)
    if not (begin and end):
        raise ValueError(f"{page} has lost the markers of the measured figures")
    page.write_text(f"{before}{first}\n\n{text.strip()}\n\n{last}{after}", "utf-8")


def _columns(scenario: Scenario, samples: Samples) -> dict[str, Callable[[Candidate], str]]:
    """Return what each cell is made by, by the name of its column."""

    def cell(figure: Callable[[Sample], float | None], digits: int) -> Callable[[Candidate], str]:
        return lambda candidate: _shown(median(samples[candidate], figure), digits)

    def against_ours(candidate: Candidate) -> str:
        ours = ours_to_compare_with(samples, candidate)
        return "" if ours is None else _ratio_shown(ratios(samples, candidate, ours))

    columns = {
        "requests/s": cell(lambda run: run.rate, _digits(samples)),
        "x penstock": against_ours,
        "CPU µs/request": cell(lambda run: run.cpu_us, 1),
        "p50 ms": cell(lambda run: run.p50_ms, 2),
        "p99 ms": cell(lambda run: run.p99_ms, 2),
    }
    if any(run and run.p999_ms is not None for runs in samples.values() for run in runs):
        columns["p99.9 ms"] = cell(lambda run: run.p999_ms, 2)
    if scenario.with_and_without:
        columns["x without"] = cell(lambda run: run.alone and run.rate / run.alone, 2)
    if scenario.idle:
        columns["KiB/idle"] = cell(lambda run: run.idle_kib, 2)
    if scenario.load.posted:
        columns["peak MiB"] = cell(lambda run: run.peak_mib, 0)
    columns["load core"] = lambda candidate: _share_shown(samples[candidate])
    columns["errors"] = lambda candidate: _errors(samples[candidate])
    return columns


def _digits(samples: Samples) -> int:
    """Return how many decimals a rate needs: that of large bodies is small."""
    rates = [run.rate for runs in samples.values() for run in runs if run]
    return 1 if rates and max(rates) < 1000 else 0


def _shown(number: float | None, digits: int) -> str:
    return "" if number is None else f"{number:,.{digits}f}"


def _ratio_shown(found: Sequence[float]) -> str:
    """Return the median of ratios with their quartiles."""
    if not found:
        return ""
    middle = f"{statistics.median(found):.2f}"
    if len(found) == 1:
        return middle
    low, high = quartiles(found)
    return f"{middle} ({low:.2f} to {high:.2f})"


def _share_shown(runs: Sequence[Sample | None]) -> str:
    share = median(runs, lambda run: run.load_share)
    return "" if share is None else f"{share:.0%}"


def _errors(runs: Sequence[Sample | None]) -> str:
    if not any(runs):
        return "failed"
    return f"{sum(run.errors for run in runs if run):,}" + ("" if is_sound(runs) else " (!)")
