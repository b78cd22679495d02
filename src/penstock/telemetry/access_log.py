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
    LineFormat,
    compile_format,
    iso_time,
    line_format,
    needs_of,
    short_format,
)
from penstock.telemetry.terminal import wants_colour

if TYPE_CHECKING:
    import logging

    from penstock.telemetry.log_sink import LogSink
    from penstock.telemetry.request_finished import RequestFinished

# A loss within this time of the last one is part of it, and is not reported again: where a reader
# is a little too slow, the error log must not fill in its place.
QUIET_SECONDS: Final = 10.0

TOO_MANY_WAIT: Final = "too many wait to be written"


class AccessLog:
    """Writes a line for each finished request: a `penstock.telemetry.request_finished.Observer`.

    `reopen` and ``dropped`` are for any thread, all else for the log writer.
    """

    def __init__(
        self, sink: LogSink, format: str = "combined", logger: logging.Logger | None = None
    ) -> None:
        """Take over ``sink``; ``logger`` is where the beginning of a loss is reported.

        Raises `SettingsError` for a format that makes no sense.
        """
        self._make_line = compile_format(format)
        self.needs = needs_of(format)
        self.line_format: LineFormat | None = line_format(format)
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
            self._make_line = short_format(colour=True)

    @property
    def dropped(self) -> int:
        """How many lines were lost so far."""
        return self._sink.dropped

    def requests_finished(self, batch: Sequence[RequestFinished | str], patience: float) -> None:
        """Write the lines of finished requests; text stands for lines that are made already."""
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
        if self.log_to is not None:
            for line in "".join(lines).splitlines():
                self.log_to.info("%s", line)
        elif lines and not self._sink.write("".join(lines), patience=patience):
            reason = self._sink.failure
        self._report(reason)

    def write_text(self, text: str) -> None:
        """Write text that the application logs to gunicorn.access, for any thread. Never raises."""
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
