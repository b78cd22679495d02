"""The output of a log: writing to it waits for a bounded time, and never raises.

A descriptor that other processes share (a pipe to a log collector, a terminal) must not be set to
non-blocking, because the flag is shared, too. So the sink opens a pipe or terminal again, which
gives it a flag of its own. Before each write to anything but a regular file it calls ``poll``, and
it writes at most ``PIPE_BUF`` bytes, which a pipe takes whole or not at all. A socket, such as that
of the journal, cannot be opened again: it is sent to with ``MSG_DONTWAIT``, which is for one call.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import stat
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Final

from penstock import messages
from penstock.errors import SettingsError
from penstock.telemetry.log_files import OPEN_FLAGS, Opener, open_plainly, open_stream

# How much is kept of a line whose first part has been written; a line of a log is far shorter.
MAX_REST_BYTES: Final = 65_536
# How much of the end of a record is kept where its middle is left out: the exception itself, and
# the last of its frames.
KEPT_END_BYTES: Final = 4096
# How long a thread that has no time to wait for room waits for one that writes, or that waits.
LOCK_SECONDS: Final = 0.1
# The pause between two attempts where several processes compete for the room in one pipe.
RETRY_SECONDS: Final = 0.001

_NOW: Final = socket.MSG_DONTWAIT | getattr(socket, "MSG_NOSIGNAL", 0)
"""A program of the application may have made SIGPIPE end the process again."""


class _Place:
    """A file, pipe, socket or terminal that several sinks of this process may write to.

    ``rest`` is the rest of a line of which a part has been written, whichever sink did that.
    """

    def __init__(self) -> None:
        # Guards the rest and each write. Reentrant: the garbage collector may run a finalizer in
        # the middle of a write, and that may log.
        self.lock = threading.RLock()
        self.rest = b""


def dropped_notice(count: int) -> str:
    """Return the plain-text line that reports ``count`` missing lines."""
    return f"penstock: {messages.LINES_NOT_WRITTEN.render(lines=count)}\n"


class LogSink:
    """Writes whole lines to a file, pipe, socket or terminal, and counts those it cannot write.

    ``dropped`` is the number of lines lost so far, and ``failure`` the reason of the last failed
    write, in words. All methods are thread-safe.
    """

    def __init__(
        self,
        descriptor: int,
        *,
        path: str = "",
        notice: Callable[[int], str] = dropped_notice,
        opener: Opener = open_plainly,
    ) -> None:
        """Take over ``descriptor``; `reopen` opens ``path``, ``notice`` returns a loss's line."""
        self.path = path
        self.notice = notice
        self._opener = opener
        self.dropped = 0
        self.failure = ""
        # Above 2: an application that closes or redirects descriptors 0 to 2 does not affect it.
        self._descriptor = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
        os.close(descriptor)
        self._regular = False
        self._follows = False
        self._socket: socket.socket | None = None
        self._look_at_kind()
        self._closed = False
        # Guards the counts. The other lock may be held by a thread that waits for room.
        self._counting = threading.RLock()
        self._unreported = 0
        _sinks.add(self)

    @classmethod
    def open(
        cls,
        destination: str,
        *,
        setting: str,
        stream: int = 2,
        opener: Opener = open_plainly,
        passed: int | None = None,
        follows: bool = False,
    ) -> LogSink:
        """Return a sink for a path, which ``opener`` opens, or for ``"-"``.

        ``passed`` is a descriptor of the file, where another process has opened it.
        ``"-"`` is descriptor ``stream`` (1 or 2) as it is now; where it ``follows``, as that is at
        each write, in a program that redirects it for a while. If that was closed when Python
        started, nothing is written. Raises `SettingsError`, which names ``setting`` and the path.
        """
        try:
            if destination == "-":
                sink = cls(_open_stream(stream))
                if follows and (sys.__stdout__ if stream == 1 else sys.__stderr__) is not None:
                    sink._follow(stream)
                return sink
            descriptor = passed if passed is not None else opener(destination)
            return cls(descriptor, path=destination, opener=opener)
        except (OSError, ValueError) as error:
            raise cannot_open(setting, destination, error) from error

    def _follow(self, stream: int) -> None:
        """Write to a descriptor of the program's, which may be another kind of file each time."""
        os.close(self._descriptor)
        self._descriptor = stream
        self._regular, self._socket, self._follows = False, None, True
        self._place = _Place()

    @property
    def _lock(self) -> threading.RLock:
        return self._place.lock

    def write(self, text: str, *, patience: float = 0.0, keep_end: bool = False) -> bool:
        """Write whole lines; return True if all of ``text`` was written. Never raises.

        Waits at most ``patience`` seconds for room, and as long for other threads that write. Lines
        that do not fit are dropped and counted. The rest of a line of which a part was written is
        kept and written first the next time, by any sink of this process that leads to the same
        place. With ``keep_end`` so are the last lines of a text that was begun: what is dropped is
        its middle.
        """
        try:
            data = text.encode("utf-8", "backslashreplace")
            if not data.endswith(b"\n"):
                data += b"\n"
            lock = self._lock
            if not lock.acquire(timeout=patience + LOCK_SECONDS):
                self.failure = "another thread writes to it without end"
                self.count_dropped(data.count(b"\n"))
                return False
            try:
                return self._write_lines(data, patience, keep_end)
            finally:
                lock.release()
        except Exception as error:
            # MemoryError, for example: the request must not fail because of its log line.
            self.failure = type(error).__name__
            self.count_dropped(1)
            return False

    def count_dropped(self, lines: int) -> None:
        """Count ``lines`` that were lost before they reached the sink, for the next notice."""
        with self._counting:
            self.dropped += lines
            self._unreported += lines

    def reopen(self, passed: int | None = None) -> None:
        """Open the path again, after a rotation. Raises OSError, and then keeps the old file.

        ``passed`` is a descriptor of the new file, where another process has opened it.
        """
        if not self.path:
            return
        fresh = passed if passed is not None else self._opener(self.path)
        try:
            with self._lock:
                if self._closed:
                    return
                # The beginning of a line that was begun is in the old file, and so is its rest, if
                # there is room by now.
                if self._place.rest:
                    self._push(self._place.rest, 0.0)
                os.dup2(fresh, self._descriptor, inheritable=False)
                self._place.rest = b""
                self._look_at_kind()
        finally:
            os.close(fresh)

    def copy_to(self, *numbers: int) -> None:
        """Make these descriptors lead to where the sink writes. Raises OSError.

        Opened again where that is possible: they must not be non-blocking, as the sink's own is.
        """
        with self._lock:
            try:
                flags = os.O_WRONLY | os.O_APPEND | os.O_NOCTTY | os.O_CLOEXEC
                fresh = os.open(f"/proc/self/fd/{self._descriptor}", flags)
            except OSError:
                fresh = os.dup(self._descriptor)
        try:
            for number in numbers:
                os.dup2(fresh, number)
        finally:
            os.close(fresh)

    def is_terminal(self) -> bool:
        """Return True if the output is a terminal."""
        with self._lock:
            return not self._closed and os.isatty(self._descriptor)

    def close(self) -> None:
        """Close the descriptor; later lines are dropped. Never raises."""
        with self._lock:
            if not self._closed:
                self._closed = True
                if self._place.rest:
                    self._place.rest = self._place.rest[self._push(self._place.rest, 0.0) :]
                if self._follows:
                    return  # the descriptor is the program's
                if self._socket is not None:
                    self._socket.detach()  # it has the same number
                try:
                    os.close(self._descriptor)
                except OSError:
                    pass  # The application has closed it.

    def _look_at_kind(self) -> None:
        found = os.fstat(self._descriptor)
        mode = found.st_mode
        key = (found.st_dev, found.st_ino, found.st_rdev)
        self._place = _places.setdefault(key, _Place())
        self._regular = stat.S_ISREG(mode)
        if self._socket is not None:
            self._socket.detach()
        self._socket = _socket_of(self._descriptor) if stat.S_ISSOCK(mode) else None

    def _write_lines(self, data: bytes, patience: float, keep_end: bool) -> bool:
        place = self._place
        rest = place.rest
        notice = self.notice(self._unreported).encode() if self._unreported else b""
        whole = rest + notice + data
        done = 0 if self._closed else self._push(whole, patience)
        if done > len(rest):
            self._unreported = 0
            # The notice has been written, or its rest is kept below: it counts no more either way.
            notice = b""
        if done == len(whole):
            place.rest = b""
            return True
        # What is left of the rest is kept as a whole.
        place.rest = rest[done:]
        unwritten = whole[max(done, len(rest)) :]
        if done > len(rest) and whole[done - 1 : done] != b"\n":
            end = unwritten.index(b"\n") + 1
            place.rest = unwritten[: min(end, MAX_REST_BYTES) - 1] + b"\n"
            unwritten = unwritten[end:]
        if keep_end and done > len(whole) - len(data):
            begin = max(0, len(unwritten) - KEPT_END_BYTES)
            if begin:
                begin = unwritten.find(b"\n", begin) + 1 or len(unwritten)
            unwritten, kept = unwritten[:begin], unwritten[begin:]
            if unwritten:
                place.rest += b"  ... %d lines left out ...\n" % unwritten.count(b"\n")
            place.rest += kept
        self.count_dropped(unwritten.count(b"\n") - notice.count(b"\n"))
        return False

    def _push(self, data: bytes, patience: float) -> int:
        """Write as much as possible; return the number of bytes written."""
        done = 0
        deadline = time.monotonic() + patience
        # Unless there is an error, only a lack of room ends this early.
        self.failure = "its reader does not keep up"
        try:
            while done < len(data):
                if self._regular:
                    done += os.write(self._descriptor, memoryview(data)[done:])
                    continue
                if not self._room(deadline):
                    break
                try:
                    done += self._write_some(_piece(data, done))
                except BlockingIOError:
                    # Another process took the room between the poll and the write.
                    if time.monotonic() >= deadline:
                        break
                    time.sleep(RETRY_SECONDS)
        except OSError as error:
            # Disk full, reader gone, descriptor closed: the caller counts the lost lines.
            gone = isinstance(error, BrokenPipeError)
            self.failure = "its reader has gone" if gone else error.strerror or str(error)
        return done

    def _write_some(self, data: bytes) -> int:
        if self._socket is not None:
            return self._socket.send(data, _NOW)
        return os.write(self._descriptor, data)

    def _room(self, deadline: float) -> bool:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        # Any event: if it is an error, the write reports it.
        return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))


