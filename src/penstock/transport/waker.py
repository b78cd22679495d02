"""Interrupting a poll from another thread."""

from __future__ import annotations

import contextlib
import socket


class Waker:
    """A socket pair whose one end is polled: writing to the other ends the poll."""

    def __init__(self) -> None:
        self.reader, self._writer = socket.socketpair()
        self.reader.setblocking(False)
        self._writer.setblocking(False)

    def wake(self) -> None:
        """End the poll in progress, or the next one. Thread-safe; never blocks."""
        # A full buffer means that a wake-up is under way already; a closed pair, that the
        # transport is gone.
        with contextlib.suppress(OSError):
            self._writer.send(b"\0")

    def handle_events(self, _mask: int) -> None:
        """Take the wake-ups that have arrived: they have done their work."""
        with contextlib.suppress(BlockingIOError):
            self.reader.recv(4096)

    def close(self) -> None:
        """Close both ends."""
        self.reader.close()
        self._writer.close()
