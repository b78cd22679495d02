"""What the logs look like on a terminal: short lines, with the level and the status in colour.

Elsewhere their lines stay as log readers know them.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

from penstock.telemetry.colours import BOLD, CYAN, GREEN, PLAIN, RED, YELLOW
from penstock.telemetry.log_sink import LogSink

if TYPE_CHECKING:
    import logging

    from penstock.telemetry.request_finished import RequestFinished

_LEVEL_COLOURS: Final = {"WARNING": YELLOW, "ERROR": RED, "CRITICAL": RED, "DEBUG": CYAN}
_STATUS_COLOURS: Final = {2: GREEN, 3: CYAN, 4: YELLOW, 5: RED}

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
        level = f"{_LEVEL_COLOURS.get(level, '')}{level}{PLAIN} "
    else:
        level += " "
    return f"{_clock(record.created)} {level}"


def block_of(record: logging.LogRecord, *, colour: bool) -> str | None:
    """Return what a record shows on a terminal in place of its text; None for the text."""
    text: str | None = getattr(record, ON_TERMINAL, None)
    if not text:
        return text
    first, newline, rest = text.partition("\n")
    return (f"{BOLD}{first}{PLAIN}" if colour else first) + newline + rest


def request_line(request: RequestFinished, method: str, target: str, *, colour: bool) -> str:
    """Return ``12:00:00 200 GET /path 3.1 ms``, and why the server answered by itself.

    ``method`` and ``target`` are the request's, with what a terminal could act on escaped.
    """
    status = str(request.status)
    if colour:
        status = f"{_STATUS_COLOURS.get(request.status // 100, '')}{status}{PLAIN}"
    reason = f" ({request.reason})" if request.reason else ""
    took = _duration(request.duration)
    return f"{_clock(request.wall_time)} {status} {method} {target} {took}{reason}\n"


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 0.9995 else f"{seconds:.3g} s"


def _clock(moment: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(moment))
