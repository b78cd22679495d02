"""Settings files of a server that root starts for another user: they are as good as code."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from penstock.cli.settings import load_settings
from penstock.errors import SettingsError
from support.many_commands import Command, run_each
from support.server_process import ROOT, checkout_environ
from support.service_user import (
    NOBODY,
    TakenOver,
    as_root,
    owned,
    public_folder,
    public_python,
)

pytestmark = as_root

STARTED = "open('{mark}', 'w').close()\n"


def check(folder: Path, *arguments: str, **environ: str) -> tuple[int, str]:
    """Run ``penstock --check``; return the exit status and what it says."""
    done = subprocess.run(
        [public_python(), "-m", "penstock", "--check", "shop:app", *arguments],
        cwd=folder, env=checkout_environ() | environ, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def users_file(folder: Path, file: Path) -> None:
    owned(file, NOBODY.pw_uid)


def file_for_all(folder: Path, file: Path) -> None:
    file.chmod(0o666)


def users_directory(folder: Path, file: Path) -> None:
    owned(folder, NOBODY.pw_uid)


def directory_of_a_group(folder: Path, file: Path) -> None:
    folder.chmod(0o775)


def link_to_a_file_of_the_users(folder: Path, file: Path) -> None:
    file.rename(folder / "real")
    owned(folder / "real", NOBODY.pw_uid)
    file.symlink_to(folder / "real")


def cache_of_the_users(folder: Path, file: Path) -> None:
    (folder / "__pycache__").mkdir()
    owned(folder / "__pycache__", NOBODY.pw_uid)


WEAK: list[Callable[[Path, Path], None]] = [
    users_file,
    file_for_all,
    users_directory,
    directory_of_a_group,
    link_to_a_file_of_the_users,
    cache_of_the_users,
]

FILES: dict[str, tuple[str, tuple[str, ...], dict[str, str]]] = {
    "flag": ("gunicorn.conf.py", ("--user", "nobody"), {}),
    "named": ("named.py", ("-u", "nobody", "-c", "named.py"), {}),
    "module": ("named.py", ("-u", "nobody", "-c", "python:named"), {}),
    "variable": ("gunicorn.conf.py", (), {"PENSTOCK_USER": "nobody"}),
    "arguments": ("gunicorn.conf.py", (), {"GUNICORN_CMD_ARGS": "--user nobody"}),
    "in the file": ("gunicorn.conf.py", (), {}),
    "toml": ("penstock.toml", ("-u", "nobody"), {}),
    "toml alone": ("penstock.toml", (), {}),
    "project": ("pyproject.toml", (), {}),
}


@dataclass
class Case:
    """A settings file of a kind, in a folder of its own, and how it is weakened."""

    kind: str
    weaken: Callable[[Path, Path], None]
    folder: Path

    def __post_init__(self) -> None:
        """Write the file, as it should be."""
        name, arguments, environ = FILES[self.kind]
        self.name = f"{self.kind}, {self.weaken.__name__}"
        self.mark, self.file = self.folder / "executed", self.folder / name
        text = STARTED.format(mark=self.mark) + "user = 'nobody'\n"
        if name == "penstock.toml":
            text = "user = 'nobody'\n"
        elif name == "pyproject.toml":
            text = "[tool.penstock]\nuser = 'nobody'\n"
        self.file.write_text(text)
        self.command = Command(["--check", "shop:app", *arguments], self.folder, environ)


def test_what_the_user_can_change_is_refused_before_it_is_executed() -> None:
    wrong = []
    with ExitStack() as folders:
        cases = [
            Case(kind, weaken, folders.enter_context(public_folder()))
            # Each kind of weakness for one kind of file; one weakness for all others.
            for kind in FILES
            for weaken in (WEAK if kind in ("flag", "toml") else WEAK[:1])
        ]
        commands = [case.command for case in cases]
        for case, good in zip(cases, run_each(commands, public_python()), strict=True):
            if good.returncode != 0:
                wrong.append(f"{case.name}: refused though it is root's: {good.stderr}")
            case.mark.unlink(missing_ok=True)
            case.weaken(case.folder, case.file)
        for case, bad in zip(cases, run_each(commands, public_python()), strict=True):
            if bad.returncode != 2 or "is refused" not in bad.stderr or "mode 0" not in bad.stderr:
                wrong.append(f"{case.name}: {bad.returncode} {bad.stdout}{bad.stderr}")
            if case.mark.exists():
                wrong.append(f"{case.name}: executed")
    assert not wrong, "\n".join(wrong)


def test_without_a_user_nothing_changes() -> None:
    """The counterpart: what is refused above is refused for the sake of the user alone."""
    with public_folder() as folder:
        owned(folder, NOBODY.pw_uid)
        owned_file = folder / "gunicorn.conf.py"
        owned_file.write_text("threads = 3\n")
        owned(owned_file, NOBODY.pw_uid)
        status, said = check(folder)
        assert status == 0, said
        assert re.search("^ *threads += 3 ", said, re.MULTILINE), said


def test_a_settings_file_of_roots_imports_nothing_from_the_users_directory() -> None:
    with public_folder() as folder, public_folder(NOBODY.pw_uid) as users:
        (folder / "conf.py").write_text("import helper_of_the_user\n")
        mark = users / "executed"
        (users / "helper_of_the_user.py").write_text(STARTED.format(mark=mark))
        status, said = check(users, "-u", "nobody", "-c", str(folder / "conf.py"))
        assert status == 2, said
        assert "No module named 'helper_of_the_user'" in said
        assert not mark.exists()


def test_a_reload_checks_the_files_again_and_the_old_workers_go_on() -> None:
    with public_folder() as folder:
        conf, mark = folder / "gunicorn.conf.py", folder / "executed"
        with TakenOver(folder) as server:
            old = server.workers()
            conf.write_text(STARTED.format(mark=mark))
            owned(conf, NOBODY.pw_uid)
            server.signal(signal.SIGHUP)
            server.wait_for_line("PEN-7100 .*gunicorn.conf.py is refused")
            assert server.workers() == old
            assert not mark.exists()
            owned(conf, 0)
            server.signal(signal.SIGHUP)
            server.wait_for_workers(1, old)
            assert mark.exists()
            assert server.stop() == 0


@pytest.mark.parametrize("arguments", [("--preload",), ("--check",), ("--reload",)])
def test_root_imports_no_application(arguments: tuple[str, ...]) -> None:
    with public_folder() as folder:
        seen = folder / "seen"
        seen.touch()
        seen.chmod(0o666)
        code = f"import os\nopen({str(seen)!r}, 'a').write(f'{{os.getresuid()}}\\n')\n"
        module = folder / "shop.py"
        module.write_text(code + module.read_text())
        if arguments == ("--check",):
            status, said = check(folder, "--user", "nobody")
            assert status == 0, said
        else:
            with TakenOver(folder, *arguments) as server:
                server.run("answer = 1")
                assert server.stop() == 0
        assert set(seen.read_text().splitlines()) == {str((NOBODY.pw_uid,) * 3)}


def test_a_user_is_refused_without_a_supervisor() -> None:
    with public_folder() as folder:
        status, said = check(folder, "--no-supervisor", "--user", "nobody")
        assert status == 2
        assert "needs a supervisor" in said


@pytest.mark.parametrize("setting", ["user", "group"])
def test_an_empty_name_is_no_user_and_stops_the_start(setting: str, tmp_path: Path) -> None:
    """As of ``--user "$APP_USER"`` without the variable: the workers kept the rights of root."""
    (tmp_path / "empty.toml").write_text(f'{setting} = ""\n')
    sources: list[tuple[dict[str, str], str | None, dict[str, str]]] = [
        ({setting: ""}, None, {}),
        ({}, None, {f"PENSTOCK_{setting.upper()}": ""}),
        ({}, str(tmp_path / "empty.toml"), {}),
    ]
    for flags, config, environ in sources:
        with pytest.raises(SettingsError, match=f"bad value '' for {setting} "):
            load_settings(flags, environ, tmp_path, config)
    unchanged = load_settings({setting: "unchanged"}, {}, tmp_path, None)
    assert getattr(unchanged, setting) is None


def test_root_imports_nothing_from_the_users_current_directory_and_reports_others() -> None:
    with public_folder(NOBODY.pw_uid) as here, public_folder(NOBODY.pw_uid) as other:
        # The supervisor, and each worker, imports this module where it is installed.
        code = "import os\nopen(f'{os.getuid()}', 'a').close()\ndef setproctitle(title): pass\n"
        (here / "setproctitle.py").write_text(code)
        path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests"), str(other)])
        with TakenOver(here, environ={"PYTHONPATH": path}) as server:
            server.run("import setproctitle")
            found = [line for line in server.lines_so_far() if "PEN-1045" in line]
            assert len(found) == 1
            assert str(other) in found[0]
            assert server.stop() == 0
        assert not (here / "0").exists()
        assert (here / str(NOBODY.pw_uid)).exists()
