"""The count of threads: which calls have left it, and which threads wait for a place in it.

A thread leads and takes requests only with a place in the count, and there are `threads` places. A
call that leaves the count (``penstock.io_bound``, or a WebSocket) gives its thread's place to
another one: to a thread that waits for a place, or to a new one. When such a call has returned, its
thread waits until it gets the place of the next call that leaves. So each place always belongs to
one thread, however a call ends, and there are never more threads than `threads`, `max_io_bound` and
`max_websockets` together. With one thread a WebSocket keeps it, and only counts.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from penstock.telemetry.scoreboard import (
    IO_BOUND,
    IO_BOUND_CALLS,
    IO_BOUND_REFUSED,
    LEFT_COUNT,
    WEBSOCKET,
    WEBSOCKETS,
    WEBSOCKETS_REFUSED,
)
from penstock.transport.decisions import may_leave_count, may_open_websocket

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
        self._left = 0  # how many calls have left the count without a WebSocket
        self._opened = 0  # how many calls have a WebSocket
        self._out = 0  # how many calls have left the count, with one or without
        self._spare: list[threading.Lock] = []  # each held; releasing it gives its thread a place
        self._over = False

    def leave(
        self, thread: ThreadSlot, add_thread: Callable[[], bool], *, websocket: bool = False
    ) -> bool:
        """Have the calling thread's call leave the count; return False if it may not.

        With ``websocket`` it has one from now on, whether it had left the count before or not.
        """
        threads = self._config.threads
        with self._lock:
            if self._over:
                return False
            if websocket:
                allowed = may_open_websocket(self._config, self._opened)
            else:
                allowed = may_leave_count(self._config, self._left, threads)
            if not allowed:
                self._refuse(websocket)
                return False
            if thread.left_count or threads == 1:
                self._note(thread, left=thread.left_count, websocket=websocket)
                # Without one, `await_place` is not called.
                thread.place = thread.place or threading.Lock()
                return True
            thread.place = threading.Lock()
            thread.place.acquire()
            self._note(thread, left=True, websocket=websocket)
            if self._give_place():
                return True
        started = False
        try:
            started = add_thread()
        finally:
            if not started:
                started = self._replace_otherwise(thread, websocket)
        return started

    def _replace_otherwise(self, thread: ThreadSlot, websocket: bool) -> bool:
        """Undo `leave`, where no thread could be started; return True if another has come back."""
        with self._lock:
            if self._give_place():
                return True
            self._note(thread, left=False)
            thread.place = None
            self._refuse(websocket)
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
            elif thread.websocket:
                self._note(thread, left=False)  # with one thread, which has kept its place
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

    def _refuse(self, websocket: bool) -> None:
        self._words[WEBSOCKETS_REFUSED if websocket else IO_BOUND_REFUSED] += 1

    def _note(self, thread: ThreadSlot, *, left: bool, websocket: bool = False) -> None:
        """Note whether a call is out of the count, and whether it has a WebSocket."""
        self._left += (left and not websocket) - (thread.left_count and not thread.websocket)
        self._opened += websocket - thread.websocket
        self._out += left - thread.left_count
        thread.left_count, thread.websocket = left, websocket
        thread.words[IO_BOUND] = LEFT_COUNT * left + WEBSOCKET * websocket
        self._words[IO_BOUND_CALLS] = self._out
        self._words[WEBSOCKETS] = self._opened
