"""docs/compatibility.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from programs.program import Program


@dataclass(frozen=True)
class Result:
    """How the checks of a program went: by transport, or why there were none."""

    passed: Mapping[str, bool]
    skipped: str = ""

    @property
    def failed(self) -> bool:
        """True if it failed on any transport."""
        return not all(self.passed.values())

    def cell(self, transport: str) -> str:
        """Return what the table says of a transport."""
        if self.skipped:
            return self.skipped
        if transport not in self.passed:
            return "not run"
        return "passes" if self.passed[transport] else "FAILS"


HEAD = """\
# Compatibility: programs that run on Penstock

`make programs` installs these programs by their package names and runs them on both transports,
every night. A check fails where a client or a program's own suite reports a failure, where what
comes back is not what was sent, or where the log has an error, a traceback, or a warning of the
server. `make programs` writes this page.

"""


def page(table: str) -> str:
    """Return the page."""
    return f"{HEAD}{table}"


def table(
    programs: Sequence[Program], results: Mapping[str, Result], versions: Mapping[str, list[str]]
) -> str:
    """Return the table, and the notes below it."""
    lines = ["| Program | Versions | What is done | native | Python |", "|---|---|---|---|---|"]
    notes = []
    for program in programs:
        result = results[program.name]
        with_ = ", ".join(versions[program.name])
        cells = [program.title, with_, program.does, result.cell("native"), result.cell("python")]
        lines.append(f"| {' | '.join(cells)} |")
        if program.note:
            notes.append(f"- {program.title}: {program.note}")
    return "\n".join([*lines, *(["", *notes] if notes else []), ""])
