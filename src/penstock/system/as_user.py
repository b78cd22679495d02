"""Work that a process does entirely as another user, for a supervisor that runs as root.

Root must not open, make or remove a file by a name that another user can move. So a helper process
changes to that user first, works with the user's rights alone, and sends back what it has opened.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NoReturn

from penstock.errors import PenstockError
from penstock.system.descriptors import receive_descriptors
from penstock.system.privileges import Identity, become

HELPER_SECONDS = 2.0
"""How long a helper process may take: the user can halt it, and the supervisor must go on."""

_MOST_BYTES = 4096
_MOST_CHARACTERS = 256
"""Of an error: JSON needs up to 12 bytes for one, and a longer answer would be cut off."""
_MOST_DESCRIPTORS = 4


class HelperError(PenstockError):
    """What the helper process could not do, in words."""


def as_user(identity: Identity, work: Callable[[], Sequence[int]]) -> list[int]:
    """Call a function in a process of this user; return the descriptors that it returned.

    Raises `HelperError` with the function's own error, where there is no answer in time, and where
    the system lacks a process or a descriptor for it.
    """
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError as error:
        raise _no_process(error) from None
    with ours, theirs:
        try:
            pid = os.fork()
        except OSError as error:
            raise _no_process(error) from None
        if pid == 0:
            _work(identity, work, theirs)
        theirs.close()
        try:
            return _answer(ours)
        finally:
            _end(pid)


def _no_process(error: OSError) -> HelperError:
    return HelperError(f"cannot start a process for it: {error.strerror}")


def _work(
    identity: Identity, work: Callable[[], Sequence[int]], answers: socket.socket
) -> NoReturn:
    """Do the work, in the helper process, and end it."""
    try:
        # A signal's handler of the supervisor is not for this process; SIGTERM ends it.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        become(identity)
        descriptors, error = list(work()), ""
    except OSError as failed:
        descriptors, error = [], failed.strerror or str(failed)
    except BaseException as failed:
        descriptors, error = [], str(failed) or type(failed).__name__
    try:
        answer = {"error": error[:_MOST_CHARACTERS], "descriptors": len(descriptors)}
        socket.send_fds(answers, [json.dumps(answer).encode()], descriptors)
    finally:
        os._exit(0)


def _answer(answers: socket.socket) -> list[int]:
    deadline = time.monotonic() + HELPER_SECONDS
    poll = select.poll()
    poll.register(answers, select.POLLIN)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise HelperError(f"it took longer than {HELPER_SECONDS:g} s")
    data, descriptors = receive_descriptors(answers, _MOST_BYTES, _MOST_DESCRIPTORS)
    answer = json.loads(data or '{"error": "the process for it was ended", "descriptors": 0}')
    error = answer["error"]
    if not error and len(descriptors) < answer["descriptors"]:
        # The kernel leaves out those for which this process has no room, and reports no error.
        error = "too many open files: raise the limit of the server (ulimit -n, or LimitNOFILE=)"
    if error:
        for descriptor in descriptors:
            os.close(descriptor)
        raise HelperError(error)
    return descriptors


def _end(pid: int) -> None:
    """Reap the helper. One that is stuck in the kernel is left to the supervisor's reaping."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with suppress(ChildProcessError):
        deadline = time.monotonic() + 0.5
        while os.waitpid(pid, os.WNOHANG)[0] == 0 and time.monotonic() < deadline:
            select.poll().poll(1)
