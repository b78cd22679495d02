"""Unix sockets and pid files of a server that root starts for another user."""

from __future__ import annotations

import os
import signal
import socket
import stat
from pathlib import Path

import pytest

from penstock.errors import ListenError, SettingsError
from penstock.listeners import bind_listeners
from penstock.system.pid_file import PidFile
from penstock.system.privileges import Identity
from support.invariant import eventually
from support.service_user import (
    NOBODY,
    TakenOver,
    as_root,
    ended_command,
    owned,
    public_folder,
)

USER = Identity(NOBODY.pw_uid, NOBODY.pw_gid, (NOBODY.pw_gid,))

pytestmark = as_root


def answer_at(path: Path) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(path))
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
                       b"Content-Length: 10\r\n\r\nanswer = 7")  # fmt: skip
        received = b""
        while data := client.recv(65536):
            received += data
        return received


@pytest.mark.parametrize("owner", [0, NOBODY.pw_uid])
def test_a_unix_socket_is_the_users_and_a_link_in_its_place_gives_nothing_away(owner: int) -> None:
    with public_folder() as folder:
        place, secret = folder / "run", folder / "secret"
        place.mkdir()
        owned(place, owner)
        secret.touch(0o600)
        path, pid = place / "app.sock", place / "app.pid"
        with TakenOver(folder, "--pid", str(pid), bind=f"unix:{path}") as server:
            found = path.lstat()
            assert stat.S_ISSOCK(found.st_mode)
            assert (found.st_uid, found.st_gid) == (USER.uid, USER.gid)
            assert answer_at(path).endswith(b"7")
            assert int(pid.read_text()) == server.supervisor
            assert pid.stat().st_uid == owner
            assert any("PEN-7211" in line for line in server.lines_so_far()) == (owner != 0)
            # As the worker could in its own directory.
            path.rename(place / "moved")
            path.symlink_to(secret)
            old = server.workers()
            server.signal(signal.SIGHUP)
            server.wait_for_line("PEN-7100")  # no client would reach the new workers
            assert server.wait_for_workers(1) == old
            assert secret.stat().st_uid == 0
            assert server.stop() == 0
        assert path.is_symlink()  # it was not the server's
        assert not pid.exists()


def pid_in(file: Path) -> int:
    """Return what a pid file says; 0 while it is being replaced."""
    try:
        return int(file.read_text() or 0)
    except FileNotFoundError:
        return 0


def test_an_upgrade_removes_the_path_that_it_was_passed_and_no_other() -> None:
    with public_folder() as folder:
        place = folder / "run"
        place.mkdir()
        owned(place, USER.uid)
        path, pid = place / "app.sock", folder / "app.pid"
        with TakenOver(folder, "--pid", str(pid), bind=f"unix:{path}") as server:
            first = server.supervisor
            server.signal(signal.SIGUSR2)
            assert eventually(lambda: pid_in(pid) not in (0, first))
            server.supervisor = int(pid.read_text())
            assert answer_at(path).endswith(b"7")
            path.rename(place / "moved")
            path.write_text("another's")
            server.stop()
        assert path.read_text() == "another's"


def test_the_path_is_removed_in_the_directory_that_was_opened() -> None:
    with public_folder() as folder:
        first = folder / "first"
        first.mkdir()
        owned(first, USER.uid)
        [listener] = bind_listeners([f"unix:{first / 's'}"], (), USER)
        first.rename(folder / "second")
        first.mkdir()
        (first / "s").write_text("another's")
        listener.close()
        assert (first / "s").read_text() == "another's"
        assert not (folder / "second" / "s").exists()


def test_what_the_user_may_not_bind_is_an_error_that_names_user_and_address() -> None:
    with public_folder() as folder:
        (folder / "users").mkdir()
        (folder / "users" / "roots").mkdir()
        owned(folder / "users", USER.uid)
        path = folder / "users" / "roots" / "s"
        with pytest.raises(ListenError, match=f"{path}: no permission .done as user {USER.uid}"):
            bind_listeners([f"unix:{path}"], (), USER)


def test_a_pid_file_below_a_directory_of_the_user_is_written_with_the_users_rights() -> None:
    with public_folder() as folder:
        (folder / "users").mkdir()
        owned(folder / "users", USER.uid)
        (folder / "roots").mkdir()
        (folder / "users" / "link").symlink_to(folder / "roots")
        with pytest.raises(SettingsError, match="as user"):
            PidFile(str(folder / "users" / "link" / "pid"), "--pid", USER).create()
        assert not list((folder / "roots").iterdir())
        # A named pipe does not halt the supervisor.
        os.mkfifo(folder / "users" / "pid")
        file = PidFile(str(folder / "users" / "pid"), "--pid", USER)
        with pytest.raises(SettingsError, match="is no regular file"):
            file.create()
        (folder / "users" / "pid").unlink()
        file.create()
        assert (folder / "users" / "pid").stat().st_uid == USER.uid
        file.remove()
        assert not (folder / "users" / "pid").exists()


@pytest.mark.parametrize("setting", ["--control", "--admin"])
@pytest.mark.parametrize("place", ["theirs", "theirs/inner", "link", "for-all"])
def test_a_socket_of_roots_is_not_made_at_a_path_that_the_user_can_move(
    setting: str, place: str
) -> None:
    """Where a directory becomes a link, root would make the socket where the link leads.

    The server makes it again whenever it is removed, which a worker can do in such a directory.
    """
    with public_folder() as folder:
        for name in ("theirs", "theirs/inner"):
            (folder / name).mkdir()
        owned(folder / "theirs", NOBODY.pw_uid)
        (folder / "link").symlink_to(folder / "theirs" / "inner")
        (folder / "for-all").mkdir()
        (folder / "for-all").chmod(0o777)
        path = folder / place / "server.sock"
        address = str(path) if setting == "--control" else f"unix:{path}"
        where = ("--bind", "127.0.0.1:0", setting, address)
        done = ended_command(folder, "--user", "nobody", *where, "shop:app")
        assert done.returncode == 7, done.stderr
        assert f"cannot listen on {address}: others than root can change" in done.stderr
        assert f"(setting: {setting})" in done.stderr
        assert not path.exists()


@pytest.mark.parametrize("mode", [0o755, 0o1777])
def test_a_socket_of_roots_is_made_where_no_other_user_can_move_it(mode: int) -> None:
    with public_folder() as folder:
        (folder / "roots").mkdir()
        (folder / "roots").chmod(mode)
        path = folder / "roots" / "server.sock"
        with TakenOver(folder, "--control", str(path)) as server:
            assert path.stat().st_uid == 0
            assert server.stop() == 0
        assert not path.exists()
