"""The budgets of a server: what all its connections together may hold.

Each is a number that the settings give, or one that is computed from what the machine and the
container have. `budgets` is a pure function of `Facts`; ``--check`` prints what it returns.
"""

from __future__ import annotations

import resource
from dataclasses import replace
from typing import TYPE_CHECKING

from penstock.config.checks import has_tls
from penstock.config.options import show_size
from penstock.config.worker_count import SUPERVISOR_BYTES, count_workers
from penstock.messages import MAX_BODY_LOWERED
from penstock.records import dataclass
from penstock.system.cgroups import Cgroups
from penstock.system.file_systems import free_bytes, is_in_memory
from penstock.system.temporary_files import default_directory

if TYPE_CHECKING:
    from penstock.config.settings import Settings
    from penstock.messages import Notice

PER_CLIENT = ("max_connections_per_client", "max_requests_per_client")
"""The settings that bound what one client may take, which are off by default."""

MOST_RESERVED = 512
"""Descriptors that are left to the application at most, unless the setting says more.

Hundreds are enough for pools of database connections and the files of every thread.
"""

MOST_CONNECTIONS = 10_000
"""Connections of a worker, unless the setting says more: a site that has more has several workers,
or an operator who knows what each of its connections costs."""

FEW_CONNECTIONS = 1_000
"""Where the limit on open files leaves room for fewer, a warning says so: browsers open several."""

IDLE_BYTES, IDLE_TLS_BYTES = 8 << 10, 32 << 10
"""What an idle connection takes at most, in the process and in the kernel.

Measured after a request, of 2,000 connections and of 1,000 with TLS, in the process: 1.2 KiB and
with TLS 9 on the native transport, 2.3 and 19 on the Python one; in the kernel (Linux 6.18) 5 KiB.
"""

OWN_DESCRIPTORS = 19
"""What a worker has open besides its listeners before it accepts: the standard streams, two polls,
what wakes them, its channels to the supervisor, and the logs. With both logs in files these are 15
on either transport; the rest is a margin."""

MOST_DESCRIPTORS = 1 << 20
"""The soft limit on open files is raised to this at most: the usual limit of the kernel.

Some container runtimes allow a thousand times as many, and programs that close every possible
descriptor before they run another one would take minutes.
"""

LEAST_UNSENT, MOST_UNSENT = 16 << 20, 512 << 20
"""Less would cut off clients that read a few large pages; more than this helps no client."""

LEAST_BODY_MEMORY, MOST_BODY_MEMORY = 4 << 20, 512 << 20
"""Less would write the forms of a moment's burst to the disk; more than this helps no client."""

USUAL_BODY_MEMORY, AMPLE_BODY_MEMORY = 64 << 10, 1 << 20
"""Of one body: at any time, and while bodies take little of the memory."""

LEAST_LOG_QUEUE, MOST_LOG_QUEUE = 1 << 20, 8 << 20
"""Less would lose lines of a moment's burst; more than this is no use to a log that has stalled."""

SHARE_WITHOUT_FACTS = 64 << 20
"""An eighth of a worker's memory where the size of the memory is not known."""

MOST_OUT_SPOOL = 1 << 30
"""One response takes no more of the disk, as with nginx: a client that needs more waits."""

SMALL_SPOOL = 128 << 20
"""With a smaller spool budget a warning names the directory: ordinary uploads may not fit."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the machine and the container have. Sizes are bytes; None is not known."""

    memory: int | None
    """The memory limit of the container, or the machine's memory where that is less."""
    descriptors: int
    """The limit on open files of a process."""
    spool_dir: str
    """The directory for spooled bodies."""
    spool_free: int | None
    """The free space there."""
    spool_in_memory: bool
    """Whether what is written there counts as memory."""
    workers: int


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """The budgets as numbers. Those of bytes and connections are a worker's unless it says so."""

    max_connections: int
    max_descriptors: int
    """Descriptors that the transport may have open: the rest is the application's."""
    max_unfinished_heads: int
    max_body_memory: int
    """Bytes of request bodies in memory."""
    body_memory: int
    """Bytes of one body that are held in memory..."""
    ample_body_memory: int
    """... and while all of them take less than a quarter of `max_body_memory`."""
    max_spool: int
    """Bytes in temporary files, of all workers together."""
    out_spool: int
    """Bytes in the temporary file of one streamed response."""
    max_unsent: int
    log_queue_bytes: int
    """Bytes of the requests that wait for a log to be written."""
    max_body: int
    """The longest body: the setting, or the spool budget where that is less."""
    reasons: tuple[tuple[str, str, str], ...] = ()
    """Of each budget its name, its value as text, and the reason for the value."""
    spool_dir: str = ""
    max_body_lowered: bool = False
    """The spool budget, and not the setting, bounds a body."""


