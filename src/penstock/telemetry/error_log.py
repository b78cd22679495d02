"""The server's own messages, through the standard ``logging``.

A record is one write; every line of it but the first begins with two spaces, so that text from
a client (in an exception's message, say) cannot pass for a record of its own.
"""

from __future__ import annotations

import logging
import os
import re
import time
from typing import Final

from penstock import messages
from penstock.errors import SettingsError
from penstock.telemetry.log_sink import LogSink

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

    def handle(self, record: logging.LogRecord) -> bool:
        """Emit the record, unless a filter is against that; tell which."""
        # As the base does, but for the lock: taken by a call, it would stay taken where
        # the handler of a signal raises between that and the next step.
        kept = self.filter(record)
        if not kept:
            return False
        if isinstance(kept, logging.LogRecord):
            record = kept
        assert self.lock is not None
        with self.lock:
            self.emit(record)
        return True

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
                notice = messages.ERROR_LOG_UNWRITABLE.render(path=self.sink.path)
                self.fallback.write(f"penstock: {notice}\n")
            self.fallback.write(text)

    def handleError(self, record: logging.LogRecord) -> None:
        """Do nothing: the base would print to a standard error that may be closed."""

    def close_sinks(self) -> None:
        """Close for good. Not `close`: ``dictConfig`` calls that on every handler there is."""
        self.close()
        self.sink.close()
        if self.fallback is not None:
            self.fallback.close()


class ErrorLog:
    """A server's own messages: a logger, and the file or stream that it writes to.

    Thread-safe.
    """

    def __init__(
        self,
        error_logfile: str = "-",
        log_level: str = "info",
        logger: logging.Logger | None = None,
    ) -> None:
        """Open the log; the root logger is left alone.

        ``error_logfile`` is a path, or ``-`` for standard error; ``log_level`` one of debug, info,
        warning, error and critical. ``logger`` is taken over until `close`; without one, the log
        has a logger of its own, which ``logging.getLogger`` does not find. Raises `SettingsError`.
        """
        level = _LEVELS.get(log_level.lower())
        if level is None:
            raise SettingsError(f"log_level: {log_level!r} is none of {', '.join(_LEVELS)}")
        sink = LogSink.open(error_logfile, setting="error_logfile")
        fallback = LogSink.open("-", setting="error_logfile") if sink.path else None
        self._handler = SinkHandler(sink, fallback)
        self._before: tuple[list[logging.Handler], int, bool] | None = None
        if logger is None:
            logger = ServerLogger(LOGGER_NAME)
        else:
            self._before = (logger.handlers, logger.level, logger.propagate)
        self.logger = logger
        logger.handlers = [self._handler]
        logger.setLevel(level)
        logger.propagate = False

    @property
    def dropped(self) -> int:
        """How many lines could not be written to their place so far."""
        return self._handler.sink.dropped

    def reopen(self) -> None:
        """Open the file anew after a rotation. Raises OSError, and keeps the old one then."""
        self._handler.sink.reopen()

    def close(self) -> None:
        """Close the log, and give a logger that was taken over back as it was."""
        # Our own logger keeps its handler, which drops what a thread that was cut off still
        # logs: without one, logging would print it as it is. And where the application has put
        # its handlers in the place of ours, it means that.
        if self._before is not None and self._handler in self.logger.handlers:
            handlers, level, self.logger.propagate = self._before
            added = [handler for handler in self.logger.handlers if handler is not self._handler]
            self.logger.handlers = [*handlers, *added]
            self.logger.setLevel(level)
        self._handler.close_sinks()


def process_logger() -> logging.Logger:
    """Return the logger ``penstock``, made proof against being disabled by the application.

    So are those below it that there are.
    """
    logger = logging.getLogger(LOGGER_NAME)
    known = list(logging.Logger.manager.loggerDict)
    below = [child for child in known if child.startswith(LOGGER_NAME + ".")]
    for each in (logger, *map(logging.getLogger, below)):
        # The class is changed, not chosen: someone may have asked for this name before us.
        each.__class__ = ServerLogger
    return logger


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
