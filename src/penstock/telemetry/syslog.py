"""Syslog: records of the error log and lines of the access log as messages of RFC 3164 or RFC 5424.

The settings are gunicorn's, and those that it lacks. docs/logging.md describes them.
"""

from __future__ import annotations

import os
import re
import socket
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from penstock import messages
from penstock.errors import SettingsError
from penstock.telemetry.access_log_format import MONTHS
from penstock.telemetry.error_log import json_of
from penstock.telemetry.log_daemons import INFO, LogDaemon, loss_notice, severity
from penstock.telemetry.message_socket import MessageSocket, Place

if TYPE_CHECKING:
    import logging
    from collections.abc import Sequence

    from penstock.config.settings import Settings
    from penstock.telemetry.request_finished import RequestFinished

FACILITIES: Final = {
    "kern": 0, "user": 1, "mail": 2, "daemon": 3, "auth": 4, "security": 4, "syslog": 5, "lpr": 6,
    "news": 7, "uucp": 8, "cron": 9, "authpriv": 10, "ftp": 11,
    **{f"local{number}": 16 + number for number in range(8)},
}  # fmt: skip
"""The numbers of RFC 5424, section 6.2.1, by gunicorn's names."""

PORT: Final = 514

MAX_TEXT_BYTES: Final = 7900
"""rsyslog takes messages of 8 KiB unless it is set to more. The middle of a longer text is left
out: a traceback names the exception in its last line."""
KEPT_END_BYTES: Final = 3000

_LONGEST_APP_NAME: Final = 48
_ADDRESS: Final = re.compile(
    r"(?:(udp|tcp)://(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]*)(?::([0-9]{1,5}))?"
    r"|unix://(/[^\0#]*)(?:#(dgram|stream))?)"
)
_NOT_IN_TAG: Final = re.compile(r"[^!-9;-Z\\^-~]")  # visible, without : and [ and ]


class Target(NamedTuple):
    """Where messages go."""

    protocol: str
    """``udp``, ``tcp``, ``dgram`` or ``stream``; the last two are those of unix sockets."""
    host: str
    """The path of a unix socket."""
    port: int

    @classmethod
    def of(cls, address: str) -> Target:
        """Return the target of an address. Raises ValueError for text that is none."""
        match = _ADDRESS.fullmatch(address)
        if match is None:
            raise ValueError(address)
        protocol, host, port, path, kind = match.groups()
        if path is not None:
            return cls(kind or "dgram", path, 0)
        number = PORT if port is None else int(port)
        if not 0 < number < 1 << 16:
            raise ValueError(address)
        return cls(protocol, host.strip("[]") or "localhost", number)

    @property
    def is_unix(self) -> bool:
        """Whether it is a unix socket."""
        return self.protocol in ("dgram", "stream")

    @property
    def ends_with_line(self) -> bool:
        """Whether it is a stream, where messages have to be told apart."""
        return self.protocol in ("tcp", "stream")


_found: dict[str, list[tuple[int, tuple[object, ...]]]] = {}
"""Families and addresses by name. Workers have those that were found before they were forked."""

_LOCAL: Final = "localhost"
"""A file of the machine has it: to look it up takes no time."""


def look_up(settings: Settings, *, may_wait: bool = True) -> tuple[Place, ...]:
    """Return where the settings send messages to. Raises `SettingsError` for an unknown name.

    A name is looked up where that ``may_wait``, and otherwise known from the last time.
    """
    target = Target.of(settings.log_syslog_to)
    kind = socket.SOCK_STREAM if target.ends_with_line else socket.SOCK_DGRAM
    host = target.host
    if target.is_unix:
        return (Place(socket.AF_UNIX, kind, host),)
    if may_wait or host not in _found:
        flags = 0 if may_wait or host == _LOCAL else socket.AI_NUMERICHOST
        try:
            found = socket.getaddrinfo(host, target.port, 0, kind, 0, flags)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            if not may_wait:
                reason = "another name is looked up at a start or an upgrade, and not at a reload"
            raise SettingsError(
                f"bad value {settings.log_syslog_to!r} for log_syslog_to (from "
                f"{settings.source_of('log_syslog_to')}): {reason}"
            ) from None
        # Those of IPv4 first: many daemons take no others, and nothing reports a lost datagram.
        found.sort(key=lambda each: each[0] != socket.AF_INET)
        _found[host] = [(int(family), tuple[Any, ...](place)) for family, *_, place in found]
    return tuple(
        Place(family, kind, (address[0], target.port, *address[2:]))
        for family, address in _found[host]
    )


