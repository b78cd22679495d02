"""A unix socket in a directory that stays open: made, passed on and removed relative to it.

A path is looked up anew at each use, and another user may have moved one of its directories in
between. Here the directory is opened once, and its descriptor stands for it from then on:
``/proc/self/fd/N/NAME`` is bound, and ``NAME`` is removed in the open directory, if it is still the
file that this process made.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice

from penstock.control.directories import SUFFIX, Directory
from penstock.errors import ListenError
from penstock.listeners import LONGEST_PATH_BYTES, TOO_LONG, Address, Listener
from penstock.records import dataclass
from penstock.system.temporary_files import temporary_file

LOCK_SECONDS = 0.3
"""How long the start of a server waits for another one that makes its socket in the same directory.
It takes a few system calls: more time would only serve a process that holds the lock to do harm. A
supervisor that has workers does not wait at all."""

_LOCK_PAUSE_SECONDS = 0.01
_OWNER_ONLY = 0o177
"""The umask that leaves a socket's path to its owner: mode 0600."""

_MOST_NAMES = 9
"""Names tried with the same process id, which containers that share the directory can have."""

_MOST_ENTRIES = 1000
"""Entries of a directory that are looked at for sockets of servers that have ended."""

_REASONS = {
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.ENOENT: "its directory does not exist",
    errno.ENOTDIR: "part of its path is not a directory",
    errno.EROFS: "its file system is read-only",
    errno.EADDRINUSE: "it is in use by another program",
}


@dataclass(frozen=True)
class Passed:
    """A socket that a predecessor passed, and the directory in which it is."""

    socket: int
    directory: int | None
    """None from a version that did not pass it."""


class SocketFile:
    """A listening unix socket with a path. It has what a `penstock.listeners.Listener` has."""

    def __init__(self, sock: socket.socket, directory: int, path: str, *, owned: bool) -> None:
        """Own both descriptors; ``owned`` is whether this process made the file."""
        self.socket = sock
        self.directory = directory
        """A descriptor of the directory, which stays open."""
        self.path = path
        """The absolute path at the time when the directory was opened, for people."""
        self.name = "unix:" + path
        """The name for logs."""
        self._entry = os.path.basename(path)
        self._identity = _identity(directory, self._entry) if owned else None
        self._process = os.getpid()

    @property
    def place(self) -> tuple[int, int, str]:
        """Device and inode of the directory, and the name in it."""
        status = os.fstat(self.directory)
        return status.st_dev, status.st_ino, self._entry

    @property
    def is_lost(self) -> bool:
        """Whether the file that this process owns was removed: clients cannot find it any more."""
        return self._identity is not None and _identity(self.directory, self._entry) is None

    def take_over(self) -> None:
        """Become the owner of the file: the predecessor that made it ends."""
        if self._identity is None:
            self._identity = _identity(self.directory, self._entry)

    def disown(self) -> None:
        """Leave the file to another process that has the socket, too."""
        self._identity = None

    def close(self) -> None:
        """Close the socket, and remove the file if it is the one that this process owns."""
        self.socket.close()
        made, self._identity = self._identity, None
        is_ours = made is not None and self._process == os.getpid()
        if is_ours and _identity(self.directory, self._entry) == made:
            with suppress(OSError):  # the file system has become read-only
                os.unlink(self._entry, dir_fd=self.directory)
        self.close_directory()

    def close_directory(self) -> None:
        """Close the descriptor of the directory, as a forked child does, and nothing else."""
        directory, self.directory = self.directory, -1
        if directory >= 0:
            os.close(directory)


# -- the socket of ``auto`` ----------------------------------------------------------------------


