"""Counts the messages of an error log by level."""

from __future__ import annotations

import logging
from collections.abc import Callable


class LogCounts(logging.Handler):
    """Counts what a logger logs at WARNING and above, by the names of `scoreboard.COUNTED`.

    A message with a traceback is an exception, whatever its level, as gunicorn counts it.
    """

    def __init__(self, count: Callable[[str], None]) -> None:
        """``count`` takes the name for one message. It is called with the handler's lock held."""
        super().__init__(logging.WARNING)
        self._count = count

    def emit(self, record: logging.LogRecord) -> None:
        """Count a message."""
        if record.exc_info:
            self._count("log_exceptions")
        elif record.levelno >= logging.CRITICAL:
            self._count("log_criticals")
        elif record.levelno >= logging.ERROR:
            self._count("log_errors")
        else:
            self._count("log_warnings")
