"""A place where log lines go, that never blocks a request and never raises into one.

A descriptor shared with other processes (a pipe to a log collector, a terminal) must not be
switched to non-blocking: the flag belongs to all who share it. So a pipe or terminal is opened
anew, which gives a flag of our own, and everything but a regular file is asked with ``poll``
before each write of at most ``PIPE_BUF`` bytes, which a pipe takes whole or not at all.
"""

from __future__ import annotations

import fcntl
import os
import select
import stat
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Final

from penstock import messages
from penstock.errors import SettingsError

# Logs name clients and what they asked for: not for everyone on the machine to read.
FILE_MODE: Final = 0o640
# What is kept of a line whose first part is written already; a line of a log is far shorter.
MAX_REST_BYTES: Final = 65_536
# Where several processes race for the room in one pipe, a pause between two attempts.
RETRY_SECONDS: Final = 0.001

_OPEN_FLAGS: Final = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def dropped_notice(count: int) -> str:
    """Return the line that says that ``count`` lines are missing, as plain text."""
    return f"penstock: {messages.LINES_NOT_WRITTEN.render(lines=count)}\n"


class LogSink:
    """Whole lines to a file, pipe, socket or terminal; what cannot be written is counted.

    ``dropped`` is the number of lines lost so far, and ``failure`` why a write failed last, in
    words. All methods are thread-safe.
    """

    def __init__(
        self, descriptor: int, *, path: str = "", notice: Callable[[int], str] = dropped_notice
    ) -> None:
        """Take over ``descriptor``; ``path`` is what `reopen` opens, ``notice`` words a loss."""
        self.path = path
        self.notice = notice
        self.dropped = 0
        self.failure = ""
        # An application that closes or redirects descriptors 0 to 2 must not hit the log.
        self._descriptor = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
        os.close(descriptor)
        self._regular = stat.S_ISREG(os.fstat(self._descriptor).st_mode)
        # Guards all below, and the writing. Reentrant: a finalizer that the garbage collector
        # runs in the middle of a write may log, too.
        self._lock = threading.RLock()
        self._closed = False
        self._rest = b""
        self._unreported = 0
        _sinks.add(self)

    @classmethod
    def open(cls, destination: str, *, setting: str, stream: int = 2) -> LogSink:
        """Return a sink for a path, created where it is missing, or for ``"-"``.

        ``"-"`` is descriptor ``stream`` (1 or 2) as it is now. Where that was closed when Python
        started, nobody can read it, and nothing is written. Raises `SettingsError`, which names
        ``setting`` and the path.
        """
        try:
            if destination == "-":
                return cls(_open_stream(stream))
            return cls(_open_path(destination), path=destination)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise SettingsError(
                f"{setting}: cannot open {destination!r} for writing: {reason}"
            ) from error

    def write(self, text: str, *, patience: float = 0.0) -> bool:
        """Write whole lines; tell whether all of ``text`` was written. Never raises.

        Waits at most ``patience`` seconds for room; 0 for threads that serve requests. What
        does not fit is dropped and counted, but for the rest of a line that was begun: that goes
        first the next time, so no line is ever torn.
        """
        try:
            data = text.encode("utf-8", "backslashreplace")
            if not data.endswith(b"\n"):
                data += b"\n"
            with self._lock:
                return self._write_lines(data, patience)
        except Exception as error:
            # MemoryError and the like: the request must not pay for its log line.
            self.failure = type(error).__name__
            self.count_dropped(1)
            return False

    def count_dropped(self, lines: int) -> None:
        """Count ``lines`` that were lost before they came here, for the next notice."""
        with self._lock:
            self.dropped += lines
            self._unreported += lines

    def reopen(self) -> None:
        """Open the path again, after a rotation. Raises OSError, and keeps the old file then."""
        if not self.path:
            return
        fresh = _open_path(self.path)
        try:
            with self._lock:
                if self._closed:
                    return
                os.dup2(fresh, self._descriptor, inheritable=False)
                self._regular = stat.S_ISREG(os.fstat(fresh).st_mode)
                # The line's beginning stayed behind in the old file.
                self._rest = b""
        finally:
            os.close(fresh)

    def is_terminal(self) -> bool:
        """Tell whether a person reads along."""
        with self._lock:
            return not self._closed and os.isatty(self._descriptor)

    def close(self) -> None:
        """Close the descriptor; later lines are dropped. Never raises."""
        with self._lock:
            if not self._closed:
                self._closed = True
                try:
                    os.close(self._descriptor)
                except OSError:
                    pass  # The application closed it behind our back.

    def _write_lines(self, data: bytes, patience: float) -> bool:
        rest = self._rest
        notice = self.notice(self._unreported).encode() if self._unreported else b""
        whole = rest + notice + data
        done = 0 if self._closed else self._push(whole, patience)
        if done > len(rest):
            self._unreported = 0
            # The notice is out, or its own rest is kept below: either way it counts no more.
            notice = b""
        self._rest = b""
        if done == len(whole):
            return True
        unwritten = whole[done:]
        line_begun = whole[done - 1 : done] != b"\n" if done else bool(rest)
        if line_begun:
            end = unwritten.index(b"\n") + 1
            self._rest = unwritten[: min(end, MAX_REST_BYTES) - 1] + b"\n"
            unwritten = unwritten[end:]
        self.count_dropped(unwritten.count(b"\n") - notice.count(b"\n"))
        return False

    def _push(self, data: bytes, patience: float) -> int:
        """Write what can be written; return the number of bytes that were."""
        done = 0
        deadline = time.monotonic() + patience
        # Unless an error says otherwise, what ends this early is a lack of room.
        self.failure = "its reader does not keep up"
        try:
            while done < len(data):
                if self._regular:
                    done += os.write(self._descriptor, memoryview(data)[done:])
                    continue
                if not self._room(deadline):
                    break
                try:
                    done += os.write(self._descriptor, _piece(data, done))
                except BlockingIOError:
                    # Another process took the room between the poll and the write.
                    if time.monotonic() >= deadline:
                        break
                    time.sleep(RETRY_SECONDS)
        except OSError as error:
            # Disk full, reader gone, descriptor closed: the caller counts what is lost.
            gone = isinstance(error, BrokenPipeError)
            self.failure = "its reader has gone" if gone else error.strerror or str(error)
        return done

    def _room(self, deadline: float) -> bool:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        # Any event will do: where it is an error, the write tells.
        return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))