def open_in(
    place: Directory, name: str, backlog: int, patience: float = LOCK_SECONDS
) -> SocketFile:
    """Return a socket that listens in a directory of our own, under a name that is free.

    That is ``name``, or where a server that runs has that name, the name with the process id.
    Sockets of earlier servers of this name that have ended are removed, unless another server has
    locked the directory for longer than ``patience`` seconds. Raises `NotPrivate` and OSError.
    """
    directory = place.open(os.geteuid(), create=True)
    try:
        with _locked(directory, patience) as alone:
            # Another server's socket cannot be told from a dead one before it listens.
            if alone:
                _remove_dead(directory, place.path, name)
            return _listen_at_free_name(directory, place.path, name, backlog)
    except BaseException:
        os.close(directory)
        raise


def _listen_at_free_name(directory: int, folder: str, name: str, backlog: int) -> SocketFile:
    pid = os.getpid()
    names = [name, f"{name}-{pid}", *(f"{name}-{pid}-{n}" for n in range(2, _MOST_NAMES))]
    for number, candidate in enumerate(names, 1):
        try:
            return _listen(directory, os.path.join(folder, candidate + SUFFIX), backlog)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or number == len(names):
                raise
    raise AssertionError("unreachable")


def is_name_of(entry: str, name: str) -> bool:
    """Return True if a file in the directory has the name of a server, or that with a number."""
    return (
        re.fullmatch(rf"{re.escape(name)}(?:-[0-9]+){{0,2}}{re.escape(SUFFIX)}", entry) is not None
    )


def _remove_dead(directory: int, folder: str, name: str) -> None:
    with os.scandir(directory) as entries:
        found = [each.name for each in islice(entries, _MOST_ENTRIES)]
    for entry in found:
        if is_name_of(entry, name) and is_dead(directory, folder, entry):
            with suppress(FileNotFoundError):
                os.unlink(entry, dir_fd=directory)


# -- the socket of a path that was given ---------------------------------------------------------


def open_path(path: str, backlog: int, patience: float = LOCK_SECONDS) -> SocketFile:
    """Return a socket that listens at a path; its directory exists.

    The socket of a server that has ended is replaced where it is this user's, or in a directory in
    which no other user can write, unless another server has locked the directory for longer than
    ``patience`` seconds. Raises OSError; its text is a reason that can be shown.
    """
    path = os.path.abspath(path)
    folder, entry = os.path.split(path)
    directory = _open_folder(folder)
    try:
        with _locked(directory, patience) as alone:
            try:
                return _listen(directory, path, backlog)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            _clear(directory, folder, entry, alone)
            return _listen(directory, path, backlog)
    except BaseException:
        os.close(directory)
        raise


def check_path(path: str) -> None:
    """Raise the OSError of `open_path`, as far as it is known without a socket.

    A server that runs may have its socket at the path. It makes a file without a name beside it.
    """
    folder, entry = os.path.split(os.path.abspath(path))
    directory = _open_folder(folder)
    try:
        if len(os.fsencode(reach(directory, folder, entry))) > LONGEST_PATH_BYTES:
            raise OSError(TOO_LONG)
        with suppress(FileNotFoundError):
            _status_of_socket(directory, entry)
        temporary_file(folder).close()
    finally:
        os.close(directory)


def _open_folder(folder: str) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _status_of_socket(directory: int, entry: str) -> os.stat_result:
    """Return the status of a socket. Raises OSError for all else."""
    status = os.stat(entry, dir_fd=directory, follow_symlinks=False)
    if not stat.S_ISSOCK(status.st_mode):
        raise OSError(errno.EEXIST, "the path exists and is not a socket")
    return status


def _clear(directory: int, folder: str, entry: str, alone: bool) -> None:
    """Remove the socket of a server that has ended. Raises OSError for all else."""
    status = _status_of_socket(directory, entry)
    if not alone:
        raise OSError(errno.EAGAIN, "another server has locked its directory")
    if not is_dead(directory, folder, entry):
        raise OSError(errno.EADDRINUSE, _REASONS[errno.EADDRINUSE])
    around = os.fstat(directory)
    own = os.geteuid()
    private = around.st_uid == own and not around.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if status.st_uid != own and not private:
        raise OSError(
            errno.EADDRINUSE,
            f"there is a socket of user {status.st_uid} on which no server listens; remove it",
        )
    with suppress(FileNotFoundError):
        os.unlink(entry, dir_fd=directory)


