"""The error log: the server's own messages, through the standard ``logging``.

A record is one write. Every line of it but the first begins with two spaces, so text from a client
(in the message of an exception, for example) cannot pass for a record of its own.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from penstock import messages
from penstock.errors import SettingsError
from penstock.telemetry.log_files import Opener, open_plainly
from penstock.telemetry.log_sink import LogSink
from penstock.telemetry.terminal import block_of, record_prefix, wants_colour

LOGGER_NAME: Final = "penstock"

PATIENCE_SECONDS: Final = 1.0
"""How long a record waits for room: what was being explained is in its last lines."""

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}


class ServerLogger(logging.Logger):
    """A logger that an application does not silence by accident.

    ``logging.config.dictConfig`` disables every logger that it does not name, and Django calls it.
    ``logging.disable`` is meant for the application's own loggers. Both have no effect here. A
    configuration that names ``penstock`` has: its handlers replace the server's.
    """

    @property
    def disabled(self) -> bool:
        """Always False; setting it has no effect."""
        return False

    @disabled.setter
    def disabled(self, value: bool) -> None:
        pass

    def isEnabledFor(self, level: int) -> bool:
        """Return True if a record of ``level`` is logged."""
        return level >= self.getEffectiveLevel()


class SinkHandler(logging.Handler):
    """Writes records to a `LogSink`, and to ``fallback`` while the sink fails."""

    def __init__(
        self, sink: LogSink, fallback: LogSink | None = None, *, json: bool = False
    ) -> None:
        super().__init__()
        self._for_people = not json and sink.is_terminal()
        self._colour = wants_colour(sink)
        self.json = json
        """Whether each record is an object of JSON."""
        self.sink = sink
        self.fallback = fallback
        # Guarded by the handler's own lock, which logging holds around emit.
        self._fallen_back = False
        self._stalled = False

    def handle(self, record: logging.LogRecord) -> bool:
        """Emit the record unless a filter rejects it; return True if it was emitted."""
        # As the base class does, but for the lock. The base takes it by a call: where the handler
        # of a signal raises between that and the next step, the lock would stay taken.
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
        """Write the record. Waits a second at most, and not again while that was in vain."""
        try:
            if self._for_people:
                text = _short_text_of(record, colour=self._colour)
            else:
                text = json_of(record) if self.json else _text_of(record)
            if text:
                self._write(text)
        except Exception:
            # Memory or stack ran out: the code that logs must not get a second error.
            self.sink.count_dropped(1)

    def write_text(self, text: str) -> None:
        """Write what the application wrote, as it is; in JSON, as a record without a level."""
        assert self.lock is not None
        with self.lock:
            self._write(
                _json_line({"logger": "wsgi.errors", "message": text}) if self.json else text
            )

    def _write(self, text: str) -> None:
        # A terminal takes 4 KiB at a time, and its reader some milliseconds for each. Where nothing
        # reads, the first record alone waits.
        patience = 0.0 if self._stalled else PATIENCE_SECONDS
        self._stalled = not self.sink.write(text, patience=patience, keep_end=True)
        if not self._stalled:
            self._fallen_back = False
        elif self.fallback is not None:
            if not self._fallen_back:
                self._fallen_back = True
                notice = messages.ERROR_LOG_UNWRITABLE.render(path=self.sink.path)
                self.fallback.write(f"penstock: {notice}\n")
            self.fallback.write(text)

    def handleError(self, record: logging.LogRecord) -> None:
        """Do nothing: the base class prints to a standard error that may be closed."""

    def close_sinks(self) -> None:
        """Close the sinks. Not done by `close`, which ``dictConfig`` calls on every handler."""
        self.close()
        self.sink.close()
        if self.fallback is not None:
            self.fallback.close()


class ErrorLog:
    """The error log of a server: a logger, and the file or stream that it writes to.

    Thread-safe.
    """

    def __init__(
        self,
        error_logfile: str = "-",
        log_level: str = "info",
        logger: logging.Logger | None = None,
        *,
        opener: Opener = open_plainly,
        passed: int | None = None,
        format: str = "text",
    ) -> None:
        """Open the log; the root logger stays as it is.

        ``error_logfile`` is a path, or ``-`` for standard error; ``log_level`` is one of debug,
        info, warning, error and critical. The log takes over ``logger`` until `close`; without
        one, it makes a logger that ``logging.getLogger`` does not return, whose records the root
        logger's handlers get, too. ``opener`` and ``passed`` are `LogSink.open`'s; ``format`` is
        text or json. Raises `SettingsError`.
        """
        level = _LEVELS.get(log_level.lower())
        if level is None:
            raise SettingsError(f"log_level: {log_level!r} is none of {', '.join(_LEVELS)}")
        sink = LogSink.open(
            error_logfile,
            setting="error_logfile",
            opener=opener,
            passed=passed,
            follows=logger is None,
        )
        fallback = LogSink.open("-", setting="error_logfile") if sink.path else None
        self._handler = SinkHandler(sink, fallback, json=format == "json")
        self._before: tuple[list[logging.Handler], int, bool] | None = None
        if logger is None:
            # Tests that run a server look at what the root logger gets.
            logger = ServerLogger(LOGGER_NAME)
            logger.parent = logging.getLogger()
        else:
            self._before = (logger.handlers, logger.level, logger.propagate)
            logger.propagate = False
        self.logger = logger
        logger.handlers = [self._handler]
        logger.setLevel(level)

    def write_text(self, text: str) -> None:
        """Write text of the application's, ``wsgi.errors``, which is no record. Never raises."""
        self._handler.write_text(text)

    def capture_output(self) -> None:
        """Let standard output and standard error of this process lead to the log."""
        with suppress(OSError):
            if self._handler.sink.path:
                self._handler.sink.copy_to(1, 2)
            else:
                os.dup2(2, 1)

    @property
    def dropped(self) -> int:
        """How many lines could not be written to the file or stream so far."""
        return self._handler.sink.dropped

    def reopen(self, passed: int | None = None) -> None:
        """Open the file again after a rotation, as `LogSink.reopen` does."""
        self._handler.sink.reopen(passed)

    def close(self) -> None:
        """Close the log, and restore a logger that was taken over."""
        # A logger of our own keeps its handler, which drops what a thread that was cut off still
        # logs; without a handler, logging would print it. And a handler by which the application
        # replaced ours stays.
        if self._before is not None and self._handler in self.logger.handlers:
            handlers, level, self.logger.propagate = self._before
            added = [handler for handler in self.logger.handlers if handler is not self._handler]
            self.logger.handlers = [*handlers, *added]
            self.logger.setLevel(level)
        self._handler.close_sinks()


