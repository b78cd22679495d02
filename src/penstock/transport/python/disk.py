"""The thread that waits for the disk, so that the leader never does."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from penstock import messages

if TYPE_CHECKING:
    import logging

NAME = "penstock-disk"


class Disk:
    """One thread, which opens, writes and closes temporary files, one after the other.

    It starts with the first piece, and ends when there was none for a while. What waits is bounded
    by those who ask: a connection asks for one piece at a time, and for none that holds bytes while
    `disk_is_full` says so of `held`. Work of connections that were closed meanwhile stays, so that
    their number is a bound of its own.
    """

    __slots__ = ("_ended", "_idle", "_lock", "_logger", "_running", "_works", "held")

    def __init__(self, logger: logging.Logger, idle: float) -> None:
        """``idle`` is how many seconds the thread waits for work until it ends."""
        self._idle = idle
        self._logger = logger
        # Held for an addition, or to start the thread; guards all but the queue.
        self._lock = threading.Lock()
        self._works: SimpleQueue[tuple[Callable[[], None], int] | None] = SimpleQueue()
        self._running = False
        self._ended = False
        self.held = 0
        """Bytes that the pieces hold, that of the one in progress included."""

    def run(self, work: Callable[[], None], size: int = 0, most: int | None = None) -> None:
        """Have the thread do ``work``, which holds ``size`` bytes. Never waits.

        Raises `OSError` where there can be no thread, or ``most`` pieces of work wait.
        """
        with self._lock:
            if most is not None and self._works.qsize() >= most:
                raise OSError(errno.EBUSY, "the disk has fallen behind")
            if not self._running:
                thread = threading.Thread(target=self._work, name=NAME, daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:
                    raise OSError(errno.EAGAIN, str(error)) from error
                self._running = True
            self.held += size
            self._works.put((work, size))
            if self._ended:
                self._works.put(None)

    def end(self) -> None:
        """Let the thread end when it has done what there is to do.

        A disk that is stuck may keep it for ever, and keeps neither the caller nor the end of the
        process.
        """
        with self._lock:
            self._ended = True
            if self._running:
                self._works.put(None)

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
                        self._running = False  # what may still come starts another one
                        return
                continue
            work, size = asked
            try:
                work()
            except Exception:
                # A defect of ours: it ends this piece of work, and no other.
                messages.TRANSPORT_THREAD_DEFECT.log(self._logger, thread=NAME, exc_info=True)
            with self._lock:
                self.held -= size
            del asked, work  # nothing is kept of a connection while the thread waits
