"""Request bodies on their way to the application: in memory first, then in a temporary file."""

from __future__ import annotations

import errno
import io
import tempfile
from typing import BinaryIO

from penstock.http1 import ProtocolError


class SpooledBody(io.BufferedRandom):
    """A body on disk. It exists as long as there is a reference to it, like one in memory."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Return at most ``size`` bytes; all that is left for None and for any negative size."""
        return super().read(-1 if size is None or size < 0 else size)

    def __del__(self) -> None:
        discard(self)


class BodySpool:
    """Collects a request body of any size in bounded memory."""

    __slots__ = ("_directory", "_file", "_memory_limit", "size")

    def __init__(self, memory_limit: int, directory: str | None) -> None:
        self._memory_limit = memory_limit
        self._directory = directory
        self._file: BinaryIO = io.BytesIO()
        self.size = 0

    def write(self, data: bytes) -> None:
        """Append ``data``; raises `ProtocolError` (507) when the disk does not take it."""
        before, self.size = self.size, self.size + len(data)
        try:
            if before <= self._memory_limit < self.size:
                self._move_to_disk()
            self._file.write(data)
        except OSError as error:
            self.close()
            raise _no_room(error) from error

    def finish(self) -> BinaryIO:
        """Return the body as a file object at its start; it is the caller's to close."""
        try:
            self._file.seek(0)  # which writes out what the file object has buffered
        except OSError as error:
            self.close()
            raise _no_room(error) from error
        return self._file

    def close(self) -> None:
        """Drop what was collected. Never raises."""
        discard(self._file)

    def _move_to_disk(self) -> None:
        # Unnamed where the system can (O_TMPFILE), unlinked at once where it can't: whatever
        # happens to the process, no file stays behind.
        memory = self._file
        unnamed = tempfile.TemporaryFile(buffering=0, dir=self._directory)  # noqa: SIM115
        spooled = self._file = SpooledBody(unnamed)
        spooled.write(memory.getvalue())  # type: ignore[attr-defined]
        memory.close()


def discard(body: BinaryIO) -> None:
    """Close a body, whatever state it is in. Never raises."""
    try:
        body.close()
    except OSError:
        # The flush of the close failed (disk full). Closing again skips the flush and frees
        # the descriptor.
        body.close()


def _no_room(error: OSError) -> ProtocolError:
    # The client is not told why: the reason may name directories. It is the error's cause.
    setting = "" if error.errno in (errno.EMFILE, errno.ENFILE) else "temp_dir"
    return ProtocolError(507, "The request body could not be stored.", setting=setting)
