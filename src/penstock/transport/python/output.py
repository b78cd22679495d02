"""The bytes of a response that the kernel did not take at once."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import deque
from contextlib import suppress
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING

from penstock.errors import FileTruncatedError
from penstock.transport.decisions import OutputStep, output_step, time_to_read
from penstock.transport.log_lines import FILE_TRUNCATED
from penstock.transport.python.output_spool import OutputSpool
from penstock.transport.python.stream import NO_SIGNAL

if TYPE_CHECKING:
    from penstock.transport.config import TransportConfig
    from penstock.transport.python.budget import Budget
    from penstock.transport.python.disk import Disk
    from penstock.transport.python.tls_stream import AnyStream


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
        """Close the descriptor. That may wait for a disk."""
        with suppress(OSError):  # the descriptor is free, whatever the disk says
            os.close(self.descriptor)
        self._budget.give_file_back()

    def drop(self, disk: Disk) -> None:
        """Have the disk's thread close the descriptor."""
        disk.close(partial(os.close, self.descriptor), self._budget.give_file_back)


class SpooledRegion(FileRegion):
    """A part of the response's own temporary file, which has the descriptor."""

    __slots__ = ()

    def __init__(self, descriptor: int, offset: int, count: int) -> None:
        self.descriptor = descriptor
        self.offset = offset
        self.count = count

    def close(self) -> None:
        """Leave the file to its spool."""

    def drop(self, disk: Disk) -> None:
        """Do the same."""


class Flushed(Enum):
    """How far a flush of what is in memory came."""

    ALL = 0
    """All is sent."""
    BLOCKED = 1
    """The kernel takes no more, or it is the turn of others."""
    FILE = 2
    """A part of a file is next, for a thread that is to be asked."""
    ELSEWHERE = 3
    """A thread is asked already, or sends now. It posts the connection after that."""


