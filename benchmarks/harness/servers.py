"""The servers that are measured, as data, and how one is started and ended."""

from __future__ import annotations

import dataclasses
import http.client
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from harness import environment, nginx
from harness.proxies import Proxy

HOST = "127.0.0.1"
READY_SECONDS = 20.0
ANSWER_SECONDS = 30.0
"""For one answer: an upload of 100 MiB, where disks are slow."""
STOP_SECONDS = 2.0
"""Servers that wait for clients do so in vain: wrk has gone in the middle of requests."""
POLL_SECONDS = 0.02
SERVERS = environment.VENV / "servers"
"""A folder in it for each server that runs: its log, its access log, its configuration."""


class Kind(Enum):
    """What a server is measured for."""

    OURS = "ours"
    PEER = "peer"
    REFERENCE = "reference"
    """It is no server for WSGI, or leaves out what one needs: it shows what is possible."""


@dataclass(frozen=True)
class AccessLog:
    """The flags that switch a server's access log off and on; {log} is the file."""

    off: str
    on: str


@dataclass(frozen=True)
class Peer:
    """A server that can be measured."""

    name: str
    command: str
    """{host}, {port}, {threads}, {application}, {logging}, {closing} and {config} are filled in."""
    distributions: tuple[str, ...] = ()
    """What installs it, as requirements/bench.txt pins it; the first one's version counts."""
    module: str = ""
    """What has to be importable: a wheel can be installed and yet not load."""
    strips: str = ""
    """Files of site-packages, as a pattern, with debug information that valgrind cannot read."""
    kind: Kind = Kind.PEER
    threaded: bool = True
    """Whether it can call the application in more than one thread."""
    access_log: AccessLog | None = None
    everywhere: bool = True
    """Whether it is in every scenario."""
    files: str = ""
    """The flags with which it sends the files of {directory} for /files; empty if it cannot."""
    tls: str = ""
    """The flags for TLS with the pair of {certificate} and {key}; empty if it cannot."""
    workers: str = ""
    """The flag for the number of worker processes, {workers}; empty if it has one."""


_PENSTOCK = """
    penstock {application} --bind {host}:{port} --threads {threads} --max-connections 20000
    {logging}
"""
_PENSTOCK_FILES = "--static /files={directory}"
_PENSTOCK_TLS = "--certfile {certificate} --keyfile {key}"
_PENSTOCK_LOG = AccessLog("--access-logfile none", "--access-logfile {log}")

# Those that have no command of their own.
_RUNNER = "python {benchmarks}/runners.py"
_RUN = "{application} {host} {port}"

# It answers as many requests at a time as its backlog is long, and counts idle connections too.
_GRANIAN = """
    granian --interface wsgi --host {host} --port {port} --runtime-threads 1
    --blocking-threads {threads} --backlog 20000 {logging} {application}
"""

# Of its own it ends idle connections after 2 s, and takes 1,000.
_GUNICORN = """
    gunicorn {application} --bind={host}:{port} --worker-class=gthread
    --threads={threads} --worker-connections=20000 --keep-alive=75 --no-control-socket
    --log-level=warning {logging}
"""
_GUNICORN_TLS = "--certfile={certificate} --keyfile={key}"
_GUNICORN_LOG = AccessLog("", "--access-logfile {log}")

# With its router, since http11-socket gives each connection a thread for as long as it stays.
_UWSGI = """
    uwsgi --http {host}:{port} --http-keepalive --http-auto-chunked --module {application}
    --threads {threads} --die-on-term --max-fd 20000 {logging}
"""

# Of its own it takes 100 connections, too few for some scenarios.
_WAITRESS = """
    waitress-serve --listen={host}:{port} --threads={threads} --connection-limit=20000
    --asyncore-use-poll
    --channel-timeout=300 {application}
"""

# Of its own it takes 4,096 connections, bodies of 16 MiB, and ends idle connections after 5 s.
_PEREGRINE = """
    peregrine --host {host} --port {port} --protocol wsgi --wsgi-threads {threads}
    --max-connections 20000 --max-body 1073741824 --keep-alive 75000 --log-level warning
    {application}
"""

