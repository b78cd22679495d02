"""Temporary files: where they are, and that no name of one stays behind."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.system import temporary_files
from penstock.system.temporary_files import default_directory, named_file, temporary_file


@pytest.fixture(autouse=True)
def _looked_up_anew() -> Iterator[None]:
    temporary_files._usable_directory.cache_clear()
    yield
    temporary_files._usable_directory.cache_clear()


def test_the_directory_is_that_of_the_module_tempfile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert default_directory() == tempfile.gettempdir()


@pytest.mark.parametrize("variable", ["TMPDIR", "TEMP", "TMP"])
def test_a_variable_names_the_directory(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    assert default_directory() == str(tmp_path)


def test_a_directory_that_takes_no_file_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    monkeypatch.setenv("TEMP", str(tmp_path))
    assert default_directory() == str(tmp_path)


def test_where_no_directory_takes_a_file_the_answer_may_change_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    def fail(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as full:
        full.setattr(temporary_files, "temporary_file", fail)
        assert default_directory() == "/tmp"
    assert default_directory() == str(tmp_path)


@pytest.mark.parametrize("unnamed", [True, False], ids=["O_TMPFILE", "unlinked"])
def test_a_temporary_file_has_no_name_and_is_for_this_user_alone(
    unnamed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not unnamed:
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    with temporary_file(str(tmp_path)) as file:
        assert list(tmp_path.iterdir()) == []
        assert file.write(b"abc") == 3
        file.seek(0)
        assert file.read() == b"abc"
        found = os.fstat(file.fileno())
        assert found.st_nlink == 0
        assert stat.S_IMODE(found.st_mode) == 0o600
        assert not os.get_inheritable(file.fileno())


def test_a_file_system_without_unnamed_files_gets_an_unlinked_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def refuse(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return opened(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse)
    with temporary_file(str(tmp_path)) as file:
        assert os.fstat(file.fileno()).st_nlink == 0
    assert list(tmp_path.iterdir()) == []


def test_the_reason_why_there_is_no_file_is_the_systems(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        temporary_file(str(tmp_path / "missing"))


def test_a_named_file_takes_no_name_that_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = iter([b"\0" * 8, b"\0" * 8, b"\1" * 8])
    monkeypatch.setattr(os, "urandom", lambda _count: next(random))
    beginning = str(tmp_path / "penstock-")
    first, path = named_file(beginning)
    second, other = named_file(beginning)
    os.close(first)
    os.close(second)
    assert [path, other] == [f"{beginning}{'00' * 8}", f"{beginning}{'01' * 8}"]


def test_a_file_system_where_every_name_is_taken_fails_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "urandom", lambda count: b"\0" * count)
    beginning = str(tmp_path / "penstock-")
    descriptor, _path = named_file(beginning)
    os.close(descriptor)
    with pytest.raises(FileExistsError):
        named_file(beginning)
