"""The queue between the threads that finish requests and the observers, and its thread.

A thread that serves only appends to the queue. One thread, the log writer, hands what has come to
each observer, in batches: no observer slows a request.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any, Final, Protocol

from penstock import messages
from penstock.telemetry.request_finished import Needs, Observer, RequestFinished
from penstock.telemetry.scoreboard import LOG_DROPPED

if TYPE_CHECKING:
    from penstock.telemetry.access_log_format import LineFormat

# A second of a busy worker; beyond it the reader of a log has stalled.
MAX_QUEUED_REQUESTS: Final = 10_000
# Records of 100 KiB are possible, where a client sends long header fields that a log shows.
MAX_QUEUED_BYTES: Final = 8 * 1024 * 1024
# Long enough that a busy worker writes 20 times a second, short enough for someone who watches.
GATHER_SECONDS: Final = 0.05
# How long an observer may wait for a slow reader before it drops a batch.
PATIENCE_SECONDS: Final = 1.0
# For how long a busy machine may keep the log writer from running at the end.
HALTED_SECONDS: Final = 1.0


class RequestQueue(Protocol):
    """Where native code keeps finished requests until they are taken. All thread-safe."""

    def take(self) -> tuple[list[Any], int]:
        """Take all that is queued; return it, and how many requests were lost.

        Requests are `RequestFinished`, or text: lines made by `Observers.line_format`.
        """

    def is_quiet(self) -> bool:
        """Return True if there is nothing to take; then the next request calls `wake`."""


class Observers:
    """Hands finished requests to observers. All methods are thread-safe.

    The thread is started here: create this in the process that serves, after any fork.
    """

    def __init__(
        self,
        observers: Sequence[Observer],
        logger: logging.Logger | None = None,
        most: int | None = None,
        most_bytes: int | None = None,
    ) -> None:
        """Take over ``observers``; an observer that fails is reported to ``logger``, once.

        ``most`` is how many requests may be queued; None is `MAX_QUEUED_REQUESTS`. ``most_bytes``
        is how much text they may have; None is `MAX_QUEUED_BYTES`.
        """
        self.observers = observers
        self._most = most
        self._most_bytes = most_bytes
        self.needs = reduce(Needs.with_those_of, (each.needs for each in observers), Needs())
        self._logger = logger
        self._failed: set[int] = set()  # the log writer's: positions of observers that failed
        self._source: RequestQueue | None = None
        self._counted: memoryview | None = None
        # Guards the six fields below; it is held for an append or a swap only.
        self._lock = threading.Lock()
        self._queued: list[RequestFinished] = []
        self._characters = 0
        self._lost = 0
        self._lost_in_all = 0
        self._asleep = False
        self._closed = False
        # Released to wake the log writer. Not an Event: the handler of a signal may raise between
        # any two steps of one, and leave its lock taken.
        self._alarm = threading.Lock()
        self._alarm.acquire()
        self._closing = threading.Event()
        self._deadline = 0.0
        self._thread = threading.Thread(target=self._run, name="penstock-log-writer", daemon=True)
        self._thread.start()

    @property
    def most(self) -> int:
        """How many requests may be queued."""
        return MAX_QUEUED_REQUESTS if self._most is None else self._most

    @property
    def most_bytes(self) -> int:
        """How many bytes of text the queued requests may have."""
        return MAX_QUEUED_BYTES if self._most_bytes is None else self._most_bytes

    @property
    def line_format(self) -> LineFormat | None:
        """How native code may make the lines of the only observer; None if it takes records."""
        if len(self.observers) != 1:
            return None
        return self.observers[0].line_format

    @property
    def lost(self) -> int:
        """How many requests were lost so far because too many were queued."""
        with self._lock:
            return self._lost_in_all

    def add(self, request: RequestFinished) -> None:
        """Queue a finished request. Never blocks, never raises."""
        size = len(request.request_line)
        for value in request.request_fields.values():
            size += len(value)
        if request.response_fields or request.environ:
            size += sum(map(len, request.response_fields.values()))
            size += sum(map(len, request.environ.values()))
        if request.transcript is not None:
            size += request.transcript.size
        with self._lock:
            if (
                len(self._queued) >= self.most
                or self._characters >= self.most_bytes
                or self._closed
            ):
                self._lost += 1
                self._lost_in_all += 1
            else:
                self._queued.append(request)
                self._characters += size
            if self._asleep:
                self._ring()

    def count_lost_in(self, words: memoryview) -> None:
        """Have the lost requests counted in the words of a scoreboard's slot, too."""
        self._counted = words

    def take_from(self, source: RequestQueue) -> None:
        """Hand on what ``source`` has, too; it calls `wake` where `RequestQueue` says so."""
        self._source = source
        self.wake()  # a log writer that sleeps already has not asked the source

    def wake(self) -> None:
        """Take notice that the source has requests again. Never blocks, never raises."""
        with self._lock:
            self._ring()

    def _ring(self) -> None:
        """Wake the log writer, with the lock held. The last step spares others from doing so."""
        try:
            self._alarm.release()
        except RuntimeError:
            pass  # it is about to wake already
        self._asleep = False

    def close(self, timeout: float = 2.0) -> None:
        """Hand on what is queued, for at most ``timeout`` seconds, and close the observers."""
        self._deadline = time.monotonic() + timeout
        with self._lock:
            self._closed = True  # before the log writer takes what is queued for the last time
        self._closing.set()
        with self._lock:
            self._ring()
        # Longer than an observer waits for room: then it has counted what is lost.
        self._thread.join(timeout + HALTED_SECONDS)
        if not self._thread.is_alive():
            for observer in self.observers:
                observer.close()

    def _run(self) -> None:
        while not self._closing.is_set():
            with self._lock:
                # Under the lock: a request is either seen here, or its queueing sees us asleep.
                self._asleep = (
                    not self._queued
                    and not self._lost
                    and (self._source is None or self._source.is_quiet())
                )
                asleep = self._asleep
            if asleep and not self._closing.is_set():
                self._alarm.acquire()
            self._closing.wait(GATHER_SECONDS)
            self._hand_on(PATIENCE_SECONDS)
        self._hand_on(max(0.0, self._deadline - time.monotonic()))

    def _hand_on(self, patience: float) -> None:
        batch, lost_in_source = ([], 0) if self._source is None else self._source.take()
        with self._lock:
            queued, self._queued = self._queued, []
            self._characters = 0
            lost, self._lost = self._lost + lost_in_source, 0
            self._lost_in_all += lost_in_source
        if lost and self._counted is not None:
            self._counted[LOG_DROPPED] += lost
        batch += queued
        for position, observer in enumerate(self.observers):
            try:
                if lost:
                    observer.requests_lost(lost)
                if batch:
                    observer.requests_finished(batch, patience)
            except Exception as error:
                self._report(position, observer, error)

    def _report(self, position: int, observer: Observer, error: Exception) -> None:
        if position in self._failed or self._logger is None:
            return
        self._failed.add(position)
        try:
            name = type(observer).__name__
            messages.OBSERVER_FAILED.log(self._logger, observer=name, exc_info=error)
        except Exception:
            pass  # an application's own handler: its failure must not end this thread
