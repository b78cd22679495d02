"""What a supervisor can be about, what it listens to, and how often it looks."""

from __future__ import annotations

import signal
from enum import Enum

from penstock.errors import PenstockError
from penstock.signals import FROM_OUTSIDE
from penstock.supervisor.channel import Message

BUSY_SECONDS = 0.05
"""How often the supervisor looks while something changes: a worker boots, or leaves."""

WATCHFUL_SECONDS = 0.25
"""How often it looks where workers are to be replaced at a number of requests, or the like."""

IDLE_SECONDS = 1.0
"""How often it looks otherwise: at heartbeats, above all."""

SIGNALS = (*FROM_OUTSIDE, signal.SIGCHLD)


class Phase(Enum):
    """What the server is about."""

    STARTING = "starting"
    SERVING = "serving"
    RELOADING = "reloading"
    STOPPING = "stopping"


class BootError(PenstockError):
    """The first workers could not start; told as the same failure of a single process is."""

    def __init__(self, failure: Message) -> None:
        super().__init__(str(failure["message"]))
        self.traceback = str(failure.get("traceback", ""))
        self.exit_status = int(failure.get("status", 1))
