"""A helper process that answers late, for a reload that was given up meanwhile."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from penstock.config.settings import Settings
from penstock.config.sources import settings_from_kwargs
from penstock.listeners import parse_address, received_listener, work_to_listen
from penstock.supervisor import reload as module
from penstock.supervisor.helpers import Helpers
from penstock.supervisor.loop import Loop
from penstock.supervisor.reload import Preparation
from penstock.system.as_user import Change, Work
from penstock.system.privileges import Identity
from support.invariant import eventually
from support.service_user import NOBODY, as_root, owned, public_folder

USER = Identity(NOBODY.pw_uid, NOBODY.pw_gid, (NOBODY.pw_gid,))

pytestmark = as_root


@pytest.fixture
def helpers() -> Iterator[Helpers]:
    helpers = Helpers(Loop(logging.getLogger("penstock.tests")))
    yield helpers
    helpers.close()


def folder_in(parent: Path, name: str, owner: int = 0) -> Path:
    place = parent / name
    place.mkdir()
    return owned(place, owner)


def settings_of(bind: str) -> Settings:
    return replace(settings_from_kwargs(bind=[bind]), user=NOBODY.pw_name)


def begin_reload(path: Path, helpers: Helpers) -> Preparation:
    """Begin a reload that adds a unix socket."""
    return Preparation(settings_of(f"unix:{path}"), settings_of("127.0.0.1:0"), [], helpers, None)


def work_that_halts(before: bool) -> Any:
    """Return `work_to_listen`, whose process halts before its work or before its answer."""

    def work(*arguments: Any) -> Work:
        whole = work_to_listen(*arguments)

        def halting(change: Change) -> Sequence[int] | str:
            done = None if before else whole(change)
            os.kill(os.getpid(), signal.SIGSTOP)
            return whole(change) if done is None else done

        return halting

    return work


def made_at(path: Path) -> int:
    """Return when a path was made; 0 where there is none. Its inode may come again."""
    try:
        return path.lstat().st_ctime_ns
    except FileNotFoundError:
        return 0


def halted_child() -> int:
    """Wait until a child of this process stands still, and return it."""
    while True:
        child, status = os.waitpid(-1, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            return child


@pytest.mark.parametrize("before", [True, False], ids=["before it binds", "before it answers"])
@pytest.mark.parametrize("owner", [0, NOBODY.pw_uid], ids=["root's", "the user's"])
def test_a_helper_of_a_reload_that_was_given_up_takes_no_path_from_the_next(
    owner: int, before: bool, helpers: Helpers, monkeypatch: pytest.MonkeyPatch
) -> None:
    with public_folder() as folder:
        path = folder_in(folder, "run", owner) / "socket"
        with monkeypatch.context() as patch:
            patch.setattr(module, "work_to_listen", work_that_halts(before))
            first = begin_reload(path, helpers)
        late = halted_child()
        seen = made_at(path)
        first.close()
        second = begin_reload(path, helpers)
        assert eventually(lambda: made_at(path) not in (0, seen))
        os.kill(late, signal.SIGCONT)
        os.waitpid(late, 0)
        helpers.wait()
        assert not second.failure
        (listener,) = second.listeners
        listener.listen(10)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
        listener.close()
        assert not path.exists()


def test_root_removes_no_path_of_another_where_the_user_has_led_the_helper() -> None:
    with public_folder() as folder:
        roots, users = folder_in(folder, "roots"), folder_in(folder, "users", USER.uid)
        address = parse_address(f"unix:{users}/app.sock")
        with socket.socket(socket.AF_UNIX) as others:
            others.bind(str(roots / "app.sock"))
            made = socket.socket(socket.AF_UNIX)
            made.bind(str(users / "app.sock"))
            # By a link in place of its own directory.
            elsewhere = os.open(roots, os.O_RDONLY | os.O_DIRECTORY)
            received_listener(address, [made.detach(), elsewhere], USER).close()
            assert (roots / "app.sock").exists()
