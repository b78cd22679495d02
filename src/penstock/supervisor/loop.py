"""The supervisor's loop: one thread that waits for descriptors, and looks at the clock."""

from __future__ import annotations

import logging
import selectors
from collections.abc import Callable

from penstock import messages


class Loop:
    """Descriptors, each with a function that is called when it is ready."""

    def __init__(self, logger: logging.Logger) -> None:
        self.selector = selectors.DefaultSelector()
        self._logger = logger

    def watch(self, descriptor: int, call: Callable[[], None]) -> None:
        """Call a function whenever the descriptor is readable."""
        self.selector.register(descriptor, selectors.EVENT_READ, call)

    def forget(self, descriptor: int) -> None:
        """Stop watching a descriptor. Must be called before it is closed."""
        try:
            self.selector.unregister(descriptor)
        except (KeyError, ValueError):
            pass

    def turn(self, timeout: float) -> None:
        """Wait for up to ``timeout`` seconds, and call the functions of what is ready."""
        for key, _ in self.selector.select(timeout):
            # An earlier function may have stopped watching it.
            if self.selector.get_map().get(key.fd) is key:
                self.guard(key.data)

    def guard(self, call: Callable[[], None]) -> bool:
        """Call a function; a defect in it is logged and must not end the server.

        Return False where there was one.
        """
        try:
            call()
        except Exception:
            messages.SUPERVISOR_DEFECT.log(self._logger, exc_info=True)
            return False
        return True

    def close(self) -> None:
        """Close the loop; the descriptors stay open."""
        self.selector.close()
