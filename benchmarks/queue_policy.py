"""Simulates a worker under overload, to choose how it serves its queue.

    python benchmarks/queue_policy.py

A discrete-event simulation, and so the same on every machine: requests arrive at random (Poisson,
from a seed), a number of threads serve them, and a policy says which request is next. Clients wait
for a time and leave; where the server sees that, their requests are dropped. It prints the tables
of docs/performance/overload.md. ``--shared`` prints those alone that concern sharing by client.
"""

from __future__ import annotations

import heapq
import random
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from math import sqrt

from penstock.transport.admission import Overload
from penstock.transport.config import TransportConfig
from penstock.transport.fair_queue import FairQueue

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

CLOSE, RESET, HIDDEN = "close", "reset", "stay behind a proxy that keeps"
"""What clients do with their connections as they leave. The server acts on a close only while the
overload is sustained, since a client may close one side and wait for the answer."""

CONFIG = TransportConfig()
OVERLOAD_DELAY = CONFIG.overload_delay_seconds


@dataclass(slots=True)
class Request:
    """One request: when it was sent, and when its client leaves."""

    sent: float
    leaves: float
    client: int = 0
    """Whose it is, for the policy that shares by client."""


@dataclass
class Outcome:
    """What became of the requests that were counted."""

    sent: int = 0
    rate: float = 0.0
    """Useful answers a second, in the time that counts."""
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


class Policy:
    """Serves in the order of arrival. Subclasses change the order, or refuse requests earlier.

    The rule for sustained overload is the server's own.
    """

    name = "FIFO"

    def __init__(self) -> None:
        """Begin without overload."""
        self.queue: deque[Request] = deque()
        self.overload = Overload(CONFIG)

    def join(self, request: Request) -> None:
        """Put a request into the queue as it arrives."""
        if not self.queue:
            self.overload.queue_moved(nanoseconds(request.sent), 0)
        self.queue.append(request)

    def put(self, request: Request) -> Request | None:
        """Have a request wait; return the one that is refused because the queue is full, if any."""
        if len(self.queue) >= QUEUE:
            return request
        self.join(request)
        return None

    def oldest(self) -> Request | None:
        """Return the request that has waited for longest; None if none waits."""
        return self.queue[0] if self.queue else None

    def remove_oldest(self) -> None:
        """Take that one off the queue."""
        self.queue.popleft()

    def moved(self, now: float) -> None:
        """Apply the rule for sustained overload, after the queue has changed."""
        oldest = self.oldest()
        waited = now - oldest.sent if oldest is not None else 0.0
        self.overload.queue_moved(nanoseconds(now), nanoseconds(waited))

    def sees(self, leaving: str) -> bool:
        """Return True if the server knows now that a client has left."""
        return leaving == RESET or (leaving == CLOSE and self.overload.sustained)

    def next(self, now: float, refuse: Callable[[Request], None]) -> Request | None:
        """Return the request to serve now; call ``refuse`` with each that is refused."""
        if self.oldest() is None:
            return None
        request = self.take(now, refuse)
        self.moved(now)
        return request

    def take(self, now: float, refuse: Callable[[Request], None]) -> Request | None:
        """Return the same, from a queue that is not empty."""
        return self.queue.popleft()


class NewestFirst(Policy):
    """Serves the newest first while the overload is sustained: adaptive LIFO."""

    name = "LIFO"

    def take(self, now: float, refuse: Callable[[Request], None]) -> Request | None:
        """Return the newest request, or the oldest without overload."""
        return self.queue.pop() if self.overload.sustained else self.queue.popleft()


class Shared(Policy):
    """Serves as the server does: shared by client, under sustained overload the newest first."""

    name = "shared LIFO"

    def __init__(self) -> None:
        """Begin without overload."""
        super().__init__()
        self.waiting: FairQueue[Request] = FairQueue()
        self.left: set[int] = set()
        """Of ``queue``, which is in the order of arrival, what waits no more."""

    def put(self, request: Request) -> Request | None:
        """Have a request wait; return the one that is refused because the queue is full, if any."""
        refused = None
        if self.waiting.size >= QUEUE:
            refused = self.waiting.make_room(request.client)
            if refused is None:
                return request
            self.left.add(id(refused))
        self.join(request)
        self.waiting.add(request.client, request)
        return refused

    def oldest(self) -> Request | None:
        """Return the request that has waited for longest; None if none waits."""
        while self.queue and id(self.queue[0]) in self.left:
            self.left.remove(id(self.queue.popleft()))
        return self.queue[0] if self.queue else None

    def remove_oldest(self) -> None:
        """Take that one off the queue."""
        oldest = self.queue.popleft()
        self.waiting.remove(lambda it: it is oldest, oldest.client)

    def take(self, now: float, refuse: Callable[[Request], None]) -> Request | None:
        """Return the next request of the client that is next."""
        request = self.waiting.take(newest=self.overload.sustained)
        self.left.add(id(request))
        return request


