"""``wsgi.errors``: passes what an application writes to the error log, as it is."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable

PARTIAL_LIMIT = 64 * 1024
"""The most characters of an unfinished line that are kept. A longer one is passed unfinished."""


class _ThreadState(threading.local):
    partial = ""


class ErrorStream(io.TextIOBase):
    """A text stream that never raises. It passes whole lines, with no prefix and no level.

    What one call of `write` completes is passed in one piece, so that a traceback stays together.
    Text without a newline is kept for its thread until that thread writes the newline or calls
    `flush`, so that lines of several threads do not mix.
    """

    def __init__(self, pass_on: Callable[[str], object]) -> None:
        """``pass_on`` takes text that ends with a newline, or is the rest of a line."""
        self._pass_on = pass_on
        self._state = _ThreadState()

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str, /) -> int:
        """Pass on the lines that ``text`` completes, and keep the rest; return its length."""
        if not isinstance(text, str):
            text = repr(text)
        state = self._state
        lines, newline, rest = (state.partial + text).rpartition("\n")
        whole = lines + newline
        if len(rest) > PARTIAL_LIMIT:
            whole, rest = whole + rest, ""
        state.partial = rest
        if whole:
            self._emit(whole)
        return len(text)

    def flush(self) -> None:
        """Pass on the text that this thread has written since its last newline."""
        state = self._state
        if state.partial:
            text, state.partial = state.partial, ""
            self._emit(text)

    def close(self) -> None:
        """Flush, and stay open: the stream belongs to the server."""
        self.flush()

    def _emit(self, text: str) -> None:
        try:
            self._pass_on(text)
        except Exception:  # a log that fails must not fail the application
            pass