# Of its own it ends idle connections after 5 s, and takes bodies of 16 MiB.
_WEFT = """
    weft --host {host} --port {port} --protocol wsgi --wsgi-threads {threads} --no-auto-venv
    --max-connections 20000 --max-body 1073741824 --keep-alive 75 --log-level warning
    {logging} {application}
"""

PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            "penstock",
            _PENSTOCK + "--transport native",
            ("penstock",),
            kind=Kind.OURS,
            access_log=_PENSTOCK_LOG,
            files=_PENSTOCK_FILES,
            tls=_PENSTOCK_TLS,
            workers="--workers {workers}",
        ),
        Peer(
            "penstock-python",
            _PENSTOCK + "--transport python",
            ("penstock",),
            kind=Kind.OURS,
            access_log=_PENSTOCK_LOG,
            files=_PENSTOCK_FILES,
            tls=_PENSTOCK_TLS,
            workers="--workers {workers}",
        ),
        Peer(
            "penstock-streaming",
            _PENSTOCK + "--transport native --stream-requests",
            ("penstock",),
            kind=Kind.OURS,
            access_log=_PENSTOCK_LOG,
            tls=_PENSTOCK_TLS,
            everywhere=False,
        ),
        Peer(
            "penstock-alone",
            _PENSTOCK + "--transport native --no-supervisor --timeout 0",
            ("penstock",),
            kind=Kind.OURS,
            access_log=_PENSTOCK_LOG,
            everywhere=False,
        ),
        Peer("bjoern", f"{_RUNNER} bjoern {_RUN}", ("bjoern",), "bjoern", threaded=False),
        Peer(
            "fastpysgi",
            f"{_RUNNER} fastpysgi {_RUN}",
            ("fastpysgi",),
            "fastpysgi",
            threaded=False,
            workers="--workers {workers}",
        ),
        Peer(
            "freastal",
            f"{_RUNNER} freastal {_RUN}",
            ("freastal",),
            "freastal",
            threaded=False,
            tls="--certificate {certificate} --key {key}",
            workers="--workers {workers}",
        ),
        Peer(
            "granian",
            _GRANIAN,
            ("granian",),
            "granian",
            access_log=AccessLog("--no-log", "--log --access-log"),
            files="--static-path-route /files --static-path-mount {directory}",
            tls="--ssl-certificate {certificate} --ssl-keyfile {key}",
            workers="--workers {workers}",
        ),
        Peer(
            "uwsgi",
            _UWSGI,
            ("uWSGI",),
            access_log=AccessLog("--disable-logging", "--logto {log}"),
            workers="--processes {workers}",
        ),
        Peer(
            "gunicorn",
            _GUNICORN + "--http-parser=fast",
            ("gunicorn", "gunicorn_h1c"),
            access_log=_GUNICORN_LOG,
            tls=_GUNICORN_TLS,
            workers="--workers={workers}",
        ),
        Peer(
            "gunicorn-python",
            _GUNICORN + "--http-parser=python",
            ("gunicorn",),
            access_log=_GUNICORN_LOG,
            everywhere=False,
        ),
        Peer(
            "peregrine",
            _PEREGRINE,
            ("peregrine-server",),
            "peregrine",
            strips="peregrine/_native*.so",
            files="--static-dir /files={directory}",
            tls="--tls-cert {certificate} --tls-key {key}",
            workers="--workers {workers}",
        ),
        Peer(
            "weft",
            _WEFT,
            ("weft-server",),
            "weft",
            access_log=AccessLog("", "--access-log"),
            files="--static-dir /files={directory}",
            tls="--tls-cert {certificate} --tls-key {key}",
            workers="--workers {workers}",
        ),
        Peer("waitress", _WAITRESS, ("waitress",)),
        Peer("nginx", "nginx -c {config}", kind=Kind.REFERENCE, threaded=False),
        Peer("floor", "floor {port} {closing}", kind=Kind.REFERENCE, threaded=False),
        Peer(
            "floor-wsgi",
            f"{_RUNNER} floor-wsgi {_RUN} {{closing}}",
            module="floor_wsgi",
            kind=Kind.REFERENCE,
            threaded=False,
        ),
    )
}

