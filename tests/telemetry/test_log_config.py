"""Loggers of gunicorn's, --log-config, --capture-output, and the error log in JSON."""

from __future__ import annotations

import json
import logging
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from penstock.telemetry.log_config import GUNICORNS_DEFAULTS, prepare_loggers
from support.invariant import eventually
from support.server_process import START_WITHIN, ServerProcess, run_penstock
from support.wire import Client

APPLICATION = """
import logging, sys
own = logging.getLogger("shop")
of_gunicorn = logging.getLogger("gunicorn.error")  # as Flask projects copy it from each other
own.handlers = of_gunicorn.handlers
own.setLevel(of_gunicorn.level)
own.propagate = False

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/log":
        own.debug("not shown")
        own.info("from the shop")
        logging.getLogger("gunicorn.access").info("a line of its own")
    elif path == "/errors":
        environ["wsgi.errors"].write("Traceback:\\n  one\\n  two %s\\n")
    elif path == "/print":
        print("printed", flush=True)
        sys.stderr.write("and complained\\n")
    elif path == "/raise":
        raise ValueError("boom")
    start_response("204 No Content", [])
    return []
"""

CONFIG: dict[str, Any] = {
    "version": 1,
    "formatters": {"plain": {"format": "%(name)s|%(levelname)s|%(message)s"}},
    "handlers": {
        "errors": {"class": "logging.FileHandler", "filename": "errors", "formatter": "plain"},
        "access": {"class": "logging.FileHandler", "filename": "access", "formatter": "plain"},
    },
    "loggers": {
        "gunicorn.error": {"level": "INFO", "handlers": ["errors"], "propagate": False},
        "gunicorn.access": {"level": "INFO", "handlers": ["access"], "propagate": False},
    },
}

INI = """
[loggers]
keys = root, gunicorn.error, gunicorn.access
[handlers]
keys = errors, access
[formatters]
keys = plain
[logger_root]
handlers =
[logger_gunicorn.error]
level = INFO
handlers = errors
propagate = 0
qualname = gunicorn.error
[logger_gunicorn.access]
level = INFO
handlers = access
propagate = 0
qualname = gunicorn.access
[handler_errors]
class = FileHandler
args = ("errors",)
formatter = plain
[handler_access]
class = FileHandler
args = ("access",)
formatter = plain
[formatter_plain]
format = %(name)s|%(levelname)s|%(message)s
"""

TOML = """
version = 1
formatters.plain.format = "%(name)s|%(levelname)s|%(message)s"
handlers.errors = {class = "logging.FileHandler", filename = "errors", formatter = "plain"}
handlers.access = {class = "logging.FileHandler", filename = "access", formatter = "plain"}
loggers."gunicorn.error" = {level = "INFO", handlers = ["errors"], propagate = false}
loggers."gunicorn.access" = {level = "INFO", handlers = ["access"], propagate = false}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "served.py").write_text(APPLICATION)
    return tmp_path


def ask(server: ServerProcess, *paths: str) -> None:
    for path in paths:
        with Client(server.address) as client:
            client.request("GET", path, {"Connection": "close"})


@contextmanager
def serving(server: ServerProcess, path: Path) -> Iterator[str]:
    """Wait until a server takes clients at a unix socket: its start line may be in a file."""

    def connects() -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(path)) == 0

    try:
        assert eventually(connects, START_WITHIN), server.lines_so_far()
        yield str(path)
    finally:
        server.kill()


def stopped(server: ServerProcess) -> list[str]:
    """Stop the server, and return the lines of its standard error."""
    assert server.stop() == 0
    return server.lines


@pytest.mark.parametrize("arguments", [[], ["--no-supervisor"], ["--preload"]])
def test_the_handlers_and_the_level_of_gunicorn_error_are_there_when_the_application_loads(
    folder: Path, transport: str, arguments: list[str]
) -> None:
    options = ("--transport", transport, "--access-logfile", "-")
    with ServerProcess("served:app", *options, *arguments, cwd=folder) as server:
        ask(server, "/log")
        lines = stopped(server)
    [line] = [line for line in lines if "shop" in line and "serving" not in line]
    assert re.search(r"\[INFO\] from the shop$", line)
    assert not [line for line in lines if "not shown" in line]
    assert "a line of its own" in server.output


def test_the_level_of_gunicorn_error_is_log_level(folder: Path) -> None:
    with ServerProcess("served:app", "--log-level", "debug", cwd=folder) as server:
        ask(server, "/log")
        assert [line for line in stopped(server) if line.endswith("[DEBUG] not shown")]


@pytest.fixture
def loggers() -> Iterator[logging.Logger]:
    """Gunicorn's logger of errors, which is as it was afterwards."""
    both = [logging.getLogger(name) for name in ("gunicorn.error", "gunicorn.access")]
    before = [(each.handlers, each.level, each.propagate) for each in both]
    for each in both:
        each.handlers = []
    yield both[0]
    for each, (handlers, level, propagate) in zip(both, before, strict=True):
        each.handlers, each.propagate = handlers, propagate
        each.setLevel(level)


