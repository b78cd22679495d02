"""What is reported of finished requests: their records, for the observers, and log lines."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from penstock.telemetry.request_finished import (
    NOTHING,
    TRACE_ID,
    Needs,
    RequestFinished,
    wanted_fields,
    wanted_variables,
)
from penstock.telemetry.scoreboard import SPOOL_FULL, note_end
from penstock.transport.notable import EndedCall

if TYPE_CHECKING:
    from penstock.http1 import ProtocolError
    from penstock.telemetry.request_finished import Ended
    from penstock.transport.python.connection import Connection
    from penstock.transport.python.exchange import PythonExchange


def _finished_exchange(exchange: PythonExchange, reason: str, needs: Needs) -> RequestFinished:
    """Return the record of an exchange; ``reason`` is why it was cut short, or empty."""
    request, connection = exchange.request, exchange.connection
    lost = connection.output.lost if connection.output is not None else 0
    ended = _how_ended(exchange, reason)
    fields = request.fields
    # In the order of the fields: by name, this takes a tenth of what a plain request takes.
    # And without `_make`, which is Python code.
    return tuple.__new__(
        RequestFinished,
        (
            exchange.request_id,
            exchange.client_addr,
            exchange.client_port,
            request.method,
            request.target,
            request.version,
            f"{request.method} {request.target} {request.version}",
            exchange.code or connection.loop.config.client_left_status,
            exchange.body_received,
            max(0, exchange.body_sent - lost),
            ended,
            reason or exchange.reason,
            time.time(),
            time.monotonic(),
            exchange.began,
            connection.accepted_at,
            exchange.head_at,
            exchange.body_at,
            exchange.handed_out_at / 1e9 or None,
            exchange.first_byte_at,
            {name: fields[name] for name in needs.request_fields if name in fields},
            wanted_fields(needs.response_fields, exchange.response_headers)
            if needs.response_fields
            else NOTHING,
            wanted_variables(needs.environ, exchange.environ) if needs.environ else NOTHING,
            exchange.trace.transcript() if exchange.trace is not None else None,
            exchange.queue_time,
            connection.stream.remote_addr,
        ),
    )


def _how_ended(exchange: PythonExchange, reason: str) -> Ended:
    if not reason:
        return "complete"
    if exchange.connection.stream.client_gone.known or not exchange.status:
        return "disconnected"
    return "aborted" if exchange.handed_out_at else "refused"


def note_call(
    exchange: PythonExchange, entry: memoryview, duration: int, reason: str, unsent: bool
) -> None:
    """Write down how a call has ended that is no fast one with a 200, and report a notable one.

    ``entry`` is its place on the scoreboard, ``duration`` is in nanoseconds; with ``unsent`` the
    client has yet to read some of the response.
    """
    note_end(entry, duration, exchange.code)
    loop = exchange.connection.loop
    notable = loop.config.notable
    if notable is not None and (duration >= loop.notable_ns or exchange.code >= 500 or reason):
        request = exchange.request
        notable.call_ended(
            EndedCall(
                request.method,
                request.target,
                request.version,
                exchange.client_name.decode("latin-1"),
                exchange.request_id,
                exchange.environ.get(TRACE_ID),
                duration,
                0.0 if unsent and not reason else time.monotonic() - exchange.began,
                exchange.code,
                reason or exchange.reason,
                _how_ended(exchange, reason) == "aborted",
            )
        )


def report_exchange(exchange: PythonExchange, reason: str) -> None:
    """Hand an exchange that is over to the observers; ``reason`` is why it was cut short."""
    observers = exchange.connection.loop.observers
    if observers is not None:
        observers.add(_finished_exchange(exchange, reason, observers.needs))


def log_cut_off(exchange: PythonExchange, reason: str) -> None:
    """Log a response that the client did not get whole."""
    request, log = exchange.request, exchange.connection.loop.request_log
    log.cut_off(request.method, request.target, exchange.request_id, reason)


def log_host_replaced(exchange: PythonExchange) -> None:
    """Log a request whose target names another host than its Host field."""
    request = exchange.request
    exchange.connection.loop.request_log.host_replaced(
        exchange.client_addr, request.target, request.replaced_host, exchange.request_id
    )


def log_refused(exchange: PythonExchange, error: ProtocolError) -> None:
    """Log a whole request that the server has refused."""
    loop = exchange.connection.loop
    loop.refused += 1
    _log_refusal(exchange.connection, error, exchange.request_id, exchange.client_addr)


def report_refusal(
    connection: Connection,
    exchange: PythonExchange | None,
    error: ProtocolError,
    head: bytes = b"",
    body: bytes = b"",
    *,
    request_id: str = "",
) -> None:
    """Log a request that was refused, and hand it to the observers.

    ``exchange`` is None where the request was refused in its head; ``head`` and ``body`` are the
    answer, where the client is there to get one. It gets a ``request_id`` where it has none.
    """
    loop = connection.loop
    if error.status != loop.config.client_left_status:
        loop.refused += 1
    if error.status == 507:
        loop.slot_words[SPOOL_FULL] += 1
    if not request_id:
        request_id = loop.number_request("" if exchange is None else connection.given_id())
    address, port = connection.remote_addr, connection.remote_port
    if exchange is not None:
        address, port = exchange.client_addr, exchange.client_port
    left = _log_refusal(connection, error, request_id, address)
    words = error.request_line.split(" ")
    method, target, protocol = words if len(words) == 3 else ("-", "-", "-")
    began = connection.head_began() if exchange is None else exchange.began
    loop.histograms.add_refused(words[0], error.status, protocol, loop.now - began)
    if loop.observers is None:
        return
    trace = None
    if connection.trace is not None:
        trace = connection.trace.in_head() if exchange is None else exchange.trace
        if trace is not None and head:
            trace.answered(head, body)
    loop.observers.add(
        RequestFinished(
            request_id=request_id,
            client_addr=address,
            client_port=port,
            method=method,
            target=target,
            protocol=protocol,
            request_line=error.request_line or "-",
            status=error.status,
            bytes_in=0 if exchange is None else exchange.body_received,
            bytes_out=len(body),
            ended="disconnected" if left else "refused",
            reason=error.reason,
            wall_time=time.time(),
            finished_at=loop.now,
            begun_at=began,
            accepted_at=connection.accepted_at,
            head_at=None if exchange is None else exchange.head_at,
            request_fields=_fields(error.fields, loop.observers.needs),
            transcript=None if trace is None else trace.transcript(),
            peer_addr=connection.stream.remote_addr,
        )
    )


def _fields(fields: Mapping[str, str], needs: Needs) -> dict[str, str]:
    return {name: fields[name] for name in needs.request_fields if name in fields}


def _log_refusal(
    connection: Connection, error: ProtocolError, request_id: str, client: str
) -> bool:
    """Log that a request was refused; return True if it was lost with its client."""
    loop = connection.loop
    cause = error.__cause__
    left = error.status == loop.config.client_left_status
    loop.request_log.refused(
        client,
        error.request_line,
        request_id,
        error.status,
        error.reason,
        cause=str(cause.strerror or cause) if isinstance(cause, OSError) else "",
        rule=error.rule,
        setting=error.setting,
        host=error.fields.get("host", ""),
        disconnected=left,
        received=error.received or _as_text(error),
    )
    return left


def _as_text(error: ProtocolError) -> bytes:
    """Return the head of a request that the parser has accepted."""
    fields = [f"{name}: {value}" for name, value in error.fields.items()]
    return "\r\n".join([error.request_line, *fields, ""]).encode("latin-1") if fields else b""
