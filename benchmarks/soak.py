"""Soak the server: many requests, good, bad and aborted, and nothing may be lost or grow.

`python benchmarks/soak.py --requests 10000000`. Prints its progress. The status is 1 where an
answer was missing or wrong, or where the server's memory or descriptors have grown.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import queue
import signal
import statistics
import sys
import time
from dataclasses import dataclass
from multiprocessing.queues import Queue

from harness import environment, installing, processes
from harness.servers import Candidate, Running, Setup, running
from harness.soaking import Tally, soak

APPLICATION = Setup("applications_soak:app")
PEERS = {"native": "penstock", "python": "penstock-python"}

SAMPLE_SECONDS = 1.0
PROGRESS_SECONDS = 5.0
SETTLE_SECONDS = 15.0
"""For connections that linger after the last client has gone."""
WARM_UP_REQUESTS = 500_000
"""Requests during which memory may still grow: caches, arenas, threads' stacks."""
WINDOW = 0.2
"""The share of all requests over which memory is looked at, after the warm-up and at the end."""
MOST_GROWTH_KIB = 2048
"""Of resident memory after that; allocators move a little to and fro."""


@dataclass(frozen=True)
class Reading:
    """The server at one moment."""

    requests: int
    resident_kib: int
    descriptors: int

    @classmethod
    def of(cls, server: Running, requests: int) -> Reading:
        """Read how the server is now."""
        counts = (processes.descriptor_count(pid) for pid in processes.tree(server.pid))
        return cls(requests, processes.resident_kib(server.pid), sum(counts))


def main() -> int:
    """Run the command; return its exit status."""
    arguments = _arguments()
    peer = PEERS[arguments.transport]
    environment.end_as_interrupted()
    try:
        with environment.sole_run():
            if why := installing.prepare([peer]).get(peer):
                raise environment.EnvironmentProblem(f"There is nothing to soak: {why}")
            with running(Candidate(peer, arguments.threads), APPLICATION) as server:
                return _soak(server, arguments)
    except environment.EnvironmentProblem as problem:
        print(problem, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Soak Penstock, and see that nothing grows.")
    add = parser.add_argument
    add("--requests", type=int, default=10_000_000, help="default: %(default)s")
    add("--seconds", type=float, default=3600.0, help="at most; default: %(default)s")
    add("--transport", choices=PEERS, default="native")
    add("--threads", type=int, default=4, help="of the server; default: %(default)s")
    add("--clients", type=int, default=2, help="processes; default: %(default)s")
    add("--seed", type=int, default=1, help="of the random choices; default: %(default)s")
    return parser.parse_args()


def _soak(server: Running, arguments: argparse.Namespace) -> int:
    at_rest = Reading.of(server, 0)
    told: Queue[Tally] = multiprocessing.Queue()
    clients = [
        multiprocessing.Process(target=_client, args=(server.port, arguments, number, told))
        for number in range(arguments.clients)
    ]
    for client in clients:
        client.start()
    try:
        total, readings = _watch(server, clients, told, arguments.requests)
    finally:
        for client in clients:
            client.terminate()
            client.join()
    server.check()
    problems = _problems(total, readings, at_rest, _at_the_end(server, at_rest, total))
    if total.requests < arguments.requests:
        problems.append(f"only {total.requests:,} of {arguments.requests:,} requests were sent")
    print(f"{total.good:,} good, {total.bad:,} bad and {total.aborted:,} aborted requests")
    for problem in problems:
        print(f"FAILED: {problem}")
    return 1 if problems else 0


def _client(port: int, arguments: argparse.Namespace, number: int, told: Queue[Tally]) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the soak itself ends its clients
    os.sched_setaffinity(0, {environment.cores()[1]})
    share = -(-arguments.requests // arguments.clients)
    soak(port, share, arguments.seconds, arguments.seed + number, told.put)


def _watch(
    server: Running, clients: list[multiprocessing.Process], told: Queue[Tally], wanted: int
) -> tuple[Tally, list[Reading]]:
    """Return what all clients have seen, and how the server was meanwhile, once they have ended."""
    total, readings = Tally(), [Reading.of(server, 0)]
    started = shown = sampled = time.monotonic()
    ended = False
    while True:
        try:
            total.add(told.get(timeout=SAMPLE_SECONDS))
        except queue.Empty:
            if ended:
                return total, readings
            # What a client sent last is in the queue before it ends: look there once more.
            ended = not any(client.is_alive() for client in clients)
        now = time.monotonic()
        if now - sampled >= SAMPLE_SECONDS:
            sampled = now
            readings.append(Reading.of(server, total.requests))
        if now - shown >= PROGRESS_SECONDS:
            shown = now
            _progress(total, readings[-1], wanted, now - started)


def _progress(total: Tally, reading: Reading, wanted: int, seconds: float) -> None:
    rate = total.requests / seconds
    left = (wanted - total.requests) / rate / 60 if rate else 0.0
    print(
        f"{total.requests:>12,} of {wanted:,}  {rate:>9,.0f}/s  {reading.resident_kib:>8,} KiB  "
        f"{reading.descriptors:>4} descriptors  {sum(total.failures.values())} lost  "
        f"about {max(left, 0.0):.0f} min left",
        file=sys.stderr,
        flush=True,
    )


def _at_the_end(server: Running, at_rest: Reading, total: Tally) -> Reading:
    """Return how the server is when all connections have gone, or are overdue."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        reading = Reading.of(server, total.requests)
        if reading.descriptors <= at_rest.descriptors or time.monotonic() > deadline:
            return reading
        time.sleep(0.1)


def _problems(
    total: Tally, readings: list[Reading], at_rest: Reading, afterwards: Reading
) -> list[str]:
    """Return what is wrong, a line each."""
    found = [f"{count} x {kind}" for kind, count in total.failures.items()]
    found += total.examples
    if afterwards.descriptors > at_rest.descriptors:
        found.append(f"descriptors: {at_rest.descriptors} before, {afterwards.descriptors} after")
    grown = growth_kib(readings)
    print(
        f"resident: {at_rest.resident_kib:,} KiB before, {afterwards.resident_kib:,} after; "
        f"descriptors: {at_rest.descriptors} and {afterwards.descriptors}"
    )
    if grown is None:
        print("too few requests to find out if memory grows")
    else:
        print(f"after the warm-up, resident memory grew by {grown:,} KiB")
        if grown > MOST_GROWTH_KIB:
            found.append(f"that is more than {MOST_GROWTH_KIB:,} KiB")
    return found


def growth_kib(readings: list[Reading]) -> int | None:
    """Return by how much resident memory grew after the warm-up.

    The median at the end is compared with that after the warm-up. None where there are too few
    readings to tell.
    """
    most = readings[-1].requests
    window = WINDOW * most
    start = max(window, WARM_UP_REQUESTS)
    early = [r.resident_kib for r in readings if start <= r.requests < start + window]
    late = [r.resident_kib for r in readings if r.requests > most - window]
    if not (early and late) or start + window > most - window:
        return None
    return round(statistics.median(late) - statistics.median(early))


if __name__ == "__main__":
    sys.exit(main())
