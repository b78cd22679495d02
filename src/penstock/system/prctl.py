"""What Linux can do for parents and children: prctl(2). Elsewhere nothing is done."""

from __future__ import annotations

import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> bool:
    """Have orphans below this process become its children; tell whether the system can do that."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_with_parent(parent: int) -> None:
    """Have this process be killed when ``parent``, whose process id that is, ends.

    For the time in which it does not listen to anybody, as while it imports an application.
    """
    if _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) and os.getppid() != parent:
        os._exit(1)  # that has happened already, and nobody will be told of it


def outlive_parent() -> None:
    """Take `end_with_parent` back."""
    _prctl(_PR_SET_PDEATHSIG, 0)


def _prctl(option: int, argument: int) -> bool:
    if sys.platform != "linux":
        return False
    import ctypes

    return int(ctypes.CDLL(None).prctl(option, argument, 0, 0, 0)) == 0
