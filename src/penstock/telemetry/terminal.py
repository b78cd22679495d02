"""What the logs look like on a terminal: short lines, with the level and the status in colour.

Elsewhere their lines stay as log readers know them.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

from penstock.telemetry.log_sink import LogSink

if TYPE_CHECKING:
    import logging

    from penstock.telemetry.request_finished import RequestFinished

_RED: Final = "\x1b[31m"
_GREEN: Final = "\x1b[32m"
_YELLOW: Final = "\x1b[33m"
_CYAN: Final = "\x1b[36m"
_BOLD: Final = "\x1b[1m"
_NONE: Final = "\x1b[0m"

_LEVEL_COLOURS: Final = {"WARNING": _YELLOW, "ERROR": _RED, "CRITICAL": _RED, "DEBUG": _CYAN}
_STATUS_COLOURS: Final = {2: _GREEN, 3: _CYAN, 4: _YELLOW, 5: _RED}

ON_TERMINAL: Final = "on_terminal"
"""The attribute of a record that has other text for a terminal: lines, the first of them bold.

Empty text leaves the record out there.
"""

NOT_ON_TERMINAL: Final = {ON_TERMINAL: ""}
"""The ``extra`` of a record that is left out there."""


def wants_colour(sink: LogSink) -> bool:
    """Return True for a terminal, unless NO_COLOR is set (https://no-color.org)."""
    return sink.is_terminal() and not os.environ.get("NO_COLOR")


def record_prefix(record: logging.LogRecord, *, colour: bool) -> str:
    """Return ``12:00:00 WARNING `` as the beginning of a record's line."""
    level = record.levelname
    if level == "INFO":
        level = ""
    elif colour:
        level = f"{_LEVEL_COLOURS.get(level, '')}{level}{_NONE} "
    else:
        level += " "
    return f"{_clock(record.created)} {level}"


def block_of(record: logging.LogRecord, *, colour: bool) -> str | None:
    """Return what a record shows on a terminal in place of its text; None for the text."""
    text: str | None = getattr(record, ON_TERMINAL, None)
    if not text:
        return text
    first, newline, rest = text.partition("\n")
    return (f"{_BOLD}{first}{_NONE}" if colour else first) + newline + rest


def request_line(request: RequestFinished, method: str, target: str, *, colour: bool) -> str:
    """Return ``12:00:00 200 GET /path 3.1 ms``, and why the server answered by itself.

    ``method`` and ``target`` are the request's, with what a terminal could act on escaped.
    """
    status = str(request.status)
    if colour:
        status = f"{_STATUS_COLOURS.get(request.status // 100, '')}{status}{_NONE}"
    reason = f" ({request.reason})" if request.reason else ""
    took = _duration(request.duration)
    return f"{_clock(request.wall_time)} {status} {method} {target} {took}{reason}\n"


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 0.9995 else f"{seconds:.3g} s"


def _clock(moment: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(moment))