class Output:
    """A queue of blocks and file regions, and the stream that takes them.

    The application's thread appends while the leader drains, so all state is under ``_lock``. It is
    not held while a part of a file is sent, which may wait for a disk: nor does the leader send
    that, but has another thread call `flush`.
    """

    __slots__ = (
        "_acknowledged",
        "_ahead",
        "_asked",
        "_blocked",
        "_budget",
        "_close_stream",
        "_config",
        "_disk",
        "_flight_over",
        "_in_flight",
        "_lock",
        "_missed",
        "_moving",
        "_pieces",
        "_spool",
        "_stream",
        "_taken_before",
        "_waiting_since",
        "awaited",
        "closed",
        "failure",
        "lost",
        "memory",
        "size",
        "taken",
    )

    def __init__(
        self, stream: AnyStream, config: TransportConfig, budget: Budget, disk: Disk
    ) -> None:
        self._stream = stream
        self._config = config
        self._budget = budget
        self._disk = disk
        self._waiting_since = 0.0  # since when something is unsent, ...
        self._taken_before = 0  # ... and what the kernel had taken by then
        self._blocked = False  # the kernel has taken no more for a while
        self._ahead = False  # it holds more ahead now
        self._acknowledged = 0  # by the client, when `is_taken` was called last
        self.awaited = False  # a thread waits until there is less: `RoomAwaited`
        self.closed = False
        self._lock = threading.Lock()
        self._asked = False  # another thread is asked to send for the leader, and has not begun
        # The first piece, a part of a file, while a thread sends it.
        self._in_flight: FileRegion | None = None
        self._flight_over = threading.Condition(self._lock)
        self._missed = False  # the leader wanted to send meanwhile
        self._close_stream = False  # the stream is to be closed when that is over
        self._spool: OutputSpool | None = None
        self._moving = False  # the application's thread moves what was in memory to a file
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
            if self.closed:
                return  # the connection is closed: nothing takes it any more
            if not self.size:
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

    def moving(self) -> bool:
        """Return True if a thread moves what was in memory to a file: it sends it then."""
        return self._moving

    def time_to_read(self, now: float) -> float:
        """Return how many seconds the client needs for what is unsent, at its pace so far."""
        taken = self.taken - self._taken_before
        return time_to_read(self.size, taken, now - self._waiting_since)

    def flush(self) -> bool:
        """Send what the kernel accepts, up to the limit of one turn. Return True if all is sent.

        It may wait for a disk: for the leader there is `flush_memory`. Raises ``OSError`` when the
        connection is lost or a file became shorter, and again at each later call.
        """
        most = self._config.flush_bytes
        while True:
            with self._lock:
                most -= self._flush_memory(most)
                region = self._pieces[0] if self._pieces else None
                if self._in_flight or most <= 0 or not isinstance(region, FileRegion):
                    return self.size == 0
                self._in_flight = region
            try:
                sent = self._send_region(region, min(region.count, most))
            except BlockingIOError:
                self._blocked = True
                return self._end_flight(region, 0)
            except OSError as error:
                self._end_flight(region, 0, error)
                raise
            most -= sent
            self._end_flight(region, sent)

    def _send_region(self, region: FileRegion, count: int) -> int:
        sent = self._stream.send_file(region.descriptor, region.offset, count)
        if sent == 0:
            raise FileTruncatedError(errno.EIO, FILE_TRUNCATED)
        if sent == region.count:
            region.close()
        return sent

    def _end_flight(self, region: FileRegion, sent: int, error: OSError | None = None) -> bool:
        """Take note of what was sent of a part of a file. Return True if nothing is left."""
        with self._lock:
            self._in_flight = None
            self._flight_over.notify_all()
            region.offset += sent
            region.count -= sent
            if self._close_stream:
                self._stream.close()
            if self.closed or self.failure is not None:
                if region.count:
                    region.drop(self._disk)
                self._end_spool()
                raise self.failure or ConnectionResetError(errno.ECONNRESET, "it was closed")
            if error is not None:
                self._fail(error)
                return False
            self._note_taken(sent)
            if isinstance(region, SpooledRegion):
                assert self._spool is not None
                self._spool.unsent -= sent
            if not region.count:
                self._pieces.popleft()
                self._end_spool()
            return self.size == 0

    def flush_memory(self) -> Flushed:
        """Send what the kernel accepts of what is in memory. For the leader.

        After `Flushed.FILE` it has a thread call `flush_asked`. Raises ``OSError`` as `flush` does.
        """
        with self._lock:
            sent = self._flush_memory(self._config.flush_bytes)
            if self._in_flight:
                self._missed = True
                return Flushed.ELSEWHERE
            if not self.size:
                return Flushed.ALL
            if sent >= self._config.flush_bytes or not self._pieces:
                return Flushed.BLOCKED
            if self._asked:
                return Flushed.ELSEWHERE
            self._asked = True
            return Flushed.FILE

    def _flush_memory(self, most: int) -> int:
        if self.failure is not None:
            raise self.failure
        if self._in_flight:
            return 0
        try:
            return self._send_memory(most)
        except OSError as error:
            self._fail(error)
            raise

    def flush_asked(self) -> None:
        """Flush what there still is. For a thread that was asked to."""
        with self._lock:
            self._asked = False
        with suppress(OSError):  # the next one to flush meets it
            self.flush()

    def awaits_file(self) -> bool:
        """Return True if a thread sends a part of a file, or is asked to."""
        with self._lock:
            first = self._pieces[0] if self._pieces else None
            return self._in_flight is not None or (self._asked and isinstance(first, FileRegion))

    def take_missed(self) -> bool:
        """Return True if the leader wanted to send since the last call, and could not."""
        missed, self._missed = self._missed, False
        return missed

    def fail(self, error: OSError) -> None:
        """Give up: drop what is queued, and raise ``error`` at each later flush."""
        with self._lock:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        self.failure = error
        self._drop()

    def _send_memory(self, most: int) -> int:
        left = most
        while self._pieces and left > 0:
            piece = self._pieces[0]
            if isinstance(piece, FileRegion):
                break
            try:
                sent = self._stream.send(piece, NO_SIGNAL)
                self._stream.note_sent(sent)
            except BlockingIOError:
                self._blocked = True
                return most  # no more in this turn
            self._hold(-sent)
            if sent == len(piece):
                self._pieces.popleft()
            else:
                self._pieces[0] = piece[sent:]
            self._note_taken(sent)
            left -= sent
        return most - left

    def _note_taken(self, count: int) -> None:
        """Note what the kernel has taken, if anything.

        Where it took no more for a while, the client reads: from then on the kernel holds more of
        what is unsent, so that fewer calls send it.
        """
        self.size -= count
        self.taken += count
        if count and self._blocked and not self._ahead and self._budget.hold_ahead():
            self._ahead = True
            self._stream.hold_ahead(self._config.ahead_bytes)

    def close(self) -> None:
        """Drop what is queued and free the descriptors."""
        with self._lock:
            self.closed = True
            self._drop()
            if self._ahead:
                self._ahead = False
                self._budget.end_ahead()

    def close_stream(self) -> None:
        """Close the stream: now, or when no thread sends a part of a file any more.

        Its number might become another connection's, under that thread.
        """
        with self._lock:
            if not self._in_flight:
                self._stream.close()
                return
            self._close_stream = True
            self._stream.cut_off()  # with the lock: that thread closes it, and frees the number

    def close_in_child(self) -> None:
        """Close the temporary file in a forked child. Takes no lock: no thread holds it there."""
        if self._spool is not None:
            self._spool.close_in_child()

    def _drop(self) -> None:
        if self._pieces and self._pieces[0] is self._in_flight:
            self._pieces.popleft()  # its thread has it
        while self._pieces:
            piece = self._pieces.popleft()
            if isinstance(piece, FileRegion):
                piece.drop(self._disk)
        if self.memory:
            self._hold(-self.memory)
        self.lost += self.size
        self.size = 0
        if self._spool is not None:
            self._spool.unsent = 0
            self._end_spool()

    # -- for the application's thread -----------------------------------------------------------

    def await_room(self, seconds: float) -> None:
        """Wait until the kernel takes more, or another thread has sent a part of a file."""
        with self._lock:
            if self._in_flight:
                self._flight_over.wait(seconds)
                return
        self._stream.wait_writable(seconds)

    def spool_size(self) -> int:
        """Return how many bytes were written to the temporary file; 0 where there is none."""
        spool = self._spool
        return 0 if spool is None else spool.size

    def move_to_spool(self) -> bool:
        """Move what is in memory, behind all files, to the temporary file. Return False if refused.

        The lock is not held meanwhile: no other thread waits for a disk.
        """
        with self._lock:
            if self.closed or self.failure is not None:
                return True
            if not self._pieces or isinstance(self._pieces[-1], FileRegion):
                return False  # what is in memory is in front of a file
            if self._spool is None:
                self._spool = OutputSpool(self._config, self._budget, self._disk)
            spool, moved = self._spool, self._take_memory()
            self._moving = True
        count = sum(map(len, moved))
        offset = spool.size
        written = False
        try:
            written = spool.write(moved, count)
        finally:
            with self._lock:
                self._moving = False
                if self.closed or self.failure is not None:
                    spool.unsent = 0
                elif written:
                    self._hold(-count)
                    self._append_spooled(spool, offset, count)
                else:
                    self._pieces.extend(moved)
                self._end_spool()
        return written

    def _take_memory(self) -> list[memoryview]:
        moved = []
        while self._pieces and not isinstance(self._pieces[-1], FileRegion):
            moved.append(self._pieces.pop())
        return moved[::-1]  # type: ignore[return-value]

    def _append_spooled(self, spool: OutputSpool, offset: int, count: int) -> None:
        last = self._pieces[-1] if self._pieces else None
        if isinstance(last, SpooledRegion):
            last.count += count  # it ends where this begins
        else:
            self._pieces.append(SpooledRegion(spool.descriptor, offset, count))

    def _end_spool(self) -> None:
        """Close the temporary file if all of it is sent; what comes next begins in memory."""
        spool = self._spool
        if spool is not None and not (spool.unsent or self._moving or self._in_flight):
            spool.close()
            self._spool = None

    def is_taken(self) -> bool:
        """Return True if the client has taken enough since the last call. For the leader."""
        before, self._acknowledged = self._acknowledged, self.acknowledged()
        return self._acknowledged - before >= self._config.least_progress

    def note_at_limit(self) -> None:
        """Count that a thread waits because no more may go into the temporary file."""
        self._budget.note_response_at_limit()

    def acknowledged(self) -> int:
        """Return how many bytes the client's side has taken, as far as the kernel can tell.

        The send buffer reports room in large steps, so that a slow reader seems to stand still
        for minutes; what is acknowledged shows it moving.
        """
        return self.taken - self._stream.unacknowledged()


