"""``wsgi.file_wrapper``: a file as a response body, which the kernel sends if it can."""

from __future__ import annotations

import io
import os
import stat
from typing import Protocol

BLOCK_SIZE = 64 * 1024
"""Bytes to read at a time if the application names no size: large enough for few reads."""


class Readable(Protocol):
    """What an application can wrap: an object with ``read(size)``."""

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes, ``b""`` at the end."""


class FileWrapper:
    """An iterator over a file-like object (PEP 3333, "Optional Platform-Specific File Handling").

    It reads nothing before it is iterated or returned to the server.
    """

    __slots__ = ("blksize", "filelike")

    def __init__(self, filelike: Readable, blksize: int = BLOCK_SIZE) -> None:
        self.filelike = filelike
        self.blksize = blksize

    def __iter__(self) -> FileWrapper:
        return self

    def __next__(self) -> bytes:
        """Return the next block, of up to ``blksize`` bytes."""
        block = self.filelike.read(self.blksize)
        if not block:
            raise StopIteration
        return block

    def close(self) -> None:
        """Close the file-like object if it has a ``close`` method."""
        close = getattr(self.filelike, "close", None)
        if close is not None:
            close()


def file_region(filelike: object) -> tuple[int, int, int] | None:
    """Return descriptor, offset and count of the bytes from the current position to the end.

    None for anything except a regular file with bytes left. Only the standard library's own file
    types qualify. A ``fileno()`` alone proves nothing: ``gzip`` returns that of the compressed
    file. A size of 0 proves nothing either: the files of ``/proc`` have it.
    """
    kind = type(filelike)
    if kind is io.BufferedReader or kind is io.BufferedRandom:
        assert isinstance(filelike, io.BufferedReader | io.BufferedRandom)
        if type(filelike.raw) is not io.FileIO:
            return None
    elif kind is not io.FileIO:
        return None
    assert isinstance(filelike, io.IOBase)
    try:
        filelike.flush()  # else the file lacks what the application wrote last
        offset = filelike.tell()  # not the position of the descriptor: a buffered reader is ahead
        descriptor = filelike.fileno()
        status = os.fstat(descriptor)
    except (OSError, ValueError):  # a pipe has no position; a closed file raises ValueError
        return None
    count = status.st_size - offset
    if not stat.S_ISREG(status.st_mode) or count <= 0:
        return None
    return descriptor, offset, count
