"""The applications that are measured give what the scenarios expect of each server."""

from __future__ import annotations

import subprocess
import sys

import pytest

from harness import environment
from harness.scenarios import SCENARIOS

ASKING = """
import importlib, sys
from wsgiref.util import setup_testing_defaults
module, _, name = sys.argv[1].partition(":")
environ = {"PATH_INFO": sys.argv[2]}
setup_testing_defaults(environ)
said = []
application = getattr(importlib.import_module(module), name)
body = b"".join(application(environ, lambda status, headers: said.append(status)))
print(said[0][:3], len(body))
"""
ASKED = sorted(
    {
        (scenario.setup.application, scenario.load.path, scenario.load.answered)
        for scenario in SCENARIOS
        if not scenario.setup.files and not scenario.load.posted and scenario.load.path != "/file"
    }
)


@pytest.mark.parametrize(("application", "path", "size"), ASKED)
def test_a_response_has_the_size_that_the_scenario_expects(
    application: str, path: str, size: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASKING, application, path],
        check=False,
        cwd=environment.BENCHMARKS,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split() == ["200", str(size)], done.stderr
