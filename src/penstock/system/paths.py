"""Paths as root may use them: which users can change where a path leads.

A file that root opens by name is another file if a user can write to a directory on the path: that
user moves the name, and puts a symbolic link in its place. So `find` goes from directory to
directory by descriptor, reads each symbolic link itself, and stops at the first directory that
another user than root can change.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections import deque
from types import TracebackType
from typing import Self

from penstock.records import dataclass

_MOST_LINKS = 40  # as the kernel's MAXSYMLINKS
_WRITABLE = stat.S_IWGRP | stat.S_IWOTH
_DIRECTORY = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEEDLESS = re.compile(r"/(?:\.?/)+")
_STREAM = re.compile(r"/dev/(?:stdout|stderr|fd/([0-9]{1,7}))|/proc/self/fd/([0-9]{1,7})")


def joined(directory: str, *names: str) -> str:
    """Return a path below a directory, as messages show it: without ``.`` and doubled slashes.

    ``..`` stays: behind a symbolic link it is another directory than the one that was left out.
    """
    path = os.path.join(directory, *(name for name in names if name != "."))
    return _NEEDLESS.sub("/", path)


@dataclass(frozen=True)
class Entry:
    """A directory, or a file, and who may write to it."""

    path: str
    uid: int
    gid: int
    mode: int

    @classmethod
    def of(cls, path: str, status: os.stat_result) -> Entry:
        """Return what the status of ``path`` says."""
        return cls(path, status.st_uid, status.st_gid, status.st_mode)

    def __str__(self) -> str:
        """Return it as an error message names it."""
        mode = stat.S_IMODE(self.mode)
        return f"{self.path} (owner {self.uid}, group {self.gid}, mode {mode:04o})"

    @property
    def is_roots(self) -> bool:
        """Whether root alone can change it: a member of the group, or the owner, can otherwise."""
        return self.uid == 0 and not self.mode & _WRITABLE

    @property
    def is_sticky(self) -> bool:
        """Whether it is root's, others can write to it, and each can move only what is theirs."""
        return self.uid == 0 and bool(self.mode & stat.S_ISVTX)


class Place:
    """Where a path leads: a name in an open directory. Used as a context manager."""

    def __init__(self, directory: int, path: str, changeable: Entry | None = None) -> None:
        """Take over the descriptor. ``path`` is absolute, and has no symbolic links.

        ``changeable`` is the first directory on the path that others than root can change; the
        directory and the path are those of the last name that root alone can change then.
        """
        self.directory = directory
        self.path = path
        self.changeable = changeable
        self.name = os.path.basename(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self.directory)


def find(path: str) -> Place:
    """Return where an absolute path leads. Raises OSError; the last name may be missing.

    Symbolic links are followed as long as root alone can change them, the last one as well. The
    names of standard streams, such as ``/dev/stdout``, are left as they are: see `stream_number`.
    """
    ahead = deque(_names(path))
    here, directory = "/", os.open("/", _DIRECTORY)
    links = 0
    try:
        if not ahead:
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        while True:
            whole = os.path.join(here, *ahead)
            if stream_number(whole) is not None:
                return Place(directory, whole)
            name = ahead.popleft()
            so_far = os.path.join(here, name)
            container = Entry.of(here, os.fstat(directory))
            try:
                entry = _look(name, directory)
            except OSError:
                # A user can make this fail, with a file system of its own, and undo it afterwards.
                if container.is_roots:
                    raise
                entry = None
            # A hard link to any other file of root's may have been put there.
            fixed = entry is not None and entry.st_uid == 0 and stat.S_ISDIR(entry.st_mode)
            if not container.is_roots and not (container.is_sticky and fixed):
                if container.is_sticky and entry is not None and stat.S_ISDIR(entry.st_mode):
                    container = Entry.of(so_far, entry)  # its owner can move it
                return Place(directory, os.path.join(so_far, *ahead), container)
            if entry is not None and stat.S_ISLNK(entry.st_mode):
                links += 1
                if links > _MOST_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                target = os.readlink(name, dir_fd=directory)
                ahead.extendleft(reversed(_names(target)))
                if target.startswith("/"):
                    here = "/"
                    directory = _replace(directory, os.open("/", _DIRECTORY))
                if not ahead:
                    raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), path)
            elif ahead:
                directory = _replace(directory, os.open(name, _DIRECTORY, dir_fd=directory))
                here = os.path.dirname(here) if name == ".." else so_far
            else:
                return Place(directory, so_far)
    except BaseException:
        os.close(directory)
        raise


def stream_number(path: str) -> int | None:
    """Return the descriptor that a path names, as ``/dev/stdout`` does; None for other paths."""
    found = _STREAM.fullmatch(path)
    if found is None:
        return None
    number = found[1] or found[2]
    return int(number) if number else {"/dev/stdout": 1, "/dev/stderr": 2}[path]


def not_roots_alone(path: str) -> str:
    """Return why root must not rely on a file: another user can change it; empty for no reason.

    The file and each directory above it have to be root's, and writable by root alone. A directory
    with the sticky bit, such as ``/tmp``, may be above them. Raises OSError where it is missing.
    """
    with find(path) as place:
        if stream_number(place.path) is not None:
            return ""  # root itself has opened it
        if place.changeable is not None:
            return f"its directory {place.changeable} can be changed by others than root"
        status = os.stat(place.name, dir_fd=place.directory, follow_symlinks=False)
        if not Entry.of(path, status).is_roots:
            return f"{Entry.of(path, status)} can be changed by others than root"
        cache = _look("__pycache__", place.directory)
        if cache is not None and not Entry.of("", cache).is_roots:
            where = os.path.join(os.path.dirname(place.path), "__pycache__")
            return f"{Entry.of(where, cache)} can be changed by others than root"
    return ""


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name not in ("", ".")]


def _look(name: str, directory: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _replace(directory: int, fresh: int) -> int:
    os.close(directory)
    return fresh
