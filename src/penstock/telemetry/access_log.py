"""The access log: one line for each finished request, written in batches.

`penstock.telemetry.observers` hands it the finished requests.
`penstock.telemetry.access_log_format` says what a line consists of.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from penstock import messages
from penstock.telemetry.access_log_format import (
    SHORT,
    Format,
    LineFormat,
    compile_format,
    iso_time,
    line_format,
    needs_of,
    short_format,
)
from penstock.telemetry.error_log import QUIET_SECONDS
from penstock.telemetry.terminal import wants_colour

if TYPE_CHECKING:
    import logging

    from penstock.config.settings import Settings
    from penstock.telemetry.access_log_rules import Rules
    from penstock.telemetry.log_daemons import LogDaemon
    from penstock.telemetry.log_sink import LogSink
    from penstock.telemetry.request_finished import RequestFinished

TOO_MANY_WAIT: Final = "too many wait to be written"


def rules_of(settings: Settings) -> Rules | None:
    """Return which requests are logged, and what is hidden; None for all and nothing."""
    if not (
        settings.access_log_skip
        or settings.access_log_slow
        or settings.access_log_sample < 1
        or settings.access_log_hide
    ):
        return None
    from penstock.telemetry.access_log_rules import Rules

    return Rules.of(settings)


def line_maker(settings: Settings) -> Format:
    """Return the function that makes the lines of a log with these settings.

    A line is empty where the request is to have none.
    """
    rules, format = rules_of(settings), settings.access_logformat
    if rules is None:
        return compile_format(format, traced=settings.otel)
    return rules.apply_to(compile_format(format, sampled=rules.sampled, traced=settings.otel))


class AccessLog:
    """Writes a line for each finished request: a `penstock.telemetry.request_finished.Observer`.

    `reopen` and ``dropped`` are for any thread, all else for the log writer.
    """

    def __init__(
        self,
        sink: LogSink,
        format: str = "combined",
        logger: logging.Logger | None = None,
        rules: Rules | None = None,
        daemons: Sequence[LogDaemon] = (),
        *,
        traced: bool = False,
    ) -> None:
        """Take over ``sink``; ``logger`` is where the beginning of a loss is reported.

        ``rules`` say which requests have a line; without them all have. Those of ``daemons`` that
        take this log get each line, too; they stay the caller's. Where requests are ``traced``,
        lines in JSON have the ids of their spans. Raises `SettingsError` for a format that makes no
        sense.
        """
        sampled = rules is not None and rules.sampled
        self._make_line = compile_format(format, sampled=sampled, traced=traced)
        self.needs = needs_of(format, traced=traced)
        self.line_format: LineFormat | None = None
        if not traced:
            self.line_format = line_format(format, sampled=sampled)
        """How native code makes the lines itself; None where it cannot."""
        self._sink = sink
        self._logger = logger
        self.log_to: logging.Logger | None = None
        """The logger that a configuration of logging has for the lines, in the sink's place."""
        # When lines were lost last, in monotonic seconds; None once the loss is over.
        self._lost_at: float | None = None
        if format == "json":
            sink.notice = _json_notice
        elif format == SHORT and wants_colour(sink):
            self._make_line = short_format(colour=True, sampled=sampled)
        if rules is not None:
            self._make_line = rules.apply_to(self._make_line)
            self.line_format = rules.add_to(self.line_format, self.needs)
        self._daemons = [each for each in daemons if each.takes_access_log]
        self._daemons_reported = False
        if any(daemon.needs_requests for daemon in self._daemons):
            self.line_format = None

    @property
    def has_daemons(self) -> bool:
        """Whether syslog or the journal gets the lines."""
        return bool(self._daemons)

    @property
    def dropped(self) -> int:
        """How many lines were lost so far."""
        return self._sink.dropped

    def requests_finished(self, batch: Sequence[RequestFinished | str], patience: float) -> None:
        """Write the lines of finished requests; text stands for lines that are made already."""
        if self._daemons:
            batch, patience = self._unsent(batch, time.monotonic() + patience)
        lines = []
        reason = ""
        for request in batch:
            if isinstance(request, str):
                lines.append(request)
                continue
            try:
                lines.append(self._make_line(request))
            except Exception as error:
                # A wall clock beyond the calendar, say: it costs this line alone.
                reason = f"a line cannot be formatted: {type(error).__name__}"
                self._sink.count_dropped(1)
        text = "".join(lines)  # empty where the rules leave all of them out
        if self.log_to is not None:
            for line in text.splitlines():
                reason = self._log(self.log_to, line) or reason
        elif text and not self._sink.write(text, patience=patience):
            reason = self._sink.failure
        self._report(reason)

    def _log(self, logger: logging.Logger, line: str) -> str:
        """Give a line to a logger; return why it is lost, if it is."""
        try:
            logger.info("%s", line)
        except Exception as error:  # of a filter, which may look for what gunicorn's records have
            return f"a filter of {logger.name} raised {type(error).__name__}: {error}"
        return ""

    def _unsent(
        self, batch: Sequence[RequestFinished | str], deadline: float
    ) -> tuple[list[RequestFinished | str], float]:
        """Send lines to syslog and the journal; return what is to be written all the same.

        And how long that may wait: what is left until ``deadline``, in monotonic seconds.
        """
        rest: list[RequestFinished | str] = []
        for request in batch:
            if isinstance(request, str):
                text, finished = request, None
            else:
                try:
                    text, finished = self._make_line(request), request
                except Exception:
                    rest.append(request)  # this is reported where it is written
                    continue
            for line in text.split("\n"):
                patience = max(0.0, deadline - time.monotonic())
                if not line:
                    continue
                taken = self._is_taken(line, finished, patience)
                if not taken or self.log_to is not None:
                    rest.append(f"{line}\n")
        self._report_daemons()
        return rest, max(0.0, deadline - time.monotonic())

    def _is_taken(self, line: str, request: RequestFinished | None, patience: float) -> bool:
        """Send a line; return True if it need not be written to the file, too."""
        taken = [daemon.take_line(line, request, patience) for daemon in self._daemons]
        return any(taken)

    def _report_daemons(self) -> None:
        """Report, once, that messages to a daemon are lost."""
        if self._logger is None or self._daemons_reported:
            return
        for daemon in self._daemons:
            if daemon.dropped:
                self._daemons_reported = True
                messages.LOG_DAEMON_FAILS.log(
                    self._logger, setting=daemon.setting, reason=daemon.failure
                )

    def write_text(self, text: str) -> None:
        """Write text that the application logs to gunicorn.access, for any thread. Never raises."""
        if not self._daemons or not self._is_taken(text.rstrip("\n"), None, 0.0):
            self._sink.write(text)

    def requests_lost(self, count: int) -> None:
        """Count the lines of requests that did not come here."""
        self._sink.count_dropped(count)
        self._report(TOO_MANY_WAIT)

    def reopen(self, passed: int | None = None) -> None:
        """Open the file again after a rotation, as `LogSink.reopen` does."""
        self._sink.reopen(passed)

    def close(self) -> None:
        """Close the sink."""
        self._sink.close()

    def _report(self, reason: str) -> None:
        """Report when lines begin to be lost, which is what ``reason`` means, and when no more are.

        The error log may well have the same trouble; its sink counts and drops as this one.
        """
        if self._logger is None:
            return
        now, lost_at = time.monotonic(), self._lost_at
        if reason:
            self._lost_at = now
            if lost_at is None:
                messages.ACCESS_LOG_LINES_LOST.log(self._logger, reason=reason)
        elif lost_at is not None and now - lost_at >= QUIET_SECONDS:
            self._lost_at = None
            self._logger.info("the access log is written again")


def _json_notice(count: int) -> str:
    now = time.time()
    return (
        f'{{"time":"{iso_time(int(now))}.{int(now * 1000) % 1000:03}Z","dropped_lines":{count}}}\n'
    )