def adopt(passed: Passed) -> Listener | SocketFile:
    """Return the socket of a predecessor, which stays its own until ``take_over``.

    Raises OSError where the descriptor is no socket.
    """
    sock = socket.socket(fileno=passed.socket)
    try:
        sock.setblocking(False)
        sock.set_inheritable(False)
        bound = os.fsdecode(sock.getsockname()) if sock.family == socket.AF_UNIX else ""
        if not bound or bound.startswith("\0"):
            return Listener(sock, Address(bound, path=bound or None))
        folder, entry = os.path.split(os.path.abspath(bound))
        if passed.directory is not None:
            directory = passed.directory
            os.set_inheritable(directory, False)
            with suppress(OSError):  # without /proc; it is for people only
                folder = os.readlink(f"/proc/self/fd/{directory}")
        else:
            directory = _open_folder(folder)
    except BaseException:
        sock.detach()
        raise
    return SocketFile(sock, directory, os.path.join(folder, entry), owned=False)


# -- both ----------------------------------------------------------------------------------------


def reach(directory: int, folder: str, entry: str) -> str:
    """Return the address of a socket in an open directory, for bind and connect."""
    through = f"/proc/self/fd/{directory}"
    # Without /proc only the path is left, as it was when the directory was opened.
    return os.path.join(through if os.path.isdir(through) else folder, entry)


def is_dead(directory: int, folder: str, entry: str) -> bool:
    """Return True if it is a socket on which no process listens."""
    try:
        if not stat.S_ISSOCK(os.stat(entry, dir_fd=directory, follow_symlinks=False).st_mode):
            return False
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a full queue must not block, and proves that a server listens
        try:
            probe.connect(reach(directory, folder, entry))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


def reason_of(error: OSError) -> str:
    """Return why a socket cannot be made, for people."""
    if error.errno is None:  # "AF_UNIX path too long" is Python's own
        return TOO_LONG
    if error.errno in (errno.EEXIST, errno.EADDRINUSE) and error.strerror:
        known = os.strerror(error.errno)
        return _REASONS[errno.EADDRINUSE] if error.strerror == known else error.strerror
    return _REASONS.get(error.errno) or error.strerror or str(error)


def cannot_listen(text: str, reason: str, setting: str) -> ListenError:
    """Return the error for an address that cannot be used."""
    return ListenError(f"cannot listen on {text}: {reason} (setting: --{setting})")


def _listen(directory: int, path: str, backlog: int) -> SocketFile:
    folder, entry = os.path.split(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made: SocketFile | None = None
    try:
        before = os.umask(_OWNER_ONLY)  # a mode that is set later would leave others a moment
        try:
            sock.bind(reach(directory, folder, entry))
        finally:
            os.umask(before)
        made = SocketFile(sock, directory, path, owned=True)
        sock.setblocking(False)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        if made is not None:
            with suppress(OSError):
                os.unlink(entry, dir_fd=directory)
        raise
    return made


def _identity(directory: int, entry: str) -> tuple[int, int] | None:
    try:
        status = os.stat(entry, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return None
    return status.st_dev, status.st_ino


@contextmanager
def _locked(directory: int, patience: float) -> Iterator[bool]:
    """Lock a directory against other servers that look for dead sockets; False without success."""
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                yield False
                return
            time.sleep(_LOCK_PAUSE_SECONDS)
        except OSError:  # the file system has no locks
            yield False
            return
        else:
            break
    try:
        yield True
    finally:
        with suppress(OSError):
            fcntl.flock(directory, fcntl.LOCK_UN)