class ControlledDelay(Policy):
    """CoDel: refuses at a rate that grows, as RFC 8289 says, with a target of one second."""

    name = "CoDel"
    interval = 0.1
    """RFC 8289's: the first refusals are this far apart."""

    def __init__(self) -> None:
        """Begin without refusing."""
        super().__init__()
        self.next_refusal = 0.0
        self.count = 0
        self.refusing = False

    def take(self, now: float, refuse: Callable[[Request], None]) -> Request | None:
        """Return the oldest request, after refusing as the control law says."""
        if not self.overload.sustained:
            self.refusing = False
            return self.queue.popleft()
        if not self.refusing:
            self.refusing = True
            self.count = self.count - 2 if self.count > 2 else 1
            self.next_refusal = now
        while self.queue and now >= self.next_refusal and self.overload.sustained:
            refuse(self.queue.popleft())
            self.count += 1
            self.next_refusal += self.interval / sqrt(self.count)
            self.moved(now)
        return self.queue.popleft() if self.queue else None


class ShortTimeout(Policy):
    """Refuses what has waited for longer than a second, from sustained overload to an empty queue.

    Servers of remote procedures use CoDel like this: its state decides on the longest wait.
    """

    name = "CoDel as a timeout"

    def __init__(self) -> None:
        """Begin without refusing."""
        super().__init__()
        self.refusing = False

    def take(self, now: float, refuse: Callable[[Request], None]) -> Request | None:
        """Return the oldest request that has not waited for too long."""
        self.refusing = self.refusing or self.overload.sustained
        while self.refusing and self.queue and now - self.queue[0].sent > OVERLOAD_DELAY:
            refuse(self.queue.popleft())
        if len(self.queue) <= 1:
            self.refusing = False
        return self.queue.popleft() if self.queue else None


def nanoseconds(seconds: float) -> int:
    """Return seconds as the server counts them."""
    return round(seconds * 1e9)


POLICIES: tuple[type[Policy], ...] = (Policy, NewestFirst, ControlledDelay, ShortTimeout)
SHARING: tuple[type[Policy], ...] = (Policy, NewestFirst, Shared)


def arrivals(load: float, seconds: float, patience: float, seed: int) -> list[Request]:
    """Return the requests of a time, at a multiple of the capacity."""
    chance = random.Random(seed)
    now, found = 0.0, []
    while (now := now + chance.expovariate(load * CAPACITY)) < seconds:
        found.append(Request(now, now + patience))
    return found


def simulate(
    policy: Policy,
    requests: list[Request],
    *,
    leaving: str,
    count_from: float = 0.0,
    counts: Callable[[Request], bool] = lambda _: True,
    threads: int = THREADS,
    service: float = SERVICE,
) -> Outcome:
    """Return what became of requests, which are in the order of their arrival."""
    outcome = Outcome()
    free = threads
    counted_time = max(requests[-1].sent - count_from, 1e-9)
    ends: list[tuple[float, int, Request]] = []  # of the calls in progress
    order = count()

    def counted(request: Request) -> bool:
        return request.sent >= count_from and counts(request)

    def refuse(request: Request, now: float) -> None:
        if counted(request) and now <= request.leaves:
            outcome.refused += 1
            outcome.refusal_times.append(now - request.sent)

    def drop(now: float) -> None:
        while (oldest := policy.oldest()) is not None and now - oldest.sent > QUEUE_TIMEOUT:
            policy.remove_oldest()
            refuse(oldest, now)
        # All wait for equally long, so that the oldest leave first.
        while (
            (oldest := policy.oldest()) is not None and oldest.leaves < now and policy.sees(leaving)
        ):
            policy.remove_oldest()
            policy.moved(now)

    def start(now: float) -> None:
        nonlocal free
        drop(now)
        while free and (request := policy.next(now, lambda old: refuse(old, now))) is not None:
            free -= 1
            heapq.heappush(ends, (now + service, next(order), request))

    def finish(until: float) -> None:
        nonlocal free
        while ends and ends[0][0] <= until:
            now, _, request = heapq.heappop(ends)
            free += 1
            policy.overload.served(nanoseconds(service))
            if now <= request.leaves and count_from <= now <= requests[-1].sent:
                outcome.rate += 1 / counted_time
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
        refused = policy.put(request)
        if refused is not None:
            refuse(refused, request.sent)
        start(request.sent)
    finish(float("inf"))
    return outcome


