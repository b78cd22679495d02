"""`penstock --check` says of sockets and the pid file what the start says, and makes none."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from support.lifecycle import MODULE
from support.many_commands import Command, run_each
from support.service_user import NOBODY, as_root, public_folder, public_python

LISTENING = 7
"""The exit status where an address cannot be listened on."""

SETTINGS = {"--bind": "unix:", "--control": "unix:", "--admin": "unix:", "--pid": ""}
"""Settings that have a path, each with what is before the path."""

OWNED = {
    "roots": (0, 0o755),
    "users": (NOBODY.pw_uid, 0o755),
    "readable": (NOBODY.pw_uid, 0o555),
    "open": (0, 0o777),
    "foreign": (NOBODY.pw_uid + 1, 0o755),
}
"""Directories of the folder, each with a file in it: whose they are, and their modes."""


BROKEN = "broken"
"""A module that ends each start that is not refused before."""


@pytest.fixture
def folder() -> Iterator[Path]:
    with public_folder() as made:
        for name, (owner, mode) in OWNED.items():
            (made / name).mkdir()
            (made / name / "file").write_text("precious")
            if os.geteuid() == 0:
                os.chown(made / name, owner, owner)
            (made / name).chmod(mode)
        (made / f"{BROKEN}.py").write_text("raise RuntimeError")
        yield made


def run(
    folder: Path, commands: Sequence[Sequence[str]], user: int | None = None
) -> list[subprocess.CompletedProcess[str]]:
    whole = [[*each, *([] if "--bind" in each else ["--bind", "127.0.0.1:0"])] for each in commands]
    return run_each([Command(each, folder) for each in whole], public_python(), user)


def check(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    [done] = run(folder, [[f"{MODULE}:app", "--check", *arguments]])
    return done


def assert_start_and_check_are_refused_alike(
    folder: Path, paths: Sequence[str], *arguments: str, user: int | None = None
) -> None:
    given = [
        [f"{BROKEN}:app", *arguments, setting, f"{before}{folder}/{path}"]
        for setting, before in SETTINGS.items()
        for path in paths
    ]
    done = run(folder, [[*each, *more] for each in given for more in (["--check"], [])], user)
    for checked, started in zip(done[::2], done[1::2], strict=True):
        assert error_lines(checked) == error_lines(started) != [], checked.args
        assert "RuntimeError" not in checked.stderr, checked.args
        assert checked.returncode == started.returncode, checked.args


def error_lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the errors of the command, without the warnings before them."""
    return [line for line in done.stderr.splitlines() if "error: " in line]


@as_root
def test_the_check_of_a_user_refuses_the_paths_that_its_start_refuses(folder: Path) -> None:
    paths = ["missing/x", "roots/x", "roots/file", "roots/file/x"]
    assert_start_and_check_are_refused_alike(folder, paths, user=NOBODY.pw_uid)


@as_root
def test_the_check_of_root_uses_the_rights_that_its_start_uses(folder: Path) -> None:
    paths = ["missing/x", "readable/x", "users/file", "users/file/x"]
    assert_start_and_check_are_refused_alike(folder, paths, "--user", "nobody")


@pytest.mark.parametrize(
    "user",
    [pytest.param([], id="same"), pytest.param(["--user", "nobody"], marks=as_root, id="nobody")],
)
def test_the_check_makes_nothing_at_a_path_that_is_right(folder: Path, user: list[str]) -> None:
    commands = [
        [f"{MODULE}:app", "--check", *user, setting, f"{before}{folder}/roots/x"]
        for setting, before in SETTINGS.items()
    ]
    for done in run(folder, commands):
        assert (done.returncode, done.stderr) == (0, "")
    assert [each.name for each in (folder / "roots").iterdir()] == ["file"]


def test_the_check_beside_a_running_server_finds_its_sockets_right(folder: Path) -> None:
    path = folder / "x"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        for setting in ("--bind", "--control", "--admin"):
            done = check(folder, setting, f"unix:{path}")
            assert done.returncode == 0, done.stderr
        assert path.is_socket()


def test_the_check_refuses_a_path_that_is_too_long_for_a_socket(folder: Path) -> None:
    for setting in ("--bind", "--control", "--admin"):
        done = check(folder, setting, f"unix:{folder}/{110 * 'x'}")
        assert done.returncode == LISTENING
        assert "the path is too long for a unix socket" in done.stderr
        assert done.stderr.endswith(f"(setting: {setting})\n")


def test_the_check_refuses_a_host_that_does_not_resolve(folder: Path) -> None:
    done = check(folder, "--bind", "no.such.host.invalid:80")
    assert done.returncode == LISTENING
    assert "the host 'no.such.host.invalid' cannot be resolved" in done.stderr


def test_the_check_refuses_a_malformed_address_of_admin(folder: Path) -> None:
    done = check(folder, "--admin", "127.0.0.1:x")
    assert done.returncode == LISTENING
    assert "is not a port" in done.stderr
    assert done.stderr.endswith("(setting: --admin)\n")


@as_root
@pytest.mark.parametrize(
    ("directory", "reason"),
    [
        ("open", "any user can replace it in its directory"),
        ("foreign", f"its directory belongs to user {NOBODY.pw_uid + 1}"),
    ],
)
def test_the_check_warns_of_a_control_socket_that_penstockctl_will_refuse(
    folder: Path, directory: str, reason: str
) -> None:
    path = f"{folder}/{directory}/x.sock"
    warning = f"PEN-8026 penstockctl will refuse the control socket {path}: {reason}"
    assert check(folder, "--control", path).stderr == f"penstock: warning: {warning}\n"
    assert check(folder, "--control", f"{folder}/roots/x").stderr == ""
    if directory == "open":
        (folder / directory).chmod(0o1777)
        assert check(folder, "--control", path).stderr == ""
