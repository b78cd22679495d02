"""The exit report of a worker: what ended it, and which requests ended with it."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import groupby, islice
from typing import TYPE_CHECKING

from penstock.errors import SettingsError
from penstock.records import dataclass
from penstock.telemetry.access_log import line_maker
from penstock.telemetry.error_log import LOGGER_NAME, daemons_of, printable
from penstock.telemetry.request_finished import RequestFinished
from penstock.telemetry.scoreboard import PastRequest, RequestInProgress

if TYPE_CHECKING:
    from penstock.config.settings import Settings
    from penstock.supervisor.logs import WorkerLogs

BAD_GATEWAY = 502
"""The status, in the access log alone, of a request whose client got nothing: its worker died."""

GATEWAY_TIMEOUT = 504
"""The status of a request that the worker answered with it, before the supervisor killed it."""

_VERSION = "HTTP/1.1"
"""The scoreboard does not hold the version; clients of 1.0 are few."""

_MOST_LISTED = 5

MOST_IN_PROGRESS = 60
"""Requests in progress that a crash names: there may be hundreds of WebSockets."""

MOST_OF_THREAD = 3
"""Last requests of one thread that a crash names; `penstockctl recent` shows all that are kept."""

MOST_LAST = 60
"""The same of all threads."""

_HINTS = {
    signal.SIGSEGV: "native code accessed memory that is not its own",
    signal.SIGBUS: "native code accessed memory that does not exist",
    signal.SIGABRT: "native code called abort()",
    signal.SIGFPE: "native code divided by zero",
    signal.SIGILL: "native code ran an instruction that this machine does not have",
    signal.SIGKILL: "another process, or the kernel, killed it",
}


@dataclass(frozen=True)
class ExitReport:
    """How a worker's process ended."""

    status: int
    """As ``waitpid`` returns it."""
    killed_because: str = ""
    """Why the supervisor has killed it; empty where it has not."""
    out_of_memory: bool = False
    """The kernel has killed a process of this container because memory ran out."""

    @property
    def signal(self) -> int:
        """The signal that ended it; 0 where it exited."""
        return os.WTERMSIG(self.status) if os.WIFSIGNALED(self.status) else 0

    @property
    def exit_status(self) -> int:
        """The exit status; 0 where a signal ended it."""
        return os.WEXITSTATUS(self.status) if os.WIFEXITED(self.status) else 0

    @property
    def _is_out_of_memory(self) -> bool:
        return self.signal == signal.SIGKILL and self.out_of_memory and not self.killed_because

    @property
    def reason(self) -> str:
        """What ended it in one or two words, for counters: ``SIGSEGV``, ``exit status 1``."""
        if self.killed_because:
            return "killed by the supervisor"
        if self._is_out_of_memory:
            return "out of memory"
        return _signal_name(self.signal) if self.signal else f"exit status {self.exit_status}"

    def describe(self) -> str:
        """Return what ended it, in words."""
        if not self.signal:
            return f"ended with exit status {self.exit_status}"
        name = _signal_name(self.signal)
        if self.killed_because:
            return f"was killed with {name} by the supervisor: {self.killed_because}"
        if self._is_out_of_memory:
            return (
                f"was killed with {name} by the kernel, because the memory of the container ran "
                "out (oom_kill of its cgroup went up)"
            )
        hint = _HINTS.get(signal.Signals(self.signal)) if name.startswith("SIG") else None
        return f"was ended by {name}" + (f": {hint}" if hint else "")


def requests_lost(requests: Sequence[RequestInProgress]) -> str:
    """Return the lines that name the requests that were in progress; empty without any."""
    if not requests:
        return ""
    noun = "request was" if len(requests) == 1 else "requests were"
    lines = "".join(f"\n{request}" for request in requests[:MOST_IN_PROGRESS])
    more = len(requests) - MOST_IN_PROGRESS
    lines += f"\nand {more} more" if more > 0 else ""
    return f"; {len(requests)} {noun} in progress:{lines}"


def last_requests(requests: Iterable[PastRequest]) -> str:
    """Return the lines that name the last requests of each thread; empty without any."""
    shown = [
        str(request)
        for _, group in groupby(requests, lambda request: request.thread)
        for request in islice(group, MOST_OF_THREAD)
    ]
    if not shown:
        return ""
    more = ["and others"] if len(shown) > MOST_LAST else []
    lines = "".join(f"\n{printable(line)}" for line in [*shown[:MOST_LAST], *more])
    return f"\nthe last requests of each thread before that:{lines}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def status_of_lost(request: RequestInProgress, killed: bool, silent_since: float | None) -> int:
    """Return the status of a request that ended with its worker.

    ``killed`` is True if the supervisor has killed it. ``silent_since`` is the worker's last
    heartbeat on the monotonic clock, in seconds, if it hung: it has answered those requests alone
    whose deadlines had passed by then. None is for a worker that did not hang.
    """
    if not killed:
        return BAD_GATEWAY
    if silent_since is None:
        return GATEWAY_TIMEOUT
    answered = request.deadline is not None and request.deadline <= silent_since
    return GATEWAY_TIMEOUT if answered else BAD_GATEWAY


def log_lost_requests(
    settings: Settings,
    logs: WorkerLogs,
    requests: Sequence[tuple[RequestInProgress, int]],
    reason: str,
) -> None:
    """Write a line of the access log for each request that ended with its worker, with its status.

    The worker cannot write them any more; the scoreboard still holds them.
    """
    if not requests:
        return
    daemons = [d for d in daemons_of(logging.getLogger(LOGGER_NAME)) if d.takes_access_log]
    sink = None
    with suppress(OSError, SettingsError):  # no descriptor is left
        sink = logs.access_sink()
    if sink is None and not daemons:
        return
    make_line = line_maker(settings)
    for request, status in requests:
        finished = _request_finished(request, status, reason)
        if line := make_line(finished):
            taken = [each.take_line(line.rstrip("\n"), finished, 0.0) for each in daemons]
            if sink is not None and not any(taken):
                sink.write(line)
    if sink is not None:
        sink.close()


def _request_finished(request: RequestInProgress, status: int, reason: str) -> RequestFinished:
    address, _, port = request.client.rpartition(":")
    now = time.monotonic()
    return RequestFinished(
        client_addr=address.strip("[]"),
        client_port=port,
        method=request.method,
        target=request.target,
        protocol=_VERSION,
        request_line=f"{request.method} {request.target} {_VERSION}",
        status=status,
        bytes_in=0,
        bytes_out=0,
        ended="aborted",
        reason=reason,
        wall_time=time.time(),
        finished_at=now,
        begun_at=now - request.age,
        request_id=request.request_id,
    )


def listed(children: Sequence[tuple[int, str]]) -> str:
    """Return the processes that a worker has left behind, for the log."""
    shown = [f"{pid} ({printable(command)})" for pid, command in children[:_MOST_LISTED]]
    more = [f"{len(children) - _MOST_LISTED} more"] if len(children) > _MOST_LISTED else []
    return ", ".join(shown + more)
