"""The directory of the ordering process: what is written is read again, or nothing is."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

import pytest

from penstock.edge.acme.orders import new_key, self_signed
from penstock.edge.acme.schedule import Cause, Failure, Window
from penstock.edge.acme.state import (
    MOST_FILE_BYTES,
    Account,
    Order,
    Published,
    Schedule,
    StateDirectory,
    StateError,
)

AUTHORITY = "https://authority.example/directory"
NAME = "a.example"


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    found = StateDirectory(str(tmp_path / "acme"), AUTHORITY)
    found.open()
    return found


def everything(state: StateDirectory) -> list[object]:
    return [
        state.read_account(), state.read_order(NAME), state.read_pair(NAME),
        state.read_schedule(NAME), state.read_published(),
    ]  # fmt: skip


def fill(state: StateDirectory) -> list[object]:
    key = new_key()
    pair = self_signed(NAME)
    account, order = Account(key, "https://a.example/1", "me@a.example"), Order(key, "")
    schedule = Schedule(Failure(2, Cause.AWAY, 1.5, 2.5), Window(3.0, 4.0), 5.0, "ab", 6.0, 7)
    published = Published(3, ((NAME, "token", "authorization"),), ((NAME, "c", "k"),))
    state.write_account(account)
    state.write_order(NAME, order)
    state.write_pair(NAME, *pair)
    state.write_schedule(NAME, schedule)
    state.publish(published)
    return [account, order, pair, schedule, published]


NOTHING = [None, None, None, Schedule(), Published()]


def test_what_is_written_is_read_again(state: StateDirectory) -> None:
    assert everything(state) == NOTHING
    written = fill(state)
    assert everything(state) == written
    assert everything(StateDirectory(state.path, AUTHORITY)) == written


def test_only_its_owner_can_read_it(state: StateDirectory) -> None:
    fill(state)
    for directory, _, names in os.walk(state.path):
        assert os.stat(directory).st_mode & 0o777 == 0o700
        for name in names:
            assert os.stat(os.path.join(directory, name)).st_mode & 0o777 == 0o600


def test_a_directory_that_others_may_read_is_closed_to_them(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    StateDirectory(str(tmp_path), AUTHORITY).open()
    assert tmp_path.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 12345)
    with pytest.raises(StateError, match="belongs to user 12345"):
        StateDirectory(str(tmp_path), AUTHORITY).open()


def test_a_directory_that_cannot_be_made_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match=r"install -d -m 700"):
        StateDirectory(str(tmp_path / "file" / "acme"), AUTHORITY).open()


def files(state: StateDirectory) -> list[Path]:
    return [each for each in Path(state.path).rglob("*") if each.is_file()]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\x00" * 100, b"[]", b"null", b"{}", b"\xff\xfe", b'{"number": "x"}',
     b'{"failure": 7, "window": [], "window_due": "x"}', b"[" * 100_000,
     b'{"key": "k", "url": "file:///etc/passwd", "email": ""}', b"x" * (MOST_FILE_BYTES + 1)],
    ids=lambda content: repr(content[:20]),
)  # fmt: skip
def test_a_damaged_file_counts_as_missing(state: StateDirectory, content: bytes) -> None:
    fill(state)
    for path in files(state):
        path.write_bytes(content)
    assert everything(state) == NOTHING


def test_a_file_cut_off_anywhere_counts_as_missing_or_is_whole(state: StateDirectory) -> None:
    written = fill(state)
    for path in files(state):
        whole = path.read_bytes()
        for length in range(0, len(whole), 7):
            path.write_bytes(whole[:length])
            for before, found, nothing in zip(written, everything(state), NOTHING, strict=True):
                # A PEM block is whole without the last line break.
                assert found in (before, nothing)
        path.write_bytes(whole)


def test_a_symbolic_link_is_not_followed(state: StateDirectory, tmp_path: Path) -> None:
    fill(state)
    for path in files(state):
        path.rename(tmp_path / path.name)
        path.symlink_to(tmp_path / path.name)
    assert everything(state) == NOTHING


def test_a_pipe_does_not_halt_it(state: StateDirectory) -> None:
    fill(state)
    for path in files(state):
        path.unlink()
        os.mkfifo(path)
    assert everything(state) == NOTHING


def test_a_full_disk_leaves_what_was_there(state: StateDirectory) -> None:
    """As with ENOSPC: the limit on the size of files makes `write` fail in the same place."""
    written = fill(state)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        with pytest.raises(OSError):
            state.write_account(Account(new_key(), "", "other"))
        with pytest.raises(OSError):
            state.publish(Published(99))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert everything(state) == written
    assert not [path for path in files(state) if path.name.startswith(".")]


def test_a_temporary_file_of_a_killed_process_does_not_get_in_the_way(
    state: StateDirectory,
) -> None:
    (Path(state.path) / state._temporary).write_text("left over")
    written = fill(state)
    assert everything(state) == written


def test_each_authority_has_its_own_account_but_any_pair_is_better_than_none(
    state: StateDirectory,
) -> None:
    _, _, pair, *_ = fill(state)
    other = StateDirectory(state.path, "https://other.example/directory")
    other.open()
    assert other.read_account() is None
    assert other.read_order(NAME) is None
    assert other.read_pair(NAME) == pair
    assert not other.has_own_pair(NAME)
    assert state.has_own_pair(NAME)


def test_notes_of_hosts(state: StateDirectory) -> None:
    state.note_host("one", {"number": 1})
    state.note_host("two", {"number": 2})
    state.forget_host("one")
    state.forget_host("three")
    assert state.hosts() == {"two": {"number": 2}}
