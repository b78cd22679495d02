"""Until when the next byte of a request's body has to come."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.transport.decisions import (
    body_deadline,
    body_deadline_after_storing,
    exceeds_body_time,
)

if TYPE_CHECKING:
    from penstock.transport.config import TransportConfig


class BodyClock:
    """The deadline of one body, by the clock of what waits for it."""

    __slots__ = ("_began", "_config", "_received", "deadline")

    def __init__(self, config: TransportConfig, began: float) -> None:
        """``began`` is the time by the clock that `received` is called with."""
        self._config = config
        self._began = began
        self._received = 0
        self.deadline = began + config.body_timeout

    def is_over(self) -> bool:
        """Return True if the deadline is that of the whole body (`max_body_time`)."""
        return exceeds_body_time(self._config, self.deadline, self._began)

    def received(self, count: int, now: float) -> None:
        """Take note that ``count`` bytes of the body have come until now."""
        more = count - self._received
        if more > 0:
            self._received = count
            self.deadline = body_deadline(self._config, self.deadline, now, self._began, more)

    def stored(self, seconds: float) -> None:
        """Leave out the time for which the disk kept the body waiting."""
        self.deadline = body_deadline_after_storing(
            self._config, self.deadline, self._began, seconds
        )