def _socket_of(descriptor: int) -> socket.socket | None:
    """Return a socket object for a descriptor, which stays the caller's: see `socket.detach`."""
    usual = socket.getdefaulttimeout()
    # With a default timeout the constructor would set the flag that this is to leave alone.
    socket.setdefaulttimeout(None)
    try:
        return socket.socket(fileno=descriptor)
    except OSError:
        return None  # no socket that Python knows
    finally:
        socket.setdefaulttimeout(usual)


def _piece(data: bytes, start: int) -> bytes:
    """Return at most PIPE_BUF bytes from ``start``, up to the end of a line if there is one.

    A pipe takes that many bytes in one piece, so the lines of several processes do not mix.
    """
    end = start + select.PIPE_BUF
    if end < len(data):
        line_end = data.rfind(b"\n", start, end) + 1
        end = line_end or end
    return data[start:end]


def cannot_open(setting: str, path: str, error: OSError | ValueError) -> SettingsError:
    """Return the error for a log that cannot be opened."""
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return SettingsError(f"{setting}: cannot open {path!r} for writing: {reason}")


def _open_stream(descriptor: int) -> int:
    """Return a new descriptor for standard output (1) or standard error (2) as it is now."""
    at_start = sys.__stdout__ if descriptor == 1 else sys.__stderr__
    if at_start is None:
        # Another file may have this number now, such as a listening socket.
        return os.open(os.devnull, OPEN_FLAGS)
    return open_stream(descriptor)


_sinks: weakref.WeakSet[LogSink] = weakref.WeakSet()
_places: weakref.WeakValueDictionary[tuple[int, int, int], _Place] = weakref.WeakValueDictionary()
"""By device, inode and the device that a special file stands for."""


def _renew_locks() -> None:
    # Another thread, which the child does not have, may have held the lock at the fork.
    for place in list(_places.values()):
        place.lock = threading.RLock()
    for sink in list(_sinks):
        sink._counting = threading.RLock()


os.register_at_fork(after_in_child=_renew_locks)
