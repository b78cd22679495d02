"""Every log message of level WARNING and above, declared once, with an id that never changes.

``messages.OPEN_FILES_LIMIT.log(logger, limit=256, ...)`` logs
``PEN-6010 the limit on open files is 256, ...``. The record also carries the id as its attribute
``message_id`` and the arguments as its ``args``, for handlers that write fields. docs/messages.md
is made from this file by ``python -m penstock.telemetry.messages_page``.

The first digit of an id stands for the part of the server that logs the message:

    1 settings and start-up        5 logs
    2 listeners and connections    6 worker
    3 the application              7 supervisor
    4 the edge (TLS, proxies)      8 control

An id is never reused. A new message takes a free number of its part; the gaps keep related messages
together. Nothing here imports another module of Penstock, so that any module can import it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from logging import CRITICAL, ERROR, WARNING
from typing import Any, Final


@dataclass(frozen=True)
class Message:
    """One message: what is logged, what it means, and what to do about it.

    ``text`` has its arguments in the form of the operator ``%``: ``%(limit)d``. It begins with what
    happened to what. ``meaning`` and ``remedy`` are for docs/messages.md.
    """

    id: str
    level: int
    text: str
    meaning: str
    remedy: str

    def log(
        self,
        logger: logging.Logger,
        /,
        *,
        exc_info: Any = None,
        **arguments: object,
    ) -> None:
        """Log the message; ``exc_info`` as ``logging`` takes it.

        As with ``logging``, an argument that does not fit the text does not raise an error here.
        """
        logger.log(
            self.level,
            f"{self.id} {self.text}",
            *([arguments] if arguments else []),
            exc_info=exc_info,
            extra={"message_id": self.id},
            stacklevel=2,
        )

    def notice(self, **arguments: object) -> Notice:
        """Return the message with its arguments, to be logged later."""
        return Notice(self, arguments)

    def render(self, **arguments: object) -> str:
        """Return the text with the id before it, for a place that takes no log records."""
        return f"{self.id} {self.notice(**arguments)}"


@dataclass(frozen=True)
class Notice:
    """A message and its arguments. As a string, the text without the id."""

    message: Message
    arguments: dict[str, object] = field(default_factory=dict)

    def log(self, logger: logging.Logger, /) -> None:
        """Log the message."""
        self.message.log(logger, **self.arguments)

    def __str__(self) -> str:
        return self.message.text % self.arguments if self.arguments else self.message.text


# -- 5: logs ------------------------------------------------------------------------------------

ACCESS_LOG_LINES_LOST: Final = Message(
    "PEN-5010",
    WARNING,
    "the access log is losing lines: %(reason)s (setting: access_logfile)",
    "Lines of the access log cannot be written. Requests are answered as before; only their lines"
    " are missing. The message is logged once, when the loss begins; `the access log is written"
    " again` follows when no line has been lost for some seconds.",
    "Act on the reason: free space on the file system, let the reader of the pipe keep up, or"
    " correct the path or the format.",
)

ACCESS_LOG_LINES_LOST_IN_ALL: Final = Message(
    "PEN-5011",
    WARNING,
    "the access log has lost lines: %(lines)d in all (setting: access_logfile)",
    "The worker stopped, and this is how many lines of the access log it could not write while it"
    " ran.",
    "Look for PEN-5010 earlier in the log: it tells the reason.",
)

LINES_NOT_WRITTEN: Final = Message(
    "PEN-5020",
    WARNING,
    "log lines could not be written here: %(lines)d",
    "Lines of this log are missing at this place. The line is written to the log itself as soon as"
    " it takes lines again.",
    "Free space on the file system, or let the reader of the pipe keep up.",
)

ERROR_LOG_UNWRITABLE: Final = Message(
    "PEN-5030",
    WARNING,
    "cannot write to %(path)r; logging to standard error until that is possible again (setting:"
    " error_logfile)",
    "The file of the error log does not take lines. They go to standard error meanwhile.",
    "Free space on the file system, or correct the path or its permissions; then send SIGUSR1 to"
    " open the file again.",
)

LOG_FILE_NOT_REOPENED: Final = Message(
    "PEN-5040",
    ERROR,
    "the %(kind)s log could not be opened again and goes on in the old file: %(error)s (setting:"
    " %(setting)s)",
    "SIGUSR1 asked for the log files to be opened again, after a rotation. This one could not be"
    " opened by its name, so lines go to the rotated file.",
    "Correct what the error names (a missing directory, permissions), then send SIGUSR1 again.",
)

# -- 6: the worker ------------------------------------------------------------------------------

SERVING_THREAD_DEFECT: Final = Message(
    "PEN-6910",
    CRITICAL,
    "a serving thread met an internal error and goes on",
    "A defect of the server, or memory ran out at a bad place. The traceback follows. The request"
    " that the thread had may be lost; the thread takes the next one.",
    "Report the traceback as a bug of Penstock. Where it says MemoryError, give the worker more"
    " memory or fewer threads.",
)

# -- 7: the supervisor --------------------------------------------------------------------------

SUPERVISOR_LOG_NOT_RENEWED: Final = Message(
    "PEN-7110",
    ERROR,
    "the supervisor goes on with its old log: %(error)s (settings: error_logfile, log_level)",
    "A reload changed where the error log goes. The workers use the new place; the supervisor could"
    " not open it.",
    "Correct what the error names, then reload again.",
)

MESSAGES: Final = {
    name: value for name, value in list(globals().items()) if isinstance(value, Message)
}
"""Every message by its name in this module, in the order of the declarations."""
