"""The pages on performance, and the pictures beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness import environment, plots, report
from harness.conformance import failed
from harness.counting import BARE_LOOP, CLOSE, FLASK, HELLO, VARIED, Case, Count
from harness.results import Results
from harness.scenarios import INDEX_PAGE, SCENARIOS, Measure, Scenario
from harness.servers import PEERS, Kind
from harness.targets import Samples, Verdict, median, verdicts
from harness.turns import quartiles

FOLDER = environment.ROOT / "docs" / "performance"
PAGE = FOLDER / INDEX_PAGE


class Findings:
    """Results in the order of the report."""

    def __init__(
        self,
        results: Results,
        scenarios: tuple[Scenario, ...],
        elsewhere: tuple[Scenario, ...] = (),
    ) -> None:
        """``elsewhere`` are scenarios that another page shows; their targets are here, too."""
        self.results = results
        self.scenarios = scenarios
        self.elsewhere = elsewhere
        self.rounds: int = results.about["rounds"]

    def of_page(self, page: str) -> Findings:
        """Return what a page shows."""
        shown = tuple(each for each in self.scenarios if each.page == page)
        others = tuple(each for each in self.scenarios if each.page != page)
        return Findings(self.results, shown, others if page == INDEX_PAGE else ())

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
            if {each.name for each in SCENARIOS if each.page == page and _belongs(each)} <= measured
        ]

    def samples(self, scenario: Scenario) -> Samples:
        """Return what was measured of a scenario."""
        return {
            candidate: self.results.of(scenario.name, candidate, self.rounds)
            for candidate in scenario.candidates
        }

    def aside(self, scenario: Scenario) -> dict[str, str]:
        """Return the peers that fail in what a scenario needs, each with the reasons."""
        breaches = self.results.about.get("breaches", {})
        candidates = dict.fromkeys(candidate.peer for candidate in scenario.candidates)
        found = {peer: failed(breaches.get(peer, {}), scenario.needs) for peer in candidates}
        return {peer: "; ".join(reasons) for peer, reasons in found.items() if reasons}

    def verdicts(self) -> list[Verdict]:
        """Return all targets of what was measured."""
        found = [
            verdict
            for scenario in (*self.scenarios, *self.elsewhere)
            for verdict in verdicts(scenario, self.samples(scenario), self.aside(scenario))
        ]
        if self.page == INDEX_PAGE:
            found += count_verdicts(self.results.counts)
            found += [verdict for each in self.results.figures if (verdict := each.verdict())]
        return found

    def text(self, with_pictures: bool) -> str:
        """Return the measured part of the page, in Markdown."""
        parts = [self._opening(), *self._summary(with_pictures)]
        for scenario in self.scenarios:
            failures = {
                candidate: self.results.failures(scenario.name, candidate)
                for candidate in scenario.candidates
            }
            picture = f"{scenario.name}.svg" if with_pictures else None
            samples, aside = self.samples(scenario), self.aside(scenario)
            parts.append(report.section(scenario, samples, failures, aside, picture))
        if self.page == INDEX_PAGE:
            parts += self._counts()
        if self.results.figures and self.page == INDEX_PAGE:
            table = report.markdown(report.footprint_table(self.results.figures))
            parts.append(f"### At rest\n\n{table}\n")
        return "\n".join(parts)

    def _counts(self) -> list[str]:
        counts = self.results.counts
        if not counts:
            return []
        instructions = report.counts_table(counts, lambda count: count.instructions, 0)
        calls = report.counts_table(counts, lambda count: count.system_calls, 2)
        parts = [f"### Instructions a request\n\n{report.markdown(instructions)}\n"]
        parts.append(f"### System calls a request\n\n{report.markdown(calls)}\n")
        if failed := report.count_failure_lines(counts):
            parts.append("\n".join(failed) + "\n")
        return parts

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
        if breaches := report.breach_lines(about.get("breaches", {})):
            opening += "\nNot kept of PEP 3333 and RFC 9112:\n\n" + "\n".join(breaches) + "\n"
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
        samples, aside = self.samples(scenario), self.aside(scenario)
        rows = []
        for candidate, runs in samples.items():
            rate = median(runs, lambda run: run.rate)
            if rate is not None:
                low, high = quartiles([run.rate for run in runs if run])
                ours = PEERS[candidate.peer].kind is Kind.OURS
                label = f"({candidate})" if candidate.peer in aside else str(candidate)
                rows.append(plots.Bar(label, rate, low, high, ours))
        rows.sort(key=lambda row: -row.value)
        digits = 1 if rows and rows[0].value < 1000 else 0
        title = f"{scenario.title}: requests per second"
        return plots.bars(title, rows, mark=scenario.law, digits=digits)

    def _overview(self) -> str:
        rows = [
            plots.Bar(_label(scenario, verdict), verdict.value, verdict.value, verdict.value, True)
            for scenario in self.scenarios
            for verdict in verdicts(scenario, self.samples(scenario), self.aside(scenario))
            if verdict.what == Measure.BEST_PEER.value and verdict.value is not None
        ]
        return plots.bars("Rate against the best other WSGI server", rows, mark=1.0, digits=2)


def _label(scenario: Scenario, verdict: Verdict) -> str:
    _, _, threads = verdict.server.partition(", ")
    return scenario.name + ("" if threads == "1 thread" else f", {threads}")


def _belongs(scenario: Scenario) -> bool:
    """Return whether a page is complete only with this scenario."""
    return scenario.usual or scenario.page != INDEX_PAGE


def count_verdicts(counts: Sequence[Count]) -> list[Verdict]:
    """Return one for each target of what a request costs."""
    found = {(count.server, count.case): count for count in counts}

    def instructions(server: str, case: Case) -> float | None:
        count = found.get((server, case.name))
        return count.instructions if count else None

    def calls(server: str, case: Case) -> float | None:
        count = found.get((server, case.name))
        return count.system_calls if count else None

    flask = instructions("penstock", FLASK)
    alone = instructions(BARE_LOOP, FLASK)
    share = flask - alone if flask and alone else None
    targets = [
        ("penstock", "hello", "instructions", 15_500.0, instructions("penstock", HELLO), 0),
        ("penstock", "varied", "instructions", 25_000.0, instructions("penstock", VARIED), 0),
        ("penstock", "Flask", "instructions beyond the application's", 18_000.0, share, 0),
        ("penstock", CLOSE.name, "system calls", 4.0, calls("penstock", CLOSE), 1),
        (
            "penstock-python",
            "hello",
            "instructions",
            85_000.0,
            instructions("penstock-python", HELLO),
            0,
        ),
    ]
    return [
        Verdict(f"Counts: {case}", server, what, bound, True, value, digits)
        for server, case, what, bound, value, digits in targets
        if counts
    ]


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
