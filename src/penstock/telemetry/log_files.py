"""Opening log files: who opens them, and what is no log file.

A server that was started as root with ``--user`` writes logs that the workers can reach, and a
worker may run hostile code. docs/privileges.md has the rules; this is where they are kept.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from penstock.system.as_user import Change, HelperError, Work, said_by, wait_for
from penstock.system.paths import Entry, find, stream_number

if TYPE_CHECKING:
    from penstock.system.privileges import Identity

# Logs name clients and their requests: not every user of the machine may read them.
FILE_MODE: Final = 0o640

OPEN_FLAGS: Final = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""O_NONBLOCK: opening a named pipe without a reader would hang."""

_APPEND: Final = OPEN_FLAGS | os.O_APPEND
_DIRECTORY: Final = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC

Opener = Callable[[str], int]
"""Returns a descriptor of the file at an absolute path, which is created if it is missing. Raises
OSError, with the reason in words."""


def open_plainly(path: str) -> int:
    """Open a file with the rights of this process, as any program does.

    ``/dev/stdout`` and the like mean the open descriptor: a socket, or a pipe of another user,
    cannot be opened by that name.
    """
    number = stream_number(path)
    if number is not None:
        return open_stream(number)
    return os.open(path, _APPEND | os.O_CREAT, FILE_MODE)


def opener_for(identity: Identity | None) -> Opener:
    """Return how to open the logs of workers that run as ``identity``; None is this process's.

    The rules are for root alone: another user has no rights that the workers lack.
    """
    if not is_opened_for(identity):
        return open_plainly
    assert identity is not None
    return lambda path: received_log(path, lambda: wait_for(partial(_open_as_root, path, identity)))


def is_opened_for(identity: Identity | None) -> bool:
    """Return True if this is root, and opens the logs of workers that run as another user."""
    return identity is not None and not identity.is_root and os.geteuid() == 0


def check_log(path: str, identity: Identity | None) -> str:
    """Return who opens a log when the server starts: ``root`` or ``user 33 (groups 4, 33)``.

    It is opened as `opener_for` opens it, but not created. Raises OSError where a start could not
    open it, with the reason in words.
    """
    if is_opened_for(identity):
        assert identity is not None
        try:
            return said_by(partial(_check_as_root, path, identity))
        except HelperError as error:
            raise OSError(errno.EACCES, str(error)) from None
    if stream_number(path) is not None:
        os.close(open_plainly(path))
    else:
        directory = os.open(os.path.dirname(path), _DIRECTORY)
        try:
            _close(_open_in(directory, os.path.basename(path), creates=False, links=True))
        finally:
            os.close(directory)
    return _own_name()


def work_for_log(path: str, identity: Identity) -> Work:
    """Return what a helper process of root's does to open a log; `received_log` checks it."""
    return partial(_open_as_root, path, identity)


def open_stream(descriptor: int) -> int:
    """Return a new descriptor for what is open as ``descriptor``. Raises OSError.

    A pipe or a terminal is opened again: the flag for non-blocking calls is shared otherwise.
    """
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        try:
            return os.open(f"/proc/self/fd/{descriptor}", OPEN_FLAGS)
        except OSError:
            pass  # No /proc, or the pipe belongs to another user: poll alone has to do.
    return os.dup(descriptor)


def received_log(path: str, receive: Callable[[], list[int]]) -> int:
    """Return the log that ``receive`` returns, from a helper process. Raises OSError."""
    try:
        descriptors = receive()
    except HelperError as error:
        raise OSError(errno.EACCES, str(error)) from None
    if len(descriptors) == 1 and _can_be_log(descriptors[0]):
        return descriptors[0]
    for descriptor in descriptors:
        os.close(descriptor)
    raise OSError(
        errno.EINVAL, f"the process that opened {path} has sent something else than an open log"
    )


def _can_be_log(descriptor: int) -> bool:
    """Return False for what is no log: the process that has sent it may be another user's."""
    if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        return False
    status = os.fstat(descriptor)
    return _is_log(status.st_mode) or _is_stream(status)


