"""What all connections of a worker may have together: files and bytes in temporary files."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from penstock.http1 import ProtocolError
from penstock.telemetry.scoreboard import SPOOLED
from penstock.transport.decisions import spool_status

if TYPE_CHECKING:
    from penstock.telemetry.scoreboard import Slot
    from penstock.transport.config import TransportConfig


class Budget:
    """Counts that any thread changes, under a lock that is held for a few additions."""

    __slots__ = ("_config", "_lock", "_scoreboard", "_words", "files", "unsent")

    def __init__(self, config: TransportConfig, slot: Slot) -> None:
        self._config = config
        self._scoreboard = slot.scoreboard
        self._words = slot.words
        self._lock = threading.Lock()
        self.files = 0
        """Open files: spooled bodies, and files that are being sent."""
        self.unsent = 0
        """Bytes of responses in memory that the kernel has not taken."""

    def take_file(self) -> None:
        """Count a file that was opened."""
        with self._lock:
            self.files += 1

    def give_file_back(self) -> None:
        """Count a file that was closed."""
        with self._lock:
            self.files -= 1

    def change_unsent(self, count: int) -> None:
        """Count ``count`` unsent bytes more, or fewer where it is negative."""
        with self._lock:
            self.unsent += count

    def take_spool(self, body: int, more: int) -> None:
        """Count ``more`` bytes that go into a temporary file, for a body that is then this long.

        Raises `ProtocolError` (413, 507) where there is no room for them.
        """
        with self._lock:
            # Other workers may add bytes meanwhile: the sum may exceed the limit by a read of each.
            status = spool_status(self._config, body, self._scoreboard.spooled(), more)
            if not status:
                self._words[SPOOLED] += more
                return
        if status == 413:
            raise ProtocolError(413, "The request body is too large.", setting="max_body")
        raise ProtocolError(507, "The request body could not be stored.", setting="max_spool")

    def give_spool_back(self, count: int) -> None:
        """Count bytes that are no longer in a temporary file."""
        with self._lock:
            self._words[SPOOLED] -= count
