"""Containers that allow next to nothing: no writable file system, no home, process number 1."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.invariant import eventually, faulty_server, probe
from support.wire import Client

IN_A_NAMESPACE = ("unshare", "--mount", "--pid", "--fork", "--kill-child")


def require_namespaces() -> None:
    if not shutil.which("unshare"):
        pytest.skip("no unshare here")
    if subprocess.run([*IN_A_NAMESPACE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("namespaces are not permitted here")


def test_a_read_only_file_system_costs_large_bodies_only_and_is_told_at_the_start() -> None:
    require_namespaces()
    # All that Python would try for temporary files, the current directory among it.
    read_only = "for place in /tmp /var/tmp /usr/tmp .; do"
    read_only += " if [ -d $place ]; then mount --bind $place $place"
    read_only += ' && mount -o remount,bind,ro $place; fi; done; exec "$0" "$@"'
    python = ("unshare", "--mount", "sh", "-c", read_only, sys.executable)
    environ = {"HOME": "/nowhere", "PYTHONDONTWRITEBYTECODE": "1"}
    # A body that comes fast would need no file.
    with faulty_server("--no-stream-requests", python=python, environ=environ) as server:
        warnings = [line for line in server.lines if "[WARNING]" in line]
        assert len([line for line in warnings if "temp_dir" in line]) == 1
        with Client(server.address) as client:
            assert client.request("POST", "/length", body=bytes(1000)).body == b"1000"
            assert client.request("POST", "/length", body=bytes(2_000_000)).status == 507
        assert probe(server) == b"hello"
        assert server.stop() == 0


def test_fault_39_process_number_1_of_a_container_honours_sigterm() -> None:
    require_namespaces()
    with faulty_server(python=(*IN_A_NAMESPACE, sys.executable)) as server:
        assert probe(server) == b"hello"
        pid = server.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        assert len(children) == 1
        assert "[1]" in server.start_line
        os.kill(int(children[0]), signal.SIGTERM)
        assert server.wait() == 0


def test_users_25_serving_leaves_no_file_behind(tmp_path: Path) -> None:
    folder = tmp_path / "application"
    folder.mkdir()
    application = "def app(environ, start_response):\n"
    application += "    start_response('200 OK', [])\n    return [environ['wsgi.input'].read()]\n"
    (folder / "site_of_one.py").write_text(application)
    environ = {"TMPDIR": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(folder)}
    with faulty_server(cwd=folder, environ=environ, application="site_of_one:app") as server:
        with Client(server.address) as client:
            assert len(client.request("POST", "/", body=bytes(500_000)).body) == 500_000
        assert eventually(lambda: [path.name for path in folder.iterdir()] == ["site_of_one.py"])
        server.stop()
    assert [path.name for path in folder.iterdir()] == ["site_of_one.py"]
