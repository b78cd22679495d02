"""The settings of processes: how many there are, how long each lives, and who may tell them what.

They are a part of `penstock.config.settings.Settings`, which says how an option is declared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from penstock.config.options import (
    SWITCH,
    Kind,
    duration,
    integer,
    listing,
    memory_bound,
    option,
    optional,
    text,
    word_or,
)

SECTIONS = (
    "Listening",
    "Workers and threads",
    "Life cycle",
    "Application",
    "Limits",
    "Deadlines",
    "Requests and responses",
    "Control and health",
    "Identity",
    "Logs",
)
"""The sections of the reference page, in their order."""

_DAY = 86400.0
_YEAR = 365 * _DAY
_AUTO: Literal["auto"] = "auto"
_WORKERS: Kind[int | Literal["auto"]] = word_or(_AUTO, integer(1, 1000))
_PATH = text("a path", "PATH", r"[^\0\n]+")
_URL_PATH = text("a path of URLs such as /healthz", "PATH", r"/[!-~]*")
_ACCOUNT = text("a name or a number", "NAME", r"[^\0\n:/,]+")
_TITLE = text("a name", "NAME", r"[^\0\n]+")
_PATH_TIMEOUT = text(
    "PATTERN=TIME such as /reports/*=5m", "PATTERN=TIME",
    r"/[^\0\r\n=,]*=[ ]?[0-9]+(?:\.[0-9]+)?[ ]?(?:ms|s|m|h)?",
)  # fmt: skip
_CONTROL = text("auto, off, @NAME or a path", "ADDRESS", r"[^\0\r\n]+")
_ADMIN = text("host:port, [::1]:port or unix:PATH", "ADDRESS", r"[^\s\0,]+")


@dataclass(frozen=True, kw_only=True)
class ProcessSettings:
    """What concerns processes. Sizes are bytes, times are seconds."""

    workers: int | Literal["auto"] = option(
        _WORKERS,
        1,
        section="Workers and threads",
        extra_flags=("-w",),
        platform_variable="WEB_CONCURRENCY",
        command_only=True,
        also_called=("processes",),
        help="Worker processes; auto takes as many as the container's CPU and memory allow.",
        reason="One serves most applications, and a number must not depend on the machine unasked.",
    )
    supervisor: bool = option(
        SWITCH,
        True,
        section="Workers and threads",
        command_only=True,
        also_called=("master",),
        help="Whether a process of its own looks after the workers.",
        off_help="Serve in the one process that was started: nothing heals, reloads or recycles.",
        reason="A crash heals, and a reload loses nothing, even with one worker.",
    )
    preload: bool = option(
        SWITCH,
        False,
        section="Workers and threads",
        command_only=True,
        also_called=("preload_app",),
        help="Load the application once, before the workers are forked, which then share memory.",
        off_help="Have each worker load the application itself.",
        reason="Threads, sockets and locks that an application makes while it is imported do not "
        "survive a fork.",
    )
    boot_timeout: float = option(
        duration(0.1, _DAY),
        60.0,
        section="Life cycle",
        command_only=True,
        help="Time for a new worker to load the application and be ready.",
        reason="Large applications take some ten seconds to import, and a hung one must be told.",
    )
    shutdown_delay: float = option(
        duration(0, _DAY),
        0.0,
        section="Life cycle",
        help="Time for which to go on accepting, with readiness negative, when told to stop.",
        reason="Nothing is in front that would have to notice; behind a load balancer that goes "
        "on sending for a while, set it to that while.",
    )
    max_requests: int = option(
        integer(0, 1 << 53),
        0,
        section="Life cycle",
        command_only=True,
        help="Requests after which a worker is replaced; 0 means never.",
        reason="An application that does not leak needs no new process.",
    )
    max_requests_jitter: int = option(
        integer(0, 1 << 53),
        0,
        section="Life cycle",
        command_only=True,
        also_called=("max_requests_delta",),
        help="Up to so many requests more, at random, so that workers are not replaced together.",
        reason="Of no use without max_requests; workers are replaced one at a time in any case.",
    )
    max_age: float = option(
        duration(0, _YEAR),
        0.0,
        section="Life cycle",
        command_only=True,
        also_called=("max_worker_lifetime", "workers_lifetime"),
        help="Age at which a worker is replaced; 0 means never.",
        reason="An application that does not leak needs no new process.",
    )
    max_age_jitter: float = option(
        duration(0, _YEAR),
        0.0,
        section="Life cycle",
        command_only=True,
        help="Up to so much time more, at random.",
        reason="Of no use without max_age; workers are replaced one at a time in any case.",
    )
    max_memory: int | float | None = option(
        optional(memory_bound(), "none"),
        None,
        section="Life cycle",
        command_only=True,
        also_called=("reload_on_rss", "workers_max_rss"),
        help="Resident memory at which a worker is replaced: a size, or a share of the "
        "container's limit such as 40%.",
        reason="What is too much depends on the application.",
    )
    reload: bool = option(
        SWITCH,
        False,
        section="Life cycle",
        command_only=True,
        also_called=("py_autoreload", "autoreload"),
        help="Reload when a file of the application changes: for development.",
        reason="It watches files all the time, and a half-written edit must not reach production.",
    )
    reload_extra_file: tuple[str, ...] = option(
        listing(_PATH),
        (),
        section="Life cycle",
        repeatable=True,
        command_only=True,
        also_called=("reload_extra_files", "touch_reload"),
        help="Another file, or pattern of files, that --reload watches; may be given several "
        "times.",
        reason="What is imported is watched already.",
    )
    timeout: float = option(
        duration(0, _DAY),
        30.0,
        section="Deadlines",
        extra_flags=("-t",),
        also_called=("harakiri", "request_timeout"),
        help="Time for one call of the application; then it is ended, with 504. 0 means none.",
        reason="Nobody waits longer for a page, and what hangs must be named.",
    )
    timeout_for: tuple[str, ...] = option(
        listing(_PATH_TIMEOUT),
        (),
        section="Deadlines",
        repeatable=True,
        help="The timeout of paths that match a pattern, as in '/reports/*=5m'; the first that "
        "matches counts; may be given several times.",
        reason="Exceptions are the application's to know.",
    )
    timeout_grace: float = option(
        duration(0.1, _DAY),
        5.0,
        section="Deadlines",
        help="Time for a call to end after its timeout, before its worker is replaced.",
        reason="Enough to roll a transaction back.",
    )
    health_path: str | None = option(
        optional(_URL_PATH, "none"),
        None,
        section="Control and health",
        help="Path that the server itself answers with 200 while something moves, else with 503.",
        reason="Every path is the application's until you say otherwise.",
    )
    ready_path: str | None = option(
        optional(_URL_PATH, "none"),
        None,
        section="Control and health",
        help="Path that the server itself answers with 200 while it wants requests, else with 503.",
        reason="Every path is the application's until you say otherwise.",
    )
    admin: str | None = option(
        optional(_ADMIN, "none"),
        None,
        section="Control and health",
        command_only=True,
        help="Address on which the supervisor answers /healthz and /readyz.",
        reason="No port is opened that nobody asked for.",
    )
    control: str = option(
        _CONTROL,
        "auto",
        section="Control and health",
        command_only=True,
        also_called=("control_socket", "stats"),
        help="Where penstockctl reaches the server: auto is an abstract unix socket, for the same "
        "user and root alone; @NAME names one; off is none.",
        reason="Nothing is written to disk, and nobody else can reach it.",
    )
    user: str | None = option(
        optional(_ACCOUNT, "unchanged"),
        None,
        section="Identity",
        extra_flags=("-u",),
        command_only=True,
        also_called=("uid",),
        help="User that workers run as, with that user's groups.",
        reason="Whoever starts the server has chosen one already.",
    )
    group: str | None = option(
        optional(_ACCOUNT, "unchanged"),
        None,
        section="Identity",
        extra_flags=("-g",),
        command_only=True,
        also_called=("gid",),
        help="Group that workers run as.",
        reason="The user's own.",
    )
    pid: str | None = option(
        optional(_PATH, "none"),
        None,
        section="Identity",
        extra_flags=("-p",),
        command_only=True,
        also_called=("pidfile",),
        help="File to write the supervisor's process id to.",
        reason="Process managers know it without a file.",
    )
    name: str | None = option(
        optional(_TITLE, "none"),
        None,
        section="Identity",
        extra_flags=("-n",),
        command_only=True,
        also_called=("proc_name", "procname"),
        help="Name in the titles of processes (where the package setproctitle is installed).",
        reason="The application's own name.",
    )
