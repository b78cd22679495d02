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
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from penstock import messages
from penstock.errors import SettingsError
from penstock.telemetry.log_files import Opener, open_plainly
from penstock.telemetry.log_sink import LogSink
from penstock.telemetry.terminal import block_of, record_prefix, wants_colour

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from penstock.config.settings import Settings
    from penstock.telemetry.log_daemons import LogDaemon

LOGGER_NAME: Final = "penstock"

QUIET_SECONDS: Final = 10.0
"""A loss within this time of the last one is part of it, and is not reported again: where a reader
is a little too slow, the error log must not fill in its place."""

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
    def error_log(self) -> logging.Logger:
        """``gunicorn.error``, as the logger of gunicorn's hooks has it."""
        return logging.getLogger("gunicorn.error")

    @property
    def access_log(self) -> logging.Logger:
        """``gunicorn.access``, as the logger of gunicorn's hooks has it."""
        return logging.getLogger("gunicorn.access")

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
        self,
        sink: LogSink,
        fallback: LogSink | None = None,
        *,
        json: bool = False,
        daemons: Sequence[LogDaemon] = (),
    ) -> None:
        super().__init__()
        self.daemons = daemons
        """Syslog and the journal, as the settings want them; this handler closes them."""
        self._to_daemons = [each for each in daemons if each.takes_error_log]
        self._for_people = not json and sink.is_terminal()
        self._colour = wants_colour(sink)
        self.json = json
        """Whether each record is an object of JSON."""
        self.sink = sink
        self.fallback = fallback
        # Guarded by the handler's own lock, which logging holds around emit.
        self._fallen_back = False
        self._stalled = False
        self._dropped = 0  # by the daemons, as was reported
        self._reported_at = -QUIET_SECONDS

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
            if self._to_daemons and self._send(record):
                return
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
            if self._to_daemons:
                taken = [daemon.take_text(text) for daemon in self._to_daemons]
                self._report_loss()
                if any(taken):
                    return
            self._write(
                _json_line({"logger": "wsgi.errors", "message": text}) if self.json else text
            )

    def _send(self, record: logging.LogRecord) -> bool:
        """Send a record to syslog and the journal; return True if that is enough."""
        try:
            text = _plain(_message_of(record))
        except Exception as error:
            text = _plain(_unformatted(record, error))
        taken = [daemon.take_record(record, text) for daemon in self._to_daemons]
        reports = getattr(record, "message_id", "") == messages.LOG_DAEMON_FAILS.id
        self._report_loss(reported=reports)
        return any(taken)

    def _report_loss(self, *, reported: bool = False) -> None:
        """Write that messages are lost on the way to a daemon, but not each time.

        ``reported`` is True if the access log has just said so.
        """
        dropped = sum(daemon.dropped for daemon in self._to_daemons)
        if dropped == self._dropped:
            return
        self._dropped = dropped
        now = time.monotonic()
        if now - self._reported_at >= QUIET_SECONDS and not reported:
            for daemon in self._to_daemons:
                if daemon.dropped:
                    notice = messages.LOG_DAEMON_FAILS.render(
                        setting=daemon.setting, reason=daemon.failure
                    )
                    self._write(f"penstock: {notice}\n")
        self._reported_at = now

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
        for daemon in self.daemons:
            daemon.close()
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
        daemons: Sequence[LogDaemon] = (),
    ) -> None:
        """Open the log; the root logger stays as it is.

        ``error_logfile`` is a path, or ``-`` for standard error; ``log_level`` is one of debug,
        info, warning, error and critical. The log takes over ``logger`` until `close`; without
        one, it makes a logger that ``logging.getLogger`` does not return, whose records the root
        logger's handlers get, too. ``opener`` and ``passed`` are `LogSink.open`'s; ``format`` is
        text or json. ``daemons`` get the records, too; the log closes them. Raises
        `SettingsError`.
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
        self._handler = SinkHandler(sink, fallback, json=format == "json", daemons=daemons)
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
    def daemons(self) -> Sequence[LogDaemon]:
        """Syslog and the journal, for both logs."""
        return self._handler.daemons

    @property
    def is_waiting(self) -> bool:
        """Whether messages wait for syslog or the journal, so that `pump` is to be called soon."""
        return any(daemon.is_waiting for daemon in self._handler.daemons)

    def pump(self, patience: float = 0.0) -> None:
        """Send what waits for syslog or the journal, for at most ``patience`` seconds for each."""
        for daemon in self._handler.daemons:
            daemon.pump(patience)

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


def log_daemons(settings: Settings) -> tuple[LogDaemon, ...]:
    """Return what the settings ask for, not connected yet."""
    found: list[LogDaemon] = []
    if settings.log_syslog:
        from penstock.telemetry.syslog import Syslog

        found.append(Syslog.of(settings))
    if settings.log_journal is not None:
        from penstock.telemetry.journal import Journal

        found.append(
            Journal(
                settings.log_journal,
                identifier=settings.name or "penstock",
                takes_error_log=settings.error_logfile == "-",
                takes_access_log=settings.access_logfile == "-",
            )
        )
    return tuple(found)


def daemons_of(logger: logging.Logger) -> tuple[LogDaemon, ...]:
    """Return syslog and the journal, where an error log of this logger has them."""
    handlers = [each for each in logger.handlers if isinstance(each, SinkHandler)]
    return tuple(daemon for handler in handlers for daemon in handler.daemons)


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
    if request := request_in(message):
        fields["request_id"] = request
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


def request_in(message: str) -> str:
    """Return the id of the request that a message names; empty where it names none."""
    found = _REQUEST.search(message)
    return found[1] if found is not None else ""


_REQUEST: Final = re.compile(r"(?:\(|; )request ([^\s,;()]+)[,)]")
"""As in ``(request 4f-2a-07)``, ``(RFC 9112; request 4f-2a-07)`` and ``(request 4f-2a-07, 3 s``."""
_TRACEBACKS: Final = logging.Formatter()
_SEPARATORS: Final = re.compile(r"\r?\n")


def _with_prefix(created: float, level: str, text: str) -> str:
    return f"{_record_time(created)} [{os.getpid()}] [{printable(level)}] {_indented(text)}"


def _record_time(created: float) -> str:
    local = time.localtime(created)
    milliseconds = int(created * 1000) % 1000
    return time.strftime(f"%Y-%m-%d %H:%M:%S.{milliseconds:03} %z", local)


def _indented(text: str) -> str:
    return "\n  ".join(map(printable, _SEPARATORS.split(text.rstrip("\r\n")))) + "\n"


def _plain(text: str) -> str:
    """Return text for what tells records apart by itself: its lines are not indented."""
    return "\n".join(map(printable, _SEPARATORS.split(text.rstrip("\r\n"))))


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