def table(patience: float, leaving: str) -> None:
    """Print a row for each policy and load."""
    print(f"\nClients wait for {patience:g} s, and then {leaving} their connections:\n")
    print("| policy | load | useful a second | of the capacity | refused | answer p50 | p99 "
          "| refusal p50 | p99 |")  # fmt: skip
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for kind in POLICIES:
        for load in LOADS:
            requests = arrivals(load, SECONDS, patience, SEED)
            got = simulate(kind(), requests, leaving=leaving, count_from=WARM_UP)
            answers, refusals = got.times, got.refusal_times
            print(
                f"| {kind.name} | {load:g} | {got.rate:.0f} | {got.rate / CAPACITY:.2f} "
                f"| {got.refused / got.sent:.0%} | {shown(answers, 0.5)} | {shown(answers, 0.99)} "
                f"| {shown(refusals, 0.5)} | {shown(refusals, 0.99)} |"
            )


def shown(times: list[float], share: float) -> str:
    """Return a percentile of times as text."""
    if not times:
        return "-"
    return f"{sorted(times)[min(len(times) - 1, int(share * len(times)))]:.2f} s"


def shared_table(title: str, client_of: Callable[[random.Random, float], int]) -> None:
    """Print what the clients but client 0 see, for each policy and load.

    ``client_of`` says whose a request is, for a load.
    """
    print(f"\n{title}:\n")
    print("| policy | load | useful a second | of the capacity | of the others: answered in time "
          "| p50 | p99 |")  # fmt: skip
    print("|---|---:|---:|---:|---:|---:|---:|")
    for kind in SHARING:
        for load in LOADS[1:]:
            requests = arrivals(load, SECONDS, 1.5, SEED)
            chance = random.Random(SEED + 1)
            for request in requests:
                request.client = client_of(chance, load)
            got = simulate(
                kind(),
                requests,
                leaving=CLOSE,
                count_from=WARM_UP,
                counts=lambda request: request.client != 0,
            )
            print(
                f"| {kind.name} | {load:g} | {got.rate:.0f} | {got.rate / CAPACITY:.2f} "
                f"| {got.useful / max(1, got.sent):.0%} "
                f"| {shown(got.times, 0.5)} | {shown(got.times, 0.99)} |"
            )


def sharing() -> None:
    """Print the tables that concern sharing by client; clients wait for 1.5 s, and close."""
    numbers = count(1)
    shared_table("Each request is of another client", lambda *_: next(numbers))
    shared_table("All are of 50 clients", lambda chance, _: chance.randint(1, 50))
    shared_table("All are of one client, behind a proxy", lambda *_: 1)

    def flooded(chance: random.Random, load: float) -> int:
        return chance.randint(1, 50) if chance.random() < 0.25 / load else 0

    shared_table("50 clients send a quarter of the capacity, and one sends all the rest", flooded)


def burst(size: int, threads: int, service: float) -> None:
    """Print what a burst of requests to an idle worker sees."""
    print(f"\n{size} requests at once to {threads} threads of a view of {service:g} s, whose "
          "clients wait for 30 s:\n")  # fmt: skip
    for kind in POLICIES:
        requests = [Request(1.0, 31.0) for _ in range(size)]
        got = simulate(kind(), requests, leaving=CLOSE, threads=threads, service=service)
        print(f"- {kind.name}: {got.useful} served, {got.refused} refused, the last answer after "
              f"{max(got.times):.1f} s")  # fmt: skip


def main() -> None:
    """Print all tables, or some."""
    print(f"{THREADS} threads, a view of {SERVICE * 1000:g} ms: {CAPACITY:g} requests a second; "
          f"seed {SEED}")  # fmt: skip
    if "--shared" in sys.argv[1:]:
        sharing()
        return
    table(1.5, CLOSE)
    table(1.5, HIDDEN)
    table(0.8, CLOSE)
    table(0.8, RESET)
    table(30.0, CLOSE)
    sharing()
    burst(1000, THREADS, SERVICE)
    burst(1000, 1, SERVICE)
    burst(60, THREADS, 1.0)


if __name__ == "__main__":
    main()
