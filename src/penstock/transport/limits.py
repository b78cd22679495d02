"""The limits and deadlines of a transport, in one frozen object.

The user's names for them, and the reasons for the defaults, are in ``penstock.config.settings``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from penstock.http1 import ParserLimits

LINGER_SECONDS = 10.0
"""How long a closing connection is read from in all, so that its client can read the answer.

Closing with unread input makes the kernel send RST, which can destroy a response that the client
has not read yet (RFC 9112, section 9.6).
"""

LINGER_IDLE_SECONDS = 2.0
"""A lingering connection on which nothing arrives for so long is closed before that."""

DRAIN_HEAD_SECONDS = 2.0
"""How long a server that stops waits at least for the rest of a head that has begun.

It is not a request yet, and its client may never mean to finish it.
"""

LINGER_BYTES = 256 * 1024 * 1024
"""How much a lingering connection may still send: more than that is not a late reader."""

DISCARD_BYTES = 256 * 1024
"""An unread request body of at most so many bytes is read and dropped to keep the connection."""

JOIN_BYTES = 64 * 1024
"""A body block up to this size is copied behind the head, so that both leave in one send.

Copying 64 KiB costs about 5 µs, a second system call about as much.
"""


BODY_STALL_SECONDS = 60.0
"""How long a body may stand still, however fast it came before.

The minimal rate alone would let a gigabyte that arrives in a second buy weeks of silence.
"""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a transport enforces. Sizes are in bytes, times in seconds on the monotonic clock."""

    parser: ParserLimits = field(default_factory=ParserLimits)
    body_memory: int = 64 * 1024
    out_buffer: int = 1024 * 1024
    max_connections: int = 10_000
    header_timeout: float = 30.0
    body_timeout: float = 20.0
    body_min_rate: float = 500.0
    keep_alive: float = 75.0
    write_timeout: float = 60.0
    drain_linger: float = 2.0

    def body_allowance(self, received: int, taken: float) -> float:
        """Return how many seconds a body may take until its next byte.

        ``received`` bytes have come, and the last of them when the body had taken ``taken``
        seconds.
        """
        by_rate = self.body_timeout + received / self.body_min_rate
        return min(by_rate, taken + max(BODY_STALL_SECONDS, self.body_timeout))

    def least_progress(self) -> float:
        """Return how many bytes a client has to take within ``write_timeout`` not to be stalled."""
        return self.body_min_rate * self.write_timeout

    def sweep_interval(self) -> float:
        """Return how often deadlines are looked at: fine enough for the shortest of them.

        A second in production; short limits, as tests use them, are kept to a tenth.
        """
        shortest = min(
            self.header_timeout,
            self.body_timeout,
            self.keep_alive,
            self.write_timeout,
            self.drain_linger or self.keep_alive,
        )
        return min(1.0, max(0.01, shortest / 10))
