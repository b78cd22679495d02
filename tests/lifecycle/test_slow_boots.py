"""An application whose import hangs: where it hangs is in the log before the worker is killed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.server_process import run_penstock

HANGS = """
import threading

def serve_forever():
    threading.Event().wait()

serve_forever()
"""


@pytest.mark.parametrize("preload", [False, True])
def test_an_import_that_hangs_is_shown_at_half_of_the_time_and_at_the_end(
    tmp_path: Path, preload: bool
) -> None:
    """In a worker, and in the preloader."""
    (tmp_path / "hangs.py").write_text(HANGS)
    arguments = ["hangs:app", "--bind", "127.0.0.1:0", "--boot-timeout", "2"]
    done = run_penstock(*arguments, *["--preload"] * preload, cwd=tmp_path)
    assert done.returncode == 1
    text = done.stderr
    who = "the preloader" if preload else "worker 1"
    warning = (
        rf"PEN-7053 {who} \(pid \d+\) is still loading the application after 1 s, half of "
        "boot_timeout:"
    )
    assert len(re.findall(warning, text)) == 1
    assert text.count('hangs.py", line 5, in serve_forever') == 2
    assert text.count('app.run() and the like belong under if __name__ == "__main__":') == 2
    assert "penstock/worker" not in text
    assert "penstock/supervisor" not in text
    last = text.rstrip().splitlines()[-1]
    what = "the worker was killed with SIGKILL by the supervisor: it was not ready"
    if preload:
        what = "the application was not loaded"
    assert last == f"penstock: error: {what} within 2 s (setting: boot_timeout)"
