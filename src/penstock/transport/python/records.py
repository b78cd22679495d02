"""What is said of an exchange, or of a request that was refused, in the logs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from penstock.telemetry.access_log import Transaction

if TYPE_CHECKING:
    from penstock.http1 import ProtocolError
    from penstock.transport.python.connection import Connection
    from penstock.transport.python.exchange import PythonExchange


def exchange_record(exchange: PythonExchange, reason: str) -> Transaction:
    """Return the access log's record of an exchange; ``reason`` tells what cut it short."""
    request, connection = exchange.request, exchange.connection
    lost = connection.output.lost if connection.output is not None else 0
    return Transaction(
        client_addr=connection.remote_addr,
        client_port=connection.remote_port,
        method=request.method,
        target=request.target,
        version=request.version,
        request_line=f"{request.method} {request.target} {request.version}",
        status=int(exchange.status[:3] or connection.loop.config.client_left_status),
        bytes_in=exchange.body_received,
        bytes_out=max(0, exchange.body_sent - lost),
        duration=time.monotonic() - connection.began,
        finished_at=time.time(),
        request_id=exchange.request_id,
        request_fields=request.fields,
        response_headers=exchange.response_headers,
        environ=exchange.environ,
        reason=reason or exchange.reason,
    )


def refusal_record(
    connection: Connection, error: ProtocolError, request_id: str, bytes_in: int, bytes_out: int
) -> Transaction:
    """Return the access log's record of a request that was refused; sizes are of the bodies."""
    request = connection.request
    line = refused_line(connection, error)
    method, target, version = line.split(" ") if line.count(" ") == 2 else ("-", "-", "-")
    return Transaction(
        client_addr=connection.remote_addr,
        client_port=connection.remote_port,
        method=method,
        target=target,
        version=version,
        request_line=line or "-",
        status=error.status,
        bytes_in=bytes_in,
        bytes_out=bytes_out,
        duration=connection.loop.now - connection.began,
        finished_at=time.time(),
        request_id=request_id,
        request_fields=request.fields if request is not None else error.fields,
        response_headers=[],
        environ=None,
        reason=error.reason,
    )


def refused_line(connection: Connection, error: ProtocolError) -> str:
    """Return the request line of a request that was refused; empty if it had not arrived."""
    request = connection.request
    if request is None:
        return error.request_line
    return f"{request.method} {request.target} {request.version}"


def refusal_message(connection: Connection, error: ProtocolError, request_id: str) -> str:
    """Return the error log's line for a request that was refused, or lost with its client."""
    cause = error.__cause__
    because = f" {cause.strerror or cause}." if isinstance(cause, OSError) else ""
    line = refused_line(connection, error)
    notes = [
        f'"{line[:200]}"' if line else "",
        error.rule,
        f"setting: {error.setting}" if error.setting else "",
        f"request {request_id}",
    ]
    what = "lost" if error.status == connection.loop.config.client_left_status else "refused"
    return (
        f"{what} a request from "
        f"{connection.remote_addr or 'a unix socket'}: "
        f"{error.status} {error.reason}{because} ({'; '.join(filter(None, notes))})"
    )


def cut_off_message(exchange: PythonExchange, reason: str) -> str:
    """Return the error log's line for a response that the client did not get whole."""
    request = exchange.request
    return (
        f"{request.method} {request.target} (request {exchange.request_id}) for "
        f"{exchange.connection.remote_addr or 'a unix socket'}: {reason}"
    )
