"""Servers that the commands of frameworks start: processes that log as `penstock` does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from support.server_process import STOP_WITHIN, checkout_environ


@contextmanager
def served_by(
    *arguments: str, cwd: Path, environ: Mapping[str, str] | None = None
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run Python with these arguments; give the URL at which it serves, and the process.

    At the end of the block it gets SIGTERM, and has ended when this returns.
    """
    with subprocess.Popen(
        [sys.executable, *arguments],
        cwd=cwd,
        env=checkout_environ() | dict(environ or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        try:
            line = next(line for line in process.stderr if " serving " in line)
            yield next(word for word in line.split() if word.startswith("http://")), process
        finally:
            process.terminate()
            process.stderr.read()
            process.wait(STOP_WITHIN)
