"""Django's own tests, as far as they are about servers and uploads.

They are a part of Django's source distribution only, which `scripts/run-programs` unpacks.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from programs.program import Program, Run
from support.server_process import ROOT

SUITES = ("servers", "file_uploads", "staticfiles_tests")
SOURCES = "DJANGO_SOURCES"
"""The variable that names the folder of Django's source distribution."""

DIFFERS = {
    # Without a length, Django's server closes; Penstock sends chunks and keeps the connection.
    "test_closes_connection_without_content_length",
    # Asked to close, Django's server keeps its promise but does not say so; Penstock says so.
    "test_keep_alive_on_connection_with_content_length",
    "test_keep_alive_connection_clears_previous_request_data",
}
"""Tests that assert what RFC 9112 leaves open, or asks to be done in another way."""

FAILS_FOR_ROOT = {"test_readonly_root"}
"""Root may write into any folder."""

LEAST_TESTS = 250
LEAST_REQUESTS = 45


def check(run: Run) -> None:
    tests = Path(os.environ[SOURCES]) / "tests"
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])
    command = [sys.executable, "-m", "programs.django_on_penstock", run.transport, tests]
    # It ends with a failure, since some of its tests differ.
    said = run.command(
        "sh", "-c", '"$@" || true', "sh", *command, "--parallel", "1", *SUITES,
        environ={"PYTHONPATH": path}, within=300,
    )  # fmt: skip
    failed = set(re.findall(r"(?m)^(?:FAIL|ERROR): (\w+)", said))
    expected = DIFFERS | (FAILS_FOR_ROOT if os.geteuid() == 0 else set())
    assert failed == expected, said
    ran = re.search(r"(?m)^Ran (\d+) tests", said)
    assert ran, said
    assert int(ran[1]) >= LEAST_TESTS, said
    requests = re.search(r"(?m)^(\d+) requests of the test client went through a socket", said)
    assert requests, said
    assert int(requests[1]) >= LEAST_REQUESTS, said


PROGRAMS = [
    Program(
        "django",
        "Django's own tests",
        check,
        f"its suites {', '.join(f'`{suite}`' for suite in SUITES)}: live servers are Penstock, and "
        "what its test client sends goes through a socket to Penstock",
        packages=("Django",),
        note="3 of some 260 tests fail, as they must: one asserts that a response without a length "
        "ends by a close of the connection (Penstock sends it in chunks and keeps the connection); "
        "two assert that a response to a request with `Connection: close` does not have that "
        "field, which RFC 9112, section 9.6, asks for.",
    )
]
