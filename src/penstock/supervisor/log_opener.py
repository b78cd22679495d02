"""Opens log files for the supervisor, which never waits for one.

As root with ``--user``, each log is opened by a process of its own: a user, or a file system on
another machine, can halt it. The loop watches the socket on which the process answers. One that
does not answer in time is ended, and the log goes on in its old file. They are separate processes,
so that a log that cannot be opened keeps no other log back.
"""

from __future__ import annotations

import errno
import select
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from penstock.system.as_user import HELPER_SECONDS, took_too_long
from penstock.telemetry.log_files import OpeningLog, is_opened_for, open_plainly

if TYPE_CHECKING:
    from penstock.supervisor.loop import Loop
    from penstock.system.privileges import Identity


@dataclass(frozen=True)
class _Pending:
    """A log that is being opened."""

    log: OpeningLog
    opened: Callable[[int], None]
    failed: Callable[[OSError | ValueError], None]
    deadline: float
    """On the monotonic clock."""


class LogOpener:
    """Opens logs with the rights that their places ask for, and calls back."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._pending: dict[int, _Pending] = {}  # by the descriptor that the loop watches

    @property
    def is_busy(self) -> bool:
        """Whether some log is being opened."""
        return bool(self._pending)

    def open(
        self,
        path: str,
        identity: Identity | None,
        opened: Callable[[int], None],
        failed: Callable[[OSError | ValueError], None],
    ) -> None:
        """Open the log at an absolute path, for workers that run as ``identity``.

        Call ``opened`` with a descriptor that it has to close, or ``failed`` with the reason: at
        once where this process may open the file by itself, else from `Loop.turn` or `tick`.
        """
        try:
            if not is_opened_for(identity):
                descriptor = open_plainly(path)
            else:
                assert identity is not None
                log = OpeningLog(path, identity)
                pending = _Pending(log, opened, failed, time.monotonic() + HELPER_SECONDS)
                self._pending[log.helper.fileno()] = pending
                self._loop.watch(log.helper.fileno(), lambda: self._take(pending))
                return
        except (OSError, ValueError) as error:
            failed(error)
            return
        opened(descriptor)

    def tick(self, now: float) -> None:
        """Give up what took too long."""
        for pending in [each for each in self._pending.values() if now >= each.deadline]:
            self._forget(pending)
            pending.failed(TimeoutError(errno.ETIMEDOUT, took_too_long()))

    def wait(self) -> None:
        """Wait until each log is open or has failed; for a start, before there are workers."""
        while self._pending:
            poll = select.poll()
            for descriptor in self._pending:
                poll.register(descriptor, select.POLLIN)
            soonest = min(each.deadline for each in self._pending.values())
            for descriptor, _ in poll.poll(max(0.0, soonest - time.monotonic()) * 1000):
                self._take(self._pending[descriptor])
            self.tick(time.monotonic())

    def close(self) -> None:
        """End what is under way: nothing is called back."""
        for pending in list(self._pending.values()):
            self._forget(pending)

    def close_in_child(self) -> None:
        """Close the sockets of the processes, in a forked child."""
        for pending in self._pending.values():
            pending.log.helper.close_in_child()

    def _take(self, pending: _Pending) -> None:
        try:
            descriptor = pending.log.take()
        except OSError as error:
            self._forget(pending)
            pending.failed(error)
            return
        self._forget(pending)
        pending.opened(descriptor)

    def _forget(self, pending: _Pending) -> None:
        helper = pending.log.helper
        del self._pending[helper.fileno()]
        self._loop.forget(helper.fileno())
        helper.end()  # the supervisor reaps it, as all its children
