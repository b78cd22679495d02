"""Files below a directory, opened with openat2 and name by name."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from penstock.system.beneath import Directory


@pytest.fixture(params=["openat2", "by name"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Directory:
    """A directory; one way of opening is forced by leaving the other out."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    place = tmp_path / "root"
    (place / "sub" / "deep").mkdir(parents=True)
    (place / "file").write_text("file")
    (place / "sub" / "deep" / "file").write_text("deep")
    directory = Directory(os.fsencode(place))
    if request.param == "by name":
        directory._syscall = None
    elif directory._syscall is None:
        pytest.skip("this system has no openat2")
    return directory


def read(root: Directory, path: bytes) -> bytes:
    descriptor, status = root.open_file(path)
    try:
        assert not os.get_inheritable(descriptor)
        return os.pread(descriptor, status.st_size, 0)
    finally:
        os.close(descriptor)


def code(call: Callable[[], object]) -> int | None:
    with pytest.raises(OSError) as caught:
        call()
    return caught.value.errno


def test_files_are_opened_by_their_names(root: Directory) -> None:
    assert read(root, b"file") == b"file"
    assert read(root, b"sub/deep/file") == b"deep"
    assert code(lambda: root.open_file(b"missing")) == errno.ENOENT
    assert code(lambda: root.open_file(b"file/below")) == errno.ENOTDIR
    assert code(lambda: root.open_file(b"sub")) == errno.EISDIR
    assert code(lambda: root.open_file(b"n" * 300)) == errno.ENAMETOOLONG


@pytest.mark.parametrize(
    "target",
    ["sub/deep/file", "./sub/../sub/deep/file", "sub/deep/../deep/file", "by-link/deep/file"],
)
def test_links_that_stay_inside_are_followed(root: Directory, target: str) -> None:
    place = Path(os.fsdecode(root.path))
    (place / "by-link").symlink_to("sub")
    (place / "link").symlink_to(target)
    assert read(root, b"link") == b"deep"
    assert read(root, b"by-link/deep/file") == b"deep"


def test_an_absolute_link_is_followed_where_it_comes_back(root: Directory) -> None:
    place = Path(os.fsdecode(root.path))
    (place / "link").symlink_to(place / "sub" / "deep" / "file")
    assert read(root, b"link") == b"deep"


@pytest.mark.parametrize(
    "target", ["../outside/secret", "sub/../../outside/secret", "sub/up/outside/secret"]
)
def test_links_that_lead_out_are_refused(root: Directory, target: str) -> None:
    place = Path(os.fsdecode(root.path))
    (place / "sub" / "up").symlink_to("../..")
    (place / "link").symlink_to(target)
    (place / "absolute").symlink_to(place.parent / "outside" / "secret")
    (place / "directory").symlink_to("../outside")
    for path in (b"link", b"absolute", b"directory/secret", b"../outside/secret"):
        assert code(lambda path=path: root.open_file(path)) == errno.EXDEV, path  # type: ignore[misc]


def test_a_link_out_and_back_is_refused_or_followed_by_where_it_ends(root: Directory) -> None:
    place = Path(os.fsdecode(root.path))
    (place / "link").symlink_to("../root/file")
    assert read(root, b"link") == b"file"


def test_links_without_an_end_are_refused(root: Directory) -> None:
    place = Path(os.fsdecode(root.path))
    (place / "a").symlink_to("b")
    (place / "b").symlink_to("a")
    assert code(lambda: root.open_file(b"a")) == errno.ELOOP


def test_what_is_no_file_is_not_opened(root: Directory) -> None:
    place = Path(os.fsdecode(root.path))
    os.mkfifo(place / "fifo")
    (place / "null").symlink_to("/dev/null")
    (place / "socket").symlink_to("fifo")
    for path in (b"fifo", b"null", b"socket"):
        assert code(lambda path=path: root.open_file(path)) == errno.EINVAL, path  # type: ignore[misc]


def test_a_fifo_in_the_place_of_a_file_does_not_wait(root: Directory) -> None:
    """As where it takes the file's place after the file was looked at."""
    place = Path(os.fsdecode(root.path))
    os.mkfifo(place / "fifo")
    os.close(root._open(b"fifo"))


def test_proc_is_not_entered_by_its_magic_links(root: Directory) -> None:
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("this system has no /proc")
    place = Path(os.fsdecode(root.path))
    number = os.open(place.parent / "outside", os.O_RDONLY)
    try:
        (place / "magic").symlink_to(f"/proc/self/fd/{number}/secret")
        assert code(lambda: root.open_file(b"magic")) == errno.EXDEV
    finally:
        os.close(number)


def test_a_directory_knows_when_another_has_its_place(root: Directory) -> None:
    place = Path(os.fsdecode(root.path))
    assert root.is_current()
    place.rename(place.with_name("before"))
    assert not root.is_current()
    place.mkdir()
    assert not root.is_current()
    assert read(root, b"file") == b"file", "what is open stays what it is"


def test_no_descriptor_is_left(root: Directory) -> None:
    place = Path(os.fsdecode(root.path))
    (place / "link").symlink_to("../outside/secret")
    before = len(os.listdir("/dev/fd"))
    for path in (b"file", b"sub/deep/file"):
        read(root, path)
    for path in (b"link", b"missing", b"sub", b"sub/deep/missing", b"../file"):
        with pytest.raises(OSError):
            root.open_file(path)
    assert len(os.listdir("/dev/fd")) == before
