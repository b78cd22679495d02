"""The pages on performance, and the pictures beside them."""

from __future__ import annotations

from pathlib import Path

from harness import environment, plots, report
from harness.results import Results
from harness.scenarios import INDEX_PAGE, SCENARIOS, Measure, Scenario
from harness.servers import PEERS, Kind
from harness.targets import Samples, Verdict, median, verdicts

FOLDER = environment.ROOT / "docs" / "performance"
PAGE = FOLDER / INDEX_PAGE


class Findings:
    """Results in the order of the report."""

    def __init__(self, results: Results, scenarios: tuple[Scenario, ...]) -> None:
        self.results = results
        self.scenarios = scenarios
        self.rounds: int = results.about["rounds"]

    def of_page(self, page: str) -> Findings:
        """Return what a page shows."""
        return Findings(self.results, tuple(each for each in self.scenarios if each.page == page))

    @property
    def page(self) -> str:
        """The page that shows the first scenario."""
        return self.scenarios[0].page if self.scenarios else INDEX_PAGE

    @property
    def overview(self) -> str:
        """The name of the picture of all ratios to the best peer."""
        stem = self.page.removesuffix(".md")
        return "overview.svg" if self.page == INDEX_PAGE else f"{stem}-overview.svg"

    def complete_pages(self) -> list[str]:
        """Return the pages of which all was measured.

        A page with some figures of today and some of last month would compare apples and pears.
        """
        about = self.results.about
        if about["quick"] or set(about["peers"]) != set(PEERS):
            return []
        measured = {scenario.name for scenario in self.scenarios}
        return [
            page
            for page in dict.fromkeys(scenario.page for scenario in self.scenarios)
            if {scenario.name for scenario in SCENARIOS if scenario.page == page} <= measured
        ]

    def samples(self, scenario: Scenario) -> Samples:
        """Return what was measured of a scenario."""
        return {
            candidate: self.results.of(scenario.name, candidate, self.rounds)
            for candidate in scenario.candidates
        }

    def verdicts(self) -> list[Verdict]:
        """Return all targets of the scenarios that were measured."""
        return [
            verdict
            for scenario in self.scenarios
            for verdict in verdicts(scenario, self.samples(scenario))
        ]

    def text(self, with_pictures: bool) -> str:
        """Return the measured part of the page, in Markdown."""
        parts = [self._opening(), *self._summary(with_pictures)]
        for scenario in self.scenarios:
            failures = {
                candidate: self.results.failures(scenario.name, candidate)
                for candidate in scenario.candidates
            }
            picture = f"{scenario.name}.svg" if with_pictures else None
            parts.append(report.section(scenario, self.samples(scenario), failures, picture))
        if self.results.figures and self.page == INDEX_PAGE:
            table = report.markdown(report.footprint_table(self.results.figures))
            parts.append(f"### At rest\n\n{table}\n")
        return "\n".join(parts)

    def pictures(self) -> dict[str, str]:
        """Return the pictures by the names of their files."""
        found = {f"{scenario.name}.svg": self._picture(scenario) for scenario in self.scenarios}
        return found | {self.overview: self._overview()}

    def _opening(self) -> str:
        about = self.results.about
        how = f"Rounds: {self.rounds}, of {about['seconds']} s"
        how += f", a disturbed run taken again up to {about['retries']} times"
        opening = f"{', '.join(about['versions'])}. {about['machine']}. {how}; {about['date']}.\n"
        samples = (self.samples(scenario).values() for scenario in self.scenarios)
        runs = [run for each in samples for several in each for run in several if run]
        if runs:
            opening += "\n" + report.disturbance(runs)
        if about["missing"]:
            lines = (f"- {peer}: {why}" for peer, why in about["missing"].items())
            opening += "\nNot measured:\n\n" + "\n".join(lines) + "\n"
        return opening

    def _summary(self, with_pictures: bool) -> list[str]:
        found = self.verdicts()
        if not found:
            return []
        met = sum(verdict.met for verdict in found)
        parts = [f"### Targets\n\n{met} of {len(found)} are reached.\n"]
        parts.append(report.markdown(report.targets_table(found)) + "\n")
        if with_pictures:
            parts.append(f"![Rate against the best other WSGI server]({self.overview})\n")
        return parts

    def _picture(self, scenario: Scenario) -> str:
        samples = self.samples(scenario)
        rows = []
        for candidate, runs in samples.items():
            rate = median(runs, lambda run: run.rate)
            if rate is not None:
                rates = [run.rate for run in runs if run]
                ours = PEERS[candidate.peer].kind is Kind.OURS
                rows.append(plots.Bar(str(candidate), rate, min(rates), max(rates), ours))
        rows.sort(key=lambda row: -row.value)
        digits = 1 if rows and rows[0].value < 1000 else 0
        title = f"{scenario.title}: requests per second"
        return plots.bars(title, rows, mark=scenario.law, digits=digits)

    def _overview(self) -> str:
        rows = []
        for verdict in self.verdicts():
            if verdict.target.measure is Measure.BEST_PEER and verdict.value is not None:
                threads = verdict.target.threads
                label = verdict.scenario.name + (f", {threads} threads" if threads > 1 else "")
                rows.append(plots.Bar(label, verdict.value, verdict.value, verdict.value, True))
        return plots.bars("Rate against the best other WSGI server", rows, mark=1.0, digits=2)


def write(findings: Findings) -> list[Path]:
    """Write the pages of which all was measured, and their pictures; return their paths."""
    written = []
    for page in findings.complete_pages():
        shown = findings.of_page(page)
        report.replace_figures(FOLDER / page, shown.text(with_pictures=True))
        pictures = shown.pictures()
        for name, picture in pictures.items():
            (FOLDER / name).write_text(picture, "utf-8")
        written += [FOLDER / page, *(FOLDER / name for name in pictures)]
    return written
