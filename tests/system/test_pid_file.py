"""The pid file: one server, one file, and no other's is touched."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.errors import SettingsError
from penstock.system.pid_file import PidFile
from support.server_process import START_WITHIN, checkout_environ

LONG_AGO = 1_000_000_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "server.pid"


@pytest.fixture
def other() -> Iterator[int]:
    """Return the id of a running process whose command has no part of the server's name.

    The path of the Python that runs the tests may have it: that of a clone does.
    """
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    yield process.pid
    process.communicate(timeout=START_WITHIN)


def gone() -> int:
    """Return the id of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        return process.pid


def test_it_holds_the_id_for_all_to_read_and_goes_at_the_end(path: Path) -> None:
    file = PidFile(str(path))
    file.create()
    assert path.read_text() == f"{os.getpid()}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert os.listdir(path.parent) == [path.name], "no temporary file is left"
    file.remove()
    file.remove()
    assert not path.exists()


@pytest.mark.parametrize("content", ["import os\n", "8000 and more", "\0\1"])
def test_a_file_that_holds_something_else_is_neither_replaced_nor_removed(
    path: Path, content: str
) -> None:
    path.write_text(content)
    file = PidFile(str(path))
    with pytest.raises(SettingsError, match="a file that holds something else: it stays"):
        file.create()
    file.remove()
    assert path.read_text() == content


def test_what_is_no_file_is_not_replaced(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(SettingsError, match="no regular file: it stays as it is"):
        PidFile(str(path)).create()


@pytest.mark.parametrize("content", ["", "\n", "-1", "0", "9" * 40])
def test_a_file_without_a_process_id_is_replaced(path: Path, content: str) -> None:
    path.write_text(content)
    PidFile(str(path)).create()
    assert path.read_text() == f"{os.getpid()}\n"


def test_a_file_of_a_process_that_is_gone_is_replaced(path: Path) -> None:
    path.write_text(f"{gone()}\n")
    PidFile(str(path)).create()
    assert path.read_text() == f"{os.getpid()}\n"


def test_a_file_of_a_process_that_has_ended_and_was_not_waited_for_is_replaced(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE) as process:
        assert os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT) is not None
        path.write_text(f"{process.pid}\n")
        PidFile(str(path)).create()
    assert path.read_text() == f"{os.getpid()}\n"


def test_a_file_with_this_process_own_id_is_replaced(path: Path) -> None:
    """In a container that was restarted the server often has the number it had before."""
    path.write_text(f"{os.getpid()}\n")
    os.utime(path, (LONG_AGO, LONG_AGO))
    PidFile(str(path)).create()
    assert path.stat().st_mtime > LONG_AGO


def test_a_file_of_a_process_that_runs_is_refused_with_its_id_and_the_setting(
    path: Path, other: int
) -> None:
    path.write_text(f"{other}\n")
    with pytest.raises(SettingsError) as error:
        PidFile(str(path), "penstock.toml:pid").create()
    said = str(error.value)
    assert f"process {other}" in said
    assert "pid from penstock.toml:pid" in said
    assert "--pid" in said
    assert path.read_text() == f"{other}\n"


def test_a_number_that_another_program_has_since_is_not_the_writers(path: Path, other: int) -> None:
    path.write_text(f"{other}\n")
    os.utime(path, (LONG_AGO, LONG_AGO))
    PidFile(str(path)).create()
    assert path.read_text() == f"{os.getpid()}\n"


def test_a_younger_process_of_penstocks_is_believed_all_the_same(path: Path) -> None:
    """The clock may have been set since: the name counts more."""
    code = (
        "from penstock.system.privileges import set_title; set_title('supervisor', 'app');"
        "print('here', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=checkout_environ(),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        path.write_text(f"{process.pid}\n")
        os.utime(path, (LONG_AGO, LONG_AGO))
        with pytest.raises(SettingsError, match=f"process {process.pid}"):
            PidFile(str(path)).create()
        process.communicate(timeout=START_WITHIN)


def test_a_younger_program_whose_command_line_has_the_servers_name_is_not_believed(
    path: Path,
) -> None:
    """The path of a clone has it, for example, and that of a virtual environment."""
    code = "print('here', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "/srv/penstock/tool.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        path.write_text(f"{process.pid}\n")
        os.utime(path, (LONG_AGO, LONG_AGO))
        PidFile(str(path)).create()
        process.communicate(timeout=START_WITHIN)


def test_what_another_has_written_since_is_not_removed(path: Path) -> None:
    file = PidFile(str(path))
    file.create()
    path.write_text("1\n")
    file.remove()
    assert path.read_text() == "1\n"


def test_a_forked_child_removes_nothing(path: Path) -> None:
    code = (
        "import os, sys; from penstock.system.pid_file import PidFile; file = PidFile(sys.argv[1]);"
        "file.create(); child = os.fork(); file.remove() if child == 0 else os.waitpid(child, 0);"
        "os._exit(0)"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(path)], env=checkout_environ(), check=True, timeout=60
    )
    assert path.exists()


def test_a_symbolic_link_is_replaced_and_not_followed(path: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("keep me")
    path.symlink_to(victim)
    PidFile(str(path)).create()
    assert victim.read_text() == "keep me"
    assert not path.is_symlink()


def test_an_upgraded_server_moves_its_file_to_the_place_of_the_old_one(
    path: Path, other: int
) -> None:
    path.write_text(f"{other}\n")
    second = Path(f"{path}.2")
    file = PidFile(str(second))
    file.create()
    with pytest.raises(SettingsError, match=f"process {other}"):
        file.move_to(str(path))
    assert second.exists(), "it stays while the old one is there"
    path.unlink()
    file.move_to(str(path))
    assert path.read_text() == f"{os.getpid()}\n"
    assert not second.exists()
    file.remove()
    assert not path.exists()


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot write the pid file .*No such file"):
        PidFile(str(tmp_path / "nowhere" / "server.pid")).create()
    with pytest.raises(SettingsError, match="is no regular file"):
        PidFile(str(tmp_path)).create()
    assert not list(tmp_path.parent.glob(f".{tmp_path.name}.*"))


def test_a_relative_path_stays_where_it_was_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = PidFile("server.pid")
    monkeypatch.chdir("/")
    file.create()
    assert (tmp_path / "server.pid").exists()
