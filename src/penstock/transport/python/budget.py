"""What all connections of a worker may have together: files, bytes in files and in memory."""

from __future__ import annotations

import errno
import threading
from typing import TYPE_CHECKING

from penstock.http1 import ProtocolError
from penstock.telemetry.scoreboard import (
    CONNECTIONS,
    OUT_SPOOL_DISK,
    OUT_SPOOL_FILES,
    OUT_SPOOL_FULL,
    OUT_SPOOL_LIMIT,
    OUT_SPOOLED,
    SPOOLED,
)
from penstock.transport.decisions import (
    SpoolRefusal,
    body_room,
    most_ahead,
    out_spool_refusal,
    spool_status,
)

if TYPE_CHECKING:
    from penstock.telemetry.scoreboard import Slot
    from penstock.transport.config import TransportConfig


class Budget:
    """Counts that any thread changes, under a lock that is held for a few additions."""

    __slots__ = ("_config", "_lock", "_scoreboard", "_words", "ahead", "bodies", "files", "unsent")

    def __init__(self, config: TransportConfig, slot: Slot) -> None:
        self._config = config
        self._scoreboard = slot.scoreboard
        self._words = slot.words
        self._lock = threading.Lock()
        self.files = 0
        """Open files: spooled bodies and responses, and files that are being sent."""
        self.bodies = 0
        """Bytes in memory of request bodies that the application has not got yet, and of requests
        behind an unsent response."""
        self.unsent = 0
        """Bytes of responses in memory that the kernel has not taken."""
        self.ahead = 0
        """Connections for which the kernel holds `TransportConfig.ahead_bytes`."""

    def take_file(self) -> None:
        """Count a file that was opened."""
        with self._lock:
            self.files += 1

    def give_file_back(self) -> None:
        """Count a file that was closed."""
        with self._lock:
            self.files -= 1

    def hold_body(self, body: int, more: int) -> bool:
        """Count ``more`` bytes of a body in memory, if they may be held there.

        ``body`` is how many bytes of it are in memory already.
        """
        with self._lock:
            if more > body_room(self._config, body, self.bodies):
                return False
            self.bodies += more
            return True

    def release_body(self, count: int) -> None:
        """Count bytes of a body that are no longer in memory, or are the application's."""
        with self._lock:
            self.bodies -= count

    def hold_input(self, count: int) -> None:
        """Count ``count`` bytes of requests behind an unsent response more, or fewer."""
        with self._lock:
            self.bodies += count

    def change_unsent(self, count: int) -> None:
        """Count ``count`` unsent bytes more, or fewer where it is negative."""
        with self._lock:
            self.unsent += count

    def hold_ahead(self) -> bool:
        """Count a connection for which the kernel holds bytes ahead, if it may."""
        with self._lock:
            if self.ahead >= most_ahead(self._config):
                return False
            self.ahead += 1
            return True

    def end_ahead(self) -> None:
        """Count one such connection fewer."""
        with self._lock:
            self.ahead -= 1

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

    def take_response(self, more: int, *, has_file: bool) -> bool:
        """Count ``more`` bytes of a response that go into a temporary file, if they may go there.

        Where the response has no file yet, that is counted, too.
        """
        with self._lock:
            descriptors = None if has_file else self._words[CONNECTIONS] + self.files
            spooled = self._scoreboard.spooled()
            refusal = out_spool_refusal(self._config, spooled, more, descriptors)
            if refusal == SpoolRefusal.NONE:
                self._words[SPOOLED] += more
                if not has_file:
                    self.files += 1
                return True
            full = refusal == SpoolRefusal.FULL
            self._words[OUT_SPOOL_FULL if full else OUT_SPOOL_FILES] += 1
            return False

    def note_response_spooled(self) -> None:
        """Count a temporary file that has begun with a part of a response."""
        with self._lock:
            self._words[OUT_SPOOLED] += 1

    def note_response_at_limit(self) -> None:
        """Count a response that may have no more bytes in its temporary file."""
        with self._lock:
            self._words[OUT_SPOOL_LIMIT] += 1

    def note_response_refused(self, error: OSError) -> None:
        """Count a part of a response that could not be written to a temporary file."""
        no_descriptor = error.errno in (errno.EMFILE, errno.ENFILE)
        with self._lock:
            self._words[OUT_SPOOL_FILES if no_descriptor else OUT_SPOOL_DISK] += 1

    def give_spool_back(self, count: int) -> None:
        """Count bytes that are no longer in a temporary file."""
        with self._lock:
            self._words[SPOOLED] -= count
