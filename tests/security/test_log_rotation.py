"""The recipes for log rotation in docs/privileges.md, with the real logrotate.

The server runs as root with ``--user``, so that the supervisor opens the logs for the workers.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from support.invariant import eventually
from support.service_user import NOBODY, TakenOver, as_root, owned, public_folder
from support.wire import DEADLINE

LOGROTATE = shutil.which("logrotate", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")

pytestmark = [
    as_root,
    pytest.mark.skipif(LOGROTATE is None, reason="logrotate is not installed"),
]

RECIPES = {
    "a directory of root's": (0, "create 0640 root root"),
    "a directory of root's, copied": (0, "copytruncate"),
    "a directory of the user's": (NOBODY.pw_uid, "su nobody nogroup\ncreate 0640 nobody nogroup"),
    "a directory of the user's, copied": (NOBODY.pw_uid, "su nobody nogroup\ncopytruncate"),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_after_a_rotation_the_workers_write_to_the_new_file(recipe: str) -> None:
    owner, lines = RECIPES[recipe]
    with public_folder() as folder:
        logs = folder / "logs"
        logs.mkdir(0o755)
        owned(logs, owner)
        access, old = logs / "access.log", logs / "access.log.1"
        with TakenOver(folder, "--access-logfile", str(access)) as server:
            for turn in range(3):
                if turn:
                    rotate(folder, f"{logs}/*.log", lines, server.supervisor)
                    assert old.read_text()
                assert eventually(
                    lambda: bool(server.run("answer = 1")) and access.read_text() != ""
                )
                found = access.stat()
                assert (found.st_uid, found.st_mode & 0o777) == (owner, 0o640)
            assert server.stop() == 0
            assert not any("PEN-" in line for line in server.lines), server.lines


def rotate(folder: Path, files: str, lines: str, supervisor: int) -> None:
    """Rotate once, whatever the sizes and times of the files are."""
    config = folder / "logrotate.conf"
    signalling = f"postrotate\nkill -USR1 {supervisor}\nendscript"
    config.write_text(f"{files} {{\nrotate 3\n{lines}\n{signalling}\n}}\n")
    config.chmod(0o644)
    assert LOGROTATE is not None
    done = subprocess.run(
        [LOGROTATE, "--force", "--state", str(folder / "state"), str(config)],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
