"""The number of workers that ``--workers auto`` means on this machine, and the reason."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

from penstock.records import dataclass
from penstock.system.cgroups import Cgroups

if TYPE_CHECKING:
    from penstock.config.settings import Settings

WORKER_BYTES = 128 << 20
"""Memory that one worker is assumed to need.

A worker of a Django project with a single view has 43 MB resident, 31 MB of them not shared. Real
projects need two or three times as much for their database drivers, models and templates.
"""

SUPERVISOR_BYTES = 64 << 20
"""Memory that is reserved for the supervisor and other processes, such as a shell."""


@dataclass(frozen=True)
class WorkerCount:
    """A number of workers, and the reason for it."""

    number: int
    because: str
    """For example ``CPU quota 3.5, 8 CPUs allowed, memory 2 GiB for about 15``."""

    def __str__(self) -> str:
        """Return the text for the start-up line: ``4 workers: CPU quota 3.5, ...``."""
        return f"{self.number} {'worker' if self.number == 1 else 'workers'}: {self.because}"


def count_workers(
    settings: Settings, cgroups: Cgroups | None = None, cpus: int | None = None
) -> WorkerCount:
    """Return the number of workers that the settings ask for.

    ``auto`` means one worker for each processor that the process may use, rounded up, but no more
    than the memory allows, and at least one. ``cgroups`` and ``cpus`` are those of this process by
    default.
    """
    if settings.workers != "auto":
        return WorkerCount(settings.workers, f"workers from {settings.source_of('workers')}")
    cgroups = cgroups or Cgroups()
    cpus = cpus or allowed_cpus()
    quota, memory = cgroups.cpu_quota(), cgroups.available_memory()
    number = cpus
    reasons = [f"{cpus} {'CPU' if cpus == 1 else 'CPUs'} allowed"]
    if quota is not None:
        number = min(number, math.ceil(quota))
        reasons.insert(0, f"CPU quota {quota:.3g}")
    if memory is not None:
        room = max(1, (memory - SUPERVISOR_BYTES) // WORKER_BYTES)
        number = min(number, room)
        reasons.append(f"memory {_show_memory(memory)} for about {room}")
    # The setting's own bounds.
    return WorkerCount(max(1, min(number, 1000)), ", ".join(reasons))


def allowed_cpus() -> int:
    """Return how many processors this process may run on.

    The machine may have more: a container, ``taskset`` or a cpuset can restrict the process.
    """
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def _show_memory(count: int) -> str:
    if count >= 1 << 30:
        return f"{count / (1 << 30):.3g} GiB"
    return f"{count / (1 << 20):.0f} MiB"
