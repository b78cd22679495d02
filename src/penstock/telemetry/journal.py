"""systemd's journal, in its own protocol: a datagram of fields for each record.

See https://systemd.io/JOURNAL_NATIVE_PROTOCOL/. A message that is too long for a datagram goes in a
sealed file in memory, whose descriptor is sent.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from array import array
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from penstock import messages
from penstock.telemetry.error_log import request_in
from penstock.telemetry.log_daemons import INFO, LogDaemon, loss_notice, severity
from penstock.telemetry.message_socket import MessageSocket, Place, send_now

if TYPE_CHECKING:
    import logging

    from penstock.telemetry.request_finished import RequestFinished

_TOO_LONG: Final = (errno.EMSGSIZE, errno.ENOBUFS)


def encoded(fields: Mapping[str, object]) -> bytes:
    """Return fields as the protocol has them; their names are capitals, digits and underscores."""
    parts = []
    for name, value in fields.items():
        data = str(value).encode("utf-8", "backslashreplace")
        if b"\n" in data:
            parts.append(b"%b\n%b%b\n" % (name.encode(), len(data).to_bytes(8, "little"), data))
        else:
            parts.append(b"%b=%b\n" % (name.encode(), data))
    return b"".join(parts)


def send(connected: socket.socket, data: bytes) -> int:
    """Send a datagram, or the descriptor of a file with its content. Raises OSError."""
    try:
        return send_now(connected, data)
    except OSError as error:
        if error.errno not in _TOO_LONG:
            raise
    descriptor = os.memfd_create("penstock-log", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        # The journal maps the file, and takes none that could change under it.
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [descriptor]))]
        connected.sendmsg([], rights, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    finally:
        os.close(descriptor)
    return len(data)


class Journal(LogDaemon):
    """The journal: see `penstock.telemetry.log_daemons.LogDaemon`.

    While it cannot be reached, logs go where they go without it.
    """

    setting = "log_journal"
    needs_requests = True

    def __init__(
        self,
        path: str,
        *,
        identifier: str = "penstock",
        takes_error_log: bool = True,
        takes_access_log: bool = True,
    ) -> None:
        """Set the socket, and the ``SYSLOG_IDENTIFIER`` of all records."""
        self.takes_error_log = takes_error_log
        self.takes_access_log = takes_access_log
        self._always: dict[str, object] = {"SYSLOG_IDENTIFIER": identifier}
        self._socket = MessageSocket(
            [Place(socket.AF_UNIX, socket.SOCK_DGRAM, path)],
            notice=self._notice,
            send=send,
            keeps=False,
        )

    def take_record(self, record: logging.LogRecord, text: str) -> bool:
        """Send a record with its fields; return False where the journal cannot be reached."""
        fields: dict[str, object] = {
            "LOGGER": record.name,
            "CODE_FILE": record.pathname,
            "CODE_LINE": record.lineno,
            "CODE_FUNC": record.funcName,
            "THREAD_NAME": record.threadName,
        }
        if identifier := getattr(record, "message_id", None):
            fields["PENSTOCK_ID"] = identifier
        if request := request_in(text):
            fields["REQUEST_ID"] = request
        return self._socket.send(self._entry("error", severity(record.levelno), text, **fields))

    def take_text(self, text: str) -> bool:
        """Send what the application wrote; return the same."""
        return self._socket.send(self._entry("error", INFO, text, LOGGER="wsgi.errors"))

    def take_line(self, line: str, request: RequestFinished | None, patience: float) -> bool:
        """Send a line with some fields of its request; return the same."""
        fields: dict[str, object] = {}
        if request is not None:
            fields = {
                "REQUEST_ID": request.request_id,
                "HTTP_STATUS": request.status,
                "DURATION": f"{request.duration:.6f}",
            }
            if request.client_addr:
                fields["CLIENT_ADDRESS"] = request.client_addr
        return self._socket.send(self._entry("access", INFO, line, **fields), patience=patience)

    def name_worker(self, number: int) -> None:
        """Have the number of the worker in each record."""
        self._always = {**self._always, "WORKER": number}

    def _notice(self, count: int) -> bytes:
        identifier = messages.LINES_NOT_WRITTEN.id
        return self._entry("error", 4, loss_notice(count), PENSTOCK_ID=identifier)

    def _entry(self, log: str, priority: int, text: str, **fields: object) -> bytes:
        first = {"MESSAGE": text.rstrip("\r\n"), "PRIORITY": priority, "PENSTOCK_LOG": log}
        return encoded({**first, **self._always, **fields})
