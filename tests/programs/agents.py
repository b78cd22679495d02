"""Agents: each worker exports, from the start, after a reload, and in place of one that was killed.

An agent is looked at with and without ``--preload``. A collector on this machine takes what it
sends.
"""

from __future__ import annotations

import http.client
import itertools
import os
import signal
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from programs.collector import Collector
from programs.program import Program, Run
from support import certificates
from support.server_process import ServerProcess

BIN = "AGENTS"
"""The variable that names the folder of the agents' commands, which is another environment."""

WORKERS = 2
WITHIN = 40.0
"""Seconds until workers are replaced, or until an agent has exported."""

PAUSE = 0.25
"""Seconds between two looks at the workers: agents drop what comes faster than they send it."""

EXPECTED = "PEN-7020|PEN-7060 preload: the (thread|socket)"
"""The log says that a worker was killed, and what a preloaded agent has made before the fork."""

MOST_CONNECTIONS = 16
"""Connections at a time by which all workers are found."""

_marks = (f"mark-{number}-end" for number in itertools.count())


@dataclass(frozen=True)
class Agent:
    """How an agent is started, and where it exports to."""

    name: str
    environ: Callable[[Run, Collector], Mapping[str, str]]
    wrapper: tuple[str, ...] = ()
    """The command that starts the program, where there is one."""
    site: str = "observed_flask"
    tls: bool = False
    preload: bool = True
    """It works with ``--preload``."""

    def python(self) -> Sequence[str]:
        """Return what runs the server."""
        folder = Path(os.environ[BIN])
        wrapper = [str(folder / self.wrapper[0]), *self.wrapper[1:]] if self.wrapper else []
        return [*wrapper, str(folder / "python")]

    def check(self, run: Run) -> None:
        """Check it in both ways of loading the application."""
        for flags in [[], ["--preload"]] if self.preload else [[]]:
            with collector(self.tls) as taken:
                environ = {"AGENT": self.name, "APPDATA": ""} | dict(self.environ(run, taken))
                flags = ["--workers", str(WORKERS), *flags]
                with run.serve(
                    self.site, *flags, environ=environ, python=self.python(), allowed=EXPECTED
                ) as server:
                    check_exports(server, taken)


@contextmanager
def collector(tls: bool) -> Iterator[Collector]:
    context = None
    if tls:
        files = certificates.files()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files["certfile"], files["keyfile"])
    with Collector(context).listening() as taken:
        yield taken


def check_exports(server: ServerProcess, taken: Collector) -> None:
    """Look for the requests of each worker in what was exported, through its life."""
    first = exporting(server, taken, set())
    server.signal(signal.SIGHUP)
    second = exporting(server, taken, first)
    os.kill(next(iter(second)), signal.SIGKILL)
    exporting(server, taken, first, least_new=second)
    # What a worker has seen last is exported when it ends.
    last = next(_marks)
    ask(server, last)
    server.lines_so_far()
    server.signal(signal.SIGHUP)
    # A stop that comes with it would be first, and refuse the reload.
    server.wait_for_line("reloading settings and code")
    assert taken.has([last], WITHIN), "the last request before a reload was not exported"


def exporting(
    server: ServerProcess, taken: Collector, without: set[int], least_new: set[int] | None = None
) -> set[int]:
    """Return the workers, once each has exported: all but some, and one not among others.

    What an agent sees while it starts, it need not export.
    """
    marks: dict[int, list[str]] = {}
    end = time.monotonic() + WITHIN
    while True:
        found = workers(server)
        for pid, seen in found.items():
            marks.setdefault(pid, []).extend(seen)
        is_new = least_new is None or bool(set(found) - least_new)
        are_those = len(found) == WORKERS and not set(found) & without and is_new
        if are_those and all(taken.has(marks[pid]) for pid in found):
            return set(found)
        assert time.monotonic() < end, (found, without, least_new, marks)
        threading.Event().wait(PAUSE)


