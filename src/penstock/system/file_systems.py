"""Where a directory's bytes are: on a disk or in memory, and how many more fit."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_IN_MEMORY = frozenset({"tmpfs", "ramfs"})


def free_bytes(directory: str) -> int | None:
    """Return how many bytes this user may still write there, or None where that is not known."""
    try:
        found = os.statvfs(directory)
    except OSError:
        return None
    # A file system without blocks of its own, such as ramfs, has no limit that it knows of.
    return found.f_bavail * found.f_frsize if found.f_blocks else None


def is_in_memory(directory: str, root: str | Path = "/") -> bool:
    """Return True if the files of a directory are in memory, where they count as a process's.

    The device number finds its mount in the ``/proc`` beneath ``root``: proc_pid_mountinfo(5).
    """
    try:
        device = os.stat(directory).st_dev
        mounts = os.path.join(root, "proc/self/mountinfo")
        with open(mounts, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:
        return False
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in lines:
        before, separator, after = line.partition(" - ")
        if separator and before.split(" ")[2:3] == [wanted]:
            return after.split(" ")[0] in _IN_MEMORY
    return False
