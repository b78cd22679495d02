"""Writing the title of a process, which ``ps`` and ``top`` show as its command line."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Final

_ARGUMENTS: Final = slice(45, 47)
"""arg_start and arg_end, the 48th and 49th field of /proc/PID/stat; two stand before the ``)``."""

Write = Callable[[str], None]


def title_writer() -> Write | None:
    """Return what writes a title of this process; None where the system has no way.

    The package setproctitle writes it where it is installed. Otherwise, on Linux, the title takes
    the place of the arguments with which the process was started, in the memory where the kernel
    reads them. It is no longer than these were.
    """
    try:
        write: Write = importlib.import_module("setproctitle").setproctitle
        return write
    except Exception:  # the package is missing or broken
        return _over_arguments()


def _over_arguments() -> Write | None:
    if sys.platform != "linux":
        return None
    try:
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        begin, end = map(int, fields[_ARGUMENTS])
        import ctypes
    except (OSError, ValueError, ImportError):
        return None
    room = end - begin
    if begin <= 0 or room <= 1:
        return None

    def write(title: str) -> None:
        # With another last byte than 0 the kernel would go on, in the variables.
        ctypes.memmove(begin, title.encode("utf-8", "replace")[: room - 1].ljust(room, b"\0"), room)

    return write
