"""Lines of the access log for requests that ended with their worker.

The worker can write none any more: what is known of its requests is on the scoreboard.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from penstock.errors import SettingsError
from penstock.telemetry.access_log import Transaction, compile_format
from penstock.telemetry.log_sink import LogSink

if TYPE_CHECKING:
    from penstock.config.settings import Settings
    from penstock.telemetry.scoreboard import RequestInProgress

BAD_GATEWAY = 502
"""The status, in the log alone, of a request whose worker crashed."""

GATEWAY_TIMEOUT = 504
"""The status, in the log alone, of a request whose worker was killed because it hung."""

_VERSION = "HTTP/1.1"
"""A scoreboard does not tell the version; clients of 1.0 are few."""


def log_last_lines(
    settings: Settings, requests: Sequence[RequestInProgress], status: int, reason: str
) -> None:
    """Write a line for each request; a log that cannot be opened is the workers' to tell of."""
    if settings.access_logfile is None or not requests:
        return
    try:
        sink = LogSink.open(settings.access_logfile, setting="access_logfile", stream=1)
    except SettingsError:
        return
    line = compile_format(settings.access_logformat)
    for request in requests:
        sink.write(line(_transaction(request, status, reason)))
    sink.close()


def _transaction(request: RequestInProgress, status: int, reason: str) -> Transaction:
    address, _, port = request.client.rpartition(":")
    return Transaction(
        client_addr=address.strip("[]"),
        client_port=port,
        method=request.method,
        target=request.target,
        version=_VERSION,
        request_line=f"{request.method} {request.target} {_VERSION}",
        status=status,
        bytes_in=0,
        bytes_out=0,
        duration=request.age,
        finished_at=time.time(),
        request_id=request.request_id,
        request_fields={},
        response_headers=[],
        reason=reason,
    )
