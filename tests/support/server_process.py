"""The `penstock` command as its users run it: a process of its own, on a free port."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

ROOT = Path(__file__).resolve().parents[2]
"""The checkout."""

EXAMPLES = ROOT / "examples"

START_WITHIN = 60.0
"""Seconds until the start-up line: Django on a busy machine takes some."""

STOP_WITHIN = 20.0
"""Seconds from a signal to the exit."""

BUSY_SECONDS = 8.0
"""What a busy machine may add to a time that a test measures; any timeout by default is longer."""

MAX_LINES = 100_000
"""Lines of the server's error log that are kept, of those that it writes first."""

_SERVING = re.compile(r"penstock \S+ serving (?P<app>.+) on (?P<urls>\S.*) \((?P<how>[^()]*)\)")
_URL = re.compile(r"https?://(?P<host>\[[^\]]+\]|[^:/\s]+):(?P<port>\d+)")


def checkout_environ() -> dict[str, str]:
    """Return this process's environment, with the checkout's Penstock to be imported."""
    path = [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))}


def run_penstock(
    *arguments: str, cwd: Path = ROOT, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m penstock`` to its end: for what must not serve, such as bad arguments."""
    return subprocess.run(
        [sys.executable, "-m", "penstock", *arguments],
        cwd=cwd,
        env=checkout_environ() | dict(environ or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=START_WITHIN,
        check=False,
    )


class ServerProcess:
    """``python -m penstock`` with some arguments, from its start-up line to its exit.

    Used as ``with ServerProcess("module:app", cwd=folder) as server:``. Unless ``--bind`` is among
    the arguments, it takes a free port of 127.0.0.1. Both of its streams are read all the time, so
    that it never waits for a reader; standard error comes out with `lines` and `wait_for_line`.
    """

    def __init__(
        self,
        *arguments: str,
        cwd: Path = ROOT,
        environ: Mapping[str, str] | None = None,
        python: Sequence[str] = (sys.executable,),
        pass_fds: Sequence[int] = (),
        new_session: bool = False,
        bind: str | None = "127.0.0.1:0",
    ) -> None:
        """Start the process; `wait_until_serving` waits for it. ``environ`` adds variables.

        ``bind`` is where it listens unless an argument says so; None leaves it to a file. With
        ``new_session`` all that it starts is in the session of its number.
        """
        command = [*python, "-m", "penstock", *arguments]
        if bind and not any(re.match(r"-b|--bind", argument) for argument in arguments):
            command += ["--bind", bind]
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env=checkout_environ() | dict(environ or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=pass_fds,
            start_new_session=new_session,
        )
        self.url = ""
        self.host = ""
        self.port = 0
        self.start_line = ""
        # A line each, and None at the end. The readers own the lists until they have ended.
        self._errors: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._seen: list[str] = []
        self._output: list[str | None] = []
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._readers = [
            threading.Thread(target=self._read, args=(self.process.stderr, self._errors.put)),
            threading.Thread(target=self._read, args=(self.process.stdout, self._output.append)),
        ]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Self:
        try:
            self.wait_until_serving()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.stop()
        finally:
            self.kill()

    def wait_until_serving(self) -> None:
        """Wait for the start-up line, and take host and port from it."""
        self.start_line = self.wait_for_line(_SERVING.pattern, within=START_WITHIN)
        if found := _URL.search(self.start_line):
            self.url = found.group()
            self.host = found["host"].strip("[]")
            self.port = int(found["port"])

    @property
    def address(self) -> tuple[str, int]:
        """The address to connect to."""
        return self.host, self.port

    def wait_for_line(self, pattern: str, within: float = STOP_WITHIN) -> str:
        """Return the next line of standard error that the expression is found in."""
        end = time.monotonic() + within
        while True:
            try:
                line = self._errors.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {pattern!r} within {within} s in {self.lines}") from None
            if line is None:
                self._errors.put(None)
                raise AssertionError(f"ended without {pattern!r}: {self.lines}")
            self._seen.append(line)
            if re.search(pattern, line):
                return line

    @property
    def lines(self) -> list[str]:
        """The lines of standard error that have been seen; all of them once it has ended."""
        return list(self._seen)

    def lines_so_far(self) -> list[str]:
        """Take the lines of standard error that are there now, and return all of them."""
        while not self._errors.empty():
            line = self._errors.get()
            if line is None:
                self._errors.put(None)
                break
            self._seen.append(line)
        return self.lines

    @property
    def output(self) -> list[str]:
        """The lines of standard output so far."""
        return [line for line in list(self._output) if line is not None]

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal to the process, which has to be running."""
        self.process.send_signal(number)

    def wait(self, within: float = STOP_WITHIN) -> int:
        """Wait for the exit; return its status, negative for a signal."""
        status = self.process.wait(within)
        self._collect()
        return status

    def stop(self, within: float = STOP_WITHIN) -> int:
        """Ask the process to stop where it has not, and return its exit status."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        return self.wait(within)

    def kill(self) -> None:
        """End the process by force, if it is there still; nothing of it is left."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(STOP_WITHIN)
        self._collect()

    def _collect(self) -> None:
        """Join the readers, and take what they read last."""
        for reader in self._readers:
            reader.join(STOP_WITHIN)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        while not self._errors.empty():
            if (line := self._errors.get()) is not None:
                self._seen.append(line)
        self._errors.put(None)

    @staticmethod
    def _read(stream: IO[bytes], put: Callable[[str | None], None]) -> None:
        """Hand on each line of a stream, decoded, and None at its end."""
        for count, line in enumerate(stream):
            if count < MAX_LINES:
                put(line.decode("utf-8", "replace").rstrip("\r\n"))
        put(None)
