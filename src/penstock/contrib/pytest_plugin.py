"""A plug-in of pytest: the fixture ``penstock_server``, a server with the application under test.

docs/testing.md describes it. Importing this module imports nothing of the server.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from penstock.records import dataclass

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

_START_SECONDS = 60.0
_STOP_SECONDS = 30.0
_MOST_LINES = 1000
"""Lines of the server's log that are kept, for the error where it does not start."""
_URL = re.compile(r"https?://(?P<host>\[[^\]]+\]|[^:/\s]+):(?P<port>\d+)")


@dataclass(frozen=True)
class PenstockServer:
    """A server that serves the application under test."""

    url: str
    """Without a slash at the end: ``http://127.0.0.1:41231``."""
    host: str
    port: int
    transport: str
    """``native`` or ``python``."""
    workers: int
    """Worker processes; 0 where the server runs in the process of the tests."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the command line, and of the configuration file."""
    group = parser.getgroup("penstock", "servers with the application under test")
    group.addoption(
        "--penstock-app",
        metavar="MODULE:CALLABLE",
        help="the application of penstock_server, where the fixture penstock_app returns none",
    )
    group.addoption(
        "--penstock-transport",
        choices=("auto", "native", "python", "both"),
        default="auto",
        help="the transport of penstock_server; with both, each test that uses it runs twice",
    )
    group.addoption(
        "--penstock-workers",
        type=int,
        default=0,
        metavar="N",
        help="run penstock_server as a command with N worker processes; 0 runs it in this process",
    )
    parser.addini("penstock_app", "the application of penstock_server, as MODULE:CALLABLE")
    parser.addini(
        "penstock_settings",
        "settings of penstock_server, a line each: threads = 8",
        type="linelist",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Have tests run on each of the transports that were asked for."""
    if "penstock_transport" in metafunc.fixturenames:
        wanted = metafunc.config.getoption("--penstock-transport")
        transports = ["native", "python"] if wanted == "both" else [wanted]
        metafunc.parametrize("penstock_transport", transports, scope="session")


@pytest.fixture(scope="session")
def penstock_app(request: pytest.FixtureRequest) -> WSGIApplication | str:
    """Return the application under test: an object, or ``module:callable``. Override it, or set
    ``penstock_app`` in the configuration."""  # noqa: D205, D209 -- pytest shows the first lines
    spec = request.config.getoption("--penstock-app") or request.config.getini("penstock_app")
    if not spec:
        raise pytest.UsageError(
            "penstock_server needs an application: set penstock_app = module:callable in the "
            "configuration of pytest, or write a fixture penstock_app that returns it"
        )
    return str(spec)


@pytest.fixture(scope="session")
def penstock_settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return the settings of the server by name. Override it, or set ``penstock_settings``."""
    settings = {}
    for line in request.config.getini("penstock_settings"):
        name, _, value = line.partition("=")
        settings[name.strip()] = value.strip()
    return settings


@pytest.fixture(scope="session")
def penstock_server(
    request: pytest.FixtureRequest,
    penstock_app: WSGIApplication | str,
    penstock_settings: dict[str, Any],
    penstock_transport: str,
) -> Iterator[PenstockServer]:
    """Serve ``penstock_app`` on a free port of this machine, for all tests of the session."""
    workers = request.config.getoption("--penstock-workers")
    settings = {"bind": "127.0.0.1:0", **penstock_settings, "transport": penstock_transport}
    if not workers:
        with _in_this_process(penstock_app, settings) as server:
            yield server
        return
    if not isinstance(penstock_app, str):
        raise pytest.UsageError(
            "--penstock-workers needs an application that other processes can load: have "
            "penstock_app return module:callable"
        )
    with _as_command(penstock_app, settings, workers) as server:
        yield server


@contextmanager
def _in_this_process(
    application: WSGIApplication | str, settings: dict[str, Any]
) -> Iterator[PenstockServer]:
    import penstock
    from penstock.app.loading import load_application

    if isinstance(application, str):
        application = load_application(application)
    with penstock.running(application, **settings) as server:
        yield PenstockServer(
            server.url, server.host, server.port, _transport(settings["transport"]), 0
        )


@contextmanager
def _as_command(spec: str, settings: dict[str, Any], workers: int) -> Iterator[PenstockServer]:
    from penstock.config.settings import OPTIONS
    from penstock.config.sources import convert, unknown

    environ = {name: text for name, text in os.environ.items() if name[:9] != "PENSTOCK_"}
    environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    for name, value in {**settings, "workers": workers}.items():
        if name not in OPTIONS:
            raise unknown(f"setting {name!r}", name, OPTIONS, "name")
        option = OPTIONS[name]
        environ[option.variable] = option.kind.show(convert(option, value, name))
    process = subprocess.Popen(
        [sys.executable, "-m", "penstock", spec],
        env=environ,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines: deque[str] = deque(maxlen=_MOST_LINES)
    serving = threading.Event()
    reader = threading.Thread(target=_collect, args=(process, lines, serving), daemon=True)
    reader.start()
    try:
        serving.wait(_START_SECONDS)
        started = [_URL.search(line) for line in list(lines) if " serving " in line]
        match = started[0] if started else None
        if process.poll() is not None or match is None:
            raise RuntimeError("penstock did not start:\n" + "".join(lines))
        url, host, port = match[0], match["host"].strip("[]"), int(match["port"])
        yield PenstockServer(url, host, port, _transport(settings["transport"]), workers)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join()


def _collect(process: subprocess.Popen[str], lines: deque[str], serving: threading.Event) -> None:
    """Read what the server logs until its end."""
    assert process.stderr is not None
    with process.stderr:
        for line in process.stderr:
            lines.append(line)
            if " serving " in line:
                serving.set()
    serving.set()


def _transport(wanted: str) -> str:
    from penstock.config.checks import chosen_transport
    from penstock.config.sources import settings_from_kwargs

    return chosen_transport(settings_from_kwargs(transport=wanted))
