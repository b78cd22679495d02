"""Whether a server is overloaded for long, as a state machine of numbers.

Native code has the same in ``admission.rs``; ``tests/transport/test_admission.py`` runs the same
events on both. docs/performance/overload.md has the reasons. All numbers are whole nanoseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.transport.config import TransportConfig

MEAN_SHIFT = 4
"""A call of the application counts for a sixteenth of the mean."""


class Overload:
    """The rule for sustained overload, and the mean time of a call. The caller's lock guards it.

    The overload is sustained when for `overload_seconds` some request has always been waiting for
    longer than `overload_delay_seconds`, and than `overload_services` mean calls. It ends
    when the queue is empty: clients that leave early keep every wait short, and the server is
    overloaded all the same. While it is sustained, the newest requests of the queue come first,
    and at all other times the oldest.
    """

    __slots__ = ("_delay", "_services", "_while", "mean_service", "relaxed_at", "sustained")

    def __init__(self, config: TransportConfig) -> None:
        """Begin without overload, and without a call."""
        self._delay = int(config.overload_delay_seconds * 1e9)
        self._services = config.overload_services
        self._while = int(config.overload_seconds * 1e9)
        self.mean_service = 0
        """The mean time of the last calls of the application; 0 before the first."""
        self.relaxed_at = 0
        """When the queue was last empty, or its oldest request had not waited for long."""
        self.sustained = False
        """Whether the overload is sustained."""

    def served(self, duration: int) -> None:
        """Note how long a call of the application took."""
        if self.mean_service == 0:
            self.mean_service = duration
        else:
            self.mean_service += (duration - self.mean_service) >> MEAN_SHIFT

    def queue_moved(self, now: int, oldest: int) -> bool:
        """Note a change of the queue; return whether the overload is sustained.

        To be called before a request joins an empty queue, and after one has left it. ``oldest`` is
        for how long the oldest that is left has waited, 0 if none is left.
        """
        if oldest == 0:
            self.sustained = False
        if oldest <= max(self._delay, self._services * self.mean_service):
            self.relaxed_at = now
        elif now - self.relaxed_at >= self._while:
            self.sustained = True
        return self.sustained