_NGINX_PAIR = """ssl_certificate {certificate};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.3;"""
_NGINX_CONFIG = nginx.template(
    "nginx",
    20000,
    """
    server {{
        listen {host}:{port} {tls} backlog=2048;
        {pair}
        location /hello {{ default_type text/plain; return 200 "Hello, world!\\n"; }}
        location /files/ {{ alias {directory}/; sendfile on; tcp_nopush on; }}
        location = /bytes-1-mib {{ alias {directory}/1-mib.bin; sendfile on; tcp_nopush on; }}
        location = /file {{ alias {directory}/100-mib.bin; sendfile on; tcp_nopush on; }}
    }}
""",
)


@dataclass(frozen=True)
class Setup:
    """What a scenario asks of a server's start."""

    application: str = "applications:app"
    access_log: bool = False
    closing: bool = False
    """Whether clients ask for connections to be closed; the floors do not read what they ask."""
    ours: str = ""
    """More flags for Penstock."""
    files: bool = False
    """Whether the server itself sends files."""
    tls: bool = False
    workers: int = 1
    proxy: Proxy | None = None
    """What the load goes through; it runs on the core of the load."""
    counted: bool = False
    """Whether Penstock runs as it is counted: see counted.py."""


PLAIN = Setup()


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
    """Where the load goes: the server's, or that of the proxy in front of it."""
    folder: Path
    """What it writes is in here."""
    tls: bool = False

    @property
    def pid(self) -> int:
        return self.process.pid

    def url(self, path: str) -> str:
        return f"{'https' if self.tls else 'http'}://{HOST}:{self.port}{path}"

    def wait_until_ready(
        self, seconds: float = READY_SECONDS, poll_seconds: float = POLL_SECONDS
    ) -> None:
        """Return when the server answers. Raises `EnvironmentProblem` where it does not."""
        deadline = time.monotonic() + seconds
        while not self._answers():
            self.check()
            if time.monotonic() > deadline:
                raise environment.EnvironmentProblem(
                    f"{self.candidate} gives no good answer:\n{self._log()}"
                )
            time.sleep(poll_seconds)

    def check(self) -> None:
        """Raise `EnvironmentProblem` where the server has ended."""
        if self.process.poll() is not None:
            raise environment.EnvironmentProblem(f"{self.candidate} has ended:\n{self._log()}")

    def verify(self, path: str, posted: int | None, answered: int) -> None:
        """Raise `EnvironmentProblem` unless one request for path gets as many bytes as it has to.

        What fails is fast: a server is measured only where it does the work.
        """
        status, size = 0, 0
        connection = self._connection(ANSWER_SECONDS)
        try:
            body = None if posted is None else b"x" * posted
            connection.request("GET" if body is None else "POST", path, body)
            response = connection.getresponse()
            status = response.status
            while block := response.read(1 << 20):
                size += len(block)
        except (OSError, http.client.HTTPException) as error:
            raise environment.EnvironmentProblem(f"{path} failed: {error!r}") from None
        finally:
            connection.close()
        if (status, size) != (200, answered):
            raise environment.EnvironmentProblem(
                f"{path} was answered with status {status} and {size} bytes, not {answered}"
            )

    def _answers(self) -> bool:
        connection = self._connection(5.0)
        try:
            connection.request("GET", "/hello")
            response = connection.getresponse()
            response.read()
            return response.status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _connection(self, seconds: float) -> http.client.HTTPConnection:
        if not self.tls:
            return http.client.HTTPConnection(HOST, self.port, timeout=seconds)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return http.client.HTTPSConnection(HOST, self.port, timeout=seconds, context=context)

    def _log(self) -> str:
        return _log_path(self.folder).read_text(errors="replace")[-2000:]


