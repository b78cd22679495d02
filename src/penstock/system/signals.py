"""Signals as values: the handlers enqueue them, and the main thread waits for the next one."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterable

FROM_OUTSIDE = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGWINCH,
)
"""The signals that people and process managers send to the processes of a server."""


class Signals:
    """A queue of the signals that the process receives.

    The handlers only enqueue; the byte that Python writes to the wake-up descriptor ends the wait.
    A forked child inherits none of this: in it every signal has its default effect.
    """

    installed: Signals | None = None
    """The instance that handles the process's signals now."""

    def __init__(self, numbers: Iterable[int]) -> None:
        """Begin to enqueue these signals. Raises `ValueError` outside the main thread.

        A signal that was ignored when the process started stays ignored, as nohup requires.
        """
        self._received: list[int] = []
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._descriptor_before = signal.set_wakeup_fd(
            self._writer.fileno(), warn_on_full_buffer=False
        )
        self._handlers_before = {
            number: signal.signal(number, self._enqueue)
            for number in numbers
            if signal.getsignal(number) != signal.SIG_IGN or number == signal.SIGCHLD
        }
        Signals.installed = self

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when a signal has arrived."""
        return self._reader.fileno()

    def restore(self) -> None:
        """Restore the handlers and the wake-up descriptor that were set before."""
        for number, handler in self._handlers_before.items():
            # None means a handler that was not set by Python, which cannot be restored here.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        try:
            signal.set_wakeup_fd(self._descriptor_before)
        except (OSError, ValueError):  # the descriptor was closed in the meantime
            signal.set_wakeup_fd(-1)
        Signals.installed = None
        self._reader.close()
        self._writer.close()

    def _enqueue(self, number: int, _frame: object) -> None:
        self._received.append(number)

    def take(self) -> int | None:
        """Return the next signal that has arrived, or None. Never waits."""
        if not self._received:
            try:
                self._reader.recv(64)
            except BlockingIOError:
                pass
        return self._received.pop(0) if self._received else None

    def wait(self, timeout: float | None = None) -> int | None:
        """Return the next signal, or None after ``timeout`` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._received:
            remaining = None if deadline is None else deadline - time.monotonic()
            if remaining is not None and remaining <= 0:
                return None
            self._reader.settimeout(remaining)
            try:
                self._reader.recv(64)
            except TimeoutError:
                return None
            except BlockingIOError:
                pass  # another wait took the byte: the list is what counts
            finally:
                self._reader.setblocking(False)
        return self._received.pop(0)

    def reset_in_child(self) -> None:
        """Reset the signals to their defaults, in a forked child."""
        signal.set_wakeup_fd(-1)
        for number in self._handlers_before:
            signal.signal(number, signal.SIG_DFL)
        if signal.SIGINT in self._handlers_before:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        Signals.installed = None
        self._reader.close()
        self._writer.close()

    def block(self) -> set[int | signal.Signals]:
        """Block the signals. Return the signal mask that was in force before."""
        return signal.pthread_sigmask(signal.SIG_BLOCK, self._handlers_before)


_mask_before = threading.local()


def _block_signals() -> None:
    """Block signals during a fork: a signal to the child must not run the server's handlers."""
    if Signals.installed is not None:
        _mask_before.fork = Signals.installed.block()


def _unblock_signals() -> None:
    mask = vars(_mask_before).pop("fork", None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _reset_in_child() -> None:
    """Reset the signals in a forked child, so that SIGTERM ends it like any other process."""
    if Signals.installed is not None:
        Signals.installed.reset_in_child()
    _unblock_signals()


os.register_at_fork(
    before=_block_signals, after_in_parent=_unblock_signals, after_in_child=_reset_in_child
)
