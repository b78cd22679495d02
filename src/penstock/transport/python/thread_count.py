"""The count of threads: which calls have left it, and which threads wait for a place in it.

A thread leads and takes requests only with a place in the count, and there are `threads` places. A
call that leaves the count (``penstock.io_bound``) gives its thread's place to another thread: to
one that waits for a place, or to a new one. When such a call has returned, its thread waits until
it gets the place of the next call that leaves. So each place always belongs to one thread, however
a call ends, and there are never more threads than `threads` and `max_io_bound` together.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from penstock.telemetry.scoreboard import IO_BOUND, IO_BOUND_CALLS, IO_BOUND_REFUSED
from penstock.transport.decisions import may_leave_count

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.telemetry.scoreboard import Slot
    from penstock.transport.config import TransportConfig
    from penstock.transport.python.thread_slots import ThreadSlot


class ThreadCount:
    """The places. The lock guards all that is written here; no thread waits while it holds it."""

    def __init__(self, config: TransportConfig, slot: Slot) -> None:
        self._config = config
        self._words = slot.words
        self._lock = threading.Lock()
        self._left = 0  # how many calls have left the count
        self._spare: list[threading.Lock] = []  # each held; releasing it gives its thread a place
        self._over = False

    def leave(self, thread: ThreadSlot, add_thread: Callable[[], bool]) -> bool:
        """Have the calling thread's call leave the count; return False if it may not."""
        with self._lock:
            if self._over:
                return False
            if not may_leave_count(self._config, self._left, self._config.threads):
                self._words[IO_BOUND_REFUSED] += 1
                return False
            thread.place = threading.Lock()
            thread.place.acquire()
            self._note(thread, left=True)
            if self._give_place():
                return True
        started = False
        try:
            started = add_thread()
        finally:
            if not started:
                started = self._replace_otherwise(thread)
        return started

    def _replace_otherwise(self, thread: ThreadSlot) -> bool:
        """Undo `leave`, where no thread could be started; return True if another has come back."""
        with self._lock:
            if self._give_place():
                return True
            self._note(thread, left=False)
            thread.place = None
            self._words[IO_BOUND_REFUSED] += 1
            return False

    def await_place(self, thread: ThreadSlot) -> None:
        """Note that the calling thread's call has returned, and wait until it has a place again.

        Returns at once after the end. It may be called again after an exception.
        """
        assert thread.place is not None
        with self._lock:
            if thread.left_count:
                self._note(thread, left=False)
                self._spare.append(thread.place)
            if self._over:
                return
        thread.place.acquire()
        thread.place = None

    def end(self) -> None:
        """Wake all threads: no place is given any more."""
        with self._lock:
            self._over = True
            while self._give_place():
                pass

    def _give_place(self) -> bool:
        """Give a place to a thread that waits for one; return False if none does."""
        if not self._spare:
            return False
        self._spare.pop().release()  # the last that came back: its stack is still warm
        return True

    def _note(self, thread: ThreadSlot, *, left: bool) -> None:
        thread.left_count = left
        thread.words[IO_BOUND] = int(left)
        self._left += 1 if left else -1
        self._words[IO_BOUND_CALLS] = self._left
