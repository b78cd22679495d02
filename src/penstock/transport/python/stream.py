"""A stream: the bytes of one client, in and out. It knows nothing of HTTP.

A `Connection` speaks a protocol on a stream. The one with TLS, in ``tls_stream``, has the same
members.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Literal

from penstock.system.network import hold_ahead

try:
    import fcntl
    from termios import FIONREAD, TIOCOUTQ  # the same request as SIOCOUTQ on a socket
except ImportError:  # pragma: no cover - not on Linux or macOS
    fcntl = None  # type: ignore[assignment]

_GONE = frozenset(
    {
        errno.EPIPE,
        errno.ECONNRESET,
        errno.ENOTCONN,
        errno.EBADF,
        errno.ETIMEDOUT,  # also of a client that is given up because it takes no data
        errno.ENOBUFS,  # of one that is given up because it reads too slowly
    }
)
NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)
"""To be passed to `Stream.send`.

An application may have restored the default action of SIGPIPE, which ends the process: a write to
a connection that the client has closed must not raise the signal."""
_SIGPIPE = frozenset({signal.SIGPIPE})
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, and for 0 seconds


class PlainHttp(Exception):
    """The client has sent the beginning of a request without TLS."""


class HandshakeFailed(Exception):
    """The handshake cannot be completed; the text is the reason, and has nothing of the client's.

    It is empty where the client just left.
    """


def is_disconnect(error: OSError) -> bool:
    """Return True if an error of a stream means that the client is gone."""
    return error.errno in _GONE


class Traffic:
    """How many bytes the sockets of a worker's connections have received and sent.

    Any thread adds to them, in one statement in which nothing is called, so that no other thread
    comes between the reading and the writing.
    """

    __slots__ = ("received", "sent")

    def __init__(self) -> None:
        self.received = 0
        self.sent = 0


class SocketStream:
    """A socket that never blocks, and what all streams do with it alike.

    ``remote_addr`` and ``remote_port`` are the client's, empty for a Unix socket.
    """

    __slots__ = ("_socket", "client_gone", "fileno", "remote_addr", "remote_port", "traffic")

    def __init__(
        self, sock: socket.socket, remote_addr: str, remote_port: str, traffic: Traffic
    ) -> None:
        """``traffic`` counts the bytes."""
        # Explicitly, and in any case: the application may have set a default timeout.
        sock.setblocking(False)
        self._socket = sock
        self.remote_addr = remote_addr
        self.remote_port = remote_port
        self.fileno = sock.fileno
        self.traffic = traffic
        self.client_gone = ClientGone(sock.fileno)

    def peek_raw(self, size: int) -> bytes:
        """Return what has come of the bytes before TLS, up to ``size``, and leave it there."""
        return self._socket.recv(size, socket.MSG_PEEK)

    def recv_raw(self, size: int) -> bytes:
        """Take bytes that come before TLS."""
        data = self._socket.recv(size)
        count = len(data)
        self.traffic.received += count
        return data

    def wait_readable(self, seconds: float) -> bool:
        """Wait until there is input, or its end; return False if there is none in time."""
        return self._wait(select.POLLIN, seconds)

    def wait_writable(self, seconds: float) -> bool:
        """Wait until the kernel takes output; return False if it takes none in time."""
        return self._wait(select.POLLOUT, seconds)

    def _wait(self, event: int, seconds: float) -> bool:
        poller = select.poll()
        poller.register(self._socket, event)
        return bool(poller.poll(seconds * 1000))

    def hold_ahead(self, count: int) -> None:
        """Have the kernel hold up to ``count`` bytes that are not on their way to the client."""
        hold_ahead(self._socket, count)

    def unacknowledged(self) -> int:
        """Return how many bytes wait in the send buffer or on the wire; 0 where that is unknown."""
        return self._ask(TIOCOUTQ)

    def _ask(self, request: int) -> int:
        if fcntl is None:  # pragma: no cover
            return 0
        try:
            answer = fcntl.ioctl(self._socket.fileno(), request, b"\0\0\0\0")
        except (OSError, ValueError):
            return 0
        return int(struct.unpack("i", answer)[0])

    def shut_down(self) -> None:
        """End the output: the client reads what was sent, and then the end."""
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def reset_on_close(self) -> None:
        """Have `close` end with a reset, which no client takes for the proper end of a response."""
        with contextlib.suppress(OSError):  # gone already
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)

    def cut_off(self) -> None:
        """Reset under the thread that uses the stream: its next call on it fails.

        The descriptor stays taken, by a socket that was never connected: closed, its number could
        become another connection's, and the thread would write to that.
        """
        self.reset_on_close()
        with contextlib.suppress(OSError), socket.socket() as unconnected:
            os.dup2(unconnected.fileno(), self._socket.fileno(), inheritable=False)

    def detach(self) -> int:
        """Give the descriptor away without closing it; -1 if it is closed."""
        return self._socket.detach()


class Stream(SocketStream):
    """A stream without TLS. What the kernel cannot do now raises `BlockingIOError`."""

    secure: Literal[False] = False
    """Whether the bytes are protected on their way."""

    # `recv`, `recv_into` and `send` are the socket's own methods, so that each request saves calls.
    # Those who call them count the bytes, by `note_received` and `note_sent`.
    __slots__ = ("recv", "recv_into", "send")

    def __init__(
        self, sock: socket.socket, remote_addr: str, remote_port: str, traffic: Traffic
    ) -> None:
        super().__init__(sock, remote_addr, remote_port, traffic)
        self.recv = sock.recv
        self.recv_into = sock.recv_into
        self.send: Callable[[bytes | memoryview, int], int] = sock.send

    def sendmsg(self, pieces: Sequence[bytes]) -> int:
        """Send what the kernel takes of ``pieces``, one behind the other; return how many bytes."""
        sent = self._socket.sendmsg(pieces, (), NO_SIGNAL)
        self.traffic.sent += sent
        return sent

    def note_received(self, count: int) -> None:
        """Count bytes that `recv` or `recv_into` has returned."""
        self.traffic.received += count

    def note_sent(self, count: int) -> None:
        """Count bytes that `send` has sent."""
        self.traffic.sent += count

    def send_file(self, descriptor: int, offset: int, count: int) -> int:
        """Send up to ``count`` bytes of a file; return how many, 0 where it ends before."""
        # This call has no flag against the signal, so the thread blocks it meanwhile.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGPIPE)
        sent = 0
        try:
            sent = os.sendfile(self._socket.fileno(), descriptor, offset, count)
            self.traffic.sent += sent
            return sent
        finally:
            if signal.SIGPIPE not in before:
                # A call that had sent a part before the connection was gone returns that part, and
                # raises the signal all the same.
                if sent < count and hasattr(signal, "sigtimedwait"):
                    signal.sigtimedwait(_SIGPIPE, 0)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGPIPE)

    def peek(self) -> bool:
        """Return True if input waits, False at its end."""
        return bool(self._socket.recv(1, socket.MSG_PEEK))

    def arrived(self) -> int:
        """Return how many bytes have arrived and were not received; 0 where that is unknown."""
        return self._ask(FIONREAD)

    def forgo_end(self) -> None:
        """Do nothing: the end of a stream without TLS does not say that it is complete."""


class ClientGone:
    """Returns, when called, whether the client of a stream is known to have left.

    An application may call it at any time from any thread, as ``penstock.client_gone``, also after
    the stream's end: then True. It holds the descriptor's owner and not the connection, so that an
    application may keep it without keeping all else, and so that there is no cycle.
    """

    __slots__ = ("_fileno", "known")

    def __init__(self, fileno: Callable[[], int]) -> None:
        self._fileno = fileno
        self.known = False  # the client has reset the connection, or takes no more data

    def __call__(self) -> bool:
        """Return True if the client is known to have left."""
        if not self.known:
            descriptor = self._fileno()
            if descriptor < 0:
                return True
            poller = select.poll()
            poller.register(descriptor, 0)
            left = bool(poller.poll(0))  # POLLERR or POLLHUP, which are always returned
            if self._fileno() != descriptor:
                return True  # closed meanwhile: this may have been another connection's number
            self.known = left
        return self.known