class Syslog(LogDaemon):
    """A syslog daemon: see `penstock.telemetry.log_daemons.LogDaemon`."""

    takes_error_log = True
    setting = "log_syslog_to"
    needs_requests = False

    def __init__(
        self,
        target: Target,
        places: Sequence[Place],
        *,
        format: str = "rfc3164",
        facility: int = 1,
        prefix: str = "",
        takes_access_log: bool = True,
        json: bool = False,
    ) -> None:
        """Set how messages look: ``prefix`` is part of the program's name in them.

        ``format`` is rfc3164 or rfc5424; with ``json`` the text of a record is an object of JSON.
        """
        self.takes_access_log = takes_access_log
        self._json = json
        self._target = target
        self._facility = facility * 8
        self._is_modern = format == "rfc5424"
        self._host = _NOT_IN_TAG.sub("-", socket.gethostname()) or "-"
        name = f"penstock.{prefix}" if prefix else "penstock"
        self._name = _NOT_IN_TAG.sub(".", name)
        self._socket = MessageSocket(places, notice=self._notice)

    @classmethod
    def of(cls, settings: Settings) -> Syslog:
        """Return the daemon that the settings name. Raises `SettingsError`."""
        return cls(
            Target.of(settings.log_syslog_to),
            look_up(settings, may_wait=False),
            format=settings.log_syslog_format,
            facility=FACILITIES[settings.log_syslog_facility],
            prefix=settings.log_syslog_prefix or settings.name or "",
            takes_access_log=settings.log_syslog_access,
            json=settings.error_logformat == "json",
        )

    def take_record(self, record: logging.LogRecord, text: str) -> bool:
        """Send a record; return False, as the log's file gets it, too."""
        if self._json:
            text = json_of(record)
        identifier = getattr(record, "message_id", None) or "-"
        message = self.message("error", severity(record.levelno), text, identifier, record.created)
        self._socket.send(message)
        return False

    def take_text(self, text: str) -> bool:
        """Send what the application wrote; return False."""
        self._socket.send(self.message("error", INFO, text, "-", time.time()))
        return False

    def take_line(self, line: str, request: RequestFinished | None, patience: float) -> bool:
        """Send a line of the access log; return False, as its file gets it, too."""
        message = self.message("access", INFO, line, "access", time.time())
        self._socket.send(message, patience=patience)
        return False

    def name_worker(self, number: int) -> None:
        """Do nothing: the process id is in each message."""

    def message(self, log: str, level: int, text: str, identifier: str, created: float) -> bytes:
        """Return a message as it is sent, with what tells it from the next one on a stream."""
        priority, pid = self._facility + level, os.getpid()
        body = _shortened(text.rstrip("\r\n").replace("\0", "\\x00"))
        if self._is_modern:
            utc = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(created))
            name = f"{self._name[: _LONGEST_APP_NAME - 1 - len(log)]}.{log}"
            # A mark at the beginning says that it is UTF-8: section 6.4.
            head = (
                f"<{priority}>1 {utc}.{int(created * 1e6) % 1_000_000:06}Z {self._host} {name}"
                f" {pid} {identifier} - \ufeff"
            )
            message = head.encode() + body
            if self._target.ends_with_line:  # RFC 6587, section 3.4.1
                return b"%d %b" % (len(message), message)
            return message
        local = time.localtime(created)
        month = MONTHS[local.tm_mon - 1]
        when = f"{month} {local.tm_mday:2} {time.strftime('%H:%M:%S', local)}"
        # A daemon on the same machine knows its name, and expects none, as of syslog(3).
        host = "" if self._target.is_unix else f"{self._host} "
        message = f"<{priority}>{when} {host}{self._name}.{log}[{pid}]: ".encode() + body
        if self._target.ends_with_line:  # RFC 6587, section 3.4.2; the escape is rsyslog's
            return message.replace(b"\n", b"#012") + b"\n"
        return message

    def _notice(self, count: int) -> bytes:
        identifier = messages.LINES_NOT_WRITTEN.id
        return self.message("error", 4, loss_notice(count), identifier, time.time())


def _shortened(text: str) -> bytes:
    """Return text in UTF-8, without its middle where it is too long."""
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= MAX_TEXT_BYTES:
        return data
    left_out = b"\n  ... %d bytes left out ...\n"
    begin = data[: MAX_TEXT_BYTES - KEPT_END_BYTES - len(left_out) - 10]
    count = len(data) - len(begin) - KEPT_END_BYTES
    kept = begin.decode(errors="ignore").encode() + left_out % count
    return kept + data[-KEPT_END_BYTES:].decode(errors="ignore").encode()
