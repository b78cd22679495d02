"""What the supervisor knows of one worker's process, and the orders that it sends there."""

from __future__ import annotations

import math
import os
import signal
import time
from contextlib import suppress
from dataclasses import field
from enum import Enum
from typing import TYPE_CHECKING

from penstock.records import dataclass
from penstock.system.processes import children_of
from penstock.telemetry.scoreboard import BEAT, STARTED
from penstock.worker.channel import Channel, Message
from penstock.worker.child import DUMP_SIGNAL

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from penstock.config.settings import Settings
    from penstock.edge.tls import TlsMaterial
    from penstock.telemetry.scoreboard import Slot

ASKED = "it was asked to stop"
"""Why a worker leaves to which another process has sent a signal, for the log."""

MAX_DUMP_BYTES = 256 << 10
"""Bytes that are kept of the stacks that a worker's C code writes."""

_DUMP_READ_BYTES = 1 << 16
"""What a pipe holds by default (pipe(7))."""

_MOST_READS = 16
"""Reads in one call: what a pipe can be made to hold, whatever the worker goes on to write."""


class Stage(Enum):
    """The stage of a worker's life. It only moves to a later one."""

    BOOTING = "booting"
    READY = "ready"
    """It has loaded the application, and waits for the order to serve."""
    STARTING = "starting"
    """It was ordered to serve, and has not reported yet that it does."""
    SERVING = "serving"
    FAILED = "failed"
    """It could not load the application, and watches its files (setting: reload)."""
    LEAVING = "leaving"
    ENDED = "ended"


