"""Messages between the supervisor and one worker: JSON, one a line, over a pair of sockets.

Neither side waits for the other: what the socket does not take stays in a buffer. The end of the
stream shows that the other process has ended.

What a worker sends is bounded and checked, because an application can write to its worker's
channel, by a defect or on purpose. The supervisor sends descriptors of log files with a message; it
takes none, because a worker could send as many as it may open.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from penstock.system.descriptors import receive_descriptors

Message = dict[str, Any]

MAX_UNSENT_BYTES = 4 << 20
"""Bytes that may wait for a worker that does not read; more messages to it are dropped."""

MAX_MESSAGE_BYTES = MAX_UNSENT_BYTES
"""The longest message that is accepted: no longer one can be sent. The stacks of a thousand threads
are shorter."""

BURST = 4000
"""Messages that a worker may send at once, more than there are threads that can get stuck."""

MESSAGES_A_SECOND = 200.0
"""How many more it may send each second: it sends a few when something happens."""

BYTES_OF_ONE = 16 << 10
"""A longer message counts as several, so that the bytes of a second are bounded, too."""

_MOST_DESCRIPTORS = 8
"""With one message; an access log and an error log are two."""

_MOST_ATTACHED = 16
"""Descriptors that may wait for a worker that does not read."""

_RECEIVE_BYTES = 1 << 16
_MOST_RECEIVED = 1 << 18
"""Bytes that `Channel.receive` reads in one call, so that it returns whatever the other process
sends. It is more than the socket's buffer holds by default: after the end of the other process one
call reads everything."""


class Channel:
    """One end. `send` may be called from any thread, the other methods from one thread."""

    def __init__(
        self,
        sock: socket.socket,
        *,
        is_workers: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take over a connected socket.

        The worker's end takes descriptors, and any number of messages. ``clock`` returns seconds.
        """
        self.socket = sock
        sock.setblocking(False)
        self._is_workers = is_workers
        self.ended = False
        """The process at the other end has ended, or has sent something that is not a message."""
        self.broken = ""
        """What the other process has sent that is not a message; empty where it has not."""
        self._input = bytearray()
        self._received: deque[int] = deque()  # descriptors, in the order of their messages
        self._clock = clock
        self._allowed, self._counted_at = float(BURST), clock()
        self._output = bytearray()  # guarded by the lock, as is sending
        # Where in the output a message begins that descriptors go with; guarded by the lock, too.
        self._attached: deque[tuple[int, list[int]]] = deque()
        self._lock = threading.Lock()

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Return the two ends of a new channel: the supervisor's, and the other process's."""
        one, other = socket.socketpair()
        return cls(one), cls(other, is_workers=True)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when there is a message."""
        return self.socket.fileno()

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send a message, now or with a later `flush`. Never waits.

        Copies of ``descriptors`` go with it. Raises OSError where they cannot be copied.
        """
        data = json.dumps(message).encode() + b"\n"
        with self._lock:
            if len(self._output) + len(data) <= MAX_UNSENT_BYTES:
                if descriptors:
                    if len(self._attached) >= _MOST_ATTACHED:
                        return
                    copies = [os.dup(each) for each in descriptors]
                    self._attached.append((len(self._output), copies))
                self._output += data
        self.flush()

    def flush(self) -> bool:
        """Send what is left in the buffer; return True if it is empty now."""
        with self._lock:
            try:
                while self._output:
                    self._send_some()
            except BlockingIOError:
                return False
            except OSError:  # the other end is closed
                self._output.clear()
                self._drop_attached()
            return True

    def _send_some(self) -> None:
        """Send once: up to the next message with descriptors, or such a message. Raises OSError."""
        descriptors: list[int] = []
        if self._attached and self._attached[0][0] == 0:
            descriptors = self._attached[0][1]
        later = [begin for begin, _ in self._attached if begin]
        data = bytes(self._output[: later[0]]) if later else self._output
        if descriptors:
            sent = socket.send_fds(self.socket, [data], descriptors)
            for descriptor in self._attached.popleft()[1]:
                os.close(descriptor)
        else:
            sent = self.socket.send(data)
        del self._output[:sent]
        self._attached = deque((begin - sent, which) for begin, which in self._attached)

    def _drop_attached(self) -> None:
        while self._attached:
            for descriptor in self._attached.popleft()[1]:
                os.close(descriptor)

    def receive(self) -> list[Message]:
        """Return messages that have arrived. Never waits; sets `ended` at the end.

        Where more has arrived than one call reads, the descriptor stays readable.
        """
        received = 0
        try:
            while received < _MOST_RECEIVED:
                data = self._read()
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
            if not self._is_workers and not self._allow(len(line)):
                self.reject(f"more than {MESSAGES_A_SECOND:g} messages a second")
                break
            messages.append(message)
        if len(self._input) > MAX_MESSAGE_BYTES:
            self.reject(f"more than {MAX_MESSAGE_BYTES >> 20} MiB without the end of a message")
        return messages

    def _read(self) -> bytes:
        if not self._is_workers:
            return self.socket.recv(_RECEIVE_BYTES)  # the kernel closes descriptors that come
        data, descriptors = receive_descriptors(self.socket, _RECEIVE_BYTES, _MOST_DESCRIPTORS)
        self._received += descriptors
        return data

    def _allow(self, size: int) -> bool:
        """Count a message of this size; return False if the worker sends too many."""
        now = self._clock()
        earned = (now - self._counted_at) * MESSAGES_A_SECOND
        self._allowed, self._counted_at = min(BURST, self._allowed + earned), now
        self._allowed -= 1 + size // BYTES_OF_ONE
        return self._allowed >= 0

    def take_descriptors(self, count: int) -> list[int]:
        """Return the descriptors that came with the message that was received last."""
        return [self._received.popleft() for _ in range(min(count, len(self._received)))]

    def reject(self, what: str) -> None:
        """Receive no more: the other process has sent ``what``, which is not a message."""
        self.broken, self.ended = what, True
        self._input.clear()

    def close(self) -> None:
        """Close this end."""
        with self._lock:
            self._drop_attached()
        while self._received:
            os.close(self._received.popleft())
        self.socket.close()


def _parse(line: bytes) -> Message | None:
    """Return the message in a line; None where there is none."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None
