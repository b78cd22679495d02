"""The tables of what the supervisor answers, field for field the JSON that clients get.

docs/control.md describes them. They are types alone: nothing imports them at run time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from penstock.telemetry.histograms import Exemplar


class Happened(TypedDict):
    """What happened last, and when."""

    at: float
    """On the wall clock, since the epoch."""
    message: str
    """One line."""


class Reloaded(Happened):
    """The outcome of a reload."""

    done: bool
    """Whether the new workers serve; otherwise the old ones go on."""


class ClientRow(TypedDict):
    """One client."""

    address: str
    connections: int
    """Open, of those of each worker whose most they are."""


class CertificateRow(TypedDict):
    """One certificate that is served."""

    names: list[str]
    """DNS names and IP addresses."""
    expires: float
    """On the wall clock, since the epoch."""
    days: int
    """Whole days until then; negative where it has expired."""
    renewal: str | None
    """What the process does that orders it (setting: acme_domain), or when it will; None for one
    that comes from files."""


class CrashRow(TypedDict):
    """One worker that a signal of its native code has ended."""

    at: float
    """On the wall clock, since the epoch."""
    worker: int
    """Its number."""
    reason: str
    """The signal."""
    frames: list[str]
    """The innermost functions of the thread, such as ``thumbnail (shop/images.py:12)``."""
    likely: list[str]
    """The extension modules that it likely was in."""
    modules: list[str]
    """Those that were loaded and are not of the standard library; ten at most."""


class Status(TypedDict):
    """The state of the server. Times are seconds."""

    version: str
    pid: int
    """The supervisor's."""
    application: str
    """As it was named: ``module:callable``."""
    state: str
    """``starting``, ``serving``, ``down``, ``reloading``, ``upgrading`` or ``stopping``."""
    next_start: float | None
    """In how many seconds a worker is started after those that failed; None where none waits."""
    generation: int
    """The generation that takes new connections, counted from 1."""
    since: float
    """When the supervisor started, on the wall clock, since the epoch."""
    age: float
    """Time since then, on the monotonic clock."""
    listeners: list[str]
    """``http://127.0.0.1:8000``, ``unix:/run/app.sock``."""
    transport: str
    threads: int
    """Threads of each worker."""
    workers: int
    """How many workers are wanted."""
    cpus: float
    """Processors that the server may use, by its affinity and its container's quota."""
    top_client: ClientRow | None
    """The client that has the most connections, a second ago; None where there is none."""
    trusted_proxies: list[str]
    """The setting ``forwarded_allow_ips``."""
    unknown_proxies: list[str]
    """Addresses that it does not name, and that send fields of a proxy: one of each worker."""
    certificates: list[CertificateRow]
    """Those that are served over TLS, the default one first."""
    counts: dict[str, int]
    """Workers in each state, what is in progress, and totals since the start."""
    crashes: dict[str, int]
    """Workers that ended without an order, by the reason: ``SIGSEGV``, ``exit status 1`` ..."""
    last_crashes: list[CrashRow]
    """Where the last workers were that crashed in native code, the oldest first."""
    last_reload: Reloaded | None
    """The outcome of the last reload."""
    last_error: Happened | None
    """The last error that the supervisor has logged."""
    ready: bool
    """At least one worker wants requests, and the server does not stop."""
    live: bool
    """At least one worker makes progress, or is about to be started."""


class EventRow(TypedDict):
    """One event of the server's life cycle."""

    number: int
    """Counted from 1 since the start of the supervisor, in the order in which it has learned of
    them: those before an upgrade come from the supervisor before."""
    at: float
    """Seconds since the epoch."""
    kind: str
    """One of `EVENT_KINDS`."""
    text: str
    """For people."""