def facts(
    settings: Settings,
    cgroups: Cgroups | None = None,
    spool: tuple[int | None, bool] | None = None,
) -> Facts:
    """Return the facts of this machine, with the limit on open files to which it is raised.

    ``spool`` is the free space of ``temp_dir`` and whether it is in memory, where that is known.
    """
    directory = settings.temp_dir
    if directory is None:
        directory = default_directory()
    cgroups = cgroups or Cgroups()
    if spool is None:
        spool = free_bytes(directory), is_in_memory(directory)
    return Facts(
        memory=cgroups.available_memory(),
        descriptors=possible_descriptors(),
        spool_dir=directory,
        spool_free=spool[0],
        spool_in_memory=spool[1],
        workers=count_workers(settings, cgroups).number,
    )


def possible_descriptors() -> int:
    """Return the soft limit on open files that the server gives itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MOST_DESCRIPTORS
    allowed = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    return max(soft, allowed)


def budgets(settings: Settings, known: Facts) -> Budgets:
    """Return the budgets of a server with these settings on a machine with these facts."""
    reasons: list[tuple[str, str, str]] = []

    def decided(name: str, value: int, because: str, *, size: bool = False) -> int:
        given: int | str = getattr(settings, name)
        if isinstance(given, int):
            value, because = given, f"from {settings.source_of(name)}"
        reasons.append((name, _shown(value) if size else str(value), because))
        return value

    memory = None
    if known.memory is not None:
        memory = max(0, known.memory - SUPERVISOR_BYTES) // known.workers
    share = "memory not known" if memory is None else f"memory of a worker {_shown(memory)}"

    reserve = decided(
        "descriptor_reserve",
        max(16, min(MOST_RESERVED, known.descriptors // 4)),
        f"limit on open files {known.descriptors}",
    )
    own = _own_descriptors(settings)
    descriptors = max(1, known.descriptors - own - reserve)
    because = f"{known.descriptors} less {own} of the worker's own and descriptor_reserve"
    reasons.append(("max_descriptors", str(descriptors), because))
    connections = decided("max_connections", *_connections(settings, known, memory))
    half = max(1, connections // 2)
    heads = half if memory is None else min(half, memory // 8 // settings.limit_request_head)
    heads = decided("max_unfinished_heads", max(1, heads), f"{share}, half of max_connections")
    eighth = SHARE_WITHOUT_FACTS if memory is None else memory // 8
    bodies = max(LEAST_BODY_MEMORY, min(eighth, MOST_BODY_MEMORY))
    bodies = decided("max_body_memory", bodies, share, size=True)
    because = (
        f"{_shown(AMPLE_BODY_MEMORY)} while bodies take less than a quarter of max_body_memory"
    )
    body_memory = decided("body_memory", least_body_memory(settings), because, size=True)
    ample = AMPLE_BODY_MEMORY if settings.body_memory == "auto" else body_memory
    spool = decided("max_spool", *_spool(known), size=True)
    out_spool = decided(
        "out_spool",
        min(spool // 8, MOST_OUT_SPOOL),
        "an eighth of max_spool, at most 1GiB",
        size=True,
    )
    unsent = max(LEAST_UNSENT, min(eighth, MOST_UNSENT))
    unsent = decided("max_unsent", unsent, share, size=True)
    decided("log_queue", settings.log_queue, "")
    waiting = MOST_LOG_QUEUE
    if memory is not None:
        waiting = max(LEAST_LOG_QUEUE, min(memory // 64, MOST_LOG_QUEUE))
    waiting = decided("log_queue_bytes", waiting, share, size=True)
    # What fits into memory needs no disk.
    longest = max(spool, min(body_memory, bodies))
    lowered = longest < settings.max_body
    body = min(settings.max_body, longest)
    because = "lowered to max_spool" if lowered else f"from {settings.source_of('max_body')}"
    reasons.append(("max_body", _shown(body), because))
    return Budgets(
        max_connections=connections,
        max_descriptors=descriptors,
        max_unfinished_heads=heads,
        max_body_memory=bodies,
        body_memory=body_memory,
        ample_body_memory=ample,
        max_spool=spool,
        out_spool=out_spool,
        max_unsent=unsent,
        log_queue_bytes=waiting,
        max_body=body,
        reasons=tuple(reasons),
        spool_dir=known.spool_dir,
        max_body_lowered=lowered,
    )


def least_body_memory(settings: Settings) -> int:
    """Return how many bytes of a body are held in memory at any time, as long as there is room."""
    given = settings.body_memory
    return USUAL_BODY_MEMORY if given == "auto" else given


def own_budgets(settings: Settings) -> Budgets:
    """Return the budgets on this machine, for a worker that has no supervisor to compute them."""
    here = replace(facts(settings), descriptors=_current_descriptors())
    return budgets(settings, here)


def lowering_notice(settings: Settings, computed: Budgets) -> Notice | None:
    """Return what the operator should know where the spool budget lowers ``max_body``."""
    if not computed.max_body_lowered:
        return None
    if "max_body" not in settings.sources and computed.max_body >= SMALL_SPOOL:
        return None
    reasons = {name: because for name, _, because in computed.reasons}
    return MAX_BODY_LOWERED.notice(
        bytes=computed.max_body, max_body=settings.max_body, reason=reasons["max_spool"]
    )


def most_calls(threads: int, most_beside: int) -> int:
    """Return how many calls of the application a worker may have at once.

    ``most_beside`` leave the count of threads, and come on top; with one thread none does.
    """
    return threads + most_beside if threads > 1 else threads


def descriptors_beside(settings: Settings) -> int:
    """Return how many descriptors a worker needs beside those of its idle connections.

    Those that a thread is busy with may have a spooled body and a file to send, and the application
    opens files of its own.
    """
    return 32 + 4 * most_calls(settings.threads, settings.most_beside)


def connections_that_fit(settings: Settings, descriptors: int) -> int:
    """Return for how many connections a limit on open files leaves room."""
    fit = max(descriptors - descriptors_beside(settings), descriptors // 2)
    if isinstance(settings.descriptor_reserve, int):
        fit = min(fit, descriptors - _own_descriptors(settings) - settings.descriptor_reserve)
    return max(1, fit)


def _own_descriptors(settings: Settings) -> int:
    """Return how many descriptors a worker has before it accepts."""
    return OWN_DESCRIPTORS + len(settings.bind)


def _connections(settings: Settings, known: Facts, memory: int | None) -> tuple[int, str]:
    """Return the limit on connections, and the reason; ``memory`` is that of a worker."""
    limit = f"limit on open files {known.descriptors}"
    if isinstance(settings.descriptor_reserve, int):
        limit += " less descriptor_reserve"
    fit = connections_that_fit(settings, known.descriptors)
    found = min((MOST_CONNECTIONS, "as many as one worker needs"), (fit, limit))
    if memory is not None:
        each = IDLE_TLS_BYTES if has_tls(settings) else IDLE_BYTES
        because = f"a quarter of the memory of a worker {_shown(memory)}, {_shown(each)} for each"
        found = min(found, (max(1, memory // 4 // each), because))
    return found


def _spool(known: Facts) -> tuple[int, str]:
    """Return the spool budget of the whole server, and the reason."""
    directory, free = known.spool_dir, known.spool_free
    if known.spool_in_memory and known.memory is not None:
        quarter = known.memory // 4
        because = f"a quarter of the memory {_shown(known.memory)}: {directory} is in memory"
        if free is not None and free < quarter:
            return free, f"free space in {directory}, which is in memory"
        return quarter, because
    if free is None:
        return 1 << 30, f"free space of {directory} not known"
    return free // 4, f"a quarter of the free space {_shown(free)} of {directory}"


def _current_descriptors() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


def _shown(count: int) -> str:
    """Return a size in words; one that is computed is rounded."""
    if count % (1 << 20) == 0:
        return show_size(count)
    for unit, worth in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= 10 * worth:
            return f"{count // worth}{unit}"
    return show_size(count)
