"""Check all programs on both transports, and write docs/compatibility.md.

Each check is a process of its own in a session of its own, which is ended at its deadline.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from importlib.metadata import distributions, version
from pathlib import Path

from programs import page
from programs.every import PROGRAMS
from programs.program import Program, Run, find
from support.server_process import ROOT

TRANSPORTS = ("native", "python")
PAGE = ROOT / "docs" / "compatibility.md"
MAX_OUTPUT = 8000
"""Characters of a failed check that are printed."""


def main() -> int:
    """Run what the arguments ask for; return 1 where a check has failed."""
    wanted = arguments()
    if wanted.one:
        program = next(program for program in PROGRAMS if program.name == wanted.one)
        program.check(Run(wanted.transport[0], wanted.folder))
        return 0
    chosen = [program for program in PROGRAMS if program.name in wanted.only]
    results = {program.name: check(program, wanted.transport) for program in chosen}
    table = page.table(chosen, results, {each.name: versions(each) for each in chosen})
    print(table)
    failed = any(result.failed for result in results.values())
    if len(chosen) < len(PROGRAMS) or tuple(wanted.transport) != TRANSPORTS:
        print("A part was run: docs/compatibility.md stays as it is.")
    elif failed or any(program.lacks() for program in chosen):
        print("Not all has passed: docs/compatibility.md stays as it is.")
    else:
        PAGE.write_text(page.page(table))
    return int(failed)


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    names = [program.name for program in PROGRAMS]
    parser = argparse.ArgumentParser(prog="programs", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--transport", nargs="+", choices=TRANSPORTS, default=list(TRANSPORTS))
    parser.add_argument("--one", choices=names, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def check(program: Program, transports: list[str]) -> page.Result:
    """Check a program on each transport, and print how it went."""
    if lacks := program.lacks():
        result = page.Result({}, f"skipped: needs {', '.join(lacks)}")
        print(f"{program.name}: {result.skipped}", flush=True)
        return result
    passed = {}
    for transport in transports:
        begun = time.monotonic()
        passed[transport] = ok = check_one(program, transport)
        seconds = time.monotonic() - begun
        how = "passed" if ok else "FAILED"
        print(f"{program.name}, {transport} transport: {how} ({seconds:.0f} s)", flush=True)
    return page.Result(passed)


def check_one(program: Program, transport: str) -> bool:
    """Return True if the check has passed; print what it says if it has not."""
    with tempfile.TemporaryDirectory(prefix="programs-") as folder:
        process = subprocess.Popen(
            [sys.executable, "-m", "programs", "--one", program.name,
             "--transport", transport, "--folder", folder],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
        try:
            said, _ = process.communicate(timeout=program.seconds)
        except BaseException as error:  # also where a user interrupts
            os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            said = process.communicate()[0] + f"\nnot done within {program.seconds:.0f} s"
        if process.returncode != 0:
            print(said[-MAX_OUTPUT:])
    return process.returncode == 0


def versions(program: Program) -> list[str]:
    """Return the names and versions of what a program consists of."""
    if program.agents:
        folder = Path(os.environ["AGENTS"]).parent.glob("lib/python*/site-packages")
        there = distributions(path=[str(path) for path in folder])
        of_agents = {canonical(each.name): each.version for each in there}
        found = [f"{name} {of_agents[canonical(name)]}" for name in program.packages]
    else:
        found = [f"{name} {version(name)}" for name in program.packages]
    for name, pattern in (program.commands or {}).items():
        if path := find(name):
            found.append(f"{name} {version_of(name, path, pattern)}")
    return found


def canonical(name: str) -> str:
    """Return the name of a package in the form in which two can be compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def version_of(name: str, path: str, pattern: str) -> str:
    """Return the version that a command says it has."""
    flag = "version" if name == "go" else "--version"
    done = subprocess.run([path, flag], capture_output=True, text=True, timeout=60, check=False)
    match = re.search(pattern, done.stdout + done.stderr)
    return match[1] if match else "of unknown version"


if __name__ == "__main__":
    sys.exit(main())