class WorkerRow(TypedDict):
    """One worker. Times are seconds, memory is bytes."""

    worker: int
    """Its number, as in the log and the titles of processes; a supervisor uses none again."""
    pid: int
    generation: int
    state: str
    """One of `WORKER_STATES`."""
    age: float
    requests: int
    """Handed to the application so far."""
    connections: int
    """Open now."""
    waiting: int
    """Requests that wait for a thread."""
    busy: int
    """Threads in the application, without those of ``io_bound`` and ``websockets``."""
    io_bound: int
    """Requests that have left the count of threads (``penstock.io_bound``)."""
    websockets: int
    """Requests that have a WebSocket; these do not count as busy, either."""
    threads: int
    """How many may be busy."""
    memory: int | None
    """Resident; None where the system does not report it."""
    beat: float | None
    """Time since its last heartbeat; None before the first one."""


class CallRow(TypedDict):
    """A call of the application with a request. Times are seconds."""

    worker: int
    pid: int
    thread: int
    """Which of the worker's threads, counted from 0."""
    method: str
    target: str
    age: float
    """Since the application was called."""
    client: str
    """Address and port; empty for a unix socket."""
    id: str


class RequestRow(CallRow):
    """One request in the application."""

    deadline: float | None
    """Time left until its deadline, negative after it; None without a deadline."""
    io_bound: bool
    """It has left the count of threads by ``penstock.io_bound``."""
    websocket: bool
    """It has a WebSocket, and has left that count."""


class RecentRow(CallRow):
    """One of the last requests of a worker; its target has no query, unless that was asked for."""

    took: float | None
    """How long the call took until its response was over; None while it is in progress, and 0 for
    less than a millisecond (the Python transport does not write down more)."""
    status: int | None
    """Of the response; None where there is none, or not yet."""
    in_progress: bool


NotedRow = dict[str, Any]
"""A request that is worth a look: ``worker``, ``pid``, and what `penstock.supervisor.reports.NOTED`
lists of its kind. docs/control.md describes both."""


class ProfileAnswer(TypedDict):
    """A profile of a worker."""

    worker: int
    pid: int
    rate: int
    seconds: float
    """How long it took."""
    samples: int
    late: int
    """Samples that were left out, because the interpreter lock was not to be had in time."""
    cost: float
    """Seconds of processor time that sampling has taken."""
    frames: list[str]
    """Names of functions, and of requests as the outermost of them."""
    stacks: list[tuple[int, list[int]]]
    """How often each stack was seen, and its frames' indexes, the outermost first."""


class WorkerFigures(TypedDict):
    """What metrics show of one worker. Times are seconds, memory is bytes."""

    slot: int
    """The index of its slot on the scoreboard, from 0; its successor may use it again."""
    generation: int
    serving: bool
    age: float
    requests: int
    """Handed to the application so far."""
    busy: int
    """Threads in the application, without those that have left the count."""
    threads: int
    """How many may be busy."""
    free_threads: int
    """How many have started, and have no call."""
    memory: int | None
    """Resident; None where the system does not report it."""
    beat: float | None
    """Time since its last heartbeat; None before the first one."""


class Figures(TypedDict):
    """What metrics are made from. What the system does not report is None."""

    status: Status
    workers: list[WorkerFigures]
    """Of all generations."""
    series: Mapping[int, Sequence[int]]
    """The histograms of requests: see `penstock.telemetry.histograms`."""
    exemplars: Mapping[int, Mapping[int, Exemplar]]
    """Requests that the histograms of durations have counted, by series and bucket."""
    statuses: Mapping[int, int]
    """Requests by status code."""
    lock_waits: Sequence[int]
    """The histogram of waits for the interpreter lock: its words."""
    refused: Sequence[int]
    """Requests that were refused, by `penstock.telemetry.refusals.RULES`."""
    recycled: Mapping[str, int]
    """Workers that were replaced in good order, by the reason."""
    connections: Mapping[str, int]
    """How many connections do what."""
    spooled: int
    """Bytes in temporary files of all workers."""
    cpu_seconds: float
    """Processor time of all workers, and of all children of the supervisor that have ended."""
    listen_queues: dict[str, int]
    """Connections that wait to be accepted, by the name of the listener; those of TCP."""
    listen_overflows: int | None
    """Connections that found a full accept queue, in the network namespace."""
    throttled_seconds: float | None
    """For how long the container's quota has kept its processes from a processor."""
    oom_kills: int | None
    """Processes of the container that the kernel has killed for lack of memory."""