def _is_log(mode: int) -> bool:
    return stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def _is_stream(status: os.stat_result) -> bool:
    """Return True for what is open as a standard stream of this process, a socket for example."""
    for number in (0, 1, 2):
        with suppress(OSError):
            if os.path.samestat(status, os.fstat(number)):
                return True
    return False


def _check_as_root(path: str, identity: Identity, change: Change) -> str:
    """Do what opens a log, in a helper process of root's, and return who opens it."""
    for descriptor in _open_as_root(path, identity, change, creates=False):
        os.close(descriptor)
    return _own_name()


def _own_name() -> str:
    uid = os.geteuid()
    groups = ", ".join(map(str, sorted({os.getegid(), *os.getgroups()})))
    return f"user {uid} (groups {groups})" if uid else "root"


def _open_as_root(
    path: str, identity: Identity, change: Change, *, creates: bool = True
) -> list[int]:
    """Open a log in a helper process of root's, which becomes the user where it has to.

    Return its descriptor; none where it is missing, could be created, and is not to be.
    Even to look up the name can take as long as a user likes, who has mounted a file system there.
    """
    with find(path) as place:
        number = stream_number(place.path)
        if number is not None:
            return [open_stream(number)]
        changeable = place.changeable
        if changeable is None:
            return _listed(_open_in(place.directory, place.name, creates=creates))
    try:
        change(identity)
        return _listed(_open_as_user(path, identity, creates))
    except OSError as error:
        raise OSError(
            errno.EACCES,
            f"{error.strerror} (opened as user {identity.uid}, because others than root can "
            f"change {changeable})",
        ) from None


def _listed(descriptor: int | None) -> list[int]:
    return [] if descriptor is None else [descriptor]


def _close(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)


def _open_as_user(path: str, identity: Identity, creates: bool) -> int | None:
    """Open the file in a helper process, which has the rights of the user alone."""
    parent = os.path.dirname(path)
    directory = os.open(parent, _DIRECTORY)
    status = os.fstat(directory)
    shared = others_can_write(status, identity)
    if shared and not status.st_mode & stat.S_ISVTX:
        raise OSError(
            errno.EACCES,
            f"its directory {Entry.of(parent, status)} can be written by other users than user "
            f"{identity.uid}",
        )
    descriptor = _open_in(directory, os.path.basename(path), creates=creates)
    if descriptor is None:
        return None
    found = os.fstat(descriptor)
    if shared and found.st_uid not in (0, identity.uid):
        raise OSError(errno.EACCES, f"{Entry.of(path, found)} belongs to another user")
    return descriptor


def others_can_write(status: os.stat_result, identity: Identity) -> bool:
    """Return True if another user than root and this one may write to a directory."""
    groups = (0, identity.gid, *identity.groups)
    return (
        status.st_uid not in (0, identity.uid)
        or bool(status.st_mode & stat.S_IWOTH)
        or (bool(status.st_mode & stat.S_IWGRP) and status.st_gid not in groups)
    )


def _open_in(directory: int, name: str, *, creates: bool = True, links: bool = False) -> int | None:
    """Open a name in an open directory; a symbolic link only with ``links``. Raises OSError.

    Without ``creates``, return None for a file that is missing and could be created.
    """
    flags = _APPEND | (os.O_CREAT if creates else 0) | (0 if links else os.O_NOFOLLOW)
    try:
        descriptor = os.open(name, flags, FILE_MODE, dir_fd=directory)
    except OSError as error:
        if error.errno == errno.ENOENT and not creates:
            _check_creating(directory)
            return None
        if error.errno != errno.ELOOP:
            raise
        reason = "it is a symbolic link: name the file that it leads to"
        raise OSError(errno.ELOOP, reason) from None
    mode = os.fstat(descriptor).st_mode
    if _is_log(mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "it is no file, named pipe or character device")


def _check_creating(directory: int) -> None:
    """Raise OSError if this user cannot create a file in an open directory."""
    if os.fstatvfs(directory).f_flag & os.ST_RDONLY:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))
    if not os.access(".", os.W_OK | os.X_OK, dir_fd=directory, effective_ids=True):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))
