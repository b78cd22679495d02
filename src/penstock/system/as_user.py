"""Work that a process does entirely as another user, for a supervisor that runs as root.

Root must not open, make or remove a file by a name that another user can move. So a helper process
changes to that user first, works with the user's rights alone, and sends back what it has opened.

The user can halt that process, and so can a file system that the user has mounted. `Helper` never
waits for it, other than in `Helper.wait`, which is for a start.
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
from functools import partial
from typing import NoReturn

from penstock.errors import PenstockError
from penstock.system.descriptors import receive_descriptors
from penstock.system.prctl import set_command_name
from penstock.system.privileges import COMMAND_NAME, Identity, become

HELPER_SECONDS = 2.0
"""How long a helper process may take: the user can halt it, and the supervisor must go on."""

_REAP_SECONDS = 0.5
"""How long a start waits for the end of a process that it has killed."""

_MOST_BYTES = 4096
MOST_CHARACTERS = 256
"""Of a text: JSON needs up to 12 bytes for one, and a longer answer would be cut off."""
_MOST_DESCRIPTORS = 4

_FIRST_OTHER_DESCRIPTOR = 3
"""0 to 2 are the standard streams."""


Change = Callable[[Identity], None]
"""Changes the user of a helper process once, and closes what root has open there."""

Work = Callable[[Change], Sequence[int] | str]
"""What a helper process does, with the rights of its parent until it changes the user. It returns
the descriptors to be sent back, or a text of at most `MOST_CHARACTERS`."""


class HelperError(PenstockError):
    """What the helper process could not do, in words."""


class Helper:
    """A process that opens something for the supervisor, and sends back the descriptors.

    It answers once. `end` has to be called in any case.
    """

    def __init__(self, work: Work) -> None:
        """Call ``work`` in a process of its own. Raises `HelperError` where the system has none."""
        self.text = ""
        """The text that it has sent, once `take` has returned. It may be another user's process."""
        try:
            self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            raise _no_process(error) from None
        with theirs:
            try:
                self._pid = os.fork()
            except OSError as error:
                self._socket.close()
                raise _no_process(error) from None
            if self._pid == 0:
                set_command_name(f"{COMMAND_NAME}-helper")
                _work(work, theirs)
        self._socket.setblocking(False)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when the process answers or ends."""
        return self._socket.fileno()

    def take(self) -> list[int]:
        """Return what the process has opened, once `fileno` is readable. Never waits.

        Raises `HelperError` with the reason that the process gives, and where it has sent anything
        but an answer: it is another user's process.
        """
        try:
            data, descriptors = receive_descriptors(self._socket, _MOST_BYTES, _MOST_DESCRIPTORS)
        except OSError as error:
            raise HelperError(f"it did not answer: {error.strerror}") from None
        reason, self.text = _answer_of(data, len(descriptors))
        if reason:
            for descriptor in descriptors:
                os.close(descriptor)
            raise HelperError(reason)
        return descriptors

    def wait(self, seconds: float) -> list[int]:
        """Return what the process has opened; wait for it. Raises `HelperError`."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        if not poll.poll(seconds * 1000):
            raise HelperError(took_too_long())
        return self.take()

    def end(self, *, reap_within: float = 0.0) -> None:
        """End the process.

        ``reap_within`` is for how many seconds to wait for its end. Without it whatever reaps the
        children of this process reaps this one, too.
        """
        # At the end of its socket it has ended already. Its number may be another process's then.
        if self._lives():
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
        self._socket.close()
        if reap_within:
            with suppress(ChildProcessError):
                deadline = time.monotonic() + reap_within
                while os.waitpid(self._pid, os.WNOHANG)[0] == 0 and time.monotonic() < deadline:
                    select.poll().poll(1)

    def close_in_child(self) -> None:
        """Close the socket, in a forked child, and nothing else."""
        self._socket.close()

    def _lives(self) -> bool:
        try:
            return bool(self._socket.recv(1))
        except BlockingIOError:
            return True
        except OSError:
            return False


def as_user(identity: Identity, work: Callable[[], Sequence[int]]) -> list[int]:
    """Call a function in a process of this user; return the descriptors that it returned.

    Waits for up to `HELPER_SECONDS`. Raises `HelperError` with the function's own error, where
    there is no answer in time, and where the system lacks a process or a descriptor for it.
    """

    def change_and_work(change: Change) -> Sequence[int]:
        change(identity)
        return work()

    return wait_for(change_and_work)


def wait_for(work: Work) -> list[int]:
    """Do the same as `as_user`, for work that changes its user itself."""
    helper = Helper(work)
    try:
        return helper.wait(HELPER_SECONDS)
    finally:
        helper.end(reap_within=_REAP_SECONDS)


def said_by(work: Work) -> str:
    """Do the same as `wait_for`, for work that returns a text."""
    helper = Helper(work)
    try:
        helper.wait(HELPER_SECONDS)
        return helper.text
    finally:
        helper.end(reap_within=_REAP_SECONDS)


def took_too_long() -> str:
    """Return the reason for giving a helper process up."""
    return f"it took longer than {HELPER_SECONDS:g} s"


def _no_process(error: OSError) -> HelperError:
    return HelperError(f"cannot start a process for it: {error.strerror}")


def _work(work: Work, answers: socket.socket) -> NoReturn:
    """Do the work, in the helper process, and end it."""
    try:
        # A signal's handler of the supervisor is not for this process; SIGTERM ends it.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        result, error = work(partial(_change, answers.fileno())), ""
    except OSError as failed:
        result, error = [], failed.strerror or str(failed)
    except BaseException as failed:
        result, error = [], str(failed) or type(failed).__name__
    try:
        text, descriptors = (result, []) if isinstance(result, str) else ("", list(result))
        answer = {
            "error": error[:MOST_CHARACTERS],
            "text": text[:MOST_CHARACTERS],
            "descriptors": len(descriptors),
        }
        socket.send_fds(answers, [json.dumps(answer).encode()], descriptors)
    finally:
        os._exit(0)


def _change(kept: int, identity: Identity) -> None:
    """Become a user, with nothing open that is root's but the socket of the answer."""
    become(identity)
    # A listener that a halted process kept open would keep its address.
    os.closerange(_FIRST_OTHER_DESCRIPTOR, kept)
    os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))


def _answer_of(data: bytes, received: int) -> tuple[str, str]:
    """Return the error that an answer reports, or is, empty for none; and its text."""
    if not data:
        return "the process for it was ended", ""
    try:
        answer = json.loads(data)
        error, sent = str(answer["error"]), int(answer["descriptors"])
        text = str(answer.get("text", ""))
    except (ValueError, LookupError, TypeError, RecursionError, OverflowError):
        return "the process for it did not send an answer", ""
    if not error and received < sent:
        # The kernel leaves out those for which this process has no room, and reports no error.
        error = "too many open files: raise the limit of the server (ulimit -n, or LimitNOFILE=)"
    return error, text[:MOST_CHARACTERS]
