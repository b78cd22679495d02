"""WsgiDAV, judged by litmus."""

from __future__ import annotations

import re

from programs.program import Program, Run

SUITES = ("basic", "copymove", "props", "locks", "http")
SUMMARY = re.compile(r"summary for `(\w+)': of (\d+) tests run: (\d+) passed")


def check(run: Run) -> None:
    share = run.path("share")
    # Its locks are in memory, so that there is one worker.
    with run.serve("webdav", "--workers", "1", environ={"FOLDER": str(share)}) as server:
        said = run.command("litmus", "--keep-going", f"{server.url}/", cwd=run.path("litmus"))
    found = SUMMARY.findall(said)
    assert [suite for suite, _, _ in found] == list(SUITES), said
    assert all(ran == passed for _, ran, passed in found), said


PROGRAMS = [
    Program(
        "wsgidav",
        "WsgiDAV",
        check,
        "litmus: all of its suites (basic, copymove, props, locks, http)",
        packages=("WsgiDAV",),
        commands={"litmus": r"litmus (\S+)"},
    )
]
