"""A worker with the native transport has none of the transport in Python in its memory."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from support.server_process import START_WITHIN, ServerProcess

PROGRAM = """
import socket, sys
import penstock

def app(environ, start_response):
    size = len(environ["wsgi.input"].read())
    start_response("200 OK", [("Content-Type", "text/plain")])
    known = [name for name in sys.modules if name.startswith("penstock.transport.python")]
    return [f"{size} {sorted(known)}".encode()]

with penstock.running(app, transport=sys.argv[1], body_memory=1000) as server:
    with socket.create_connection((server.host, server.port), timeout=30) as client:
        client.sendall(
            b"POST / HTTP/1.0\\r\\nContent-Length: 5000\\r\\n\\r\\n" + bytes(5000)
        )
        answer = b""
        while block := client.recv(65536):
            answer += block
print(answer.rpartition(b"\\r\\n")[2].decode())
"""


def modules_of_a_worker(transport: str) -> str:
    """Return the size of a spooled body, and the modules of the Python transport in memory."""
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, transport],
        capture_output=True,
        text=True,
        timeout=START_WITHIN,
        check=True,
    )
    return ran.stdout.strip()


def test_native_workers_import_nothing_of_the_python_transport() -> None:
    pytest.importorskip("penstock._native", reason="the native transport is not built")
    assert modules_of_a_worker("native") == "5000 []"


def test_the_same_program_finds_the_python_transport_where_it_serves() -> None:
    assert "penstock.transport.python.connection" in modules_of_a_worker("python")


UNUSED_BY_DEFAULT = frozenset(
    {
        *("acme", "brotli", "cryptography", "opentelemetry", "prometheus_client", "watchfiles"),
        *("argparse", "asyncio", "base64", "concurrent.futures", "datetime", "decimal", "difflib"),
        *("email", "fnmatch", "gettext", "glob", "hashlib", "html", "http", "importlib.metadata"),
        *("ipaddress", "locale", "logging.config", "multiprocessing", "pathlib", "pickle"),
        *("random", "shlex", "shutil", "socketserver", "ssl", "subprocess", "tempfile", "tomllib"),
        *("urllib", "uuid", "zlib"),
        *("penstock.app.file_watcher", "penstock.app.hints", "penstock.cli.help_page"),
        *("penstock.compat.gunicorn.config", "penstock.compat.uwsgi", "penstock.config.env_file"),
        *("penstock.config.token_file", "penstock.control.dashboard", "penstock.control.rows"),
        *("penstock.edge.acme", "penstock.edge.certificate_files", "penstock.edge.certificates"),
        *("penstock.edge.compression", "penstock.edge.response_filters"),
        *("penstock.edge.static_files", "penstock.edge.tls", "penstock.supervisor.acme"),
        *("penstock.supervisor.acme_process", "penstock.supervisor.preloader"),
        *("penstock.telemetry.access_log_rules", "penstock.telemetry.application_metrics"),
        *("penstock.telemetry.journal", "penstock.telemetry.spans", "penstock.telemetry.syslog"),
        *("penstock.worker.garbage", "penstock.worker.profiler"),
    }
)
"""What a server with default settings works without; each takes 0.01 to 0.6 MB."""

APPLICATION = """
import sys

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return ["\\n".join(sys.modules).encode()]
"""


@pytest.mark.parametrize("transport", ["native", "python"])
def test_a_worker_has_nothing_in_memory_that_default_settings_do_not_need(
    transport: str, tmp_path: Path
) -> None:
    if transport == "native":
        pytest.importorskip("penstock._native", reason="the native transport is not built")
    (tmp_path / "modules.py").write_text(APPLICATION)
    # Without the packages of this environment, some of which every Python here imports.
    python = (sys.executable, "-S")
    with ServerProcess(
        "modules:app", "--transport", transport, cwd=tmp_path, python=python
    ) as server:
        with socket.create_connection(server.address, timeout=START_WITHIN) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answer = b""
            while block := client.recv(65536):
                answer += block
    modules = answer.partition(b"\r\n\r\n")[2].decode().split("\n")
    assert "penstock.worker.child" in modules
    assert sorted(UNUSED_BY_DEFAULT.intersection(modules)) == []


def test_the_supervisor_loads_nothing_that_default_settings_do_not_need() -> None:
    """Workers are forked from it: each page that it takes is a page of theirs."""
    program = (
        "import sys, penstock.cli.command, penstock.cli.settings, penstock.cli.arguments\n"
        "import penstock.supervisor.supervisor, penstock.worker.child\n"
        f"print(sorted({set(UNUSED_BY_DEFAULT)} & set(sys.modules)))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=START_WITHIN,
        check=True,
    )
    assert ran.stdout == "[]\n"
