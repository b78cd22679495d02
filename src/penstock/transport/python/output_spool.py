"""The temporary file of a streamed response whose client reads slowly."""

from __future__ import annotations

import os
from collections.abc import Iterable
from io import FileIO
from typing import TYPE_CHECKING

from penstock.system.temporary_files import temporary_file

if TYPE_CHECKING:
    from penstock.transport.config import TransportConfig
    from penstock.transport.python.budget import Budget
    from penstock.transport.python.disk import Disk


class OutputSpool:
    """A file that grows until all of it is sent, and its share of the budgets.

    The application's thread writes to it. Its end is for the thread that has the lock of the
    output, and never while it is written to.
    """

    __slots__ = ("_budget", "_config", "_disk", "_file", "size", "unsent")

    def __init__(self, config: TransportConfig, budget: Budget, disk: Disk) -> None:
        self._config = config
        self._budget = budget
        self._disk = disk
        self._file: FileIO | None = None  # opened by the first `write`
        self.size = 0  # bytes that were written
        self.unsent = 0  # how many of them the kernel has not taken

    @property
    def descriptor(self) -> int:
        """The file's descriptor; there is one once something was written."""
        assert self._file is not None
        return self._file.fileno()

    def write(self, pieces: Iterable[memoryview], count: int) -> bool:
        """Append ``pieces``, of ``count`` bytes together.

        Returns False, with the file as before, where a budget or the disk does not allow it.
        """
        has_file = self._file is not None
        if not self._budget.take_response(count, has_file=has_file):
            return False
        try:
            if self._file is None:
                self._file = self._open()
            self._write(self._file.fileno(), pieces)
        except OSError as error:
            self._budget.note_response_refused(error)
            self._budget.give_spool_back(count)
            if not has_file:
                self.close_in_child()  # in this thread's own time
                self._budget.give_file_back()
            return False
        if not has_file:
            self._budget.note_response_spooled()
        self.size += count
        self.unsent += count
        return True

    def _open(self) -> FileIO:
        return temporary_file(self._config.temp_dir)

    def _write(self, descriptor: int, pieces: Iterable[memoryview]) -> None:
        # At its place, and not behind what the file holds: a write that failed may have left a part
        # of it there.
        offset = self.size
        for piece in pieces:
            rest = piece
            while rest:
                written = os.pwrite(descriptor, rest, offset)
                offset += written
                rest = rest[written:]

    def close(self) -> None:
        """Have the disk's thread close the file, and give its share back then."""
        file, self._file = self._file, None
        size, self.size, self.unsent = self.size, 0, 0
        if file is None:
            return
        budget = self._budget

        def then() -> None:
            budget.give_spool_back(size)
            budget.give_file_back()

        self._disk.close(file.close, then)

    def close_in_child(self) -> None:
        """Close the file in a forked child, whose budgets are its parent's."""
        file, self._file = self._file, None
        if file is not None:
            file.close()
