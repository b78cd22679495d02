"""What the system says of processes: whose children they are, and which are halted."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.system.privileges import Identity

_TICKS = os.sysconf("SC_CLK_TCK")

MOST_CHILDREN = 20
"""Children of one process that `children_of` returns."""

_COMMAND_CHARACTERS = 100

_ENDS_BY_ITSELF = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
"""Processes of Python's own, which notice the end of the one that has started them."""


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


def children_of(pid: int) -> list[tuple[int, str]]:
    """Return the children of a process that have not ended: process ids and commands.

    Empty where the system does not list them: Linux does, with CONFIG_PROC_CHILDREN.
    """
    found: list[tuple[int, str]] = []
    with suppress(OSError, ValueError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with suppress(OSError):  # the thread has ended
                text = _content(f"/proc/{pid}/task/{task}/children")
                for child in map(int, text.split()):
                    command = _command_of(child)
                    if command:
                        found.append((child, command))
                    if len(found) == MOST_CHILDREN:
                        return found
    return found


def _command_of(pid: int) -> str:
    """Return the start of a command line; empty where the process has ended, or ends by itself."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            line = file.read(4 * _COMMAND_CHARACTERS)
        name = _content(f"/proc/{pid}/comm")
        state = _content(f"/proc/{pid}/stat").rpartition(b")")[2].split()[0]
    except (OSError, IndexError):
        return ""
    command = line.replace(b"\0", b" ").decode(errors="replace").strip()
    if state in (b"Z", b"X") or any(part in command for part in _ENDS_BY_ITSELF):
        return ""
    return f"{name.decode(errors='replace').strip()}: {command}"[:_COMMAND_CHARACTERS]


def is_halted(pid: int) -> bool:
    """Return True if a process is stopped by a signal or a debugger, where that can be known."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state = file.read().rpartition(b")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state in (b"T", b"t")


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
