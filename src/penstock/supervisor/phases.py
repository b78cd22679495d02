"""What a supervisor can be about, what it listens to, and how often it looks."""

from __future__ import annotations

import signal
from enum import Enum
from typing import TYPE_CHECKING

from penstock.errors import PenstockError
from penstock.system.signals import FROM_OUTSIDE
from penstock.worker.channel import Message

if TYPE_CHECKING:
    from penstock.config.settings import Settings

BUSY_SECONDS = 0.05
"""How often the supervisor looks while something changes: a worker boots, or leaves."""

WATCHFUL_SECONDS = 0.25
"""How often it looks where workers are to be replaced at a number of requests, or the like."""

IDLE_SECONDS = 1.0
"""How often it looks otherwise: at heartbeats, above all."""

SIGNALS = (*FROM_OUTSIDE, signal.SIGCHLD)


def longest_pause(settings: Settings, *, busy: bool) -> float:
    """Return how long the supervisor may look away, in seconds."""
    if busy:
        return BUSY_SECONDS
    watchful = settings.max_requests or settings.max_age or settings.max_memory
    return WATCHFUL_SECONDS if watchful else IDLE_SECONDS


def traceback_of(failure: Message) -> str:
    """Return what follows the log line of a failure: nothing where there is no traceback."""
    traceback = failure.get("traceback")
    return f"\n{traceback}" if traceback else ""


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
