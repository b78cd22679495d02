"""The threads that wait for the disk, so that the leader never does."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from penstock import messages

if TYPE_CHECKING:
    import logging

NAME = "penstock-disk"
SENDERS = "penstock-send"


class Disk:
    """A thread, which opens, writes and closes temporary files, one after the other.

    It starts with the first piece, and ends when there was none for a while. What waits is bounded
    by those who ask: a connection asks for one piece at a time, and for none that holds bytes while
    `disk_is_full` says so of `held`. Work of connections that were closed meanwhile stays, so that
    their number is a bound of its own.

    With more ``threads`` they begin the pieces in their order: those that send from files.
    """

    __slots__ = (
        "_closing",
        "_ended",
        "_idle",
        "_lock",
        "_logger",
        "_name",
        "_running",
        "_threads",
        "_unfinished",
        "_works",
        "held",
    )

    def __init__(
        self, logger: logging.Logger, idle: float, *, name: str = NAME, threads: int = 1
    ) -> None:
        """``idle`` is how many seconds a thread waits for work until it ends."""
        self._idle = idle
        self._logger = logger
        self._name = name
        self._threads = threads
        # Held for an addition, or to start a thread; guards all but the queue.
        self._lock = threading.Lock()
        self._works: SimpleQueue[tuple[Callable[[], None], int] | None] = SimpleQueue()
        self._running = 0
        self._unfinished = 0  # pieces of work that wait or are in progress
        self._closing: set[Callable[[], None]] = set()  # what closes the files of `close`
        self._ended = False
        self.held = 0
        """Bytes that the pieces hold, that of the one in progress included."""

    def run(self, work: Callable[[], None], size: int = 0, most: int | None = None) -> None:
        """Have a thread do ``work``, which holds ``size`` bytes. Never waits.

        Raises `OSError` where there can be no thread, or ``most`` pieces of work wait.
        """
        with self._lock:
            if most is not None and self._works.qsize() >= most:
                raise OSError(errno.EBUSY, "the disk has fallen behind")
            if self._running <= self._unfinished and self._running < self._threads:
                thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                try:
                    thread.start()
                    self._running += 1
                except RuntimeError as error:
                    if not self._running:
                        raise OSError(errno.EAGAIN, str(error)) from error
            self.held += size
            self._unfinished += 1
            self._works.put((work, size))
            if self._ended:
                self._works.put(None)

    def close(self, close: Callable[[], None], then: Callable[[], None]) -> None:
        """Have the thread call ``close``, which closes a file, and ``then``.

        Closing frees what the file takes of the disk, and waits for that.
        """
        self._closing.add(close)

        def work() -> None:
            # First: a child that is forked while this thread comes back from closing the file would
            # close its number once more, which may be another file's by then.
            self._closing.discard(close)
            try:
                with suppress(OSError):  # the descriptor is free, whatever the disk says
                    close()
            finally:
                then()

        try:
            self.run(work)
        except OSError:
            work()  # there can be no thread

    def close_in_child(self) -> None:
        """Close the files that wait for it in a forked child, which has no such thread."""
        for close in list(self._closing):
            with suppress(OSError):  # it was just closed
                close()

    def end(self) -> None:
        """Let the threads end when they have done what there is to do.

        A disk that is stuck may keep them for ever, and keeps neither the caller nor the end of the
        process.
        """
        with self._lock:
            self._ended = True
            if self._running:
                self._works.put(None)  # for one of them, which passes it on

    def catch_up(self, seconds: float) -> bool:
        """Wait until all is done that there is to do now. Return False if it is not in time."""
        done = threading.Event()
        self.run(done.set)
        return done.wait(seconds)

    def _work(self) -> None:
        while True:
            try:
                asked = self._works.get(timeout=self._idle)
            except Empty:
                asked = None
            if asked is None:
                with self._lock:
                    if self._works.empty():
                        self._running -= 1  # what may still come starts another one
                        if self._ended and self._running:
                            self._works.put(None)
                        return
                continue
            work, size = asked
            try:
                work()
            except Exception:
                # A defect of ours: it ends this piece of work, and no other.
                messages.TRANSPORT_THREAD_DEFECT.log(self._logger, thread=self._name, exc_info=True)
            with self._lock:
                self._unfinished -= 1
                self.held -= size
            del asked, work  # nothing is kept of a connection while the thread waits
