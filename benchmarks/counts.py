"""Count what a request costs in instructions and system calls: `make counts`.

Both transports are counted at once, each on a core of its own, with callgrind and strace (see
harness/counting.py). The counts do not depend on how busy the machine is, so that a check can hold
them to bounds. Beside each stands that of the last release; a change of more than 1 % is marked.

The status is 1 where a bound is exceeded, and 0 where it is not or where something is missing that
counting needs; what, is printed.
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from harness import certificate, counting, environment, installing, page, report
from harness.counting import Case, Count
from harness.servers import Candidate

TRANSPORTS = {"native": "penstock", "python": "penstock-python"}
OTHER_PYTHONS = 1.0 if sys.version_info[:2] == (3, 11) else 1.1
"""How much more the bounds on instructions allow with another CPython than 3.11, which they were
measured with: 3.12 and 3.13 take 6 % more with the native transport."""
CHANGE = 0.01
"""What is marked, in either direction. A count repeats itself to 0.5 %, and that of a
generator with the Python transport to 3 %."""


@dataclass(frozen=True)
class Bound:
    """What the last release takes for a request, and what it may take at most."""

    released: float | None = None
    at_most: float | None = None


SHARE = "Flask, the server's share"
"""What Flask takes beyond a call of the application in a bare loop."""

INSTRUCTIONS: Mapping[tuple[str, str], Bound] = {
    ("native", "hello"): Bound(22_470, 14_500),
    ("native", "varied"): Bound(41_218, 20_100),
    ("native", "generator"): Bound(46_720, 18_350),
    ("native", "a connection each"): Bound(27_963, 22_900),
    ("native", "Flask"): Bound(357_836, 335_000),
    ("native", SHARE): Bound(41_015, 18_000),
    ("native", "hello over TLS"): Bound(None, 23_800),
    ("native", "hello with an access log"): Bound(None, 19_900),
    ("native", "hello beside --static"): Bound(None, 15_100),
    ("native", "a file of 10 KiB (--static)"): Bound(None, 48_600),
    ("python", "hello"): Bound(121_354, 82_600),
    ("python", "varied"): Bound(207_927, 170_600),
    ("python", "generator"): Bound(138_816, 118_500),
    ("python", "a connection each"): Bound(277_430, 268_000),
    ("python", "Flask"): Bound(453_804, 421_500),
}
"""By transport and request, with CPython 3.11. 0.1.0 had neither TLS nor --static."""
SYSTEM_CALLS: Mapping[tuple[str, str], Bound] = {
    ("native", "hello"): Bound(2.09, 2.15),
    ("native", "varied"): Bound(2.09, 2.15),
    ("native", "generator"): Bound(3.10, 2.15),
    ("native", "a connection each"): Bound(8.10, 4.15),
    ("native", "Flask"): Bound(2.10, 2.15),
    ("native", "hello over TLS"): Bound(None, 2.15),
    ("native", "hello with an access log"): Bound(None, 2.40),
    ("native", "hello beside --static"): Bound(None, 2.15),
    ("native", "a file of 10 KiB (--static)"): Bound(None, 3.15),
    ("python", "hello"): Bound(2.06, 2.11),
    ("python", "varied"): Bound(2.06, 2.11),
    ("python", "generator"): Bound(3.06, 3.11),
    ("python", "a connection each"): Bound(10.09, 6.15),
    ("python", "Flask"): Bound(2.06, 2.11),
}
"""A read and a write, and a share of what the requests of a batch have in common. Threads of the
native transport that wake up by the time add 0.03 while other work slows the machine down."""

USUAL = (counting.HELLO, counting.VARIED, counting.GENERATOR, counting.CLOSE, counting.FLASK)
"""What is counted of both transports."""
NATIVE_TOO = (counting.TLS, counting.LOGGED, counting.BESIDE_FILES, counting.FILE)
"""With the Python transport the time that passes counts over TLS: its loop looks at the deadlines
at intervals."""


@dataclass(frozen=True)
class Line:
    """A line of the table."""

    transport: str
    case: str
    what: str
    counted: float
    bound: Bound
    digits: int

    @property
    def change(self) -> float | None:
        """Return by which share more was counted than of the last release."""
        return self.counted / self.bound.released - 1 if self.bound.released else None

    @property
    def is_changed(self) -> bool:
        return self.change is not None and abs(self.change) > CHANGE

    @property
    def at_most(self) -> float | None:
        """Return the bound that holds with this Python."""
        most = self.bound.at_most
        return most * OTHER_PYTHONS if most and self.digits == 0 else most

    @property
    def is_exceeded(self) -> bool:
        return self.at_most is not None and self.counted > self.at_most

    def row(self) -> list[str]:
        """Return the cells of a table."""
        change = "" if self.change is None else f"{self.change:+.1%}"
        if self.is_changed:
            change = f"**{change}**"
        most = self._shown(self.at_most)
        return [
            self.transport,
            self.case,
            self.what,
            self._shown(self.counted),
            self._shown(self.bound.released),
            change,
            f"{most} (exceeded)" if self.is_exceeded else most,
        ]

    def _shown(self, number: float | None) -> str:
        return "" if number is None else f"{number:,.{self.digits}f}"


HEADER = ["transport", "request", "what", "a request", "0.1.0", "change", "at most"]


def lines(transport: str, counts: list[Count], alone: float | None) -> list[Line]:
    """Return the lines of one transport.

    ``alone`` is what Flask takes for a call without a server: the rest is the server's share.
    """
    found = []
    for each in counts:
        key = (transport, each.case)
        if each.instructions is not None:
            bound = INSTRUCTIONS.get(key, Bound())
            found.append(
                Line(transport, each.case, "instructions", each.instructions, bound, digits=0)
            )
            if alone is not None and each.case == counting.FLASK.name:
                what = "instructions without the application's"
                share = each.instructions - alone
                bound = INSTRUCTIONS.get((transport, SHARE), Bound())
                found.append(Line(transport, each.case, what, share, bound, digits=0))
        if each.system_calls is not None:
            bound = SYSTEM_CALLS.get(key, Bound())
            found.append(
                Line(transport, each.case, "system calls", each.system_calls, bound, digits=2)
            )
    return found


def main() -> int:
    """Run the command; return its exit status."""
    arguments = _arguments()
    environment.end_as_interrupted()
    for tool in (missing := counting.missing_tools()):
        print(f"Skipped: counting needs {tool}, which is not installed.")
    if missing:
        return 0
    environment.use(Path(sys.executable).parent)
    transports = [each for each in TRANSPORTS if arguments.transport in (each, "both")]
    if importlib.util.find_spec("penstock._native") is None and "native" in transports:
        print("Skipped: the native module is not built. make native builds it.")
        transports.remove("native")
    try:
        _prepare()
        found = _counted(transports, arguments)
    except (*counting.FAULTS, KeyboardInterrupt) as problem:
        print(problem or "Interrupted.", file=sys.stderr)
        return 1
    shown = report.markdown([HEADER, *(line.row() for line in found)])
    text = f"{shown}\n\nPython {platform.python_version()}, {platform.machine()}."
    print(text)
    if changed := [line for line in found if line.is_changed]:
        print(f"{len(changed)} of {len(found)} counts differ from 0.1.0 by more than {CHANGE:.0%}.")
    if arguments.write:
        report.replace_figures(page.PAGE, text, report.COUNTS)
    return 1 if any(line.is_exceeded for line in found) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Count instructions and system calls a request.")
    add = parser.add_argument
    add("--transport", choices=(*TRANSPORTS, "both"), default="both")
    names = [case.name for case in (*USUAL, *NATIVE_TOO)]
    add("--only", choices=names, action="append", metavar="REQUEST", help=f"of: {', '.join(names)}")
    source = "where Penstock is imported from; default: this checkout's src"
    add("--source", type=Path, default=environment.ROOT / "src", help=source)
    add("--write", action="store_true", help="write all counts of both transports into the page")
    arguments = parser.parse_args()
    if arguments.write and (arguments.only or arguments.transport != "both"):
        parser.error("--write is for all counts")
    return arguments


def _prepare() -> None:
    environment.VENV.mkdir(parents=True, exist_ok=True)
    installing.make_files()
    if not (environment.CERTIFICATE.exists() and environment.KEY.exists()):
        certificate.make(environment.CERTIFICATE, environment.KEY)


def _counted(transports: list[str], arguments: argparse.Namespace) -> list[Line]:
    """Count the transports at once. Raises `CountingFailed` where something is not counted."""
    cores = environment.cores()
    with ThreadPoolExecutor(len(TRANSPORTS)) as pool:
        asked = [
            pool.submit(
                _count,
                transport,
                cores[place % len(cores)],
                _cases(transport, arguments.only),
                arguments.source,
            )
            for place, transport in enumerate(transports)
        ]
        return [line for each in asked for line in each.result()]


def _cases(transport: str, only: list[str] | None) -> list[Case]:
    cases = USUAL + NATIVE_TOO if transport == "native" else USUAL
    return [case for case in cases if only is None or case.name in only]


def _count(transport: str, core: int, cases: list[Case], source: Path) -> list[Line]:
    with environment.on_core(core):
        found = counting.count(Candidate(TRANSPORTS[transport], 1), cases, source)
        for each in found:
            if each.failure:
                raise counting.CountingFailed(f"{transport}, {each.case}: {each.failure}")
        # What Flask takes without a server is the same for both transports, and needed once.
        flask = counting.FLASK in cases and transport == "native"
        alone = counting.bare_loop(counting.FLASK) if flask else None
    return lines(transport, found, alone)


if __name__ == "__main__":
    sys.exit(main())