def process_logger() -> logging.Logger:
    """Return the logger ``penstock``, which the application cannot disable from now on.

    The same holds for the loggers below it that exist.
    """
    logger = logging.getLogger(LOGGER_NAME)
    known = list(logging.Logger.manager.loggerDict)
    below = [child for child in known if child.startswith(LOGGER_NAME + ".")]
    for each in (logger, *map(logging.getLogger, below)):
        # The class is changed afterwards: other code may have asked for this name before.
        each.__class__ = ServerLogger
    return logger


def format_record(record: logging.LogRecord) -> str:
    """Return ``2026-01-31 12:00:00.123 +0000 [pid] [INFO] message``, further lines indented."""
    return _with_prefix(record.created, record.levelname, _message_of(record))


def format_for_terminal(record: logging.LogRecord, *, colour: bool) -> str:
    """Return ``12:00:00 WARNING message``, or what the record has for a terminal."""
    block = block_of(record, colour=colour)
    if block is not None:
        return f"{block}\n" if block else ""
    return record_prefix(record, colour=colour) + _indented(_message_of(record))


def _message_of(record: logging.LogRecord) -> str:
    text = record.getMessage()
    if record.exc_info and not record.exc_text:
        record.exc_text = _TRACEBACKS.formatException(record.exc_info)
    for more in (record.exc_text, record.stack_info):
        if more:
            text += "\n" + more
    return text


def json_of(record: logging.LogRecord) -> str:
    """Return a record as one line of JSON: a traceback is a field of it."""
    try:
        message = record.getMessage()
    except Exception as error:
        message = _unformatted(record, error)
    fields: dict[str, object] = {
        "level": record.levelname,
        "logger": record.name,
        "message": message,
    }
    if identifier := getattr(record, "message_id", None):
        fields["message_id"] = identifier
        fields["message"] = message.removeprefix(f"{identifier} ")
    if request := _REQUEST.search(message):
        fields["request_id"] = request[1]
    if record.exc_info and not record.exc_text:
        record.exc_text = _TRACEBACKS.formatException(record.exc_info)
    if record.exc_text:
        fields["exception"] = record.exc_text
    if record.stack_info:
        fields["stack"] = record.stack_info
    return _json_line(fields, record.created)


def _json_line(fields: Mapping[str, object], created: float | None = None) -> str:
    moment = time.time() if created is None else created
    time_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment))
    begun = {"time": f"{time_text}.{int(moment * 1000) % 1000:03}Z", "process.pid": os.getpid()}
    return json.dumps({**begun, **fields}, separators=(",", ":")) + "\n"


_REQUEST: Final = re.compile(r"\(request ([0-9A-Za-z-]+)\)")
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
    r"""Return ``line`` with an escape for every character that a terminal might act on.

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
        # An argument that does not fit its format, for example: the rest is still useful.
        return _with_prefix(time.time(), record.levelname, _unformatted(record, error))


def _short_text_of(record: logging.LogRecord, *, colour: bool) -> str:
    try:
        return format_for_terminal(record, colour=colour)
    except Exception:
        return _text_of(record)


def _unformatted(record: logging.LogRecord, error: Exception) -> str:
    try:
        return f"{record.msg!s} (unformatted: {type(error).__name__}: {error})"
    except Exception:
        return f"(a record of {record.name} that cannot be turned into text)"
