"""Helper processes of the supervisor, which never waits for one.

As root with ``--user``, each log, each path of a unix socket and each directory that the user may
have mounted is looked up by a process of its own: a user, or a file system on another machine, can
halt it. The loop watches the socket on which the process answers. One that does not answer in time
is ended. They are separate processes, so that one place keeps no other back.
"""

from __future__ import annotations

import errno
import select
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from penstock.records import dataclass
from penstock.system.as_user import HELPER_SECONDS, Helper, HelperError, Work, took_too_long
from penstock.telemetry.log_files import is_opened_for, open_plainly, received_log, work_for_log

if TYPE_CHECKING:
    from penstock.supervisor.loop import Loop
    from penstock.system.privileges import Identity

Done = Callable[[Sequence[int], str], None]
"""Takes the descriptors and the text that a process has sent. It has to close the descriptors."""


@dataclass(frozen=True)
class _Pending:
    """A process that has not answered yet."""

    helper: Helper
    done: Done
    failed: Callable[[HelperError], None]
    deadline: float
    """On the monotonic clock."""


class Helpers:
    """Starts processes, and calls back."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._pending: dict[int, _Pending] = {}  # by the descriptor that the loop watches

    @property
    def is_busy(self) -> bool:
        """Whether some process has not answered yet."""
        return bool(self._pending)

    def run(
        self, work: Work, done: Done, failed: Callable[[HelperError], None]
    ) -> Callable[[], None]:
        """Do some work in a process of its own.

        Call ``done`` with its results from `Loop.turn`, or ``failed`` with the reason: from there,
        from `tick`, or at once where the system has no process left. Return a function that ends
        the process where it has not answered yet: then neither is called.
        """
        try:
            helper = Helper(work)
        except HelperError as error:
            failed(error)
            return lambda: None
        pending = _Pending(helper, done, failed, time.monotonic() + HELPER_SECONDS)
        self._pending[helper.fileno()] = pending
        self._loop.watch(helper.fileno(), lambda: self._take(pending))
        return partial(self._give_up, pending)

    def open_log(
        self,
        path: str,
        identity: Identity | None,
        opened: Callable[[int], None],
        failed: Callable[[OSError | ValueError], None],
    ) -> None:
        """Open the log at an absolute path, for workers that run as ``identity``.

        Call ``opened`` with a descriptor that it has to close, or ``failed`` with the reason: at
        once where this process may open the file by itself, else as `run` does.
        """

        def received(descriptors: Sequence[int], _text: str) -> None:
            try:
                descriptor = received_log(path, lambda: list(descriptors))
            except OSError as error:
                failed(error)
                return
            opened(descriptor)

        def not_opened(error: HelperError) -> None:
            failed(OSError(errno.EACCES, str(error)))

        if is_opened_for(identity):
            assert identity is not None
            self.run(work_for_log(path, identity), received, not_opened)
            return
        try:
            descriptor = open_plainly(path)
        except (OSError, ValueError) as error:
            failed(error)
            return
        opened(descriptor)

    def tick(self, now: float) -> None:
        """Give up what took too long."""
        for pending in [each for each in self._pending.values() if now >= each.deadline]:
            self._forget(pending)
            pending.failed(HelperError(took_too_long()))

    def wait(self) -> None:
        """Wait until each has answered or failed; for a start, before there are workers."""
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
            pending.helper.close_in_child()

    def _take(self, pending: _Pending) -> None:
        helper = pending.helper
        try:
            descriptors = helper.take()
        except HelperError as error:
            self._forget(pending)
            pending.failed(error)
            return
        self._forget(pending)
        pending.done(descriptors, helper.text)

    def _give_up(self, pending: _Pending) -> None:
        if pending in self._pending.values():
            self._forget(pending)

    def _forget(self, pending: _Pending) -> None:
        helper = pending.helper
        del self._pending[helper.fileno()]
        self._loop.forget(helper.fileno())
        helper.end()  # the supervisor reaps it, as all its children
