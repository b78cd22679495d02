"""Who keeps the deadlines of calls: says what a call hangs in, interrupts it, or gives it up.

The scoreboard has what each thread is in, and until when. At half of a call's time there is a
warning with the thread's stack; at its deadline `RequestTimeout` is raised in the thread; and where
it is still in the same call some time after that, nothing but the end of the process can help.

The exception must not hit the next request, nor be lost by it. A thread that leaves a call writes
the record's NUMBER = 0 first, and then looks whether INTERRUPTED is the number of that call; the
watchdog writes INTERRUPTED first, and then looks whether NUMBER is that still. So the watchdog sees
that the call is over, or the thread sees that it was interrupted, or both. In the second case the
thread calls `Watchdog.settle` until it returns: that waits, by the lock, until the exception is
raised, and takes it if it has not come yet.
"""

from __future__ import annotations

import ctypes
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from penstock import messages
from penstock.errors import RequestTimeout
from penstock.system.stacks import PACKAGE, THREADING, all_stacks, current_frames, stack_of
from penstock.telemetry.scoreboard import (
    BEAT,
    DEADLINE,
    INTERRUPTED,
    LIVE,
    NUMBER,
    READY,
    SERVING,
    SINCE,
    STATE,
    STUCK,
    THREAD,
    Record,
    RequestInProgress,
    Slot,
)

SHORTEST_LOOK_SECONDS = 0.02
"""The least time between two looks, but for `DELICATE_LOOK_SECONDS`."""

LONGEST_LOOK_SECONDS = 1.0
"""The most: a beat that is older tells that something keeps the interpreter's lock."""

DELICATE_LOOK_SECONDS = 0.002
"""The time between two looks at a thread that stands where an exception would do harm."""

DELICATE_SECONDS = 0.25
"""How long one waits for it to leave such a place, before the exception is raised all the same."""

SUSPENDED_SECONDS = 1.0
"""A look that comes so much too late, with the process idle meanwhile, tells that the process did
not run at all: stopped by a signal, or with its machine. That is not the calls' fault."""

STOP_SECONDS = 1.0
"""How long to wait for the thread's end, which takes no time unless a log handler blocks."""

_DELICATE_FILES: Final = frozenset(
    {
        logging.Logger.handle.__code__.co_filename,
        THREADING,
        "<frozen importlib._bootstrap>",
        "<frozen importlib._bootstrap_external>",
    }
)
"""Code that takes locks in several steps of Python: interrupted between two of them, it keeps one
for ever."""

MOST_TURNS = 3
"""Turns of a loop until an exception from outside has come: each of them looks for one."""

_set_async_exception = ctypes.pythonapi.PyThreadState_SetAsyncExc
_set_async_exception.argtypes = [ctypes.c_ulong, ctypes.py_object]
_set_async_exception.restype = ctypes.c_int


@dataclass
class _Seen:
    """What is known of a thread's call, and what has been done about it. Times in seconds."""

    number: int = 0
    deferred: float = 0.0
    """How much later its points in time are, since the process did not run."""
    warned: bool = False
    stuck_at: float = 0.0
    """When it counts as stuck; 0 before it was interrupted."""
    stuck: bool = False