def test_a_program_that_has_set_up_gunicorns_loggers_keeps_them(loggers: logging.Logger) -> None:
    own = logging.NullHandler()
    loggers.handlers = [own]
    loggers.setLevel(logging.ERROR)
    prepare_loggers(logging.DEBUG)
    assert (loggers.handlers, loggers.level) == ([own], logging.ERROR)


def test_a_formatter_that_the_application_sets_on_the_handler_is_used(folder: Path) -> None:
    with (folder / "served.py").open("a") as file:
        file.write("own.handlers[0].setFormatter(logging.Formatter('%(name)s: %(message)s'))\n")
    with ServerProcess("served:app", cwd=folder) as server:
        ask(server, "/log")
        assert [line for line in stopped(server) if line.endswith("[INFO] shop: from the shop")]


@pytest.mark.parametrize("level", ["info", "critical"])
def test_wsgi_errors_is_written_as_the_application_writes_it_at_any_level(
    folder: Path, transport: str, level: str
) -> None:
    arguments = ("--transport", transport, "--log-level", level, "--error-logfile", "errors")
    server = ServerProcess("served:app", *arguments, "-b", "unix:s", cwd=folder)
    with serving(server, folder / "s") as path:
        with Client(path) as client:
            client.request("GET", "/errors", {"Connection": "close"})
        stopped(server)
    assert "Traceback:\n  one\n  two %s\n" in (folder / "errors").read_text()


@pytest.mark.parametrize(
    ("name", "text"),
    [("log.json", json.dumps(CONFIG)), ("log.toml", TOML), ("log.ini", INI),
     ("gunicorn.conf.py", f"logconfig_dict = {CONFIG!r}")],
)  # fmt: skip
def test_a_configuration_of_logging_is_applied_in_supervisor_and_workers(
    folder: Path, transport: str, name: str, text: str
) -> None:
    (folder / name).write_text(text)
    arguments = [] if name == "gunicorn.conf.py" else ["--log-config", name]
    arguments += ["--transport", transport, "-b", "unix:s", "-w", "1"]
    server = ServerProcess("served:app", *arguments, cwd=folder)
    with serving(server, folder / "s") as path:
        # The supervisor says so once the workers serve.
        started = "gunicorn.error|INFO|penstock "
        assert eventually(lambda: started in (folder / "errors").read_text())
        with Client(path) as client:
            client.request("GET", "/log", {"Connection": "close"})
        assert stopped(server) == []
    errors = (folder / "errors").read_text().splitlines()
    assert "shop|INFO|from the shop" in errors
    assert not [line for line in errors if line.startswith("penstock|")]
    lines = (folder / "access").read_text().splitlines()
    assert "gunicorn.access|INFO|a line of its own" in lines
    assert [
        line for line in lines if re.match(r'gunicorn.access\|INFO\|.*"GET /log HTTP/1.1"', line)
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {
            "handlers": {"errors": CONFIG["handlers"]["errors"] | {"filters": ["gunicorns"]}},
            "filters": {"gunicorns": {"name": "gunicorn"}},
            "loggers": {"gunicorn.error": {"level": "WARNING", "handlers": ["errors"]}},
        },
        {
            "handlers": {"errors": CONFIG["handlers"]["errors"]},
            "root": {"level": "INFO", "handlers": ["errors"]},
            "loggers": {
                "gunicorn.error": {"level": "WARNING", "handlers": [], "propagate": True},
                "gunicorn.access": {"level": "INFO", "propagate": True},
            },
        },
    ],
    ids=["with a filter", "by propagation"],
)
def test_filters_level_and_propagation_of_gunicorn_error_hold_for_the_servers_messages(
    folder: Path, transport: str, changes: dict[str, Any]
) -> None:
    (folder / "log.json").write_text(json.dumps(CONFIG | changes))
    arguments = ["--log-config", "log.json", "--transport", transport, "-b", "unix:s"]
    server = ServerProcess("served:app", *arguments, cwd=folder)
    with serving(server, folder / "s") as path:
        with Client(path) as client:
            client.request("GET", "/raise", {"Connection": "close"})
        assert stopped(server) == []
    errors = (folder / "errors").read_text().splitlines()
    assert [line for line in errors if line.startswith("gunicorn.error|ERROR|PEN-3010")]
    assert not [line for line in errors if line.startswith(("penstock|", "gunicorn.error|INFO|"))]
    access = [line for line in errors if line.startswith("gunicorn.access|INFO|")]
    assert len(access) == ("gunicorn.access" in changes["loggers"])


