"""What a client can ask of the supervisor: commands as typed values.

The control server turns a request into one of these values and passes it to the supervisor.
`penstock.control.rows` has the tables of the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from penstock.errors import PenstockError
from penstock.records import dataclass

HOST = "localhost"
"""The value of Host in a request to the control socket."""

COMMAND_FIELD = "Penstock-Control"
"""The field without which a command is refused. A page in a browser cannot send it to another
origin without asking first, and a program that is made to fetch a URL does not add it."""


HALTED = "halted"
"""The state of a worker that SIGSTOP or a debugger has halted."""

WORKER_STATES = ("booting", "serving", "draining", "stuck", HALTED)
"""The states of workers in answers, and in metrics."""


EVENT_KINDS = ("start", "reload", "reload failed", "crash", "recycle", "upgrade", "upgrade failed")
"""What happens in the life of a server, as the dashboard marks it."""


class ControlError(PenstockError):
    """The command is refused; the text says why."""

    def __init__(
        self, message: str, status: int = 409, fields: tuple[tuple[str, str], ...] = ()
    ) -> None:
        """``status`` and ``fields`` are those of the HTTP response."""
        super().__init__(message)
        self.status = status
        self.fields = fields


@dataclass(frozen=True)
class ShowStatus:
    """Return a `Status`."""


@dataclass(frozen=True)
class ShowWorkers:
    """Return the workers of all generations: ``{"workers": [WorkerRow, ...]}``."""


@dataclass(frozen=True)
class ShowRequests:
    """Return the requests in the application, the oldest first: ``{"requests": [...]}``."""


@dataclass(frozen=True)
class ShowFigures:
    """Return `Figures`, from which metrics are made."""


@dataclass(frozen=True)
class ShowHistory:
    """Return the rows of the last hour: `penstock.supervisor.history.History.since`."""

    since: int
    """Seconds since the epoch; later rows are wanted."""
    most: int | None = None
    """How many rows, the oldest of them; None for all."""


@dataclass(frozen=True)
class ShowFindings:
    """Return what the rules of `penstock.control.doctor` find: ``{"findings": [...], ...}``."""


@dataclass(frozen=True)
class ShowSettings:
    """Return the settings, their sources and no secret: ``{"settings": [SettingRow, ...]}``."""


@dataclass(frozen=True)
class ShowStacks:
    """Collect Python stacks: ``{"stacks": {process id: text}}``; the answer takes seconds."""

    worker: int | None
    """Process id or number of the worker; None for all workers."""


@dataclass(frozen=True)
class ShowRecent:
    """Return the last requests of a worker's threads: ``{"recent": [RecentRow, ...]}``."""

    worker: int
    """Process id or number of the worker."""
    query: bool = False
    """Whether targets have their query, which may hold secrets."""


@dataclass(frozen=True)
class ShowNotable:
    """Return requests that are worth a look: ``{kind: [NotedRow, ...]}``."""

    kind: Literal["slow", "failed", "refused"]


@dataclass(frozen=True)
class Reload:
    """Start a new generation. The outcome is known when it serves or was rolled back."""


@dataclass(frozen=True)
class Upgrade:
    """Start a new supervisor. The outcome is known when it serves or was rolled back."""


@dataclass(frozen=True)
class Scale:
    """Change the number of workers. The outcome is known when that many serve."""

    workers: int


@dataclass(frozen=True)
class Recycle:
    """Replace a worker. The outcome is known when its successor serves and it has ended."""

    worker: int
    """Process id or number of the worker."""


@dataclass(frozen=True)
class Stop:
    """Stop the server. The outcome is known just before the supervisor ends."""

    graceful: bool


@dataclass(frozen=True)
class Profile:
    """Sample a worker's Python stacks. The answer is a `ProfileAnswer`, after ``seconds``."""

    worker: int
    """Process id or number of the worker."""
    seconds: float
    rate: int
    """Samples a second."""
    idle: bool
    """Whether threads of the server that have no request are in it."""


@dataclass(frozen=True)
class EndProfile:
    """End the profile of a worker: the client that has asked for it has gone."""

    worker: int


Question = (
    ShowStatus
    | ShowWorkers
    | ShowRequests
    | ShowFigures
    | ShowHistory
    | ShowFindings
    | ShowSettings
    | ShowStacks
    | ShowRecent
    | ShowNotable
    | EndProfile
)
Command = Reload | Upgrade | Scale | Recycle | Stop | Profile


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    done: bool
    message: str
    """One line for people: what was done, or what failed and which state the server is in now."""


Answer = Callable[[Outcome], None]
"""Takes the outcome of a command, once, at any later time, in the supervisor's thread."""

Reply = Callable[[Outcome | Mapping[str, Any]], None]
"""Takes the outcome of a command, or the JSON object that answers a question, once."""

Handle = Callable[[Question | Command, Reply], None]
"""Executes a command or answers a question. Returns at once.

It raises `ControlError` where it refuses, and the reply is not called then. Otherwise the reply is
called once, before it returns or later.
"""
