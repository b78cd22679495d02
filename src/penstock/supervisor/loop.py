"""The supervisor's loop: one thread that waits for descriptors, and looks at the clock."""

from __future__ import annotations

import logging
import selectors
from collections.abc import Callable
from functools import partial
from typing import Protocol


class Handler(Protocol):
    """What is told when a descriptor is ready."""

    def handle_events(self, mask: int) -> None:
        """Act on the events of ``mask``."""


class Loop:
    """Descriptors, each with what is told when it is ready."""

    def __init__(self, logger: logging.Logger) -> None:
        self.selector = selectors.DefaultSelector()
        self._logger = logger

    def watch(self, descriptor: int, handler: Handler) -> None:
        """Tell ``handler`` whenever the descriptor is readable."""
        self.selector.register(descriptor, selectors.EVENT_READ, handler)

    def forget(self, descriptor: int) -> None:
        """Tell nobody any more. To be called before the descriptor is closed."""
        try:
            self.selector.unregister(descriptor)
        except (KeyError, ValueError):
            pass

    def turn(self, timeout: float) -> None:
        """Wait for up to ``timeout`` seconds, and tell the handlers of what is ready."""
        for key, mask in self.selector.select(timeout):
            handler: Handler = key.data
            # An earlier one may have forgotten it.
            if self.selector.get_map().get(key.fd) is not key:
                continue
            self.guard(partial(handler.handle_events, mask))

    def guard(self, call: Callable[[], None]) -> bool:
        """Call what, with a defect of ours, must not end the server; tell whether all is well."""
        try:
            call()
        except Exception:
            self._logger.critical("internal error in the supervisor", exc_info=True)
            return False
        return True

    def close(self) -> None:
        """Close the loop; the descriptors stay open."""
        self.selector.close()
