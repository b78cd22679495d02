"""Simulates a worker under overload, to choose how it serves its queue.

    python benchmarks/queue_policy.py

A discrete-event simulation, and so the same on every machine: requests arrive at random (Poisson,
from a seed), a number of threads serve them, and a policy says which request is next. Clients wait
for a time and leave; where the server sees that, their requests are dropped. It prints the tables
of docs/performance/overload.md.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from math import sqrt

THREADS = 4
SERVICE = 0.02
"""The time of a call of the application, in seconds."""
CAPACITY = THREADS / SERVICE
QUEUE = 1024
QUEUE_TIMEOUT = 30.0
LOADS = (0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
SECONDS = 120.0
"""How long requests arrive."""
WARM_UP = 30.0
"""What arrives before this is not counted: sustained overload shows after ten seconds."""
SEED = 20261129

OVERLOAD_DELAY = 1.0
OVERLOAD_SECONDS = 10.0


@dataclass(slots=True)
class Request:
    """One request: when it was sent, and when its client leaves."""

    sent: float
    leaves: float


@dataclass
class Outcome:
    """What became of the requests that were counted."""

    sent: int = 0
    useful: int = 0
    """Answered before the client had left."""
    late: int = 0
    """Served after that: a thread's work for no client."""
    refused: int = 0
    """Answered with 503 before the client had left."""
    times: list[float] = field(default_factory=list)
    """Of useful answers the time from sending to the answer."""
    refusal_times: list[float] = field(default_factory=list)
    """Of refusals the same."""

    def percentile(self, share: float, times: list[float]) -> float:
        """Return a percentile in seconds; 0 without times."""
        return sorted(times)[min(len(times) - 1, int(share * len(times)))] if times else 0.0


class Policy:
    """Serves in the order of arrival. Subclasses change the order, or refuse requests earlier."""

    name = "FIFO"

    def __init__(self) -> None:
        """Begin without overload."""
        self.queue: deque[Request] = deque()
        self.lucky_at = 0.0
        """When a request last waited for less than the threshold."""
        self.overloaded = False

    def note(self, now: float) -> None:
        """Apply the rule for sustained overload, as a thread takes its next request."""
        oldest = now - self.queue[0].sent if self.queue else 0.0
        if oldest <= max(OVERLOAD_DELAY, 2 * SERVICE):
            self.lucky_at = now
        self.overloaded = now - self.lucky_at >= OVERLOAD_SECONDS

    def next(self, now: float, refuse: Callable[[Request], None]) -> Request | None:
        """Return the request to serve now; call ``refuse`` with each that is refused."""
        self.note(now)
        return self.queue.popleft() if self.queue else None


class NewestFirst(Policy):
    """Serves the newest first while the overload is sustained: adaptive LIFO."""

    name = "LIFO"

    def next(self, now: float, refuse: Callable[[Request], None]) -> Request | None:
        """Return the newest request, or the oldest without overload."""
        self.note(now)
        if not self.queue:
            return None
        return self.queue.pop() if self.overloaded else self.queue.popleft()


class ControlledDelay(Policy):
    """CoDel (RFC 8289) with a target of one second: refuses at a rate that grows."""

    name = "CoDel"
    interval = OVERLOAD_SECONDS

    def __init__(self) -> None:
        """Begin without refusing."""
        super().__init__()
        self.next_refusal = 0.0
        self.count = 0
        self.refusing = False

    def next(self, now: float, refuse: Callable[[Request], None]) -> Request | None:
        """Return the oldest request, after refusing as the control law says."""
        self.note(now)
        if not self.overloaded:
            self.refusing = False
            return self.queue.popleft() if self.queue else None
        if not self.refusing:
            self.refusing = True
            self.count = self.count - 2 if self.count > 2 else 1
            self.next_refusal = now
        while self.queue and now >= self.next_refusal:
            refuse(self.queue.popleft())
            self.count += 1
            self.next_refusal += self.interval / 100 / sqrt(self.count)
            self.note(now)
            if not self.overloaded:
                break
        return self.queue.popleft() if self.queue else None


class ShortTimeout(Policy):
    """Refuses what has waited for longer than the threshold while the overload is sustained.

    This is CoDel as servers of remote procedures use it: the state of RFC 8289 decides on the
    longest wait, and not on a rate of refusals.
    """

    name = "CoDel, as a timeout"

    def next(self, now: float, refuse: Callable[[Request], None]) -> Request | None:
        """Return the oldest request that has not waited for too long."""
        self.note(now)
        while self.queue and self.overloaded and now - self.queue[0].sent > OVERLOAD_DELAY:
            refuse(self.queue.popleft())
        return self.queue.popleft() if self.queue else None

    def note(self, now: float) -> None:
        """Apply the rule, and stay overloaded until the queue has been empty."""
        before = self.overloaded
        super().note(now)
        self.overloaded = self.overloaded or (before and bool(self.queue))