class Watchdog:
    """A thread that looks at a worker's slot, at least once a second, and keeps its deadlines."""

    def __init__(
        self,
        slot: Slot,
        *,
        shortest: float,
        grace: float,
        logger: logging.Logger,
        on_stuck: Callable[[RequestInProgress], None] | None = None,
    ) -> None:
        """Set what to look at.

        ``shortest`` is the least time that any call may last, in seconds (0 where there are no
        deadlines), ``grace`` what passes from an interruption until a call counts as stuck.
        ``on_stuck`` is called once, with the first that does; without it a worker whose stuck
        calls have all come back is ready again.
        """
        self._slot = slot
        self._grace = grace
        self._logger = logger
        self._on_stuck = on_stuck
        # The half of a call's time must not pass between two looks.
        self._longest = LONGEST_LOOK_SECONDS
        if shortest:
            self._longest = min(self._longest, max(SHORTEST_LOOK_SECONDS, shortest / 2))
        self._patience = min(DELICATE_SECONDS, grace / 2)
        # All of these are the watchdog thread's own.
        self._seen = [_Seen() for _ in slot.records]
        self._any_stuck = False
        self._told = False
        self._due = time.monotonic()
        self._busy = time.process_time()
        # Held from before INTERRUPTED is written until the exception is raised.
        self._raising = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="penstock-deadlines", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._due = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """Look no more; the thread is gone when this returns, unless it is held up somewhere."""
        self._over.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(STOP_SECONDS)

    def settle(self) -> None:
        """Take back what was raised in the calling thread and has not come yet.

        Its call is over, and the record says so. `RequestTimeout` may come before the first step
        of this, and so one calls again until it returns.
        """
        # Not cleared: where none is left to come, CPython up to 3.12 would go on to look for it, at
        # each call and loop of the process. One more takes the place of what is pending, and comes
        # at once, within the lock or right behind it.
        try:
            with self._raising:
                _set_async_exception(threading.get_ident(), RequestTimeout)
            for _ in range(MOST_TURNS):
                pass
        except RequestTimeout:
            pass

    # -- the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        pause = 0.0
        while not self._over.wait(pause):
            try:
                pause = self.look()
            except Exception:
                # A defect of ours, or memory that ran out. Without deadlines and beats the worker
                # would be taken for dead.
                pause = LONGEST_LOOK_SECONDS
                messages.DEADLINES_DEFECT.log(self._logger, exc_info=True)

    def look(self) -> float:
        """Look at every thread once; return in how many seconds to look again."""
        now = time.monotonic()
        self._slot.words[BEAT] = int(now * 1e9)
        lost = self._time_lost(now)
        pause = self._longest
        for index, record in enumerate(self._slot.records):
            number, seen = record.words[NUMBER], self._seen[index]
            if number != seen.number:
                seen = self._seen[index] = _Seen(number)
            if number:
                if lost and record.words[SINCE] < self._due * 1e9:
                    seen.deferred += lost
                if not seen.stuck:
                    pause = min(pause, self._attend(record, seen, now))
        self._tell_state()
        self._due = time.monotonic() + pause
        return pause

    def _time_lost(self, now: float) -> float:
        """Return for how long the process did not run since the last look, where that is much."""
        busy = time.process_time()
        late, worked = now - self._due, busy - self._busy
        self._busy = busy
        return late if late > SUSPENDED_SECONDS and worked < late / 2 else 0.0

    def _attend(self, record: Record, seen: _Seen, now: float) -> float:
        """Do what is due for a thread's call; return in how many seconds to look at it again."""
        since, deadline = record.words[SINCE] / 1e9, record.words[DEADLINE] / 1e9
        if not deadline or record.words[NUMBER] != seen.number:
            return self._longest
        half = (since + deadline) / 2 + seen.deferred
        deadline += seen.deferred
        if seen.stuck_at:
            due = seen.stuck_at
            if now >= due:
                self._give_up(record, seen)
                return self._longest
        elif now >= deadline:
            if not self._interrupt(record, seen, patient=now < deadline + self._patience):
                return DELICATE_LOOK_SECONDS
            due = seen.stuck_at = now + self._grace
        elif now >= half:
            if not seen.warned:
                seen.warned = True
                self._warn(record, seen, deadline - since - seen.deferred)
            due = deadline
        else:
            due = half
        return max(SHORTEST_LOOK_SECONDS, due - now)

    def _warn(self, record: Record, seen: _Seen, timeout: float) -> None:
        stack = stack_of(record.words[THREAD])
        if request := _still(record, seen):
            messages.CALL_AT_HALF_OF_TIMEOUT.log(
                self._logger,
                request=_described(request),
                timeout=round(timeout, 3),
                stack=stack,
            )

    def _interrupt(self, record: Record, seen: _Seen, *, patient: bool) -> bool:
        """Raise `RequestTimeout` in a thread; False where, being ``patient``, one rather waits."""
        ident = record.words[THREAD]
        if patient and _stands_delicately(ident):
            return False
        stack, request = stack_of(ident), _still(record, seen)
        with self._raising:
            # Once more, and as close to the exception as can be.
            if patient and _stands_delicately(ident):
                return False
            record.words[INTERRUPTED] = seen.number
            raised = record.words[NUMBER] == seen.number
            if raised:
                _set_async_exception(ident, RequestTimeout)
        if raised and request is not None:
            messages.CALL_INTERRUPTED.log(self._logger, request=_described(request), stack=stack)
        return True

    def _give_up(self, record: Record, seen: _Seen) -> None:
        """Say that a call cannot be ended: from here on the worker is of no use."""
        stacks = worker_stacks(self._slot)
        request = _still(record, seen)
        if request is None:
            return
        seen.stuck = self._any_stuck = True
        self._slot.words[READY] = 0
        self._slot.words[STATE] = STUCK
        messages.CALL_STUCK.log(
            self._logger, request=_described(request), grace=self._grace, stacks=stacks
        )
        if self._on_stuck is not None and not self._told:
            self._told = True
            self._on_stuck(request)

    def _tell_state(self) -> None:
        words = self._slot.words
        stuck = [seen.stuck for seen in self._seen]
        words[LIVE] = int(not all(stuck))
        if self._any_stuck and not any(stuck) and self._on_stuck is None:
            self._any_stuck = False
            if words[STATE] == STUCK:  # else it is being stopped
                words[STATE] = SERVING
                words[READY] = 1
                messages.NO_CALL_STUCK.log(self._logger)


def worker_stacks(slot: Slot) -> str:
    """Return the stacks of all threads of this process, and what request each is in, for a log."""
    return all_stacks({request.ident: _described(request) for request in slot.requests()})


def _still(record: Record, seen: _Seen) -> RequestInProgress | None:
    """Return the call that the thread was seen in, unless it is over."""
    request = record.read()
    return request if request is not None and request.number == seen.number else None


def _described(request: RequestInProgress) -> str:
    """Name a request in a log line: what the client sent is escaped, so it forges no line."""
    return str(request).encode("unicode_escape").decode("ascii")


def _stands_delicately(ident: int) -> bool:
    """Tell whether a thread stands in the server's own code, or where locks would stay taken.

    Where the exception comes is where the thread stands now, or soon after.
    """
    frame = current_frames().get(ident)
    if frame is None:
        return False
    file = frame.f_code.co_filename
    return file in _DELICATE_FILES or file.startswith(PACKAGE)
