"""A socket to a program that keeps logs: sending to it never waits longer than it is told to.

What the socket does not take at once is queued, within bounds, and sent before the next message, or
by `MessageSocket.pump`. No thread is started: the supervisor must not have one when it forks.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

MAX_QUEUED_MESSAGES: Final = 1000
MAX_QUEUED_BYTES: Final = 1024 * 1024
"""What may wait while a daemon restarts, or is slow."""
RETRY_SECONDS: Final = 1.0
"""The pause between two attempts to connect."""
LOCK_SECONDS: Final = 0.1
"""How long a thread that has no time to wait for room waits for one that sends, or that waits."""

_NOW: Final = socket.MSG_DONTWAIT | getattr(socket, "MSG_NOSIGNAL", 0)
"""A program of the application may have made SIGPIPE end the process again."""


class Place(NamedTuple):
    """An address to connect to."""

    family: int
    kind: int
    """``SOCK_DGRAM`` or ``SOCK_STREAM``."""
    address: object
    """As ``socket.connect`` takes it."""


Send = Callable[[socket.socket, bytes], int]


def send_now(connected: socket.socket, data: bytes) -> int:
    """Send what the kernel takes at once; return how many bytes that were. Raises OSError."""
    return connected.send(data, _NOW)


class MessageSocket:
    """Sends whole messages to the first of some places that takes them.

    ``dropped`` is the number of messages lost so far, and ``failure`` the reason of the last loss,
    in words. All methods are thread-safe.
    """

    def __init__(
        self,
        places: Sequence[Place],
        *,
        notice: Callable[[int], bytes],
        send: Send = send_now,
        keeps: bool = True,
    ) -> None:
        """Set where to connect to: that happens with the first message.

        ``notice`` returns the message that reports how many were lost. With ``keeps`` messages wait
        while there is no connection.
        """
        self._places = places
        self._notice = notice
        self._send_some = send
        self._keeps = keeps
        self.dropped = 0
        self.failure = ""
        # Reentrant: the garbage collector may run a finalizer in the middle, and that may log.
        self._lock = threading.RLock()
        # The lock guards all of these.
        self._socket: socket.socket | None = None
        self._connecting = False
        self._next = 0  # the place to connect to
        self._retry_at = 0.0
        self._queue: deque[bytes] = deque()
        self._bytes = 0
        self._sent = 0  # of the first message of the queue, on a stream
        self._unreported = 0
        self._stalled = False
        self._closed = False
        self._process = os.getpid()
        _sockets.add(self)

    @property
    def is_waiting(self) -> bool:
        """Whether messages are queued, so that `pump` is to be called soon."""
        return bool(self._queue)

    def send(self, message: bytes, *, patience: float = 0.0) -> bool:
        """Send a message, or queue it; return False if it is lost. Never raises.

        Waits at most ``patience`` seconds for room in the queue, and as long for other threads that
        send; not again while that was in vain.
        """
        try:
            if not self._lock.acquire(timeout=patience + LOCK_SECONDS):
                self.dropped += 1
                self._unreported += 1
                self.failure = "another thread sends without end"
                return False
            try:
                return self._send(message, time.monotonic() + patience)
            finally:
                self._lock.release()
        except Exception as error:  # MemoryError, for example
            self.failure = type(error).__name__
            self.dropped += 1
            return False

    def pump(self, patience: float = 0.0) -> None:
        """Send what is queued, as far as that takes at most ``patience`` seconds. Never raises."""
        if self._queue and self._lock.acquire(timeout=patience):
            try:
                self._push(time.monotonic() + patience)
            finally:
                self._lock.release()

    def close(self, patience: float = 0.0) -> None:
        """Send what is queued for at most ``patience`` seconds, and close the socket. Never raises.

        What a process has inherited is closed only: the messages are its parent's.
        """
        with self._lock:
            if not self._closed and self._process == os.getpid():
                self._push(time.monotonic() + patience)
            self._closed = True
            self._disconnect()
            self._queue.clear()

    def _send(self, message: bytes, deadline: float) -> bool:
        if self._closed:
            return False
        now = time.monotonic()
        self._push(now)
        if self._unreported and not self._queue:
            self._queue.append(self._notice(self._unreported))
            self._bytes = len(self._queue[0])
            self._unreported = 0
            self._push(now)
        if self._is_full and not self._stalled:
            self._push(deadline)
        if self._is_full:
            self._stalled = True  # the first message alone waits in vain
            self.failure = self.failure or "it does not keep up"
            return self._lose()
        self._queue.append(message)
        self._bytes += len(message)
        self._push(now)
        if self._queue and self._socket is None and not self._keeps:
            while self._queue:  # a notice, too
                self._lose()
                self._queue.popleft()
            self._bytes = 0
            return False
        return True

    @property
    def _is_full(self) -> bool:
        return len(self._queue) >= MAX_QUEUED_MESSAGES or self._bytes >= MAX_QUEUED_BYTES

    def _lose(self) -> bool:
        self.dropped += 1
        self._unreported += 1
        return False

    def _push(self, deadline: float) -> None:
        """Send what is queued until the deadline, in the order in which it came."""
        again = 1 + len(self._places)
        while self._queue:
            try:
                if not self._connect(deadline) or not self._write(self._queue[0], deadline):
                    return
            except OSError as error:
                self.failure = error.strerror or str(error)
                if error.errno == errno.EMSGSIZE:
                    self._lose()  # it will not be shorter the next time
                else:
                    self._disconnect()
                    self._next += 1
                    # At once: a daemon that was restarted has another socket at the same place. And
                    # that nothing takes a datagram is reported when the next one is sent.
                    again -= 1
                    if not again:
                        self._retry_at = time.monotonic() + RETRY_SECONDS
                        return
                    continue
            self._bytes -= len(self._queue.popleft())
            self._sent = 0
            self._stalled = False

    def _connect(self, deadline: float) -> bool:
        """Return True if the socket is connected. Raises OSError."""
        if self._socket is None:
            if time.monotonic() < self._retry_at:
                return False
            place = self._places[self._next % len(self._places)]
            self._socket = made = socket.socket(place.family, place.kind)
            made.setblocking(False)
            status = made.connect_ex(place.address)  # type: ignore[arg-type]
            if status not in (0, errno.EINPROGRESS):
                raise OSError(status, os.strerror(status))
            self._connecting = status != 0
            self.failure = ""
        if self._connecting:
            if not self._room(deadline):
                return False
            status = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if status:
                raise OSError(status, os.strerror(status))
            self._connecting = False
        return True

    def _write(self, data: bytes, deadline: float) -> bool:
        """Write the rest of a message; return False if there was no room. Raises OSError."""
        assert self._socket is not None
        stream = self._socket.type == socket.SOCK_STREAM
        while True:
            try:
                done = self._send_some(self._socket, data[self._sent :])
            except BlockingIOError:
                if not self._room(deadline):
                    return False
                if time.monotonic() >= deadline:
                    return False
                continue
            if not stream:
                return True
            self._sent += done
            if self._sent >= len(data):
                return True

    def _room(self, deadline: float) -> bool:
        assert self._socket is not None
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT)
        return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))

    def _disconnect(self) -> None:
        self._sent = 0  # the next connection gets the message whole
        self._connecting = False
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _begin_in_child(self) -> None:
        """Let a forked child have a connection and a queue of its own."""
        self._lock = threading.RLock()
        self._queue.clear()
        self._bytes = 0
        if self._socket is not None and self._socket.type == socket.SOCK_STREAM:
            self._disconnect()  # pieces of two processes' messages would mix


_sockets: weakref.WeakSet[MessageSocket] = weakref.WeakSet()


def _begin_in_child() -> None:
    for each in list(_sockets):
        each._begin_in_child()


os.register_at_fork(after_in_child=_begin_in_child)