def workers(server: ServerProcess) -> dict[int, list[str]]:
    """Return the workers that answer, each with the marks of the requests that it has got.

    The connections stay open meanwhile, so that they are shared among the workers.
    """
    found: dict[int, list[str]] = {}
    with ExitStack() as stack:
        for _ in range(MOST_CONNECTIONS):
            connection = http.client.HTTPConnection(server.host, server.port, timeout=20)
            stack.callback(connection.close)
            mark = next(_marks)
            try:
                connection.request("GET", f"/marks/{mark}")
                pid = int(connection.getresponse().read())
            except (OSError, http.client.HTTPException):
                continue  # its worker was killed
            found.setdefault(pid, []).append(mark)
            if len(found) == WORKERS:
                break
    return found


def ask(server: ServerProcess, mark: str) -> int:
    """Send one request; return the process that has answered."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=20)
    try:
        connection.request("GET", f"/marks/{mark}")
        return int(connection.getresponse().read())
    finally:
        connection.close()


def opentelemetry(run: Run, taken: Collector) -> Mapping[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{taken.port}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }


def sentry(run: Run, taken: Collector) -> Mapping[str, str]:
    return {"SENTRY_DSN": f"http://key@127.0.0.1:{taken.port}/1"}


NEW_RELIC_FILE = """\
[newrelic]
utilization.detect_aws = false
utilization.detect_azure = false
utilization.detect_azurefunction = false
utilization.detect_azureappservice = false
utilization.detect_gcp = false
utilization.detect_pcf = false
utilization.detect_docker = false
utilization.detect_kubernetes = false
"""
"""What keeps the agent from asking a cloud's machine about itself."""


def new_relic(run: Run, taken: Collector) -> Mapping[str, str]:
    file = run.folder / "newrelic.ini"
    file.write_text(NEW_RELIC_FILE)
    return {
        "NEW_RELIC_CONFIG_FILE": str(file),
        "NEW_RELIC_LICENSE_KEY": "0" * 40,
        "NEW_RELIC_APP_NAME": "check",
        "NEW_RELIC_HOST": "localhost",
        "NEW_RELIC_PORT": str(taken.port),
        "NEW_RELIC_CA_BUNDLE_PATH": str(certificates.authority().path),
    }


def datadog(run: Run, taken: Collector) -> Mapping[str, str]:
    return {
        "DD_TRACE_AGENT_URL": f"http://127.0.0.1:{taken.port}",
        "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
        "DD_REMOTE_CONFIGURATION_ENABLED": "false",
    }


def elastic(run: Run, taken: Collector) -> Mapping[str, str]:
    return {
        "ELASTIC_APM_SERVER_URL": f"http://127.0.0.1:{taken.port}",
        "ELASTIC_APM_SERVICE_NAME": "check",
        "ELASTIC_APM_CENTRAL_CONFIG": "false",
        "ELASTIC_APM_CLOUD_PROVIDER": "none",
        "ELASTIC_APM_API_REQUEST_TIME": "1s",
    }


DOES = (
    "each worker exports from the start, after a reload, and in place of one that was killed; the "
    "last request before a reload is exported"
)


def program(name: str, title: str, agent: Agent, *packages: str, note: str = "") -> Program:
    does = f"{DOES}; with and without `--preload`" if agent.preload else DOES
    return Program(name, title, agent.check, does, packages=packages, note=note, agents=True)


PROGRAMS = [
    program(
        "opentelemetry",
        "OpenTelemetry with Flask",
        Agent("opentelemetry", opentelemetry, ("opentelemetry-instrument",)),
        "opentelemetry-distro",
        "opentelemetry-sdk",
    ),
    program("sentry", "Sentry with Flask", Agent("sentry", sentry), "sentry-sdk"),
    program(
        "newrelic",
        "New Relic with Flask",
        Agent("newrelic", new_relic, ("newrelic-admin", "run-program"), tls=True),
        "newrelic",
    ),
    program(
        "ddtrace",
        "Datadog with Flask",
        Agent("ddtrace", datadog, ("ddtrace-run",), preload=False),
        "ddtrace",
        note="with `--preload`, a worker now and then hangs in its first request, in native code "
        "of ddtrace that keeps the interpreter lock, and is replaced after `--timeout` and "
        "`--timeout-grace`; so it is checked without `--preload` alone. See "
        "[agents.md](agents.md#datadog).",
    ),
    program("elastic-flask", "Elastic APM with Flask", Agent("elastic", elastic), "elastic-apm"),
    program(
        "elastic-django",
        "Elastic APM with Django",
        Agent("elastic", elastic, site="observed_django"),
        "elastic-apm",
    ),
]
