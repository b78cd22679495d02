"""What the system says of processes: which are this one's children, and which are halted."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.system.privileges import Identity

_TICKS = os.sysconf("SC_CLK_TCK")


def is_child(pid: int, identity: Identity | None) -> bool:
    """Return True if a process is a child of this one that has ``identity``, or any for None.

    A child that has ended counts until it is reaped.
    """
    if pid <= 0:
        return False
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except (ChildProcessError, OverflowError):
        return False
    if identity is None:
        return True
    try:
        with open(f"/proc/{pid}/status", "rb") as status:
            for line in status:
                if line.startswith(b"Uid:"):
                    return set(map(int, line.split()[1:])) == {identity.uid}
    except (OSError, ValueError):
        pass
    return False


def processor_seconds(pid: int) -> float:
    """Return the processor time that a process and its reaped children have used; 0 if it ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        # utime, stime, cutime and cstime, the 14th to 17th field of the line; two stand before.
        return sum(map(int, fields[11:15])) / _TICKS
    except (OSError, ValueError):
        return 0.0


def is_halted(pid: int) -> bool:
    """Return True if a process is stopped by a signal or a debugger, where that can be known."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state = file.read().rpartition(b")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state in (b"T", b"t")
