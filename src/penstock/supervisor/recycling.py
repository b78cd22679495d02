"""When a worker is due to be replaced."""

from __future__ import annotations

from collections.abc import Callable

from penstock.options import show_duration, show_size
from penstock.supervisor.processes import Stage, WorkerProcess


def reason_to_recycle(
    worker: WorkerProcess,
    resident: Callable[[int], int | None],
    memory_limit: int | None,
) -> str:
    """Return why a worker is to be replaced; empty where it is not.

    ``resident`` returns the memory of a process in bytes; ``memory_limit`` is the most that a
    worker may take.
    """
    if worker.stage is not Stage.SERVING or worker.replaced_by is not None:
        return ""
    if worker.stuck:
        return f"a request did not end when it was told to: {worker.stuck}"
    if worker.told_to_stop:
        return "it was asked to stop"
    if worker.requests_limit and worker.requests >= worker.requests_limit:
        return f"it has answered {worker.requests} requests (setting: max_requests)"
    if worker.age_limit and worker.age >= worker.age_limit:
        return f"it is {show_duration(round(worker.age))} old (setting: max_age)"
    if memory_limit is not None:
        size = resident(worker.pid)
        if size is not None and size >= memory_limit:
            return f"it has {show_size(size >> 20 << 20)} of memory (setting: max_memory)"
    return ""
