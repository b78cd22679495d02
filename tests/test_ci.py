"""What `.ci/pytest` runs again alone, and what it makes of that."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.server_process import ROOT

WITHIN = 300.0
"""Seconds for three runs of pytest on a busy machine."""

UNSTABLE = """
@pytest.mark.parametrize("number", range({count}))
def test_unstable(number):
    assert "PYTEST_XDIST_WORKER" not in os.environ  # fails beside others
"""
BROKEN = """
def test_broken():
    assert False
"""
CRASH = """
def test_that_crashes():
    if "PYTEST_XDIST_WORKER" in os.environ:
        os._exit(1)
"""


def run(folder: Path, tests: str, *arguments: str) -> tuple[int, list[str]]:
    """Run tests in a folder by `.ci/pytest`; return the exit status and the lines of the output."""
    (folder / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "pytest", folder / ".ci")
    (folder / "test_it.py").write_text(f"import os, pytest\n{tests}")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environ |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "xdist.plugin"}
    done = subprocess.run(
        [folder / ".ci" / "pytest", sys.executable, *arguments],
        env=environ | {"UNSTABLE_TESTS": str(folder / "unstable")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=WITHIN,
        check=False,
    )
    return done.returncode, done.stdout.splitlines()


def test_what_passes_alone_is_named_and_what_fails_alone_fails_the_run(tmp_path: Path) -> None:
    status, lines = run(tmp_path, UNSTABLE.format(count=2) + BROKEN, "-n", "1")
    assert status == 1
    unstable = [line for line in lines if line.startswith("UNSTABLE: ")]
    assert unstable == [f"UNSTABLE: test_it.py::test_unstable[{number}]" for number in (0, 1)]
    assert "FAILED ALONE, TOO: test_it.py::test_broken" in lines
    assert (tmp_path / "unstable").read_text().splitlines() == unstable
    assert "1 failed, 2 passed" in lines[-1]


def test_a_run_in_which_all_that_failed_passes_alone_passes(tmp_path: Path) -> None:
    status, lines = run(tmp_path, UNSTABLE.format(count=5), "-n", "1")
    assert status == 0
    assert sum(line.startswith("UNSTABLE: ") for line in lines) == 5
    assert "5 passed" in lines[-1]


@pytest.mark.parametrize(
    ("tests", "arguments"),
    [(UNSTABLE.format(count=6), ("-n", "1")), (CRASH, ("-n", "1")), (BROKEN, ())],
    ids=["more than five", "a crash", "what ran alone"],
)
def test_nothing_is_run_again_after(tests: str, arguments: tuple[str, ...], tmp_path: Path) -> None:
    status, lines = run(tmp_path, tests, *arguments)
    assert status == 1
    assert not any(line.startswith("UNSTABLE: ") for line in lines)
    assert not any("passed" in line for line in lines)
