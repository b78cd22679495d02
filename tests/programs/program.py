"""What the runner knows of a program, and what a check of it may use."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.server_process import ROOT, ServerProcess

SITES = "programs.sites"
"""The modules that make applications of the programs, as their manuals say."""

NOTHING_MORE: Mapping[str, str] = {}
COMMAND_WITHIN = 300.0
"""Seconds for a command; the runner has a deadline for the whole check."""

LINES = 200
"""Lines of the server's log that are printed, the last ones."""

COMPLAINT = re.compile(r"\] \[WARNING\] PEN-(?!7053)|\[(ERROR|CRITICAL)\]|^Traceback ")
"""The server's warnings, and errors of both. Some programs warn at every start.

PEN-7053 says that an import takes long, as it does on a busy machine."""


@dataclass(frozen=True)
class Run:
    """One check of one program on one transport, with a folder of its own."""

    transport: str
    folder: Path

    @contextmanager
    def serve(
        self,
        site: str,
        *flags: str,
        environ: Mapping[str, str] = NOTHING_MORE,
        allowed: str = "",
        python: Sequence[str] = (sys.executable,),
    ) -> Iterator[ServerProcess]:
        """Serve one of the sites; afterwards its log must not have a complaint.

        ``allowed`` is an expression for lines that may be there all the same, and
        ``python`` starts the server.
        """
        path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])
        more = {"PYTHONPATH": path, "PENSTOCK_CONTROL": "off"} | clean_environ() | dict(environ)
        application = site if ":" in site else f"{SITES}.{site}:app"
        arguments = [application, "--transport", self.transport, *flags]
        with ServerProcess(*arguments, environ=more, python=python) as server:
            try:
                yield server
            except BaseException:
                print("\n".join(server.lines_so_far()[-LINES:]))
                raise
        lines = [line for line in server.lines if COMPLAINT.search(line)]
        lines = [line for line in lines if not (allowed and re.search(allowed, line))]
        assert not lines, "\n".join(server.lines[-LINES:])

    def path(self, name: str) -> Path:
        """Return a new folder."""
        path = self.folder / name
        path.mkdir()
        return path

    def command(
        self,
        *command: object,
        cwd: Path | None = None,
        environ: Mapping[str, str] = NOTHING_MORE,
        within: float = COMMAND_WITHIN,
    ) -> str:
        """Run a command to its end; return what it printed. It must not fail."""
        done = subprocess.run(
            [str(word) for word in command],
            cwd=cwd or self.folder,
            env=os.environ | clean_environ() | {"HOME": str(self.folder)} | dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=within,
            check=False,
        )
        assert done.returncode == 0, f"{command} ended with {done.returncode}: {done.stdout}"
        return done.stdout


def clean_environ() -> dict[str, str]:
    """Return what keeps clients from a proxy: all that they ask is on this machine."""
    return {"no_proxy": "*", "NO_PROXY": "*", "PYTHONDONTWRITEBYTECODE": "1"}


def free_port() -> int:
    """Return a port for a program that has to know its address before it starts."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def script(name: str) -> Path:
    """Return the path of a command that a package has installed."""
    return Path(sys.executable).parent / name


@dataclass(frozen=True)
class Program:
    """A program, and how it is checked."""

    name: str
    """For the command line."""
    title: str
    check: Callable[[Run], None]
    """Raise `AssertionError` unless all is as it should be."""
    does: str
    """What is done with it, for the page."""
    packages: tuple[str, ...] = ()
    """Whose versions the page names."""
    commands: Mapping[str, str] | None = None
    """What the machine has to have: command, and the expression that its version is found by."""
    note: str = ""
    """What a reader has to know, for the page."""
    agents: bool = False
    """Its packages are in the environment of the agents."""
    seconds: float = 600.0
    """The deadline of the check: some ten times what it takes on a quiet machine."""

    def lacks(self) -> list[str]:
        """Return the commands that this machine does not have."""
        return [name for name in self.commands or {} if not find(name)]


CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


def find(command: str) -> str | None:
    """Return the path of a command, and of a browser under whichever name it is installed."""
    names = CHROMIUM if command == "chromium" else (command,)
    return next((path for name in names if (path := shutil.which(name)) and _runs(path)), None)


def _runs(path: str) -> bool:
    """Return False for a name under which a version manager has no version selected."""
    try:
        status = subprocess.run([path, "--version"], check=False, capture_output=True, timeout=60)
    except OSError:
        return False
    return status.returncode != 127
