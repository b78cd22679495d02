"""The fixture ``penstock_server``, in a project of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.server_process import START_WITHIN, checkout_environ

SITE = """
import os

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{os.getpid()} {environ['wsgi.multiprocess']}".encode()]
"""

TESTS = """
import os
from urllib.request import urlopen

def test_answers(penstock_server):
    assert penstock_server.url == f"http://{penstock_server.host}:{penstock_server.port}"
    with urlopen(penstock_server.url + "/x") as response:
        pid, many = response.read().decode().split()
    assert (int(pid) == os.getpid()) is (penstock_server.workers == 0)
    print("transport", penstock_server.transport, "workers", penstock_server.workers, many)
"""


def project(directory: Path, configuration: str = "penstock_app = shop_site:app\n") -> None:
    (directory / "shop_site.py").write_text(SITE)
    (directory / "test_site.py").write_text(TESTS)
    (directory / "pytest.ini").write_text(f"[pytest]\npythonpath = .\n{configuration}")


def run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {name: it for name, it in checkout_environ().items() if name[:7] != "PYTEST_"}
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-rP",
            "-p",
            "no:cacheprovider",
            "--basetemp=t",
            *arguments,
        ],
        cwd=directory,
        env=environ | {"PATH": os.environ["PATH"]},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=2 * START_WITHIN,
        check=False,
    )


def test_the_server_runs_in_the_process_of_the_tests(tmp_path: Path) -> None:
    project(tmp_path)
    done = run(tmp_path, "--penstock-transport", "python")
    assert "transport python workers 0" in done.stdout, done.stdout + done.stderr


def test_with_workers_it_is_a_command(tmp_path: Path) -> None:
    project(tmp_path)
    done = run(tmp_path, "--penstock-workers", "2", "--penstock-transport", "python")
    assert "transport python workers 2 True" in done.stdout, done.stdout + done.stderr


def test_with_both_transports_each_test_runs_twice(tmp_path: Path) -> None:
    pytest.importorskip("penstock._native", reason="the native transport is not built")
    project(tmp_path)
    done = run(tmp_path, "--penstock-transport", "both")
    assert "2 passed" in done.stdout, done.stdout + done.stderr
    assert "transport native" in done.stdout
    assert "transport python" in done.stdout


def test_a_fixture_of_the_project_gives_the_application(tmp_path: Path) -> None:
    project(tmp_path, "penstock_settings =\n  threads = 2\n")
    (tmp_path / "conftest.py").write_text(
        "import pytest, shop_site\n"
        "@pytest.fixture(scope='session')\n"
        "def penstock_app():\n    return shop_site.app\n"
    )
    assert "1 passed" in run(tmp_path).stdout
    refused = run(tmp_path, "--penstock-workers", "2")
    assert "an application that other processes can load" in refused.stdout


@pytest.mark.costly
def test_without_an_application_the_error_says_what_to_set(tmp_path: Path) -> None:
    project(tmp_path, "")
    assert "set penstock_app = module:callable" in run(tmp_path).stdout


@pytest.mark.costly
def test_a_server_that_does_not_start_shows_its_log(tmp_path: Path) -> None:
    project(tmp_path)
    (tmp_path / "shop_site.py").write_text("raise SystemExit('not today')\n")
    done = run(tmp_path, "--penstock-workers", "1")
    assert "penstock did not start" in done.stdout
    assert "not today" in done.stdout
