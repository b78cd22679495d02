"""The deadlines of calls: a warning, an answer to the client, and a report where a call is stuck.

The scoreboard has what each thread is in, and until when that must make progress. At half of the
time a warning is logged with the thread's stack. At the deadline the exchange's ``time_out``
answers the client with 504, or cuts the connection where the head has been sent (it is in
``transport/python/exchange.py``, and in ``ending.rs``). Nothing is raised in the thread: an
exception from outside would cut an ``__exit__`` or a lock in half and harm other requests. Where
the call has not returned some time after that, the thread is lost, and the worker is to be
replaced.

Only time counts in which the application holds the thread without progress: the transport moves
DEADLINE and PROGRESS with each block of the response, and sets AWAITING_CLIENT while the thread
waits for the client.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from penstock import messages
from penstock.records import dataclass
from penstock.system.stacks import all_stacks, stack_of
from penstock.telemetry.histograms import LockWaits
from penstock.telemetry.scoreboard import (
    AWAITING_CLIENT,
    BEAT,
    DEADLINE,
    DEADLINES_HALF,
    DEADLINES_PASSED,
    IO_BOUND,
    LEFT_COUNT,
    LIVE,
    NUMBER,
    PROGRESS,
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
"""The least time between two looks."""

LONGEST_LOOK_SECONDS = 1.0
"""The most: a beat that is older shows that something keeps the interpreter lock."""

SUSPENDED_SECONDS = 1.0
"""A look that comes later than planned by this, with the process idle meanwhile, shows that the
process did not run at all: it was stopped by a signal, or with its machine. Calls are not to blame
for that."""

STOP_SECONDS = 1.0
"""How long to wait for the thread's end, which takes no time unless a log handler blocks."""


@dataclass
class _Seen:
    """What is known of a thread's call, and what has been done about it. Times in seconds."""

    number: int = 0
    progress: int = 0
    """The record's PROGRESS when it was last looked at, in monotonic nanoseconds."""
    deferred: float = 0.0
    """For how long the process did not run since then."""
    warned: bool = False
    stuck_at: float = 0.0
    """When it counts as stuck; 0 before its deadline has passed."""
    stuck: bool = False


