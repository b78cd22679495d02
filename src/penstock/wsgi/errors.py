"""``wsgi.errors``: logs the text that an application writes, line by line."""

from __future__ import annotations

import io
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging

PARTIAL_LIMIT = 64 * 1024
"""The most characters of an unfinished line that are kept. A longer one is logged unfinished."""


class _ThreadState(threading.local):
    partial = ""
    emitting = False


class ErrorStream(io.TextIOBase):
    """A text stream that never raises. Each line becomes one log record of level ERROR.

    Text without a newline is kept for its thread until that thread writes the newline or calls
    `flush`, so that lines of several threads do not mix.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._state = _ThreadState()

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str, /) -> int:
        """Log the lines that ``text`` completes, and keep the rest; return its length."""
        if not isinstance(text, str):
            text = repr(text)
        state = self._state
        # Logging may be configured to write to this stream. Then this is the line that `_emit` is
        # logging, and logging it again would never end.
        if not state.emitting:
            *lines, rest = (state.partial + text).split("\n")
            if len(rest) > PARTIAL_LIMIT:
                lines.append(rest)
                rest = ""
            state.partial = rest
            for line in lines:
                self._emit(line)
        return len(text)

    def flush(self) -> None:
        """Log the text that this thread has written since its last newline."""
        state = self._state
        if state.partial and not state.emitting:
            line, state.partial = state.partial, ""
            self._emit(line)

    def close(self) -> None:
        """Flush, and stay open: the stream belongs to the server."""
        self.flush()

    def _emit(self, line: str) -> None:
        self._state.emitting = True
        try:
            # UTF-8 cannot encode a lone surrogate: the handler would drop the whole line.
            self._logger.error("%s", line.encode("utf-8", "backslashreplace").decode("utf-8"))
        except Exception:  # a log that fails must not fail the application
            pass
        finally:
            self._state.emitting = False
