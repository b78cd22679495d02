"""What control needs of the supervisor: what it is asked, and what it can be told to do.

`control` is written against the protocol `Fleet` here, and knows nothing else of the supervisor.
The tables are, field for field, the JSON that clients get: docs/control.md describes them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypedDict

from penstock.errors import PenstockError


class ControlError(PenstockError):
    """What was asked for cannot be done; the text says why."""


class Status(TypedDict):
    """What is true of the server as a whole. Times are seconds."""

    version: str
    pid: int
    """The supervisor's."""
    application: str
    """As it was named: ``module:callable``."""
    state: str
    """``starting``, ``serving``, ``reloading``, ``upgrading`` or ``stopping``."""
    generation: int
    """The generation that takes new connections, counted from 1."""
    since: float
    """When the supervisor began, on the wall clock, since the epoch."""
    age: float
    """How long ago that was, on the monotonic clock."""
    listeners: list[str]
    """``http://127.0.0.1:8000``, ``unix:/run/app.sock``."""
    transport: str
    threads: int
    """Threads of each worker."""
    workers: int
    """How many workers are wanted."""
    counts: dict[str, int]
    """What has happened so far, and what there is now: ``requests``, ``crashed``, and so on."""


class WorkerRow(TypedDict):
    """One worker. Times are seconds, memory is bytes."""

    slot: int
    """Its place, which its successor may have after it; counted from 0."""
    pid: int
    generation: int
    state: str
    """One of `penstock.control.status.STATES`."""
    age: float
    requests: int
    """Handed to the application so far."""
    connections: int
    """Open now."""
    waiting: int
    """Requests that wait for a thread."""
    busy: int
    """Threads that are in the application."""
    threads: int
    memory: int | None
    """Resident; None where the system does not tell."""
    beat: float | None
    """How long ago its watchdog last ran; None before it has."""


class RequestRow(TypedDict):
    """One request that is with the application. Times are seconds."""

    pid: int
    slot: int
    thread: int
    """Which of the worker's threads, counted from 0."""
    method: str
    target: str
    age: float
    client: str
    """Address and port; empty for a unix socket."""
    id: str
    deadline: float | None
    """What is left until its deadline, negative after it; None where it has none."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended, once that is known."""

    done: bool
    message: str
    """One line for humans: what was done, or what went wrong and what is so now."""


Answer = Callable[[Outcome], None]
"""Takes a command's outcome, once, at any later time in the supervisor's own thread."""

StacksAnswer = Callable[[dict[int, str]], None]
"""Takes the stacks of workers by process id; the text tells of one that did not answer in time."""


class Fleet(Protocol):
    """The supervisor as control sees it. All calls return at once, in the supervisor's thread.

    A command raises `ControlError` where it cannot even begin, and then its answer is not called;
    otherwise it is called once, from within the command or later.
    """

    def status(self) -> Status:
        """Return what is true of the server as a whole."""

    def workers(self) -> list[WorkerRow]:
        """Return the workers of all generations, in the order of their slots."""

    def requests(self) -> list[RequestRow]:
        """Return what is with the application, the oldest first."""

    def ask_stacks(self, pid: int | None, answer: StacksAnswer) -> None:
        """Collect the Python stacks of one worker, or of all, within a deadline of its own."""

    def reload(self, answer: Answer) -> None:
        """Start a new generation; the outcome is known when it serves, or was rolled back."""

    def upgrade(self, answer: Answer) -> None:
        """Start a new supervisor; the outcome is known when it serves, or was rolled back."""

    def scale(self, workers: int, answer: Answer) -> None:
        """Want so many workers; the outcome is known when there are as many."""

    def recycle(self, pid: int, answer: Answer) -> None:
        """Replace a worker; the outcome is known when its successor serves and it has left."""

    def stop(self, graceful: bool, answer: Answer) -> None:
        """Stop the server; the outcome is known just before the supervisor ends."""

    def is_ready(self) -> bool:
        """Tell whether requests are wanted: booted, neither draining nor stopping, not stuck."""

    def is_live(self) -> bool:
        """Tell whether something moves in at least one worker, or is about to."""