class RoomAwaited:
    """The waiting of the application's thread until it may make another block."""

    __slots__ = (
        "_at_limit",
        "_before",
        "_began",
        "_config",
        "_deadline",
        "_output",
        "_patience_ends",
        "_refused",
    )

    def __init__(self, output: Output, config: TransportConfig) -> None:
        self._output = output
        self._config = config
        self._began = time.monotonic()
        self._patience_ends = self._began + config.out_spool_patience_seconds
        self._deadline = self._began + config.write_timeout
        self._before = output.acknowledged()  # what the client had taken when that was set
        self._refused = False  # no temporary file takes what is in memory
        self._at_limit = False  # it is counted that the file of the response takes no more

    def begin_again(self, *, refused: bool) -> None:
        """Give the client the whole write deadline, after the time that a disk has taken.

        ``refused`` means that no temporary file takes what is in memory.
        """
        self._refused = refused
        self._before = self._output.acknowledged()
        self._deadline = time.monotonic() + self._config.write_timeout

    def wait(self) -> OutputStep:
        """Send what the client takes, and return what is to be done as soon as it is no waiting.

        `OutputStep.WAIT` means that the client does not take enough within the write deadline.
        Raises ``OSError`` as `Output.flush` does.
        """
        config, output = self._config, self._output
        while True:
            output.flush()
            now = time.monotonic()
            step = output_step(config, output.memory, output.spool_size(), now - self._began)
            if step == OutputStep.GO_ON or (step == OutputStep.SPOOL and not self._refused):
                return step
            if step == OutputStep.WAIT_AT_LIMIT and not self._at_limit:
                self._at_limit = True
                output.note_at_limit()
            if now >= self._deadline:
                taken = output.acknowledged()
                if taken - self._before < config.least_progress:
                    return OutputStep.WAIT
                self._before = taken
                self._deadline = now + config.write_timeout
            until = min(self._deadline, now + config.wait_slice_seconds)
            if now < self._patience_ends:
                until = min(until, self._patience_ends)
            output.await_room(until - now)
