"""Signals that come before the application is there."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.server_process import checkout_environ

NEVER_IMPORTED = """
import sys
try:
    print("importing", flush=True)
    sys.stdin.read()
except BaseException:
    print("the import was interrupted", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "unix:waiting.sock"])
def test_sigterm_during_a_slow_import_leaves_at_once_whatever_the_module_catches(
    tmp_path: Path, bind: str
) -> None:
    tmp_path.joinpath("slow.py").write_text(NEVER_IMPORTED, "utf-8")
    with subprocess.Popen(
        [sys.executable, "-m", "penstock", "--bind", bind, "slow:app"],
        cwd=tmp_path,
        env=checkout_environ(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "importing\n"
            process.send_signal(signal.SIGTERM)
            assert process.stdout.read() == ""
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()
    assert not tmp_path.joinpath("waiting.sock").exists()
