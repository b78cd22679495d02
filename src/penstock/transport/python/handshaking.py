"""The handshake of TLS, before the first request."""

from __future__ import annotations

from selectors import EVENT_READ, EVENT_WRITE
from typing import TYPE_CHECKING

from penstock.http1 import ProtocolError
from penstock.telemetry.scoreboard import HANDSHAKES, HANDSHAKES_FAILED, RESUMPTIONS
from penstock.transport.python.stream import HandshakeFailed, PlainHttp
from penstock.transport.states import Phase

if TYPE_CHECKING:
    from penstock.transport.python.connection import Connection
    from penstock.transport.python.exchange import PythonExchange


def begin(connection: Connection) -> None:
    """Expect a TLS handshake before the first request."""
    connection.phase = Phase.HANDSHAKING
    connection.deadline = connection.loop.now + connection.loop.config.tls_handshake_timeout


def _count_failed(connection: Connection, reason: str) -> None:
    connection.loop.slot_words[HANDSHAKES_FAILED] += 1
    connection.loop.request_log.handshake_failed(connection.remote_addr, reason)


def go_on(connection: Connection) -> PythonExchange | None:
    """Go on with a handshake; return the first request where it has come already."""
    loop, stream = connection.loop, connection.stream
    assert stream.secure
    try:
        complete = stream.handshake()
    except PlainHttp:
        connection.refuse_in_plain(ProtocolError(400, loop.config.plain_http))
        return None
    except HandshakeFailed as error:
        if not (reason := str(error)):
            connection.close()
            return None
        _count_failed(connection, reason)
        # The request may come already, and a reset would take the alert from the client.
        connection.stream = stream.in_plain()
        connection.traffic = connection.stream.traffic
        loop.heads.pop(connection, None)
        connection.linger()
        return None
    if not complete:
        if stream.greeted and connection not in loop.heads:
            connection.since = loop.now
            loop.head_begins(connection)
        if connection.phase is Phase.HANDSHAKING:  # else evicted by that
            loop.watch(connection, EVENT_READ | (EVENT_WRITE if stream.has_unsent else 0))
        return None
    loop.slot_words[HANDSHAKES] += 1
    if stream.has_resumed:
        loop.slot_words[RESUMPTIONS] += 1
    loop.heads.pop(connection, None)
    connection.base_environ = connection.base_environ | stream.environ()
    connection.begin_reading()
    loop.watch(connection, EVENT_READ)
    return connection.advance() if connection.take_decrypted() else None


def expire(connection: Connection) -> None:
    """Close a connection whose handshake is not complete in time.

    A client that has sent nothing is no failure: browsers connect for requests that they then do
    not make.
    """
    if connection.stream.secure and connection.stream.greeted:
        _count_failed(connection, "it took too long (setting: tls_handshake_timeout)")
    connection.close()
