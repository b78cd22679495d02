"""Run the `penstock` command many times, for what it refuses: a start of Python costs most of it.

Each command is a process of its own, with its own exit status and streams. It is forked from one
process that has imported what all of them need.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SECONDS_OF_ONE = 5.0
"""How long one may take on a busy machine."""


@dataclass(frozen=True)
class Command:
    """One command: its arguments, where it runs, and variables besides those of the tests."""

    arguments: Sequence[str]
    cwd: Path
    environ: Mapping[str, str] = field(default_factory=dict)


def run_each(
    commands: Sequence[Command], python: str = sys.executable, user: int | None = None
) -> list[subprocess.CompletedProcess[str]]:
    """Run the commands one after the other; return how each has ended, and what it has said.

    ``user`` is that of the commands, and the number of its group.
    """
    from support.server_process import START_WITHIN, checkout_environ  # not where this is a program

    asked = [[list(each.arguments), str(each.cwd), dict(each.environ)] for each in commands]
    done = subprocess.run(
        [python, __file__],
        env=checkout_environ(),
        user=user,
        group=user,
        extra_groups=None if user is None else [],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=START_WITHIN + SECONDS_OF_ONE * len(commands),
        check=True,
    )
    return [
        subprocess.CompletedProcess(["penstock", *each.arguments], status, output, errors)
        for each, (status, output, errors) in zip(commands, json.loads(done.stdout), strict=True)
    ]


def _run_here(arguments: list[str], cwd: str, environ: dict[str, str]) -> tuple[int, str, str]:
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        child = os.fork()
        if child == 0:
            status = 70
            try:
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                os.dup2(output.fileno(), 1)
                os.dup2(errors.fileno(), 2)
                os.chdir(cwd)
                os.environ.update(environ)
                sys.argv = ["penstock", *arguments]
                status = main()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        _, status = os.waitpid(child, 0)
        said = []
        for stream in (output, errors):
            stream.seek(0)
            said.append(stream.read().decode())
        return os.waitstatus_to_exitcode(status), said[0], said[1]


if __name__ == "__main__":
    import penstock.config.checks
    import penstock.config.sources
    import penstock.edge.certificate_files
    import penstock.supervisor.generation  # noqa: F401
    from penstock.cli.command import main

    sys.path.remove(os.path.dirname(__file__))  # it is no part of a command's path
    json.dump([_run_here(*each) for each in json.load(sys.stdin)], sys.stdout)