FILTER = """
import logging

class Quiet(logging.Filter):
    def filter(self, record):
        return "GET /log" not in record.getMessage()

def post_fork(server, worker):
    server.log.access_log.addFilter(Quiet())
"""


def test_filters_of_gunicorn_access_leave_requests_out_of_the_access_log(
    folder: Path, transport: str
) -> None:
    (folder / "gunicorn.conf.py").write_text(FILTER)
    arguments = ["--access-logfile", "access", "--transport", transport]
    with ServerProcess("served:app", *arguments, cwd=folder) as server:
        ask(server, "/log", "/other")
        stopped(server)
    [line] = [line for line in (folder / "access").read_text().splitlines() if "GET" in line]
    assert '"GET /other HTTP/1.1" 204' in line


def test_a_filter_of_gunicorn_access_that_fails_is_reported_once_and_stops_no_request(
    folder: Path, transport: str
) -> None:
    (folder / "gunicorn.conf.py").write_text(
        FILTER.replace("record.getMessage()", 'record.args["r"]')
    )
    arguments = ["--access-logfile", "access", "--transport", transport]
    with ServerProcess("served:app", *arguments, cwd=folder) as server:
        ask(server, "/log", "/other")
        lines = stopped(server)
    [line] = [line for line in lines if "PEN-5010" in line]
    assert "a filter of gunicorn.access raised TypeError" in line


def test_a_configuration_that_logging_does_not_take_ends_the_start_with_its_reason(
    folder: Path,
) -> None:
    for name, text, said in (
        (
            "a.json",
            '{"version": 1, "handlers": {"x": {"class": "no.Such"}}}',
            "No module named 'no'",
        ),
        ("a.toml", "version = ", "TOMLDecodeError"),
        ("missing.ini", "", "FileNotFoundError"),
    ):
        if text:
            (folder / name).write_text(text)
        done = run_penstock("served:app", "-b", "127.0.0.1:0", "--log-config", name, cwd=folder)
        assert done.returncode == 2
        assert (
            "cannot be applied as a configuration of logging (setting: log_config)" in done.stderr
        )
        assert said in done.stderr


def test_gunicorns_defaults_are_a_configuration_of_logging() -> None:
    assert set(GUNICORNS_DEFAULTS["loggers"]) == {"gunicorn.error", "gunicorn.access"}
    assert {"root", "handlers", "formatters", "version"} <= set(GUNICORNS_DEFAULTS)


@pytest.mark.parametrize("arguments", [[], ["--preload"], ["--no-supervisor"]])
def test_with_capture_output_what_is_printed_is_in_the_error_log_also_after_a_rotation(
    folder: Path, arguments: list[str]
) -> None:
    more = (
        "--error-logfile",
        "errors",
        "--capture-output",
        "--access-logfile",
        "-",
        "-b",
        "unix:s",
    )
    server = ServerProcess("served:app", *more, *arguments, cwd=folder)
    with serving(server, folder / "s") as path:
        with Client(path) as client:
            client.request("GET", "/print", {"Connection": "close"})
        (folder / "errors").rename(folder / "rotated")
        server.signal(signal.SIGUSR1)

        def is_there() -> bool:
            with Client(path) as client:
                client.request("GET", "/print", {"Connection": "close"})
            written = (folder / "errors").read_text() if (folder / "errors").exists() else ""
            return "printed\nand complained\n" in written

        assert eventually(is_there)
        assert stopped(server) == []
    assert "printed\nand complained\n" in (folder / "rotated").read_text()
    assert [line for line in server.output if "GET /print" in line]
    assert "printed" not in server.output


def test_the_error_log_in_json_has_one_object_for_each_record(folder: Path, transport: str) -> None:
    arguments = ("--error-logformat", "json", "--transport", transport, "-b", "unix:s")
    server = ServerProcess("served:app", *arguments, cwd=folder)
    with serving(server, folder / "s") as path:
        for target in ("/raise", "/errors"):
            with Client(path) as client:
                client.request("GET", target, {"Connection": "close"})
        lines = stopped(server)
    records = [json.loads(line) for line in lines]
    assert all({"time", "process.pid", "message", "logger"} <= set(record) for record in records)
    [failed] = [record for record in records if record.get("level") == "ERROR"]
    assert failed["message_id"] == "PEN-3010"
    assert failed["request_id"] in failed["message"]
    assert failed["exception"].startswith("Traceback (most recent call last):\n")
    assert failed["exception"].endswith("ValueError: boom")
    [errors] = [record for record in records if record["logger"] == "wsgi.errors"]
    assert errors["message"] == "Traceback:\n  one\n  two %s\n"
    assert "level" not in errors
