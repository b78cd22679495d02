"""The process in which root lets another user open, make or remove a file."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from penstock.errors import ListenError, SettingsError
from penstock.listeners import bind_listeners
from penstock.system.as_user import HelperError, as_user
from penstock.system.paths import find
from penstock.system.pid_file import PidFile
from penstock.system.privileges import Identity
from support.service_user import NOBODY, as_root, owned, public_folder

USER = Identity(NOBODY.pw_uid, NOBODY.pw_gid, (NOBODY.pw_gid,))

pytestmark = as_root


@contextmanager
def descriptors_left(number: int) -> Iterator[None]:
    """Let this process open no more than this number of descriptors."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 64, before[1]))
    try:
        while True:
            try:
                taken.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                break
        for _ in range(number):
            os.close(taken.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for descriptor in taken:
            os.close(descriptor)


def work_with_a_long_error() -> list[int]:
    raise OSError(1, "\N{GRINNING FACE}" * 600)  # each has 12 bytes in JSON


def test_an_error_of_any_length_is_told_in_words() -> None:
    with pytest.raises(HelperError, match="\N{GRINNING FACE}" * 200):
        as_user(USER, work_with_a_long_error)


def test_descriptors_that_do_not_arrive_are_an_error_that_says_what_to_raise() -> None:
    # unix(7): what exceeds the limit of the receiver is left out, and closed.
    with descriptors_left(4), pytest.raises(HelperError, match="LimitNOFILE"):
        as_user(USER, lambda: [0, 1, 2, 0])


def test_a_process_that_cannot_be_started_is_an_error_in_words() -> None:
    with descriptors_left(1), pytest.raises(HelperError, match="cannot start a process"):
        as_user(USER, lambda: [])


def test_root_makes_nothing_where_it_does_not_know_who_can_change_the_directory() -> None:
    with public_folder() as folder:
        place = owned_directory(folder)
        file = PidFile(str(place / "pid"), "--pid", USER)
        file.create()
        # One descriptor is enough to write a file or to bind, and not to look at the directories.
        with descriptors_left(1):
            with pytest.raises(SettingsError, match=r"cannot write .* Too many open files"):
                PidFile(str(place / "other"), "--pid", USER).create()
            with pytest.raises(ListenError, match="Too many open files"):
                bind_listeners([f"unix:{place}/socket"], (), USER)
            file.remove()
        assert os.listdir(place) == ["pid"]
        file.remove()
        assert os.listdir(place) == []


def test_a_name_that_cannot_be_looked_up_in_a_directory_of_the_users_is_still_the_users() -> None:
    # As in a file system that the user has mounted there, and unmounts before root writes.
    with public_folder() as folder:
        place = owned_directory(folder)
        with find(str(place / ("x" * 300) / "pid")) as found:
            assert found.changeable is not None
            assert found.changeable.path == str(place)
        with pytest.raises(OSError, match="too long"):
            find(str(folder / ("x" * 300)))


def owned_directory(folder: Path) -> Path:
    place = folder / "users"
    place.mkdir()
    return owned(place, USER.uid)
