"""An application whose import hangs: where it hangs is in the log before the worker is killed."""

from __future__ import annotations

from pathlib import Path

from support.server_process import run_penstock

HANGS = """
import threading

def serve_forever():
    threading.Event().wait()

serve_forever()
"""


def test_an_import_that_hangs_is_shown_at_half_of_the_time_and_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "hangs.py").write_text(HANGS)
    arguments = ("hangs:app", "--bind", "127.0.0.1:0", "--boot-timeout", "2")
    done = run_penstock(*arguments, cwd=tmp_path)
    assert done.returncode == 1
    warning, _, end = done.stderr.partition("PEN-7020")
    assert "has loaded the application for 1 s, half of boot_timeout:" in warning
    for text in (warning, end):
        assert 'hangs.py", line 5, in serve_forever' in text
        assert 'app.run() and the like belong under if __name__ == "__main__":' in text
        assert "penstock/worker" not in text
    assert end.rstrip().endswith("was not ready within 2 s (setting: boot_timeout)")
