"""Clients that pipeline requests without end, to see that others are served meanwhile."""

from __future__ import annotations

import selectors
import socket
import threading
from types import TracebackType
from typing import Self

PAUSE_SECONDS = 0.2
"""How long the flood waits for a socket before it looks whether it is over."""


class Flood:
    """Connections that send a request again and again, and read the answers away, in a thread.

    The server has to run in a process of its own: a server in this process would compete with the
    flood for the interpreter's lock.
    """

    def __init__(self, address: tuple[str, int], request: bytes, *, connections: int) -> None:
        """Send ``request`` repeatedly on several connections, as fast as the server takes it."""
        self.received = 0
        """Bytes that the server has answered."""
        self._request = request * (65536 // len(request))
        self._sockets = [socket.create_connection(address) for _ in range(connections)]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        for each in self._sockets:
            each.close()

    def _run(self) -> None:
        unsent = {each: memoryview(self._request) for each in self._sockets}
        answers = bytearray(1 << 20)  # MSG_TRUNC: the kernel counts them, and copies nothing
        with selectors.DefaultSelector() as selector:
            for one in self._sockets:
                one.setblocking(False)
                selector.register(one, selectors.EVENT_READ | selectors.EVENT_WRITE, one)
            while not self._over.is_set():
                for key, events in selector.select(PAUSE_SECONDS):
                    each: socket.socket = key.data
                    if events & selectors.EVENT_READ:
                        self.received += each.recv_into(answers, 0, socket.MSG_TRUNC)
                    if events & selectors.EVENT_WRITE:
                        # The rest of a request goes first the next time.
                        left = unsent[each][each.send(unsent[each]) :]
                        unsent[each] = left or memoryview(self._request)