@dataclass(eq=False)
class WorkerProcess:
    """One worker, from its fork until it is reaped and its slot is free again."""

    number: int
    """Counts the workers of the server, from 1."""
    generation: int
    slot: Slot
    channel: Channel
    dump: int
    """Descriptor from which what the worker's C code writes about its stacks is read."""
    settings: Settings
    pid: int = 0
    """0 until it is known: a worker that the preloader forks sends it."""
    stage: Stage = Stage.BOOTING
    since: float = field(default_factory=time.monotonic)
    """When it was forked."""
    serving_since: float = 0.0
    let_in: bool = False
    """It may have accepted connections."""
    replaces: WorkerProcess | None = None
    """The worker that leaves once this one serves."""
    replaced_by: WorkerProcess | None = None
    leaving_because: str = ""
    must_boot_by: float = 0.0
    """When it is killed if it has not become ready, and later, if it has not begun to serve."""
    must_end_by: float | None = None
    """When it is killed if it has not left."""
    killed_because: str = ""
    """Why the supervisor has killed it; empty where it has not."""
    silent_since: float | None = None
    """Its last heartbeat, on the monotonic clock, in seconds, where it hung and was killed."""
    failure: Message | None = None
    """Its report of why it could not boot."""
    children: list[tuple[int, str]] = field(default_factory=list)
    """Process ids and commands of what outlives it, as it or the system has said at its end."""
    tls: Callable[[], tuple[int, TlsMaterial] | None] | None = None
    """Returns the certificates of its generation, with their number."""
    certificates: int = 0
    """The number of those that it has reported to serve with."""
    dumped: bytearray = field(default_factory=bytearray)
    watches: bool = False
    """It watches the application's files."""
    shares: bool = False
    """It knows that another supervisor has the listeners, too."""
    asked_to_stop_at: float = math.inf
    """When another process has sent it SIGTERM."""
    leaves_by_itself: bool = False
    """Another process has sent it SIGINT or SIGQUIT: it ends without an order."""
    stuck: str = ""
    """A request that did not end after its deadline; empty where there is none."""
    stuck_since: float = 0.0
    free_threads: int = 0
    """Threads that could still serve when it reported the stuck request."""
    exit_status: int | None = None
    """As ``waitpid`` returns it; None until it is reaped."""
    too_large_from_start: bool | None = None
    """It had more memory than max_memory when it began to serve; None before that is known."""
    requests_limit: int = 0
    age_limit: float = 0.0

    def __post_init__(self) -> None:
        """Set the boot deadline, and draw the limits at which it is recycled."""
        settings = self.settings
        self.must_boot_by = self.since + settings.boot_timeout
        if settings.max_requests:
            jitter = int(_random_share() * (settings.max_requests_jitter + 1))
            self.requests_limit = settings.max_requests + jitter
        if settings.max_age:
            self.age_limit = settings.max_age + _random_share() * settings.max_age_jitter

    def __str__(self) -> str:
        """Return its name in logs."""
        return f"worker {self.number} (pid {self.pid or '?'})"

    @property
    def age(self) -> float:
        """Seconds since it was forked."""
        return time.monotonic() - self.since

    @property
    def requests(self) -> int:
        """Requests that it has handed to the application."""
        return self.slot.words[STARTED]

    @property
    def is_booting(self) -> bool:
        """Whether it does not serve yet."""
        return self.stage in (Stage.BOOTING, Stage.READY, Stage.STARTING)

    @property
    def is_member(self) -> bool:
        """Whether it serves or will."""
        return self.stage not in (Stage.FAILED, Stage.LEAVING, Stage.ENDED)

    @property
    def beat(self) -> int:
        """When its last heartbeat was, in monotonic nanoseconds; 0 before the first one."""
        return self.slot.words[BEAT]

    def note_asked_to_stop(self, at_once: bool) -> None:
        """Note that another process has sent it a signal to stop."""
        if at_once:
            self.leaves_by_itself = True
            self.leaving_because = self.leaving_because or ASKED
        elif self.asked_to_stop_at == math.inf:
            self.asked_to_stop_at = time.monotonic()

    @property
    def left_without_successor(self) -> bool:
        """Return True if it has ended by SIGINT or SIGQUIT of another process alone."""
        return self.leaves_by_itself and self.leaving_because == ASKED and self.replaced_by is None

    def order(self, what: str, **details: object) -> None:
        """Send an order; ``details`` are what JSON can hold."""
        self.channel.send({"do": what, **details})

    def reopen_logs(self, fresh: Mapping[str, int]) -> None:
        """Pass it the log files that were opened again, by setting."""
        with suppress(OSError):  # no descriptor is left: it goes on in the old files
            self.channel.send({"do": "reopen", "logs": list(fresh)}, list(fresh.values()))

    def let_serve(self) -> None:
        """Order it to serve."""
        if self.stage is Stage.READY:
            self.let_in = True
            self.stage = Stage.STARTING
            # It may have waited for others, as long as each of them took.
            self.must_boot_by = time.monotonic() + self.settings.boot_timeout
            # Only now: they may have changed while it was loading.
            tls = self.tls() if self.tls is not None else None
            self.order("go", **(_certificates(*tls) if tls is not None else {}))

    def renew_tls(self, number: int, material: TlsMaterial) -> None:
        """Pass it other certificates, unless it gets them with the order to serve."""
        if self.let_in:
            self.order("renew", **_certificates(number, material))

    def leave(self, because: str, *, last: bool = False, end_by: float | None = None) -> None:
        """Order it to finish the requests in progress, and end.

        With ``last`` no other process accepts any more, so that it empties the accept queues.
        ``end_by`` is the deadline of the server's stop; without one, the worker has the graceful
        timeout from now.
        """
        if self.stage is Stage.ENDED or (self.stage is Stage.LEAVING and not last):
            return
        if self.stage is Stage.FAILED:
            self.kill(because)  # it has nothing that could be finished
        elif self.stage is Stage.BOOTING:
            # One that has just become ready, and whose message is on its way, takes no signal.
            self.order("quit")
            self.kill(because, signal.SIGTERM)
            self.must_end_by = time.monotonic() + 1.0
        elif self.stage is not Stage.LEAVING:
            now = time.monotonic()
            limit = self.settings.graceful_timeout
            if end_by is not None:
                limit = min(limit, max(0.0, end_by - now))
            self.order("stop" if last else "leave", within=limit)
            # It cuts off what is left a little before that. Where the time is short, what follows,
            # exit handlers above all, takes longer than the rest of it.
            self.must_end_by = now + max(limit + 0.5, limit * 0.75 + 2.0)
        self.stage = Stage.LEAVING
        self.leaving_because = self.leaving_because or because

    def quit(self) -> None:
        """Order it to cut off the requests in progress, and end."""
        if self.stage is Stage.ENDED:
            return
        if self.stage in (Stage.BOOTING, Stage.FAILED) and self.pid:
            self.kill("it was told to stop at once", signal.SIGKILL)
        else:
            # There is no process to kill where the preloader has not forked it yet.
            self.order("quit")
            self.must_end_by = time.monotonic() + 2.0
        self.stage = Stage.LEAVING

    def kill(self, because: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal that ends it."""
        self.killed_because = because
        if self.pid and self.exit_status is None:
            if number == signal.SIGKILL:  # else it reports them itself
                self.children = children_of(self.pid)
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def ask_for_dump(self) -> None:
        """Make its C code write the stacks of all its threads to `dumped`."""
        self.dumped.clear()
        if self.pid and self.exit_status is None:
            ask_for_dump(self.pid)

    def read_dump(self) -> bool:
        """Read what its C code has written about its stacks; return False at the end.

        Where more has come than a pipe holds by default, the descriptor stays readable.
        """
        return read_dump(self.dump, self.dumped)

    def release(self) -> None:
        """Close what belongs to it, once it is reaped."""
        self.channel.close()
        os.close(self.dump)
        self.slot.scoreboard.give_back(self.slot)


def open_lines() -> tuple[Channel, Channel, int, int]:
    """Return both ends of a channel to a process, and of its pipe for stacks. Raises OSError."""
    channel, child_channel = Channel.pair()
    try:
        dump, child_dump = os.pipe2(os.O_CLOEXEC)
    except OSError:
        channel.close()
        child_channel.close()
        raise
    os.set_blocking(dump, False)
    return channel, child_channel, dump, child_dump


def ask_for_dump(pid: int) -> None:
    """Make the C code of a process write the stacks of all its threads, unless it has ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, DUMP_SIGNAL)


def read_dump(descriptor: int, dumped: bytearray) -> bool:
    """Append what has come from the pipe for stacks; return False at the end."""
    try:
        for _ in range(_MOST_READS):
            data = os.read(descriptor, _DUMP_READ_BYTES)
            if not data:
                return False
            if len(dumped) < MAX_DUMP_BYTES:
                dumped += data
        return True
    except BlockingIOError:
        return True
    except OSError:
        return False


MOST_NUMBERED = 32
"""Workers that one line of the log names."""


def numbered(workers: Sequence[WorkerProcess]) -> str:
    """Return ``1 (pid 4711), 2 (pid 4712)`` for the log."""
    shown = [f"{each.number} (pid {each.pid})" for each in workers[:MOST_NUMBERED]]
    more = len(workers) - MOST_NUMBERED
    return ", ".join([*shown, *([f"{more} more"] if more > 0 else [])])


def _random_share() -> float:
    """Return a random number from 0 to less than 1. The module `random` takes 0.3 MB."""
    return int.from_bytes(os.urandom(6), "big") / (1 << 48)


def _certificates(number: int, material: TlsMaterial) -> dict[str, object]:
    return {"number": number, "tls": material.to_message()}
