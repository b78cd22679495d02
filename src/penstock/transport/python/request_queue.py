"""The requests that wait for a thread: a bounded queue, and who is refused or dropped from it.

The leader puts requests in; any thread takes. docs/performance/overload.md tells which is next.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from penstock.http1 import ProtocolError
from penstock.telemetry.scoreboard import (
    CLIENT_LEFT,
    QUEUE_FULL,
    QUEUE_FULL_SINCE,
    QUEUE_TIMEOUT,
    QUEUED,
    WAITING,
)
from penstock.transport.admission import Overload
from penstock.transport.decisions import (
    Leaving,
    queue_has_room,
    queued_status,
    ready_with_queue,
    retry_after,
)
from penstock.transport.fair_queue import FairQueue
from penstock.transport.python.clients import share_key

if TYPE_CHECKING:
    from penstock.telemetry.scoreboard import Slot
    from penstock.transport.config import TransportConfig
    from penstock.transport.python.exchange import PythonExchange


class RequestQueue:
    """The queue. Its lock guards what it holds, the rule for overload, and the words it writes."""

    __slots__ = (
        "_arrivals",
        "_config",
        "_is_full",
        "_lock",
        "_overload",
        "_slot",
        "_words",
        "requests",
    )

    def __init__(self, config: TransportConfig, slot: Slot) -> None:
        self._config = config
        self._slot = slot
        # Whether `QUEUE_FULL_SINCE` is set: it is looked at for each request.
        self._is_full = False
        self._words = slot.words
        self._lock = threading.Lock()
        self._overload = Overload(config)
        # The same requests in the order of arrival. A plain dictionary would look for its first one
        # behind all that have been taken off.
        self._arrivals: OrderedDict[PythonExchange, None] = OrderedDict()
        self.requests: FairQueue[PythonExchange] = FairQueue()
        """The requests, shared by client. Without the lock only its size may be looked at."""

    def put(
        self, exchange: PythonExchange, *, taken_at_once: bool = False
    ) -> PythonExchange | None:
        """Have a request wait for a thread; return the one for `refuse_full`, if any.

        Where the queue is full, that is the newest of the client that has the most. With
        ``taken_at_once`` a thread is free for the request, so that none is refused. For the leader.
        """
        client = share_key(exchange.client_addr)
        now = exchange.queued_at = time.monotonic_ns()
        refused = None
        with self._lock:
            requests = self.requests
            if not taken_at_once and not queue_has_room(self._config, requests.size):
                self._words[QUEUE_FULL] += 1
                refused = requests.make_room(client)
                if refused is None:
                    return exchange
                del self._arrivals[refused]
            if not requests.size:
                self._overload.queue_moved(now, 0)
            if not taken_at_once:
                self._words[QUEUED] += 1
            requests.add(client, exchange)
            self._arrivals[exchange] = None
            self._words[WAITING] = requests.size
            if not self._is_full and not queue_has_room(self._config, requests.size):
                self._is_full = True
                self._words[QUEUE_FULL_SINCE] = now
        return refused

    def take(self) -> PythonExchange | None:
        """Return the request that the calling thread is to serve; None if there is none."""
        while True:
            with self._lock:
                if not self.requests.size:
                    return None
                # Only under sustained overload the newest: of the others, most clients have left.
                newest = self._overload.sustained
                exchange = self.requests.take(newest=newest)
                del self._arrivals[exchange]
                now = time.monotonic_ns()
                self._moved(now)
            # Asked for now, since a client that had ended its side before is no longer watched.
            exchange.connection.stream.client_gone()
            # By the rule as it was: the queue that this request leaves empty ends the overload.
            status = self._status(exchange, now, sustained=newest)
            if not status:
                exchange.waited_until(now)
                return exchange
            self.end(exchange, status)

    def sweep(self) -> list[tuple[PythonExchange, int]]:
        """Take the requests whose time is over, and those whose clients have left, off the queue.

        Return each with the status for `end`.
        """
        now = time.monotonic_ns()
        with self._lock:
            waiting, sustained = list(self._arrivals), self._overload.sustained
        statuses = {}
        for exchange in waiting:
            connection = exchange.connection
            if not connection.watched:
                # Its client has sent more, and no event tells of what comes after that.
                connection.stream.client_gone()
            if status := self._status(exchange, now, sustained=sustained):
                statuses[exchange] = status
        if not statuses:
            return []
        with self._lock:
            # A thread may have taken some of them meanwhile.
            ended = self.requests.remove(statuses.__contains__)
            for exchange in ended:
                del self._arrivals[exchange]
            self._moved(now)
        return [(exchange, statuses[exchange]) for exchange in ended]

    def take_all(self) -> list[PythonExchange]:
        """Take all requests off the queue, for `refuse_stopped`."""
        with self._lock:
            self._arrivals.clear()
            waiting = self.requests.remove(lambda _: True)
            self._moved(time.monotonic_ns())
        return waiting

    def refuse_full(self, exchange: PythonExchange) -> None:
        """Refuse a request for which the queue has no room, or no longer."""
        exchange.queue_time = (time.monotonic_ns() - exchange.queued_at) / 1e9
        self._refuse(exchange, self._config.queue_full, "queue")

    def refuse_stopped(self, exchange: PythonExchange) -> None:
        """Refuse a request that still waits at the end of the transport."""
        exchange.queue_time = (time.monotonic_ns() - exchange.queued_at) / 1e9
        exchange.close_after_response()
        error = ProtocolError(503, self._config.stopping, setting="graceful_timeout")
        exchange.refuse(error, self._config.stopped_in_queue)

    def client_left(self, exchange: PythonExchange) -> None:
        """Drop a request whose client has left, if it waits."""
        now = time.monotonic_ns()
        with self._lock:
            if exchange not in self._arrivals:
                return  # a thread has it
            del self._arrivals[exchange]
            self.requests.remove(lambda it: it is exchange, share_key(exchange.client_addr))
            self._moved(now)
        self.end(exchange, self._config.client_left_status)

    def note_service(self, nanoseconds: int) -> None:
        """Note how long a call took that ended while requests waited, for `Retry-After`."""
        with self._lock:
            self._overload.served(nanoseconds)

    def ready(self) -> bool:
        """Return True unless the queue has been full for too long."""
        return ready_with_queue(self._config, self._slot.queue_full_for)

    def _moved(self, now: int) -> None:
        """Update the counts after requests have left the queue. With the lock held."""
        self._words[WAITING] = size = self.requests.size
        # Not before it is half empty: each request that a thread takes makes room for a moment.
        if self._is_full and size <= self._config.queue // 2:
            self._is_full = False
            self._words[QUEUE_FULL_SINCE] = 0
        oldest = next(iter(self._arrivals), None)
        self._overload.queue_moved(now, 0 if oldest is None else now - oldest.queued_at)

    def _status(self, exchange: PythonExchange, now: int, *, sustained: bool) -> int:
        connection = exchange.connection
        leaving = Leaving.STAYS
        if connection.stream.client_gone.known:
            leaving = Leaving.GONE
        elif connection.ended_at < math.inf:
            leaving = Leaving.HALF_CLOSED
        waited = (now - exchange.queued_at) / 1e9
        return queued_status(self._config, waited, leaving, sustained)

    def end(self, exchange: PythonExchange, status: int) -> None:
        """End a request that has left the queue, and that no thread is to have."""
        exchange.queue_time = (time.monotonic_ns() - exchange.queued_at) / 1e9
        refused = status == 503
        with self._lock:
            self._words[QUEUE_TIMEOUT if refused else CLIENT_LEFT] += 1
        if refused:
            self._refuse(exchange, self._config.queue_late, "queue_timeout")
        else:
            exchange.drop()

    def _refuse(self, exchange: PythonExchange, reason: str, setting: str) -> None:
        error = ProtocolError(503, self._config.overloaded, setting=setting)
        with self._lock:
            mean = self._overload.mean_service / 1e9
            waiting = self.requests.size
        error.retry_after = retry_after(self._config, waiting, mean, self._config.threads)
        exchange.refuse(error, reason)
