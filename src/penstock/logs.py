"""The server's own messages, through the standard ``logging``, under the name ``penstock``.

A record is one write; every line of it but the first begins with two spaces, so that text from
a client (in an exception's message, say) cannot pass for a record of its own.
"""

from __future__ import annotations

import logging
import os
import re
import time
from typing import Final

from penstock.errors import SettingsError
from penstock.log_sink import LogSink

LOGGER_NAME: Final = "penstock"

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}


class ServerLogger(logging.Logger):
    """A logger that an application cannot silence without meaning it.

    ``logging.config.dictConfig`` disables every logger that it does not name, and Django calls
    it; ``logging.disable`` is meant for the application's own. Neither counts here. A
    configuration that names ``penstock`` does: it puts its handlers in the place of ours.
    """

    @property
    def disabled(self) -> bool:
        """Always False, whatever it is set to."""
        return False

    @disabled.setter
    def disabled(self, value: bool) -> None:
        pass

    def isEnabledFor(self, level: int) -> bool:
        """Tell whether a record of ``level`` is to be logged."""
        return level >= self.getEffectiveLevel()


class SinkHandler(logging.Handler):
    """Writes records to a `LogSink`, and to ``fallback`` while that one cannot take them."""

    def __init__(self, sink: LogSink, fallback: LogSink | None = None) -> None:
        super().__init__()
        self.sink = sink
        self.fallback = fallback
        # Guarded by the handler's own lock, which logging holds around emit.
        self._fallen_back = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record. Never blocks, never raises."""
        try:
            self._write(_text_of(record))
        except Exception:
            # Memory or stack ran out: whoever logs has enough to do with that.
            self.sink.count_dropped(1)

    def _write(self, text: str) -> None:
        if self.sink.write(text):
            self._fallen_back = False
        elif self.fallback is not None:
            if not self._fallen_back:
                self._fallen_back = True
                self.fallback.write(
                    f"penstock: cannot write to {self.sink.path!r}; logging to standard error"
                    " until that is possible again\n"
                )
            self.fallback.write(text)

    def reopen(self) -> None:
        """Open the file anew after a rotation. Raises OSError, and keeps the old one then."""
        self.sink.reopen()

    def handleError(self, record: logging.LogRecord) -> None:
        """Do nothing: the base would print to a standard error that may be closed."""

    def close_sinks(self) -> None:
        """Close for good. Not `close`: ``dictConfig`` calls that on every handler there is."""
        self.close()
        self.sink.close()
        if self.fallback is not None:
            self.fallback.close()


def configure_logging(error_logfile: str = "-", log_level: str = "info") -> logging.Logger:
    """Set up the logger ``penstock`` and return it; the root logger is left alone.

    ``error_logfile`` is a path, or ``-`` for standard error; ``log_level`` one of debug, info,
    warning, error and critical. Called again, it replaces what the last call set up. Raises
    `SettingsError`.
    """
    level = _LEVELS.get(log_level.lower())
    if level is None:
        raise SettingsError(f"log_level: {log_level!r} is none of {', '.join(_LEVELS)}")
    sink = LogSink.open(error_logfile, setting="error_logfile")
    fallback = LogSink.open("-", setting="error_logfile") if sink.path else None
    logger = server_logger()
    for child in list(logging.Logger.manager.loggerDict):
        if child.startswith(LOGGER_NAME + "."):
            server_logger(child)
    _remove_handlers(logger)
    logger.setLevel(level)
    logger.propagate = False
    logger.addHandler(SinkHandler(sink, fallback))
    return logger


def server_logger(name: str = LOGGER_NAME) -> logging.Logger:
    """Return the logger of that name, made proof against being disabled by the application."""
    logger = logging.getLogger(name)
    # The class is changed, not chosen: someone may have asked for this name before us.
    logger.__class__ = ServerLogger
    return logger


def reopen_logs() -> None:
    """Open the error log's file anew after a rotation. Raises OSError, and keeps the old one."""
    for handler in logging.getLogger(LOGGER_NAME).handlers:
        if isinstance(handler, SinkHandler):
            handler.reopen()


def dropped_lines() -> int:
    """Return how many lines of the error log could not be written to their place so far."""
    handlers = logging.getLogger(LOGGER_NAME).handlers
    return sum(handler.sink.dropped for handler in handlers if isinstance(handler, SinkHandler))


def format_record(record: logging.LogRecord) -> str:
    """Return ``2026-01-31 12:00:00.123 +0000 [pid] [INFO] message`` and, indented, the rest."""
    text = record.getMessage()
    if record.exc_info and not record.exc_text:
        record.exc_text = _TRACEBACKS.formatException(record.exc_info)
    for more in (record.exc_text, record.stack_info):
        if more:
            text += "\n" + more
    return _with_prefix(record.created, record.levelname, text)


_TRACEBACKS: Final = logging.Formatter()
_SEPARATORS: Final = re.compile(r"\r?\n")


def _with_prefix(created: float, level: str, text: str) -> str:
    return f"{_record_time(created)} [{os.getpid()}] [{printable(level)}] {_indented(text)}"


def _record_time(created: float) -> str:
    local = time.localtime(created)
    milliseconds = int(created * 1000) % 1000
    return time.strftime(f"%Y-%m-%d %H:%M:%S.{milliseconds:03} %z", local)


def _indented(text: str) -> str:
    lines = _SEPARATORS.split(text.rstrip("\r\n"))
    return "\n  ".join(printable(line) for line in lines) + "\n"


def printable(line: str) -> str:
    r"""Return ``line`` with every character that a terminal might act on written as an escape.

    ``\xHH``, ``\uHHHH`` or ``\UHHHHHHHH`` stand for control and format characters, unusual
    line ends and lone surrogates; tabs and printable text in any script stay.
    """
    if line.isprintable():
        return line
    return "".join(
        character
        if character.isprintable() or character == "\t"
        else _escape_sequence(ord(character))
        for character in line
    )


def _escape_sequence(code: int) -> str:
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _text_of(record: logging.LogRecord) -> str:
    try:
        return format_record(record)
    except Exception as error:
        # An argument that does not fit its format, say: the rest is worth having all the same.
        return _with_prefix(time.time(), record.levelname, _unformatted(record, error))


def _unformatted(record: logging.LogRecord, error: Exception) -> str:
    try:
        return f"{record.msg!s} (unformatted: {type(error).__name__}: {error})"
    except Exception:
        return f"(a record of {record.name} that cannot be turned into text)"


def _remove_handlers(logger: logging.Logger) -> None:
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        if isinstance(handler, SinkHandler):
            handler.close_sinks()
