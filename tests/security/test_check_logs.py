"""`penstock --check` opens logs with the rights with which the start opens them."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from support.lifecycle import MODULE
from support.server_process import START_WITHIN, checkout_environ, run_penstock
from support.service_user import NOBODY, as_root, public_folder, public_python

REFUSED = 2

USER = f"user {NOBODY.pw_uid} (groups "


def check(
    folder: Path, log: Path, arguments: Sequence[str] = ("--check",)
) -> subprocess.CompletedProcess[str]:
    command = [public_python(), "-m", "penstock", f"{MODULE}:app", "--user", "nobody"]
    return subprocess.run(
        [*command, "--access-logfile", str(log), *arguments],
        cwd=folder,
        env=checkout_environ(),
        capture_output=True,
        text=True,
        timeout=START_WITHIN,
        check=False,
    )


def directory(folder: Path, owner: int, group: int, mode: int) -> Path:
    made = folder / "logs"
    made.mkdir()
    os.chown(made, owner, group)
    made.chmod(mode)
    return made


@as_root
@pytest.mark.parametrize(
    ("owner", "group", "mode", "opened_by"),
    [
        (0, 0, 0o755, "root"),
        (NOBODY.pw_uid, NOBODY.pw_gid, 0o755, USER),
        (0, NOBODY.pw_gid, 0o775, USER),
    ],
)
def test_check_says_who_opens_a_log_and_creates_none(
    owner: int, group: int, mode: int, opened_by: str
) -> None:
    with public_folder() as folder:
        logs = directory(folder, owner, group, mode)
        done = check(folder, logs / "access.log")
        assert done.returncode == 0, done.stderr
        opened = done.stdout.partition("who opens the logs:\n")[2]
        assert opened.split("=")[0].strip() == "access_logfile"
        assert opened.split("=")[1].strip().startswith(opened_by)
        assert list(logs.iterdir()) == []


@as_root
@pytest.mark.parametrize(
    ("owner", "mode"), [(NOBODY.pw_uid, 0o555), (NOBODY.pw_uid + 1, 0o755), (0, 0o757)]
)
def test_check_refuses_a_directory_that_the_user_may_not_use_though_root_may(
    owner: int, mode: int
) -> None:
    with public_folder() as folder:
        logs = directory(folder, owner, owner, mode)
        done = check(folder, logs / "access.log")
        assert done.returncode == REFUSED, done.stdout
        assert "access_logfile: cannot open" in done.stderr
        assert f"as user {NOBODY.pw_uid}" in done.stderr
        started = check(folder, logs / "access.log", ("--bind", "127.0.0.1:0"))
        assert started.returncode == REFUSED
        assert started.stderr.splitlines()[-1] == done.stderr.splitlines()[-1]


@as_root
def test_check_refuses_a_log_of_another_user_that_is_there() -> None:
    with public_folder() as folder:
        logs = directory(folder, NOBODY.pw_uid, NOBODY.pw_gid, 0o755)
        log = logs / "access.log"
        log.write_text("kept\n")
        log.chmod(0o600)
        done = check(folder, log)
        assert done.returncode == REFUSED, done.stdout
        assert "Permission denied" in done.stderr
        assert log.read_text() == "kept\n"
        assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_check_without_a_user_creates_no_log_either(tmp_path: Path) -> None:
    (tmp_path / f"{MODULE}.py").write_text("def app(environ, start_response): ...\n")
    log = tmp_path / "error.log"
    done = run_penstock("--check", f"{MODULE}:app", "--error-logfile", str(log), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "who opens the logs:" in done.stdout
    assert not log.exists()
