"""Directories whose files are sent: where they are, what of them is refused, and failures."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from typing import Final

from penstock.system.beneath import Directory

LOOK_SECONDS = 1.0
"""How long it may take until it is seen that the directory itself was replaced."""

LogMessage = Callable[..., object]
"""Logs a message that clients can bring about, as `RequestLog.message` does."""

NOT_THERE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EISDIR})
_REFUSED = frozenset({errno.EXDEV, errno.ELOOP, errno.EINVAL, errno.ENXIO, errno.EMLINK})
_NO_RIGHT = frozenset({errno.EACCES, errno.EPERM})
_OUT_OF_FILES = frozenset({errno.EMFILE, errno.ENFILE})


class ServedDirectory:
    """A directory by its path, which may lead to another one after a while."""

    def __init__(self, path: str) -> None:
        """``path`` is absolute. The directory need not be there yet."""
        self.path = os.fsencode(path)
        self._directory: Directory | None = None
        self._look_at = 0.0

    def current(self) -> Directory | None:
        """Return the directory that the path leads to now; None where there is none.

        Two threads may both open it, which does no harm.
        """
        directory = self._directory
        if self._look_at > time.monotonic():
            return directory
        if directory is None or not directory.is_current():
            try:
                directory = Directory(self.path)
            except OSError:
                directory = None
            self._directory = directory
        # Looked for again with the next request where it is not there.
        self._look_at = 0.0 if directory is None else time.monotonic() + LOOK_SECONDS
        return directory


class ReadError(OSError):
    """A file could not be opened or read. Not an error of the exchange, which is an OSError too."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(cause.errno, cause.strerror)


def is_refused(name: bytes) -> bool:
    """Return True for a path below a directory that is not served, whether it is there or not.

    That is one with ``.`` or ``..``, with a name that begins with a dot (other than
    ``.well-known``, RFC 8615), or with a NUL.
    """
    if b"\0" in name:
        return True
    if not name.startswith(b".") and b"/." not in name:
        return False
    parts = name.split(b"/")
    return any(part.startswith(b".") and part != b".well-known" for part in parts)


def status_of(error: OSError) -> int:
    """Return the status that answers a failure to open or to read a file."""
    number = error.errno
    if number in NOT_THERE or number in _REFUSED:
        return 404
    if number in _NO_RIGHT:
        return 403
    return 503 if number in _OUT_OF_FILES else 500
