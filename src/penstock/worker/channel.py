"""Messages between the supervisor and one worker: JSON, one a line, over a pair of sockets.

Neither side waits for the other: what the socket does not take stays in a buffer. The end of the
stream shows that the other process has ended.
"""

from __future__ import annotations

import json
import socket
import threading
from typing import Any

Message = dict[str, Any]

MAX_UNSENT_BYTES = 4 << 20
"""Bytes that may wait for a worker that does not read; more messages to it are dropped."""

_RECEIVE_BYTES = 1 << 16


class Channel:
    """One end. `send` may be called from any thread, the other methods from one thread."""

    def __init__(self, sock: socket.socket) -> None:
        """Take over a connected socket."""
        self.socket = sock
        sock.setblocking(False)
        self.ended = False
        """The process at the other end has ended."""
        self._input = bytearray()
        self._output = bytearray()  # guarded by the lock, as is sending
        self._lock = threading.Lock()

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Return the two ends of a new channel."""
        one, other = socket.socketpair()
        return cls(one), cls(other)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when there is a message."""
        return self.socket.fileno()

    def send(self, message: Message) -> None:
        """Send a message, now or with a later `flush`. Never waits, never raises."""
        data = json.dumps(message).encode() + b"\n"
        with self._lock:
            if len(self._output) + len(data) <= MAX_UNSENT_BYTES:
                self._output += data
        self.flush()

    def flush(self) -> bool:
        """Send what is left in the buffer; return True if it is empty now."""
        with self._lock:
            try:
                while self._output:
                    del self._output[: self.socket.send(self._output)]
            except BlockingIOError:
                return False
            except OSError:  # the other end is closed
                self._output.clear()
            return True

    def receive(self) -> list[Message]:
        """Return the messages that have arrived. Never waits; sets `ended` at the end."""
        try:
            while data := self.socket.recv(_RECEIVE_BYTES):
                self._input += data
            self.ended = True
        except BlockingIOError:
            pass
        except OSError:
            self.ended = True
        *lines, rest = bytes(self._input).split(b"\n")
        self._input = bytearray(rest)
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        """Close this end."""
        self.socket.close()