class Deadlines:
    """A thread that looks at a worker's slot, at least once a second, and keeps its deadlines."""

    def __init__(
        self,
        slot: Slot,
        *,
        shortest: float,
        grace: float,
        logger: logging.Logger,
        expire: Callable[[int, str], bool],
        on_stuck: Callable[[RequestInProgress | None, int], None] | None = None,
        at_each_look: Callable[[], None] = lambda: None,
    ) -> None:
        """Set what to look at.

        ``shortest`` is the least time that any call may last without progress, in seconds (0 where
        there are no deadlines); ``grace`` is the time from a call's deadline until it counts as
        stuck. ``expire`` is the transport's. ``on_stuck`` is called with each call that gets stuck
        and the number of threads that are not, and with None once no call is stuck any more.
        ``at_each_look`` is called at least once a second, and never by two threads at once.
        """
        self._slot = slot
        self._grace = grace
        self._logger = logger
        self._expire_request = expire
        self._on_stuck = on_stuck
        self._at_each_look = at_each_look
        # The half of a call's time must not pass between two looks.
        self._longest = LONGEST_LOOK_SECONDS
        if shortest:
            self._longest = min(self._longest, max(SHORTEST_LOOK_SECONDS, shortest / 2))
        # Only this object's own thread writes these.
        self._seen: dict[int, _Seen] = {}
        self._any_stuck = False
        self._lock_waits = LockWaits(slot)
        self._due = time.monotonic()
        self._busy = time.process_time()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="penstock-deadlines", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._due = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """Look no more; the thread has ended when this returns, unless a log handler blocks it."""
        self._over.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(STOP_SECONDS)

    def count_stuck(self) -> int:
        """Return how many calls are stuck now: their deadlines and the grace have passed."""
        return sum(
            seen.stuck and self._slot.records[index].words[NUMBER] == seen.number
            for index, seen in list(self._seen.items())
        )

    def count_free(self) -> int:
        """Return how many of the worker's threads are not stuck.

        Another thread has replaced one whose call has left the count of threads, so that such a
        call takes none of them.
        """
        if not self._any_stuck:
            return self._slot.scoreboard.threads
        taken = sum(
            seen.stuck and not self._slot.records[index].words[IO_BOUND] & LEFT_COUNT
            for index, seen in list(self._seen.items())
        )
        return max(0, self._slot.scoreboard.threads - taken)

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
        pause, busy = self._longest, False
        for index, record in enumerate(self._slot.records):
            if not record.words[THREAD]:
                break  # threads take records in their order: no more have begun
            number, seen = record.words[NUMBER], self._seen.get(index)
            if seen is None or number != seen.number:
                seen = self._seen[index] = _Seen(number)
            busy = busy or number != 0
            if number and not seen.stuck:
                pause = min(pause, self._attend(record, seen, now, lost))
        self._report_recovery()
        if busy:
            self._probe_lock()
        self._at_each_look()
        self._due = time.monotonic() + pause
        return pause

    def _probe_lock(self) -> None:
        """Measure how long a thread of this process waits for the interpreter lock now.

        Where threads compute, each waits for the others, and so does this one. A wait of another
        thread cannot be measured without costing each of them more.
        """
        before = time.monotonic()
        time.sleep(0)  # gives the lock up, and asks for it again
        self._lock_waits.add(time.monotonic() - before)

    def _time_lost(self, now: float) -> float:
        """Return for how long the process did not run since the last look, where that is much."""
        busy = time.process_time()
        late, worked = now - self._due, busy - self._busy
        self._busy = busy
        return late if late > SUSPENDED_SECONDS and worked < late / 2 else 0.0

    def _attend(self, record: Record, seen: _Seen, now: float, lost: float) -> float:
        """Do what is due for a thread's call; return in how many seconds to look at it again."""
        words = record.words
        known = words[DEADLINE]
        deadline = known / 1e9
        if not deadline or words[NUMBER] != seen.number:
            return self._longest
        if seen.stuck_at:
            seen.stuck_at += lost
            if now >= seen.stuck_at:
                self._report_stuck(record, seen)
                return self._longest
            return max(SHORTEST_LOOK_SECONDS, seen.stuck_at - now)
        if words[PROGRESS] != seen.progress:
            seen.progress, seen.deferred = words[PROGRESS], 0.0
        since = (seen.progress or words[SINCE]) / 1e9
        if since < self._due:
            seen.deferred += lost
        if words[AWAITING_CLIENT]:
            return self._longest  # afterwards the deadline is later by as much as this took
        half = (since + deadline) / 2 + seen.deferred
        if now >= deadline + seen.deferred:
            self._expire(record, seen, now, known, deadline - since)
            return max(SHORTEST_LOOK_SECONDS, self._grace)
        if now < half:
            seen.warned = False  # perhaps a block has restarted the clock
            return max(SHORTEST_LOOK_SECONDS, half - now)
        if not seen.warned:
            seen.warned = True
            self._slot.words[DEADLINES_HALF] += 1
            self._warn(record, seen, deadline - since)
        return max(SHORTEST_LOOK_SECONDS, deadline + seen.deferred - now)

    def _warn(self, record: Record, seen: _Seen, timeout: float) -> None:
        stack = stack_of(record.words[THREAD])
        if request := _still(record, seen):
            messages.CALL_AT_HALF_OF_TIMEOUT.log(
                self._logger,
                request=_described(request),
                timeout=round(timeout, 3),
                stack=stack,
            )

    def _expire(
        self, record: Record, seen: _Seen, now: float, deadline: int, timeout: float
    ) -> None:
        """Have the client of a call answered, and log where the thread stands.

        ``deadline`` is the one that has passed, as the record had it.
        """
        stack, request = stack_of(record.words[THREAD]), _still(record, seen)
        if request is None or record.words[DEADLINE] != deadline:
            return  # it made progress meanwhile, or the wait for its client ended
        seen.stuck_at = now + self._grace
        timeout = round(timeout, 3)
        waited = self._expire_request(seen.number, f"timeout after {timeout:g} s")
        self._slot.words[DEADLINES_PASSED] += waited
        messages.CALL_EXPIRED.log(
            self._logger,
            request=_described(request),
            timeout=timeout,
            outcome="the server has ended the request" if waited else "its response was complete",
            stack=stack,
        )

    def _report_stuck(self, record: Record, seen: _Seen) -> None:
        """Report a call that did not return after its deadline: its thread is lost."""
        stacks = worker_stacks(self._slot)
        request = _still(record, seen)
        if request is None:
            return
        seen.stuck = self._any_stuck = True
        self._slot.words[READY] = 0
        if self._slot.words[STATE] == SERVING:  # one that is being stopped stays that
            self._slot.words[STATE] = STUCK
        free = self._update_live()
        messages.CALL_STUCK.log(
            self._logger,
            request=_described(request),
            grace=self._grace,
            free=free,
            stacks=stacks,
        )
        if self._on_stuck is not None:
            self._on_stuck(request, free)

    def _update_live(self) -> int:
        """Write down whether something moves; return how many threads are not stuck."""
        free = self.count_free()
        self._slot.words[LIVE] = int(free > 0)
        return free

    def _report_recovery(self) -> None:
        """Make the worker ready again where all of its stuck calls have returned after all."""
        free = self._update_live()
        if not self._any_stuck or any(seen.stuck for seen in self._seen.values()):
            return
        self._any_stuck = False
        words = self._slot.words
        if words[STATE] != STUCK:
            return  # it is being stopped
        words[STATE] = SERVING
        words[READY] = 1
        messages.NO_CALL_STUCK.log(self._logger)
        if self._on_stuck is not None:
            self._on_stuck(None, free)


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
