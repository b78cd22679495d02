"""Signals as values that the main thread waits for."""

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
"""What people and process managers send to the processes of a server."""


class Signals:
    """Signals as values that the main thread waits for.

    The handlers only enqueue; the byte that Python writes to the wake-up descriptor ends the wait.
    A child that is forked meanwhile has none of it: there each signal does what it does by default.
    """

    installed: Signals | None = None
    """The one that handles the process's signals now."""

    def __init__(self, numbers: Iterable[int]) -> None:
        """Begin to enqueue the signals of these numbers; raises `ValueError` in another thread.

        One that was ignored when the process began stays so: that is what nohup does.
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
        """Return what becomes readable when a signal has come."""
        return self._reader.fileno()

    def restore(self) -> None:
        """Put back the handlers and the wake-up descriptor that were there before."""
        for number, handler in self._handlers_before.items():
            # None is a handler that is not Python's, and cannot be put back from here.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        try:
            signal.set_wakeup_fd(self._descriptor_before)
        except (OSError, ValueError):  # it was closed meanwhile
            signal.set_wakeup_fd(-1)
        Signals.installed = None
        self._reader.close()
        self._writer.close()

    def _enqueue(self, number: int, _frame: object) -> None:
        self._received.append(number)

    def take(self) -> int | None:
        """Return the next signal that has come, or None. Never waits."""
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
                pass  # no byte after all: the list tells
            finally:
                self._reader.setblocking(False)
        return self._received.pop(0)

    def forget(self) -> None:
        """Do without, in a forked child."""
        signal.set_wakeup_fd(-1)
        for number in self._handlers_before:
            signal.signal(number, signal.SIG_DFL)
        if signal.SIGINT in self._handlers_before:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        Signals.installed = None
        self._reader.close()
        self._writer.close()

    def block(self) -> set[int | signal.Signals]:
        """Put the signals off; return the mask that was in force before."""
        return signal.pthread_sigmask(signal.SIG_BLOCK, self._handlers_before)


_mask_before = threading.local()


def _hold_signals() -> None:
    """Put signals off over a fork: one to the child must not find the server's handlers there."""
    if Signals.installed is not None:
        _mask_before.fork = Signals.installed.block()


def _let_signals_in() -> None:
    mask = vars(_mask_before).pop("fork", None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _forget_in_child() -> None:
    """Make a forked child a process of its own: SIGTERM is to end it as any other."""
    if Signals.installed is not None:
        Signals.installed.forget()
    _let_signals_in()


os.register_at_fork(
    before=_hold_signals, after_in_parent=_let_signals_in, after_in_child=_forget_in_child
)
