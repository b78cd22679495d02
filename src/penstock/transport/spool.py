"""Request bodies on their way to the application: in memory first, then in a temporary file."""

from __future__ import annotations

import errno
import io
import os
from typing import BinaryIO

from penstock.http1 import ProtocolError
from penstock.system.temporary_files import temporary_file


class SpooledBody(io.BufferedRandom):
    """A body on disk. It exists as long as there is a reference to it, like one in memory."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Return at most ``size`` bytes; all that is left for None and for any negative size."""
        return super().read(-1 if size is None or size < 0 else size)

    def __del__(self) -> None:
        discard(self)


SMALL_BYTES = 4096
"""Smaller parts of a body are copied together until they are written: a client may send a body in
any number of chunks."""

MOST_BLOCKS = 512
"""How many blocks one call writes; the system takes 1,024 (IOV_MAX)."""


class BodySpool:
    """Collects a request body of any size in bounded memory.

    What is not held in memory waits until `write_out` writes it, which another thread may do while
    no part of the body is added.
    """

    __slots__ = ("_blocks", "_directory", "_file", "error", "size", "unwritten")

    def __init__(self, directory: str | None) -> None:
        self._directory = directory
        self._file: BinaryIO | None = None
        self._blocks: list[bytes | bytearray] = []  # all of the body, or what is to be written
        self.size = 0
        self.unwritten = 0
        """How many bytes are to be written."""
        self.error: OSError | None = None
        """Why what was to be written could not be."""

    def add(self, data: bytes, *, held: bool) -> None:
        """Append ``data``; unless it is ``held`` in memory, the whole body is to be written.

        Once a part was not held, none is any more.
        """
        before, self.size = self.size, self.size + len(data)
        if not held:
            self.unwritten += len(data) if self.unwritten or self._file is not None else self.size
        blocks = self._blocks
        if len(data) >= SMALL_BYTES or not before:
            blocks.append(data)
        elif blocks and type(blocks[-1]) is bytearray and len(blocks[-1]) < SMALL_BYTES:
            blocks[-1] += data
        else:
            blocks.append(bytearray(data))

    def write_out(self) -> None:
        """Write what is to be written, and wait for the disk. Sets `error` where that fails."""
        if not self.unwritten:
            return
        blocks, self._blocks = self._blocks, []
        self.unwritten = 0
        try:
            if self._file is None:
                self._file = temporary_file(self._directory)
            _write_all(self._file.fileno(), blocks)
        except OSError as error:
            self.error = error

    def finish(self) -> BinaryIO:
        """Return the body, of which all is written, at its start; it is the caller's to close."""
        if self._file is None:
            return io.BytesIO(b"".join(self._blocks))
        file, self._file = self._file, None
        file.seek(0)
        return SpooledBody(file)  # type: ignore[arg-type]

    def close(self) -> None:
        """Drop what was collected. Waits for the disk where there is a file. Never raises."""
        self._blocks = []
        self.unwritten = 0
        if self._file is not None:
            discard(self._file)


def _write_all(descriptor: int, blocks: list[bytes | bytearray]) -> None:
    first = 0
    while first < len(blocks):
        written = os.writev(descriptor, blocks[first : first + MOST_BLOCKS])
        if not written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        while first < len(blocks) and written >= len(blocks[first]):
            written -= len(blocks[first])
            first += 1
        if written:
            blocks[first] = blocks[first][written:]


def discard(body: BinaryIO) -> None:
    """Close a body, whatever state it is in. Never raises."""
    try:
        body.close()
    except OSError:
        # The flush of the close failed (disk full). Closing again skips the flush and frees
        # the descriptor.
        body.close()


def no_room(error: OSError) -> ProtocolError:
    """Return what refuses a body that the disk did not take."""
    # The client is not told why: the reason may name directories. It is the error's cause.
    setting = "" if error.errno in (errno.EMFILE, errno.ENFILE) else "temp_dir"
    refusal = ProtocolError(507, "The request body could not be stored.", setting=setting)
    refusal.__cause__ = error
    return refusal
