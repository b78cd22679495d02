"""The native parser as a program that a test asks: bytes in, what the parser says out.

It is an example of the crate (``native/protocol/examples/events.rs``), which ``cargo test`` builds
beside the crate's own tests, and ``make fuzz`` optimised.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from penstock.http1 import ParserLimits

_TARGET = Path(__file__).resolve().parents[2] / "native" / "target"


def program() -> Path | None:
    """Return the program that was built last, None where there is none."""
    built = [_TARGET / profile / "examples" / "events" for profile in ("release", "debug")]
    there = [path for path in built if path.exists()]
    return max(there, key=lambda path: path.stat().st_mtime, default=None)


class NativeParser:
    """A running program; for each case it starts with a new parser."""

    def __init__(self, requests: IO[str], answers: IO[str]) -> None:
        self._requests = requests
        self._answers = answers

    def parse(
        self, raw: bytes, splits: list[list[int]], *, eof: bool, limits: ParserLimits
    ) -> list[dict[str, Any]]:
        """Return what the parser says of ``raw``, for each way to split it (`streams.split`).

        See ``report`` in the program. A parser that panics, or finds no end, ends the program:
        that is an `AssertionError`.
        """
        text = raw.decode("latin-1")
        case = {"raw": text, "splits": splits, "eof": eof, "limits": asdict(limits)}
        self._requests.write(json.dumps(case) + "\n")
        self._requests.flush()
        answer = self._answers.readline()
        assert answer, "the native parser has ended itself"
        outcomes: list[dict[str, Any]] = json.loads(answer)
        return outcomes


@contextmanager
def native_parser() -> Iterator[NativeParser]:
    """Run the program for as long as the block lasts; it has to be there."""
    path = program()
    assert path is not None
    with subprocess.Popen(
        [path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield NativeParser(process.stdin, process.stdout)
