"""What each of the application's threads is in, as the scoreboard and the crew see it."""

from __future__ import annotations

import threading
import time
from itertools import count
from typing import TYPE_CHECKING

from penstock import messages
from penstock.telemetry.scoreboard import NUMBER, STARTED, THREAD, Scoreboard
from penstock.transport.python.call_deadline import CallDeadline

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

    from penstock.telemetry.scoreboard import Record, Slot
    from penstock.transport.config import TransportConfig
    from penstock.transport.python.exchange import PythonExchange


class Seat:
    """One thread's record, and the exchange that it has. Its own thread writes."""

    __slots__ = ("deadline", "exchange", "record", "words")

    def __init__(self, record: Record) -> None:
        self.record = record
        self.words = record.words
        self.exchange: PythonExchange | None = None
        self.deadline = CallDeadline(record)
        self.words[THREAD] = threading.get_ident()


class Hall:
    """All seats, and what is the same for each: the policy and the counts."""

    def __init__(self, config: TransportConfig, slot: Slot, logger: logging.Logger) -> None:
        self._config = config
        self._slot = slot
        self._timeout_for = config.timeout_for
        self._logger = logger
        self._slot_words = slot.words
        self._timeout_ns = self.nanoseconds(config.timeout)
        self.most_extension = self.nanoseconds(config.timeout_max)
        self.limits_calls = config.timeout > 0 or config.timeout_for is not None
        self._numbers = count(1)
        self._indexes = count()
        self.seats: list[Seat] = []

    def new_seat(self) -> Seat:
        """Return a seat for the calling thread, which has none yet."""
        records = self._slot.records
        index = next(self._indexes)
        # Whoever comes when all of them are taken writes where nobody reads.
        record = records[index] if index < len(records) else Scoreboard(1, 1).slots[0].records[0]
        seat = Seat(record)
        self.seats.append(seat)
        return seat

    def full(self) -> bool:
        """Tell whether every thread is with the application."""
        occupied = sum(seat.exchange is not None for seat in list(self.seats))
        return occupied >= self._config.threads

    def begin(self, seat: Seat, exchange: PythonExchange) -> None:
        """Note that a thread goes to the application with an exchange."""
        since = exchange.handed_out_at = time.monotonic_ns()
        allowed = self._timeout_ns
        if self._timeout_for is not None:
            allowed = self._ask_timeout(self._timeout_for, exchange)
        deadline = 0
        seat.deadline.allowed = allowed
        exchange.call_deadline = seat.deadline
        if allowed:
            deadline = since + allowed
            exchange.environ["penstock.deadline"] = deadline / 1e9
        elif self.limits_calls:
            del exchange.environ["penstock.extend_deadline"]  # it is there for other paths
        number = self._slot_words[STARTED] = next(self._numbers)
        request = exchange.request
        seat.exchange = exchange
        seat.record.begin(
            number,
            since,
            deadline,
            request.method,
            exchange.connection.peer,
            exchange.request_id,
            request.target,
        )

    def find(self, number: int) -> PythonExchange | None:
        """Return the exchange of the call with a number, unless it is over. For any thread."""
        for seat in list(self.seats):
            if seat.words[NUMBER] == number:
                # Its thread sets the exchange before the number, and takes them away in the other
                # order: the number is the same before and after, and so this is its exchange.
                exchange = seat.exchange
                return exchange if seat.words[NUMBER] == number else None
        return None

    def _ask_timeout(self, timeout_for: Callable[[str], float], exchange: PythonExchange) -> int:
        environ = exchange.environ
        try:
            return self.nanoseconds(timeout_for(environ["SCRIPT_NAME"] + environ["PATH_INFO"]))
        except Exception:
            messages.TIMEOUT_FOR_FAILED.log(self._logger, path=exchange.request.path, exc_info=True)
            return self._timeout_ns

    def nanoseconds(self, seconds: float) -> int:
        """Return a duration in whole nanoseconds, at least 0 and at most thirty years."""
        return max(0, int(min(seconds, self._config.longest_timeout_seconds) * 1e9))
