"""The events that the supervisor acts on. `penstock.supervisor.state` says what each means."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from penstock.records import dataclass
from penstock.worker.channel import Message

if TYPE_CHECKING:
    from penstock.control.commands import Reply
    from penstock.supervisor.generation import Generation
    from penstock.supervisor.worker_process import WorkerProcess


@dataclass(frozen=True)
class ReloadWanted:
    """SIGHUP, ``penstockctl reload`` or a changed file."""

    reply: Reply | None = None


@dataclass(frozen=True)
class UpgradeWanted:
    """SIGUSR2 or ``penstockctl upgrade``."""

    reply: Reply | None = None


@dataclass(frozen=True)
class ScaleWanted:
    """SIGTTIN, SIGTTOU or ``penstockctl scale``."""

    workers: int


@dataclass(frozen=True)
class RecycleWanted:
    """``penstockctl recycle``."""

    worker: WorkerProcess


@dataclass(frozen=True)
class NoWorkersWanted:
    """SIGWINCH."""


@dataclass(frozen=True)
class ReopenWanted:
    """SIGUSR1."""


@dataclass(frozen=True)
class StopWanted:
    """SIGTERM or ``penstockctl stop``."""

    reply: Reply | None = None


@dataclass(frozen=True)
class QuitWanted:
    """SIGQUIT or ``penstockctl stop --now``."""

    reply: Reply | None = None


@dataclass(frozen=True)
class Interrupted:
    """SIGINT."""

    reply: ClassVar[None] = None


AnyStop = StopWanted | QuitWanted | Interrupted


@dataclass(frozen=True)
class WorkerReady:
    """A worker has loaded the application, and waits for the order to serve."""

    worker: WorkerProcess


@dataclass(frozen=True)
class WorkerServing:
    """A worker has begun to serve."""

    worker: WorkerProcess


@dataclass(frozen=True)
class BootFailed:
    """A worker has ended before it served, or the application could not be preloaded."""

    generation: Generation
    worker: WorkerProcess | None
    """None where the preloader has failed."""
    failure: Message


@dataclass(frozen=True)
class WorkerCrashed:
    """A worker that served has ended without an order."""

    worker: WorkerProcess
    pause: float
    """Seconds before the next worker is started."""
    lost_requests: int
    """How many requests were with the application."""


@dataclass(frozen=True)
class WorkerLeft:
    """A worker has ended as ordered."""

    worker: WorkerProcess
    clean: bool
    """No request was cut off."""


@dataclass(frozen=True)
class WorkerReported:
    """A worker has sent another message."""

    worker: WorkerProcess
    message: Message


@dataclass(frozen=True)
class SuccessorServes:
    """The workers of the new supervisor serve."""

    pid: int


@dataclass(frozen=True)
class SuccessorFailed:
    """The new supervisor has ended, or takes too long."""

    reason: str


@dataclass(frozen=True)
class PredecessorLeft:
    """The supervisor that this one replaces has ended."""

    pid: int


@dataclass(frozen=True)
class Tick:
    """Time has passed."""

    now: float
    """On the monotonic clock."""


Event = (
    ReloadWanted
    | UpgradeWanted
    | ScaleWanted
    | RecycleWanted
    | NoWorkersWanted
    | ReopenWanted
    | StopWanted
    | QuitWanted
    | Interrupted
    | WorkerReady
    | WorkerServing
    | BootFailed
    | WorkerCrashed
    | WorkerLeft
    | WorkerReported
    | SuccessorServes
    | SuccessorFailed
    | PredecessorLeft
    | Tick
)
