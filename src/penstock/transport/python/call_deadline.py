"""The deadline of a call of the application, kept in the record of its thread slot.

Only time in which the application holds the thread without progress counts. Each block of the
response that it hands over restarts the clock; while the thread waits for the client, the clock
stands still. `penstock.worker.deadlines` reads the record and acts on it; `PythonExchange.time_out`
sends the 504.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from penstock.telemetry.scoreboard import AWAITING_CLIENT, DEADLINE, NUMBER, PROGRESS, SINCE
from penstock.transport.states import ABORTED

if TYPE_CHECKING:
    from penstock.telemetry.scoreboard import Record
    from penstock.transport.python.thread_slots import ThreadSlots


class CallDeadline:
    """The deadline of the call that one thread slot is in. Times are monotonic nanoseconds.

    One object serves all calls of a thread slot, so that a call costs no object of its own. The
    thread of the call writes, or another one that the application gave a part of the call to.
    """

    __slots__ = ("_words", "allowed")

    def __init__(self, record: Record) -> None:
        self._words = record.words
        self.allowed = 0
        """How long the call may go on without progress; 0 is for ever."""

    def progress(self, environ: dict[str, Any]) -> None:
        """Restart the clock: the application has handed over a block."""
        if self.allowed:
            now = time.monotonic_ns()
            self._put_off(now + self.allowed, environ)
            self._words[PROGRESS] = now

    def stop_clock(self) -> int:
        """Note that the thread begins to wait for its client; return what names the call."""
        words = self._words
        if self.allowed:
            words[AWAITING_CLIENT] = time.monotonic_ns()
        return words[NUMBER]

    def go_on(self, number: int, environ: dict[str, Any]) -> None:
        """End a wait: move the deadline by its length, unless the call has ended."""
        words = self._words
        since = words[AWAITING_CLIENT]
        if since and words[NUMBER] == number:
            waited = time.monotonic_ns() - since
            self._put_off(words[DEADLINE] + waited, environ)
            words[PROGRESS] = (words[PROGRESS] or words[SINCE]) + waited
            words[AWAITING_CLIENT] = 0

    def extend(self, time_more: int, most: int, environ: dict[str, Any]) -> float:
        """Set the deadline to ``time_more`` from now, at most ``most`` after the last progress.

        Returns the deadline in seconds.
        """
        words = self._words
        if not words[DEADLINE]:
            return math.inf
        latest = (words[PROGRESS] or words[SINCE]) + most
        self._put_off(min(time.monotonic_ns() + time_more, latest), environ)
        return words[DEADLINE] / 1e9

    def _put_off(self, deadline: int, environ: dict[str, Any]) -> None:
        if 0 < self._words[DEADLINE] < deadline:  # 0 is never: a WebSocket has none
            self._words[DEADLINE] = deadline
            environ["penstock.deadline"] = deadline / 1e9


def extend_deadline(thread_slots: ThreadSlots, number: int, seconds: float) -> float:
    """Give the call ``seconds`` from now, with at most `timeout_max` without progress.

    With its first two arguments set it is ``penstock.extend_deadline`` of the request with this
    number, and holds nothing of the connection or of a request: an application may keep it. Any
    thread may call it. It never makes the deadline earlier. Returns the deadline, in seconds on the
    clock of ``time.monotonic()``; the current time if the request's call is over.
    """
    exchange = thread_slots.find(number)
    if exchange is None or exchange.call_deadline is None:
        return time.monotonic()
    if exchange.state is ABORTED:
        return exchange.environ.get("penstock.deadline", time.monotonic())  # type: ignore[no-any-return]
    more = thread_slots.nanoseconds(seconds)
    return exchange.call_deadline.extend(more, thread_slots.most_extension, exchange.environ)
