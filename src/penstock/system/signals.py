"""Signals as values: they are put into a queue, and a thread waits for the next one."""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Container, Iterable
from contextlib import suppress
from types import FrameType
from typing import Any

from penstock import messages

Handler = Callable[[int, FrameType | None], Any]

_MOST_NUMBERS = 4096
"""How many signals are read at a time: more than the socket holds."""

_ONCE = frozenset({signal.SIGHUP, signal.SIGUSR1})
"""What these ask for is done once, however many of them wait: a reload, and opening the logs."""

_LONGEST_POLL_SECONDS = 3600.0
"""How long one poll lasts at most: its milliseconds have to fit into an int."""

IGNORES_INTERRUPTS = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
"""This process was started in the background of a script, which has Ctrl-C ignored there."""

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
    """A queue of the signals that the process receives. One thread takes them, whichever.

    The interpreter writes the number of each signal to the wake-up descriptor at once, so that the
    signals arrive also while the main thread is stuck in a call, in Python or in C. The handlers
    run in the main thread, when that comes back to Python. A forked child inherits none of this: in
    it every signal has its default effect.
    """

    installed: Signals | None = None
    """The instance that handles the process's signals now."""

    def __init__(
        self,
        numbers: Iterable[int],
        *,
        stop: Container[int] = (),
        not_of_application: Handler | None = None,
    ) -> None:
        """Begin to enqueue these signals. Raises `ValueError` outside the main thread.

        A signal that was ignored when the process started stays ignored, as nohup requires.
        The first signal of ``stop`` runs the handler that the application had set for SIGTERM, as
        `run_application_handler` does. ``not_of_application`` is a handler of the server's own that
        is not taken for one of the application's.
        """
        self._pending: deque[int] = deque()
        self._overflow: set[int] = set()
        """Signals that came when the socket was nearly full, so that they may be missing in it."""
        self._stop = stop
        self._main_thread = threading.get_ident()
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._descriptor_before = signal.set_wakeup_fd(
            self._writer.fileno(), warn_on_full_buffer=False
        )
        self._handlers_before = {
            number: signal.signal(number, self._notice)
            for number in numbers
            if signal.getsignal(number) != signal.SIG_IGN or number == signal.SIGCHLD
        }
        before = self._handlers_before.get(signal.SIGTERM)
        if not callable(before) or before is not_of_application:
            before = None
        self._application_handler: Handler | None = before
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

    def _notice(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal, in the main thread: its number is on its way already."""
        own = self._writer.fileno()
        now = signal.set_wakeup_fd(own, warn_on_full_buffer=False)
        if now != own:
            # The application has set a descriptor of its own, asyncio for example: the number went
            # there, or nowhere.
            if now != -1:
                with suppress(OSError, ValueError):  # it is closed: this one stays
                    signal.set_wakeup_fd(now, warn_on_full_buffer=False)
            with suppress(BlockingIOError):
                self._writer.send(bytes([number]))
        queue = select.poll()
        queue.register(own, select.POLLOUT)
        if not queue.poll(0):  # a storm of signals: the interpreter drops what does not fit
            self._overflow.add(number)
        if number in self._stop:
            self._run_application_handler(frame)

    def run_application_handler(self) -> None:
        """Run the handler that the application has set for SIGTERM, in the main thread.

        The handler runs once, as soon as the main thread comes back to Python; this does not wait
        for that, unless it is called there.
        """
        current = signal.getsignal(signal.SIGTERM)
        if current != self._notice and callable(current):
            self._application_handler = None  # the application has set another one since
        elif self._application_handler is None:
            return
        self._stop = (signal.SIGTERM,)
        # Sent to that thread, so that it comes back from a system call in which it waits.
        signal.pthread_kill(self._main_thread, signal.SIGTERM)

    def _run_application_handler(self, frame: FrameType | None) -> None:
        handler, self._application_handler = self._application_handler, None
        if handler is None:
            return
        try:
            handler(signal.SIGTERM, frame)
        except (SystemExit, KeyboardInterrupt):
            pass  # the worker stops already, and the requests in progress are finished first
        except BaseException:
            messages.SIGTERM_HANDLER_FAILED.log(logging.getLogger("penstock"), exc_info=True)

    def take(self) -> int | None:
        """Return the next signal that has arrived, or None. Never waits."""
        if not self._pending:
            with suppress(BlockingIOError):
                self._receive()
        return self._pending.popleft() if self._pending else None

    def wait(self, timeout: float | None = None) -> int | None:
        """Return the next signal, or None after ``timeout`` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        poller = select.poll()
        poller.register(self._reader, select.POLLIN)
        # The socket may be called readable and then have nothing: only `take` decides.
        while (number := self.take()) is None:
            remaining = None if deadline is None else deadline - time.monotonic()
            if remaining is not None and remaining <= 0:
                return None
            poller.poll(None if remaining is None else min(remaining, _LONGEST_POLL_SECONDS) * 1000)
        return number

    def _receive(self) -> None:
        # The interpreter writes the signals here that the application handles, too.
        numbers = self._reader.recv(_MOST_NUMBERS)
        missing = []
        while self._overflow:
            number = self._overflow.pop()
            if number not in numbers:
                missing.append(number)
        for number in (*numbers, *missing):
            waits = number in _ONCE and number in self._pending
            if number in self._handlers_before and not waits:
                self._pending.append(number)

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


def stop_timers() -> None:
    """Stop the interval timers of this process.

    While Python ends it resets all signal handlers, and the next SIGALRM of an application's timer
    would kill the process.
    """
    for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
        signal.setitimer(timer, 0)