@contextmanager
def running(
    candidate: Candidate,
    setup: Setup = PLAIN,
    source: Path = environment.SNAPSHOT,
    tool: Sequence[str] = (),
    ready_seconds: float = READY_SECONDS,
    poll_seconds: float = POLL_SECONDS,
) -> Iterator[Running]:
    """Run a server, pinned to its core, for as long as the block lasts.

    ``source`` is where Penstock is imported from. ``tool`` is a program, with its arguments, that
    the server runs under; it has {folder} filled in.
    """
    port = free_port()
    folder = SERVERS / f"{candidate.peer}-{port}"
    folder.mkdir(parents=True, exist_ok=True)
    values = _values(candidate, setup, port, folder)
    if candidate.peer == "nginx":
        (folder / "nginx.conf").write_text(_NGINX_CONFIG.format(**values))
    under = [part.format(folder=folder) for part in tool]
    if under:
        under[0] = _path(under[0])
    command = under + _command(candidate, setup, values, source)
    processes = [_start(command, environment.cores()[0], folder, source)]
    server = Running(candidate, processes[0], port, folder, setup.tls)
    try:
        server.wait_until_ready(ready_seconds, poll_seconds)
        if setup.proxy is not None:
            front = free_port()
            command = [_path(setup.proxy.program), *setup.proxy.command(folder, HOST, port, front)]
            processes.append(_start(command, environment.cores()[1], folder, source))
            server = dataclasses.replace(server, port=front)
            server.wait_until_ready()
        yield server
        server.check()
    finally:
        for process in reversed(processes):
            _stop(process)
        shutil.rmtree(folder, ignore_errors=True)


def _start(command: list[str], core: int, folder: Path, source: Path) -> subprocess.Popen[bytes]:
    variables = environment.server_variables()
    variables["PYTHONPATH"] = f"{source}:{environment.BENCHMARKS}"
    variables["PYTHONHASHSEED"] = "0"  # so that counts repeat themselves
    with _log_path(folder).open("ab") as output:
        return subprocess.Popen(
            # taskset replaces itself by the program: the process id stays, and threads inherit the
            # core.
            ["taskset", "-c", str(core), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=environment.VENV,  # where there is no penstock.toml to be read
            env=variables,
            start_new_session=True,
        )


def _values(candidate: Candidate, setup: Setup, port: int, folder: Path) -> dict[str, object]:
    """Return what is filled into commands and configurations."""
    pair = {"certificate": environment.CERTIFICATE, "key": environment.KEY}
    return {
        "host": HOST,
        "port": port,
        "threads": candidate.threads,
        "workers": setup.workers,
        "application": setup.application,
        "closing": "close" if setup.closing else "",
        "tls": "ssl" if setup.tls else "",
        "pair": _NGINX_PAIR.format(**pair) if setup.tls else "",
        "config": folder / "nginx.conf",
        "folder": folder,
        "benchmarks": environment.BENCHMARKS,
        "directory": environment.SERVED_FOLDER,
        "log": folder / "access.log",
        **pair,
    }


def _command(
    candidate: Candidate, setup: Setup, values: dict[str, object], source: Path
) -> list[str]:
    peer = PEERS[candidate.peer]
    logging = ""
    if peer.access_log is not None:
        logging = peer.access_log.on if setup.access_log else peer.access_log.off
    flags = [peer.command.format(**values, logging=logging.format(**values))]
    flags.append(peer.workers.format(**values))
    if peer.kind is Kind.OURS:
        flags.append(setup.ours)
    if setup.files:
        flags.append(peer.files.format(**values))
    if setup.tls:
        flags.append(peer.tls.format(**values))
    program, *rest = " ".join(flags).split()
    if program == "penstock" and setup.counted:
        # The process that is counted has to serve itself, and not a child of it.
        counted = str(environment.BENCHMARKS / "counted.py")
        program, rest = "python", [counted, *rest, "--no-supervisor"]
    elif program == "penstock" and source != environment.SNAPSHOT:
        # The installed command names a module that another checkout may not have.
        program, rest = "python", ["-m", "penstock", *rest]
    return [_path(program), *rest]


def _path(program: str) -> str:
    path = environment.program(program)
    if path is None:
        raise environment.EnvironmentProblem(f"{program} is not installed")
    return str(path)


def free_port() -> int:
    """Return a TCP port that is free now."""
    with socket.create_server((HOST, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _log_path(folder: Path) -> Path:
    return folder / "output"


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    # The server leads a session of its own: this ends what workers it may have left.
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