POLICIES: tuple[type[Policy], ...] = (Policy, NewestFirst, ControlledDelay, ShortTimeout)


def arrivals(load: float, seconds: float, patience: float, seed: int) -> list[Request]:
    """Return the requests of a time, at a multiple of the capacity."""
    chance = random.Random(seed)
    now, found = 0.0, []
    while (now := now + chance.expovariate(load * CAPACITY)) < seconds:
        found.append(Request(now, now + patience))
    return found


def simulate(
    policy: Policy, requests: list[Request], *, leaving_seen: bool, count_from: float = 0.0
) -> Outcome:
    """Return what became of requests, which are in the order of their arrival."""
    outcome = Outcome()
    free = THREADS
    ends: list[tuple[float, Request]] = []  # of the calls in progress

    def counted(request: Request) -> bool:
        return request.sent >= count_from

    def refuse(request: Request, now: float) -> None:
        if counted(request) and now <= request.leaves:
            outcome.refused += 1
            outcome.refusal_times.append(now - request.sent)

    def drop(now: float) -> None:
        queue = policy.queue
        while queue and now - queue[0].sent > QUEUE_TIMEOUT:
            refuse(queue.popleft(), now)
        # All wait for equally long, so that the oldest leave first.
        while leaving_seen and queue and queue[0].leaves < now:
            queue.popleft()

    def start(now: float) -> None:
        nonlocal free
        drop(now)
        while free and (request := policy.next(now, lambda old: refuse(old, now))) is not None:
            free -= 1
            heapq.heappush(ends, (now + SERVICE, request))

    def finish(until: float) -> None:
        nonlocal free
        while ends and ends[0][0] <= until:
            now, request = heapq.heappop(ends)
            free += 1
            if counted(request):
                if now <= request.leaves:
                    outcome.useful += 1
                    outcome.times.append(now - request.sent)
                else:
                    outcome.late += 1
            start(now)

    for request in requests:
        finish(request.sent)
        outcome.sent += counted(request)
        drop(request.sent)
        if len(policy.queue) >= QUEUE:
            refuse(request, request.sent)
        else:
            policy.queue.append(request)
        start(request.sent)
    finish(float("inf"))
    return outcome


def table(patience: float, *, leaving_seen: bool) -> None:
    """Print a row for each policy and load."""
    seen = "seen" if leaving_seen else "not seen"
    print(f"\nClients wait for {patience:g} s; that they leave is {seen}.\n")
    print("| policy | load | useful a second | of capacity | of requests | refused | p50 | p99 "
          "| refused after (p50, p99) |")  # fmt: skip
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for kind in POLICIES:
        for load in LOADS:
            requests = arrivals(load, SECONDS, patience, SEED)
            got = simulate(kind(), requests, leaving_seen=leaving_seen, count_from=WARM_UP)
            seconds = SECONDS - WARM_UP
            print(
                f"| {kind.name} | {load:g} | {got.useful / seconds:.0f} "
                f"| {got.useful / seconds / CAPACITY:.2f} | {got.useful / got.sent:.2f} "
                f"| {got.refused / got.sent:.2f} "
                f"| {got.percentile(0.5, got.times):.2f} s "
                f"| {got.percentile(0.99, got.times):.2f} s "
                f"| {got.percentile(0.5, got.refusal_times):.2f} s, "
                f"{got.percentile(0.99, got.refusal_times):.2f} s |"
            )


def burst(count: int, patience: float) -> None:
    """Print what a burst of requests to an idle worker sees."""
    print(f"\n{count} requests at once, whose clients wait for {patience:g} s:\n")
    for kind in POLICIES:
        requests = [Request(1.0, 1.0 + patience) for _ in range(count)]
        got = simulate(kind(), requests, leaving_seen=True)
        print(f"- {kind.name}: {got.useful} served, {got.refused} refused, the last after "
              f"{max(got.times):.2f} s")  # fmt: skip


def main() -> None:
    """Print all tables."""
    print(f"{THREADS} threads, a view of {SERVICE * 1000:g} ms: {CAPACITY:g} requests a second; "
          f"seed {SEED}")  # fmt: skip
    for leaving_seen in (True, False):
        for patience in (1.5, 30.0):
            table(patience, leaving_seen=leaving_seen)
    burst(1000, 30.0)


if __name__ == "__main__":
    main()
