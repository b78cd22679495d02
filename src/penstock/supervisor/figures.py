"""Measures what metrics show beside the status: workers one by one, queues, and limits.

No worker is asked, and nothing here waits: a look at shared memory, and some small files of /proc
and /sys.
"""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

from penstock.supervisor.worker_process import Stage
from penstock.system.network import accept_queue_length, listen_overflows
from penstock.system.processes import processor_seconds
from penstock.telemetry.scoreboard import SPOOLED, STARTED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from penstock.control.rows import Figures, Status, WorkerFigures
    from penstock.listeners import Listener
    from penstock.supervisor.status import Overview
    from penstock.supervisor.worker_process import WorkerProcess
    from penstock.system.cgroups import Cgroups
    from penstock.telemetry.histograms import Exemplar


def figures_of(
    status: Status,
    overview: Overview,
    workers: Iterable[WorkerProcess],
    listeners: Iterable[Listener],
    cgroups: Cgroups,
    cpu_before: float,
    resident_memory: Callable[[int], int | None],
    exemplars: Mapping[int, Mapping[int, Exemplar]],
) -> Figures:
    """Return what metrics are made from; ``workers`` are those that have not ended.

    ``overview`` is that of the same workers.

    ``cpu_before`` is the processor time of the workers of supervisors before this one.
    """
    members = list(workers)
    queues = {each.name: accept_queue_length(each.socket) for each in listeners}
    return {
        "status": status,
        "series": overview.series(),
        "exemplars": exemplars,
        "statuses": overview.statuses(),
        "lock_waits": overview.sums("lock_waits"),
        "refused": overview.sums("refused"),
        "recycled": overview.recycled(),
        "connections": overview.connection_states(),
        "workers": [_worker(worker, resident_memory) for worker in members],
        "spooled": sum(worker.slot.words[SPOOLED] for worker in members),
        "cpu_seconds": cpu_before + cpu_seconds_of(members),
        "listen_queues": {name: length for name, length in queues.items() if length is not None},
        "listen_overflows": listen_overflows(),
        "throttled_seconds": cgroups.throttled_seconds(),
        "oom_kills": cgroups.oom_kills(),
    }


def cpu_seconds_of(workers: Iterable[WorkerProcess]) -> float:
    """Return the processor time of these workers, and of all children that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    living = sum(processor_seconds(worker.pid) for worker in workers if worker.pid)
    return ended.ru_utime + ended.ru_stime + living


def _worker(worker: WorkerProcess, resident_memory: Callable[[int], int | None]) -> WorkerFigures:
    return {
        "slot": worker.slot.index,
        "generation": worker.generation,
        "serving": worker.stage is Stage.SERVING,
        "age": worker.age,
        "requests": worker.slot.words[STARTED],
        "busy": worker.slot.calls_of_count(),
        "threads": worker.slot.scoreboard.threads,
        "free_threads": worker.slot.free_threads(),
        "memory": resident_memory(worker.pid) if worker.pid else None,
        "beat": worker.slot.beat_age,
    }
