"""A worker with the native transport has none of the transport in Python in its memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support.server_process import START_WITHIN

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
        *("acme", "cryptography", "datetime", "hashlib", "ssl"),
        *("base64", "concurrent.futures", "http", "random", "shutil", "tempfile"),
        *("penstock.app.file_watcher", "penstock.edge.acme", "penstock.edge.compression"),
        *("penstock.edge.certificates", "penstock.edge.static_files", "penstock.edge.tls"),
        *("penstock.supervisor.acme_process",),
        *("penstock.telemetry.application_metrics", "penstock.telemetry.spans"),
        *("opentelemetry", "prometheus_client"),
    }
)
"""What a server with default settings works without; each takes 0.05 to 0.6 MB."""


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
