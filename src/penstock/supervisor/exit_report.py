"""What is said of a worker that has ended, and who or what ended it."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from penstock.telemetry.scoreboard import RequestInProgress

_HINTS = {
    signal.SIGSEGV: "native code reached for memory that is not its own",
    signal.SIGBUS: "native code reached for memory that is not there",
    signal.SIGABRT: "native code gave up",
    signal.SIGFPE: "native code divided by zero",
    signal.SIGILL: "native code ran an instruction that this machine has not",
    signal.SIGKILL: "somebody else, or the kernel, killed it",
}


@dataclass(frozen=True)
class Death:
    """How a process ended."""

    status: int
    """As ``waitpid`` has it."""
    killed_because: str = ""
    """Why the supervisor has killed it; empty where it has not."""
    out_of_memory: bool = False
    """The kernel has killed a process of this container since, for want of memory."""

    @property
    def signal(self) -> int:
        """The signal that ended it; 0 where it exited."""
        return os.WTERMSIG(self.status) if os.WIFSIGNALED(self.status) else 0

    @property
    def exit_status(self) -> int:
        """The exit status; 0 where a signal ended it."""
        return os.WEXITSTATUS(self.status) if os.WIFEXITED(self.status) else 0

    def describe(self) -> str:
        """Return what ended it, and who, in words."""
        if not self.signal:
            return f"ended with exit status {self.exit_status}"
        name = _signal_name(self.signal)
        if self.killed_because:
            return f"was killed with {name} by the supervisor: {self.killed_because}"
        if self.signal == signal.SIGKILL and self.out_of_memory:
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
    lines = "".join(f"\n{request}" for request in requests)
    return f"; {len(requests)} {noun} in progress:{lines}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
