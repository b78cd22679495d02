"""Whether a connection's client is still there: what an application may ask at any time."""

from __future__ import annotations

import select
import socket


class Presence:
    """Tells, when called, whether the client of one connection is known to have left.

    Any thread may ask, even after the connection's end: then nobody is there any more. It holds the
    socket and not the connection, so that an application may keep it without keeping all else, and
    so that there is no cycle.
    """

    __slots__ = ("_socket", "gone")

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self.gone = False  # the client has reset the connection, or takes no more data

    def __call__(self) -> bool:
        """Tell whether the client is known to have left."""
        if not self.gone:
            descriptor = self._socket.fileno()
            if descriptor < 0:
                return True
            poller = select.poll()
            poller.register(descriptor, 0)
            left = bool(poller.poll(0))  # POLLERR or POLLHUP, which are always told
            if self._socket.fileno() != descriptor:
                return True  # closed meanwhile: this may have been another connection's number
            self.gone = left
        return self.gone
