"""The bytes of a response that the kernel did not take at once."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from penstock.errors import FileTruncatedError
from penstock.transport.decisions import time_to_read
from penstock.transport.log_lines import FILE_TRUNCATED
from penstock.transport.python.stream import NO_SIGNAL

if TYPE_CHECKING:
    from penstock.transport.config import TransportConfig
    from penstock.transport.python.budget import Budget
    from penstock.transport.python.stream import Stream


class FileRegion:
    """A part of an open file that is sent with ``sendfile``; owns its descriptor.

    Never mapped into memory: a file that shrinks under a mapping would be a SIGBUS for the
    whole process; ``sendfile`` just returns 0.
    """

    __slots__ = ("_budget", "count", "descriptor", "offset")

    def __init__(self, descriptor: int, offset: int, count: int, budget: Budget) -> None:
        self.descriptor = os.dup(descriptor)  # not inherited by child processes (PEP 446)
        self._budget = budget
        self.offset = offset
        self.count = count
        budget.take_file()

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.descriptor)
        self._budget.give_file_back()


class Output:
    """A queue of blocks and file regions, and the stream that takes them.

    The application's thread appends while the leader drains, so all state is under ``_lock``.
    """

    __slots__ = (
        "_acknowledged",
        "_budget",
        "_config",
        "_lock",
        "_pieces",
        "_stream",
        "_taken_before",
        "_waiting_since",
        "awaited",
        "failure",
        "lost",
        "memory",
        "size",
        "taken",
    )

    def __init__(self, stream: Stream, config: TransportConfig, budget: Budget) -> None:
        self._stream = stream
        self._config = config
        self._budget = budget
        self._waiting_since = 0.0  # since when something is unsent, ...
        self._taken_before = 0  # ... and what the kernel had taken by then
        self._acknowledged = 0  # by the client, when `is_taken` was called last
        self.awaited = False  # a thread waits until there is less
        self._lock = threading.Lock()
        self._pieces: deque[memoryview | FileRegion] = deque()
        self.size = 0  # bytes not yet taken by the kernel
        self.memory = 0  # how many of them are in memory, and not in a file
        self.lost = 0  # bytes that were dropped, and never taken by it
        self.taken = 0  # bytes that the kernel took from here
        self.failure: OSError | None = None

    def busy(self) -> bool:
        """Return True if output has to wait behind earlier output, or will fail."""
        return self.size > 0 or self.failure is not None

    def append(self, piece: bytes | memoryview | FileRegion) -> None:
        """Queue a piece behind the others."""
        with self._lock:
            if not self._pieces:
                self._waiting_since = time.monotonic()
                self._taken_before = self.taken
            if isinstance(piece, FileRegion):
                self._pieces.append(piece)
                self.size += piece.count
            else:
                view = memoryview(piece)
                self._pieces.append(view)
                self.size += len(view)
                self._hold(len(view))

    def _hold(self, count: int) -> None:
        self.memory += count
        self._budget.change_unsent(count)

    def time_to_read(self, now: float) -> float:
        """Return how many seconds the client needs for what is unsent, at its pace so far."""
        taken = self.taken - self._taken_before
        return time_to_read(self.size, taken, now - self._waiting_since)

    def flush(self) -> bool:
        """Send what the kernel accepts, up to the limit of one turn. Return True if all is sent.

        Raises ``OSError`` when the connection is lost or a file became shorter, and again at
        each later call.
        """
        with self._lock:
            if self.failure is not None:
                raise self.failure
            try:
                self._flush()
            except OSError as error:
                self._fail(error)
                raise
            return not self._pieces

    def fail(self, error: OSError) -> None:
        """Give up: drop what is queued, and raise ``error`` at each later flush."""
        with self._lock:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        self.failure = error
        self._drop()

    def _flush(self) -> None:
        budget = self._config.flush_bytes
        while self._pieces and budget > 0:
            piece = self._pieces[0]
            try:
                if isinstance(piece, FileRegion):
                    sent = self._send_region(piece, min(piece.count, budget))
                    done = piece.count == 0
                else:
                    sent = self._stream.send(piece, NO_SIGNAL)
                    self._hold(-sent)
                    done = sent == len(piece)
                    if not done:
                        self._pieces[0] = piece[sent:]
            except BlockingIOError:
                return
            self.size -= sent
            self.taken += sent
            budget -= sent
            if done:
                finished = self._pieces.popleft()
                if isinstance(finished, FileRegion):
                    finished.close()

    def _send_region(self, region: FileRegion, count: int) -> int:
        sent = self._stream.send_file(region.descriptor, region.offset, count)
        if sent == 0:
            raise FileTruncatedError(errno.EIO, FILE_TRUNCATED)
        region.offset += sent
        region.count -= sent
        return sent

    def close(self) -> None:
        """Drop what is queued and free the descriptors."""
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        while self._pieces:
            piece = self._pieces.popleft()
            if isinstance(piece, FileRegion):
                piece.close()
        if self.memory:
            self._hold(-self.memory)
        self.lost += self.size
        self.size = 0

    def wait_below(self, mark: int) -> bool:
        """Wait until at most ``mark`` bytes are unsent, and send meanwhile.

        Returns False where the client does not take enough within the write deadline. Raises
        ``OSError`` as `flush` does.
        """
        self.awaited = True
        try:
            return self._wait_below(mark)
        finally:
            self.awaited = False

    def _wait_below(self, mark: int) -> bool:
        config = self._config
        before = self._acknowledged_now()
        deadline = time.monotonic() + config.write_timeout
        while self.size > mark:
            remaining = deadline - time.monotonic()
            if remaining > 0:
                self._stream.wait_writable(min(remaining, config.wait_slice_seconds))
                self.flush()
                continue
            taken = self._acknowledged_now()
            if taken - before < config.least_progress:
                return False
            before = taken
            deadline = time.monotonic() + config.write_timeout
        return True

    def is_taken(self) -> bool:
        """Return True if the client has taken enough since the last call. For the leader."""
        before, self._acknowledged = self._acknowledged, self._acknowledged_now()
        return self._acknowledged - before >= self._config.least_progress

    def _acknowledged_now(self) -> int:
        """Return how many bytes the client's side has taken, as far as the kernel can tell.

        The send buffer reports room in large steps, so that a slow reader seems to stand still
        for minutes; what is acknowledged shows it moving.
        """
        return self.taken - self._stream.unacknowledged()
