"""``wsgi.errors``: text that an application writes, as lines in the server's log."""

from __future__ import annotations

import io
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging

PARTIAL_LIMIT = 64 * 1024
"""Characters of an unfinished line that are kept: beyond, it is logged as it stands."""


class _ThreadState(threading.local):
    partial = ""
    emitting = False


class ErrorStream(io.TextIOBase):
    """A text stream that never raises; each line becomes one record of level ERROR.

    What a thread writes without a newline stays with that thread until the newline or `flush`,
    so lines of several threads do not mix.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._state = _ThreadState()

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str, /) -> int:
        """Log the lines that ``text`` completes, keep the rest; return its length."""
        if not isinstance(text, str):
            text = repr(text)
        state = self._state
        # Logging may be set up to write to this very stream; what comes back is what was just
        # logged, and would come back for ever.
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
        """Log what this thread has written since its last newline."""
        state = self._state
        if state.partial and not state.emitting:
            line, state.partial = state.partial, ""
            self._emit(line)

    def close(self) -> None:
        """Do no more than `flush`: the stream belongs to the server."""
        self.flush()

    def _emit(self, line: str) -> None:
        self._state.emitting = True
        try:
            # A lone surrogate has no UTF-8, and would make the handler drop the whole line.
            self._logger.error("%s", line.encode("utf-8", "backslashreplace").decode("utf-8"))
        except Exception:  # a log that fails must not fail the application
            pass
        finally:
            self._state.emitting = False
