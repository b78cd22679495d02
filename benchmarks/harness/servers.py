"""The servers that are measured, as data, and how one is started and ended."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness import environment

HOST = "127.0.0.1"
READY_SECONDS = 20.0
STOP_SECONDS = 5.0
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Peer:
    """A server that can be measured."""

    name: str
    """Its distribution's name as well."""
    command: str
    """Its program is in the environment's bin; {host}, {port} and {threads} are filled in."""


_PENSTOCK = """
    penstock applications:app --bind {host}:{port} --threads {threads} --access-logfile none
"""

# Of its own it takes 100 connections, too few for some scenarios.
_WAITRESS = """
    waitress-serve --listen={host}:{port} --threads={threads} --connection-limit=2000
    applications:app
"""

_GUNICORN = """
    gunicorn applications:app --bind={host}:{port} --workers=1 --worker-class=gthread
    --threads={threads} --log-level=warning
"""

PEERS = {
    peer.name: peer
    for peer in (
        Peer("penstock", _PENSTOCK),
        Peer("waitress", _WAITRESS),
        Peer("gunicorn", _GUNICORN),
    )
}


@dataclass(frozen=True)
class Candidate:
    """A peer with a number of threads: a row of a table."""

    peer: str
    threads: int

    def __str__(self) -> str:
        return f"{self.peer}, {self.threads} thread{'s' if self.threads > 1 else ''}"


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    candidate: Candidate
    process: subprocess.Popen[bytes]
    port: int

    @property
    def pid(self) -> int:
        return self.process.pid

    def url(self, path: str) -> str:
        return f"http://{HOST}:{self.port}{path}"

    def wait_until_ready(self) -> None:
        """Return when the server answers. Raises `EnvironmentProblem` where it does not."""
        deadline = time.monotonic() + READY_SECONDS
        while not _answers(self.port):
            self.check()
            if time.monotonic() > deadline:
                raise environment.EnvironmentProblem(
                    f"{self.candidate} gives no good answer:\n{_log(self)}"
                )
            time.sleep(POLL_SECONDS)

    def check(self) -> None:
        """Raise `EnvironmentProblem` where the server has ended."""
        if self.process.poll() is not None:
            raise environment.EnvironmentProblem(f"{self.candidate} has ended:\n{_log(self)}")


@contextmanager
def running(candidate: Candidate) -> Iterator[Running]:
    """Run a server, pinned to its core, for as long as the block lasts."""
    port = _free_port()
    with _log_path(candidate).open("wb") as output:
        process = subprocess.Popen(
            _command(candidate, port),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=environment.VENV,  # where there is no penstock.toml to be read
            env=environment.server_variables(),
            start_new_session=True,
        )
    server = Running(candidate, process, port)
    try:
        server.wait_until_ready()
        yield server
        server.check()
    finally:
        _stop(process)


def _command(candidate: Candidate, port: int) -> list[str]:
    values = {"host": HOST, "port": port, "threads": candidate.threads}
    program, *rest = PEERS[candidate.peer].command.format(**values).split()
    # taskset replaces itself by the server: the process id stays, and threads inherit the core.
    return ["taskset", "-c", str(environment.cores()[0]), str(environment.BIN / program), *rest]


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _log_path(candidate: Candidate) -> Path:
    return environment.VENV / f"{candidate.peer}.log"


def _log(server: Running) -> str:
    return _log_path(server.candidate).read_text(errors="replace")[-2000:]


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", "/hello")
        response = connection.getresponse()
        response.read()
        return response.status == 200 and response.getheader("Content-Length") is not None
    except OSError:
        return False
    finally:
        connection.close()


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        # The server leads a session of its own: this ends its workers with it.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
