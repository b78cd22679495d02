"""A selector that has something done before it waits, while there is no event."""

from __future__ import annotations

import selectors
from collections.abc import Callable


class IdleSelector(selectors.DefaultSelector):
    """The system's best selector, in the place of which it stands (setting: gc)."""

    def __init__(self, when_idle: Callable[[], None]) -> None:
        """Call ``when_idle`` before each wait, unless there are events."""
        super().__init__()
        self._when_idle = when_idle

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return the events, as the selector does."""
        events = super().select(0.0)
        if events or timeout == 0.0:
            return events
        self._when_idle()
        return super().select(timeout)
