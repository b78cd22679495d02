"""prctl(2) of Linux for parent and child processes. On other systems these functions do nothing."""

from __future__ import annotations

import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> bool:
    """Make this process the parent of orphans below it. Return True if the system supports that."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def set_command_name(name: str) -> None:
    """Set the name of the process, of which the kernel keeps 15 bytes. For the main thread."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode()[:15] + b"\0", 0, 0, 0)


def name_forks(name: str) -> None:
    """Have all processes that this one forks from now on begin with a name of their own."""
    if sys.platform == "linux":
        import ctypes

        # Found now: a forked child must not load a library.
        prctl, value = ctypes.CDLL(None).prctl, name.encode()[:15] + b"\0"
        os.register_at_fork(after_in_child=lambda: prctl(_PR_SET_NAME, value, 0, 0, 0))


def end_with_parent(parent: int) -> None:
    """Let the kernel kill this process when ``parent`` (a process id) ends.

    For the time in which this process reads no messages, such as while it imports an application.
    """
    if _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) and os.getppid() != parent:
        os._exit(1)  # the parent ended before the call, so no signal will come


def outlive_parent() -> None:
    """Undo `end_with_parent`."""
    _prctl(_PR_SET_PDEATHSIG, 0)


def _prctl(option: int, argument: int) -> bool:
    if sys.platform != "linux":
        return False
    import ctypes

    return int(ctypes.CDLL(None).prctl(option, argument, 0, 0, 0)) == 0
