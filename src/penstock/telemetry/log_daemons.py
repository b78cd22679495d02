"""Syslog and the journal as places of the error log and of the access log.

`penstock.telemetry.error_log.log_daemons` returns those that the settings ask for. Without such a
setting nothing of this is imported.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Final

from penstock import messages

if TYPE_CHECKING:
    import logging

    from penstock.telemetry.message_socket import MessageSocket
    from penstock.telemetry.request_finished import RequestFinished

CLOSE_SECONDS: Final = 0.5
"""How long the last messages of a process may take."""

INFO: Final = 6
"""The severity of RFC 5424 for what is no record of ``logging``."""


class LogDaemon(ABC):
    """A program that keeps logs. All methods are thread-safe, and raise nothing."""

    takes_error_log: bool
    takes_access_log: bool
    setting: ClassVar[str]
    """The setting that names its place."""
    needs_requests: ClassVar[bool]
    """Whether a line of the access log without its request is of little use."""
    _socket: MessageSocket

    @property
    def dropped(self) -> int:
        """How many messages were lost so far."""
        return self._socket.dropped

    @property
    def failure(self) -> str:
        """The reason of the last loss, in words."""
        return self._socket.failure

    @property
    def is_waiting(self) -> bool:
        """Whether messages are queued, so that `pump` is to be called soon."""
        return self._socket.is_waiting

    @abstractmethod
    def take_record(self, record: logging.LogRecord, text: str) -> bool:
        """Send a record of the error log, whose message and traceback are ``text``.

        Return True if it need not be written anywhere else.
        """

    @abstractmethod
    def take_text(self, text: str) -> bool:
        """Send what the application wrote to ``wsgi.errors``; return the same."""

    @abstractmethod
    def take_line(self, line: str, request: RequestFinished | None, patience: float) -> bool:
        """Send a line of the access log, without its end; return the same.

        May wait ``patience`` seconds for room.
        """

    @abstractmethod
    def name_worker(self, number: int) -> None:
        """Say from here on that this process is a worker, and which."""

    def pump(self, patience: float = 0.0) -> None:
        """Send what is queued, as far as that takes at most ``patience`` seconds."""
        self._socket.pump(patience)

    def close(self, patience: float = CLOSE_SECONDS) -> None:
        """Send what is queued, and close the socket."""
        self._socket.close(patience)


def severity(level: int) -> int:
    """Return the severity of RFC 5424 for a level of ``logging``."""
    for least, number in ((50, 2), (40, 3), (30, 4), (20, INFO)):
        if level >= least:
            return number
    return 7


def loss_notice(count: int) -> str:
    """Return the text of the message that reports how many were lost."""
    return messages.LINES_NOT_WRITTEN.render(lines=count)