def _piece(data: bytes, start: int) -> bytes:
    """Return at most PIPE_BUF bytes from ``start``, up to a line's end where one is there.

    A pipe takes as much in one piece, so that several processes do not mix their lines.
    """
    end = start + select.PIPE_BUF
    if end < len(data):
        line_end = data.rfind(b"\n", start, end) + 1
        end = line_end or end
    return data[start:end]


def _open_path(path: str) -> int:
    # O_NONBLOCK: opening a named pipe that nobody reads would hang.
    return os.open(path, _OPEN_FLAGS | os.O_APPEND | os.O_CREAT, FILE_MODE)


def _open_stream(descriptor: int) -> int:
    """Return a descriptor for what standard output (1) or error (2) is now."""
    at_start = sys.__stdout__ if descriptor == 1 else sys.__stderr__
    if at_start is None:
        # Whatever has this number now, a listening socket say, is not the stream.
        return os.open(os.devnull, _OPEN_FLAGS)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        try:
            return os.open(f"/proc/self/fd/{descriptor}", _OPEN_FLAGS)
        except OSError:
            pass  # No /proc, or the pipe is another user's: poll alone has to do.
    return os.dup(descriptor)


_sinks: weakref.WeakSet[LogSink] = weakref.WeakSet()


def _renew_locks() -> None:
    # A thread that is not in the child may have held the lock when the application forked.
    for sink in _sinks:
        sink._lock = threading.RLock()


os.register_at_fork(after_in_child=_renew_locks)
