"""The directories of the control sockets that ``auto`` names: which they are, and who may write.

The server takes the first directory that it can use, and penstockctl looks in all of them. A
directory is opened once, without following a symbolic link, and checked by its descriptor. All
that is done in it is done by that descriptor, so that a directory that is renamed, replaced or
turned into a link afterwards has no effect.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from itertools import islice

from penstock.records import dataclass

FOLDER = "penstock"
"""The name of the directory within one that other programs use, too."""

SUFFIX = ".sock"

SYSTEM = "/run"
"""Where only root can create a directory."""

MOST_DIRECTORIES = 100
"""Of other programs and users, which penstockctl looks in."""

_LONGEST_NAME = 48
"""Characters of a server's name: with a process id it still fits into the address of a socket,
which has 107 bytes (unix(7)), behind ``/proc/self/fd/N/``."""

_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
_OTHERS_MAY_ENTER = stat.S_IRWXG | stat.S_IRWXO


class NotPrivate(Exception):
    """Another user may have made the directory, or may write there; the text says why."""


@dataclass(frozen=True)
class Directory:
    """A directory in which control sockets can be."""

    path: str
    ours_alone: bool = True
    """Whether it has to have mode 0700. One that a service manager made may be readable."""
    parent_is_private: bool = False
    """Whether the directory above it has to be private, too."""
    foreign: bool = False
    """Whether it may be another user's, who put it where root did not ask for it."""

    def open(self, uid: int, *, create: bool) -> int:
        """Return a descriptor of the directory, which is made with mode 0700 if it is to be.

        Raises `NotPrivate`, and OSError where it is not there or cannot be used.
        """
        above, name = os.path.split(self.path)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        parent = os.open(above, flags | (os.O_NOFOLLOW if self.parent_is_private else 0))
        try:
            if self.parent_is_private:
                _check(parent, above, {uid}, _OTHERS_MAY_ENTER)
            if create:
                _make(name, parent)
            try:
                descriptor = os.open(name, flags | os.O_NOFOLLOW, dir_fd=parent)
            except NotADirectoryError:
                raise NotPrivate(f"{self.path} is a symbolic link, or no directory") from None
            except PermissionError:
                owner = os.stat(name, dir_fd=parent, follow_symlinks=False).st_uid
                if owner == uid or not create:
                    raise
                raise NotPrivate(f"{self.path} belongs to user {owner}") from None
        finally:
            os.close(parent)
        try:
            # A client uses the servers of root, too, and root's client those of each owner.
            owners = {uid} if create else {0, uid} if uid else None
            forbidden = _OTHERS_MAY_ENTER if self.ours_alone else _OTHERS_MAY_WRITE
            _check(descriptor, self.path, owners, forbidden)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


def why_replaceable(status: os.stat_result, *trusted: int) -> str:
    """Return why a user who is not trusted can replace a socket in a directory; empty if none can.

    ``status`` is that of the directory, and ``trusted`` are ids of users; root is trusted.
    """
    if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
        return "any user can replace it in its directory"
    if status.st_uid not in (0, *trusted):
        return f"its directory belongs to user {status.st_uid}"
    return ""


def _make(name: str, parent: int) -> None:
    before = os.umask(0o077)
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        pass  # it is checked as any other
    finally:
        os.umask(before)


def _check(descriptor: int, path: str, owners: set[int] | None, forbidden: int) -> None:
    status = os.fstat(descriptor)
    if owners is not None and status.st_uid not in owners:
        raise NotPrivate(f"{path} belongs to user {status.st_uid}")
    if status.st_mode & forbidden:
        raise NotPrivate(f"other users can use {path}: its mode is {status.st_mode & 0o7777:04o}")


def of_server(environ: Mapping[str, str], uid: int) -> list[Directory]:
    """Return the directories that a server of this user tries, in this order."""
    return [
        *_of_service(environ),
        *([Directory(f"{SYSTEM}/{FOLDER}")] if uid == 0 else []),
        Directory(f"{SYSTEM}/user/{uid}/{FOLDER}", parent_is_private=True),
        Directory(os.path.join(_temporary(environ), f"{FOLDER}-{uid}")),
    ]


def of_client(environ: Mapping[str, str], uid: int) -> list[Directory]:
    """Return the directories in which penstockctl looks, for root those of other users last."""
    found = [*_of_service(environ), Directory(f"{SYSTEM}/{FOLDER}", ours_alone=False)]
    found += [
        Directory(path, ours_alone=False, foreign=True)
        for path in _matching(f"{SYSTEM}/*/{FOLDER}")
    ]
    if (own := environ.get("XDG_RUNTIME_DIR", "")).startswith("/"):
        found.append(Directory(os.path.join(own, FOLDER), parent_is_private=True))
    found.append(Directory(f"{SYSTEM}/user/{uid}/{FOLDER}", parent_is_private=True))
    for temporary in (_temporary(environ), "/tmp"):
        found.append(Directory(os.path.join(temporary, f"{FOLDER}-{uid}")))
    if uid == 0:
        for pattern in (f"{SYSTEM}/user/*/{FOLDER}", f"/tmp/{FOLDER}-[0-9]*"):
            found += [Directory(path, foreign=True) for path in _matching(pattern)]
    return list({each.path: each for each in reversed(found)}.values())[::-1]


def _of_service(environ: Mapping[str, str]) -> Iterator[Directory]:
    """Yield the directories that systemd made for the service (RuntimeDirectory=)."""
    paths = [path for path in environ.get("RUNTIME_DIRECTORY", "").split(":") if path[:1] == "/"]
    for path in sorted(paths, key=lambda path: os.path.basename(path) != FOLDER):
        if os.path.basename(path) == FOLDER:
            yield Directory(path, ours_alone=False)
        else:
            yield Directory(os.path.join(path, FOLDER))


def _temporary(environ: Mapping[str, str]) -> str:
    path = environ.get("TMPDIR", "")
    return path if path.startswith("/") else "/tmp"


def _matching(pattern: str) -> list[str]:
    import glob  # for clients alone

    return sorted(islice(glob.iglob(pattern), MOST_DIRECTORIES))


def name_of(name: str | None, bind: str) -> str:
    """Return the name of a server's socket without its suffix: that of ``--name``, or its address.

    >>> name_of(None, "127.0.0.1:8000")
    '127.0.0.1-8000'
    """
    text = name if name is not None else bind.removesuffix(SUFFIX)
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")
    return safe[:_LONGEST_NAME] or FOLDER
