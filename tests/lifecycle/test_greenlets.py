"""Applications that patch the standard library with gevent or eventlet.

What replaces threads ends the start with what to write instead; that form is served, and its
deadlines hold, with both libraries as they are.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.server_process import START_WITHIN, ServerProcess, checkout_environ
from support.wire import Client

APPLICATION = """
{patch}
import threading, time

def app(environ, start_response):
    if environ["PATH_INFO"] == "/sleep":
        time.sleep(0.01)  # the library's
    if environ["PATH_INFO"] == "/stuck":
        time.sleep(60)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [threading.current_thread().name.encode()]
"""


@dataclass(frozen=True)
class Library:
    """A library of greenlets."""

    name: str
    imports: str
    all: str
    instead: str
    """What patches no threads, as the line says that ends the start."""


LIBRARIES = {
    "gevent": Library(
        "gevent",
        "import gevent.monkey",
        "gevent.monkey.patch_all()",
        "gevent.monkey.patch_all(thread=False, select=False)",
    ),
    "eventlet": Library(
        "eventlet",
        "import eventlet",
        "eventlet.monkey_patch()",
        "eventlet.monkey_patch(thread=False, select=False)",
    ),
}


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> Library:
    # Not imported here: eventlet warns of itself, and the tests' own process stays as it is.
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return LIBRARIES[request.param]


def write(folder: Path, patch: str) -> None:
    (folder / "site_of_greenlets.py").write_text(APPLICATION.format(patch=patch))


def failed_start(folder: Path, *flags: str) -> tuple[int, str]:
    """Return the exit status, and the last line of standard error."""
    command = [sys.executable, "-m", "penstock", "site_of_greenlets:app", *flags]
    ran = subprocess.run(
        [*command, "--bind", "127.0.0.1:0"],
        cwd=folder,
        env=checkout_environ(),
        capture_output=True,
        text=True,
        timeout=START_WITHIN,
        check=False,
    )
    return ran.returncode, ran.stderr.splitlines()[-1]


@pytest.mark.parametrize("flag", ["--threads=4", "--preload", "--no-supervisor"])
def test_patched_threads_end_the_start_and_the_line_says_what_to_write(
    tmp_path: Path, library: Library, flag: str
) -> None:
    write(tmp_path, f"{library.imports}; {library.all}")
    status, line = failed_start(tmp_path, flag)
    assert status == 4
    assert library.instead in line


def test_a_gunicorn_file_that_patches_threads_is_refused_by_its_name(
    tmp_path: Path, library: Library
) -> None:
    write(tmp_path, "")
    (tmp_path / "gunicorn.conf.py").write_text(
        f"{library.imports}\n{library.all}\nworker_class = {library.name!r}\n"
    )
    status, line = failed_start(tmp_path)
    assert status == 2
    assert f"gunicorn.conf.py: {library.all} has replaced" in line
    assert library.instead in line


@pytest.mark.parametrize("threads", ["1", "4"])
def test_other_patches_are_served_and_deadlines_hold(
    tmp_path: Path, library: Library, transport: str, threads: str
) -> None:
    write(tmp_path, f"{library.imports}; {library.instead}")
    arguments = ["--transport", transport, "--threads", threads, "--timeout", "1"]
    with ServerProcess("site_of_greenlets:app", *arguments, cwd=tmp_path) as server:
        for target, status in (("/", 200), ("/sleep", 200), ("/stuck", 504)):
            with Client((server.host, server.port)) as client:
                response = client.request("GET", target)
                assert response.status == status, target
                thread = b"MainThread" if threads == "1" else b"penstock-"
                assert status == 504 or response.body.startswith(thread)
