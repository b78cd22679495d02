"""The thread slots: which request each of the application's threads has, and since when."""

from __future__ import annotations

import threading
import time
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

from penstock import messages
from penstock.telemetry.scoreboard import NUMBER, STARTED, THREAD, Scoreboard
from penstock.transport.python.call_deadline import CallDeadline, extend_deadline

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.telemetry.scoreboard import Record, Slot
    from penstock.transport.config import TransportConfig
    from penstock.transport.log_lines import RequestLog
    from penstock.transport.python.exchange import PythonExchange


class ThreadSlot:
    """One thread's record on the scoreboard, and its exchange. Only that thread writes."""

    __slots__ = ("deadline", "exchange", "left_count", "place", "record", "websocket", "words")

    def __init__(self, record: Record) -> None:
        self.record = record
        self.words = record.words
        self.exchange: PythonExchange | None = None
        self.left_count = False
        """Its call has left the count of threads. Written with the lock of `ThreadCount`."""
        self.websocket = False
        """Its call has a WebSocket. Written with the same lock."""
        self.place: threading.Lock | None = None
        """Once its call has left the count: held until the thread has a place in it again."""
        self.deadline = CallDeadline(record)
        self.words[THREAD] = threading.get_ident()


class ThreadSlots:
    """The slots of all threads, and what they share: the configuration and the counts."""

    def __init__(self, config: TransportConfig, slot: Slot, request_log: RequestLog) -> None:
        self._config = config
        self._slot = slot
        self._timeout_for = config.timeout_for
        self._request_log = request_log
        self._slot_words = slot.words
        self._timeout_ns = self.nanoseconds(config.timeout)
        self.most_extension = self.nanoseconds(config.timeout_max)
        self.limits_calls = config.timeout > 0 or config.timeout_for is not None
        self._numbers = count(1)
        self._indexes = count()
        self.slots: list[ThreadSlot] = []

    def add(self) -> ThreadSlot:
        """Return a new slot for the calling thread, which has none yet."""
        records = self._slot.records
        index = next(self._indexes)
        # A thread beyond the number of records gets a private record, which no process reads.
        record = records[index] if index < len(records) else Scoreboard(1, 1).slots[0].records[0]
        thread = ThreadSlot(record)
        self.slots.append(thread)
        return thread

    def full(self) -> bool:
        """Return True if as many threads are in the application as count."""
        occupied = sum(
            thread.exchange is not None and not thread.left_count for thread in list(self.slots)
        )
        return occupied >= self._config.threads

    def calling(self) -> bool:
        """Return True if a thread that counts is in the application."""
        return any(
            thread.exchange is not None and not thread.left_count for thread in list(self.slots)
        )

    def begin(self, thread: ThreadSlot, exchange: PythonExchange) -> None:
        """Record that a thread calls the application with an exchange."""
        since = exchange.handed_out_at = time.monotonic_ns()
        exchange.plain = not exchange.queue_time
        if exchange.held:
            exchange.release_held()  # from now on its body is the application's
        allowed = self._timeout_ns
        if self._timeout_for is not None:
            allowed = self._ask_timeout(self._timeout_for, exchange)
        deadline = 0
        exchange.call_deadline = thread.deadline
        thread.deadline.allowed = allowed
        number = self._slot_words[STARTED] = next(self._numbers)
        if allowed:
            deadline = since + allowed
            environ = exchange.environ
            environ["penstock.deadline"] = deadline / 1e9
            environ["penstock.extend_deadline"] = partial(extend_deadline, self, number)
        elif self.limits_calls:
            del exchange.environ["penstock.deadline"]
            del exchange.environ["penstock.extend_deadline"]  # only other paths have a limit
        request = exchange.request
        exchange.entry = thread.record.begin(
            number,
            since,
            deadline,
            request.method,
            exchange.client_name,
            exchange.request_id,
            request.target,
        )

    def find(self, number: int) -> PythonExchange | None:
        """Return the exchange of the call with this number, unless it is over. For any thread."""
        for thread in list(self.slots):
            if thread.words[NUMBER] == number:
                # The thread sets the exchange before the number, and clears them in the reverse
                # order. So if the number is unchanged afterwards, the exchange belongs to it.
                exchange = thread.exchange
                return exchange if thread.words[NUMBER] == number else None
        return None

    def _ask_timeout(self, timeout_for: Callable[[str], float], exchange: PythonExchange) -> int:
        environ = exchange.environ
        try:
            return self.nanoseconds(timeout_for(environ["SCRIPT_NAME"] + environ["PATH_INFO"]))
        except Exception:
            path = exchange.request.path
            self._request_log.message(messages.TIMEOUT_FOR_FAILED, path=path, exc_info=True)
            return self._timeout_ns

    def nanoseconds(self, seconds: float) -> int:
        """Return a duration in whole nanoseconds, at most thirty years; 0 for less, and for NaN."""
        return int(min(seconds, self._config.longest_timeout_seconds) * 1e9) if seconds > 0 else 0
