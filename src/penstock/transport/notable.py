"""Requests that are worth a look later: the slowest ones, those that failed, and those refused.

A worker sends each of these to the supervisor, which keeps the last ones (`penstockctl slow`,
`failed`, `refused`) and outlives the worker. Clients and applications decide how many there are:
of each kind a few a second are sent, and the others counted.
"""

from __future__ import annotations

import heapq
import re
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from penstock.telemetry.scoreboard import TEXTS, without_query
from penstock.transport.faults import find_fault, masked, without_secrets

if TYPE_CHECKING:
    from penstock.http1 import ParserLimits

LEAST_SLOW_SECONDS = 0.02
"""A call that takes less is not among the slowest: a look at it would cost too much of its time."""
SLOWEST = 8
"""How many of the slowest calls are sent of each time of `SLOW_SECONDS`. On the way there a few
more are, which others have passed since."""
SLOW_SECONDS = 60.0
MOST_A_SECOND = {"slow": 10, "failed": 5, "refused": 2}
"""How many of a kind are sent in a second. The first of them are, as they come."""

MOST_OF_HEAD = 16 * 1024
"""How much is kept of a head that was refused, to find the fault in it."""

(_, MOST_OF_METHOD), (_, MOST_OF_CLIENT), (_, MOST_OF_ID), (_, MOST_OF_PATH) = TEXTS
"""Characters that are sent of each, as many as the scoreboard has."""
MOST_OF_PROTOCOL = 16
MOST_OF_TRACE_ID = 32
"""As many hexadecimal digits as a trace id has."""
MOST_OF_REASON = 200
"""The same of a reason, and of a request line."""
MOST_OF_EXCERPT = 320
"""Bytes that are shown of a head that was refused..."""
BEFORE_FAULT = 160
"""... and how many of these may precede the fault."""


_TRACE_ID = re.compile("[0-9a-f]{32}")


class EndedCall(NamedTuple):
    """A call of the application that has ended, as a transport knows it."""

    method: str
    target: str
    protocol: str
    """Such as ``HTTP/1.1``."""
    client: str
    """Address and port; empty for a unix socket."""
    request_id: str
    trace_id: object
    """What the environ has as `penstock.trace_id`, where an application may put anything."""
    took: int
    """How long the application had it, in nanoseconds."""
    duration: float
    """From the first byte of the request to the last one of its response, in seconds; 0.0 where the
    client has yet to read some of that."""
    status: int
    """0 where there was no response."""
    reason: str
    aborted: bool
    """The server has ended it."""


class NotableRequests:
    """What one worker has to say of such requests. For any thread; nothing here waits.

    A thread that finds another one at it gives up its own: a signal handler may interrupt a thread
    here, and be one of both.
    """

    def __init__(
        self,
        limits: ParserLimits,
        send: Callable[[str, dict[str, Any]], None],
        clock: Callable[[], float] = time.monotonic,
        least_slow: float = LEAST_SLOW_SECONDS,
    ) -> None:
        """``send`` takes a kind, and what is known of a request; ``clock`` returns seconds.

        A call that takes less than ``least_slow`` seconds is not slow.

        ``limits`` are those of the transport's parser.
        """
        self._limits = limits
        self._send = send
        self._clock = clock
        self._least_slow = int(least_slow * 1e9)
        self._lock = threading.Lock()  # guards the fields below
        self._slowest: list[int] = []  # a heap of the durations that count as the slowest
        self._slowest_since = clock()
        self._second = dict.fromkeys(MOST_A_SECOND, -1)
        self._sent = dict.fromkeys(MOST_A_SECOND, 0)
        self._left_out = dict.fromkeys(MOST_A_SECOND, 0)

    def call_ended(self, call: EndedCall) -> None:
        """Note a call of the application that took long, or that failed."""
        failed = call.status >= 500 or call.aborted
        # A WebSocket is no slow request: it lasts as long as both sides want it.
        slow = call.took >= self._least_slow and call.status != 101 and self._is_slowest(call.took)
        for kind in ("slow",) * slow + ("failed",) * failed:
            if self._may_send(kind):
                self._note(
                    kind,
                    {
                        "method": call.method[:MOST_OF_METHOD],
                        "path": without_query(call.target)[:MOST_OF_PATH],
                        "protocol": call.protocol[:MOST_OF_PROTOCOL],
                        "client": call.client[:MOST_OF_CLIENT],
                        "id": call.request_id[:MOST_OF_ID],
                        "trace_id": _trace_id(call.trace_id),
                        "took": round(call.took / 1e9, 6),
                        "duration": round(call.duration, 6),
                        "status": call.status,
                        "reason": call.reason[:MOST_OF_REASON],
                    },
                )

    def refused(
        self,
        client: str,
        request_line: str,
        request_id: str,
        status: int,
        reason: str,
        rule: str,
        setting: str,
        received: bytes,
    ) -> None:
        """Note a request that was refused; ``received`` is what has come of its head.

        What may be a secret in it is masked here: values of fields such as Cookie, and the query.
        """
        if not self._may_send("refused"):
            return
        head = received[:MOST_OF_HEAD]
        position = find_fault(head, self._limits, reason, setting)
        begin = 0 if position is None else max(0, position - BEFORE_FAULT)
        shown = without_secrets(head)[begin : begin + MOST_OF_EXCERPT]
        self._note(
            "refused",
            {
                "client": client[:MOST_OF_CLIENT],
                "id": request_id[:MOST_OF_ID],
                "status": status,
                "reason": reason[:MOST_OF_REASON],
                "rule": rule,
                "setting": setting,
                "line": masked(request_line)[:MOST_OF_REASON],
                "excerpt": shown.decode("latin-1"),
                "begin": begin,
                "position": position,
                "received": len(received),
            },
        )

    def _is_slowest(self, took: int) -> bool:
        """Return True if a call is among the slowest since the last turn of the time."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            now = self._clock()
            if now - self._slowest_since >= SLOW_SECONDS:
                self._slowest_since = now
                self._slowest.clear()
            if len(self._slowest) < SLOWEST:
                heapq.heappush(self._slowest, took)
                return True
            return heapq.heappushpop(self._slowest, took) < took
        finally:
            self._lock.release()

    def _may_send(self, kind: str) -> bool:
        """Count a request of a kind; return True if it is to be sent."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            second = int(self._clock())
            if second != self._second[kind]:
                self._second[kind], self._sent[kind] = second, 0
            if self._sent[kind] >= MOST_A_SECOND[kind]:
                self._left_out[kind] += 1
                return False
            self._sent[kind] += 1
            return True
        finally:
            self._lock.release()

    def _note(self, kind: str, request: dict[str, Any]) -> None:
        left_out, self._left_out[kind] = self._left_out[kind], 0
        self._send(kind, {**request, "at": round(time.time(), 3), "left_out": left_out})


def _trace_id(found: object) -> str:
    """Return a trace id; empty where it is none."""
    return found if isinstance(found, str) and _TRACE_ID.fullmatch(found) else ""
