"""Messages between the supervisor and one worker: JSON, one a line, over a pair of sockets.

Neither side waits for the other: what the socket does not take stays in a buffer. The end of the
stream shows that the other process has ended.

What a worker sends is bounded and checked, because an application can write to its worker's
channel, by a defect or on purpose.
"""

from __future__ import annotations

import json
import socket
import threading
from typing import Any

Message = dict[str, Any]

MAX_UNSENT_BYTES = 4 << 20
"""Bytes that may wait for a worker that does not read; more messages to it are dropped."""

MAX_MESSAGE_BYTES = MAX_UNSENT_BYTES
"""The longest message that is accepted: no longer one can be sent. The stacks of a thousand threads
are shorter."""

_RECEIVE_BYTES = 1 << 16
_MOST_RECEIVED = 1 << 18
"""Bytes that `Channel.receive` reads in one call, so that it returns whatever the other process
sends. It is more than the socket's buffer holds by default: after the end of the other process one
call reads everything."""


class Channel:
    """One end. `send` may be called from any thread, the other methods from one thread."""

    def __init__(self, sock: socket.socket) -> None:
        """Take over a connected socket."""
        self.socket = sock
        sock.setblocking(False)
        self.ended = False
        """The process at the other end has ended, or has sent something that is not a message."""
        self.broken = ""
        """What the other process has sent that is not a message; empty where it has not."""
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
        """Return messages that have arrived. Never waits; sets `ended` at the end.

        Where more has arrived than one call reads, the descriptor stays readable.
        """
        received = 0
        try:
            while received < _MOST_RECEIVED:
                data = self.socket.recv(_RECEIVE_BYTES)
                if not data:
                    self.ended = True
                    break
                self._input += data
                received += len(data)
        except BlockingIOError:
            pass
        except OSError:
            self.ended = True
        *lines, rest = bytes(self._input).split(b"\n")
        self._input = bytearray(rest)
        messages = []
        for line in lines:
            message = _parse(line)
            if message is None:
                self.reject("text that is not a message")
                break
            messages.append(message)
        if len(self._input) > MAX_MESSAGE_BYTES:
            self.reject(f"more than {MAX_MESSAGE_BYTES >> 20} MiB without the end of a message")
        return messages

    def reject(self, what: str) -> None:
        """Receive no more: the other process has sent ``what``, which is not a message."""
        self.broken, self.ended = what, True
        self._input.clear()

    def close(self) -> None:
        """Close this end."""
        self.socket.close()


def _parse(line: bytes) -> Message | None:
    """Return the message in a line; None where there is none."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None
