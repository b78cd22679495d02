"""The deadlines of a connection, and what happens when one passes."""

from __future__ import annotations

import errno
import math
from typing import TYPE_CHECKING

from penstock.http1 import ProtocolError, State
from penstock.transport.decisions import drain_patience
from penstock.transport.states import Phase

if TYPE_CHECKING:
    from penstock.transport.python.connection import Connection


def await_output(connection: Connection, mask: int) -> None:
    """Wait until the client takes output, within the write deadline; watch the events of `mask`."""
    assert connection.output is not None
    connection.deadline = connection.loop.now + connection.loop.config.write_timeout
    connection.progress = connection.output.acknowledged()
    connection.loop.watch(connection, mask)


def hurry_up(connection: Connection) -> None:
    """Bring the deadline forward where a server that stops need not wait for long."""
    reading = connection.phase is Phase.READING
    in_head = reading and connection.awaited is State.HEAD
    idle = reading and connection.awaited is State.IDLE
    if not (in_head or idle or connection.phase is Phase.LINGERING):
        return
    patience = drain_patience(connection.loop.config, in_head=in_head)
    connection.deadline = min(connection.deadline, connection.loop.now + patience)


def expire(connection: Connection, now: float) -> None:
    """Act on a deadline that has passed at ``now``, with all events before it handled."""
    if connection.phase is Phase.READING:
        _expire_reading(connection)
    elif connection.phase in (Phase.LINGERING, Phase.DISCARDING):
        connection.close()
    elif connection.output is not None and connection.output.size:
        _expire_writing(connection)
    else:
        connection.deadline = math.inf


def _expire_reading(connection: Connection) -> None:
    config = connection.loop.config
    if connection.awaited is State.IDLE:
        connection.close()  # RFC 9112, section 9.5: an idle connection is closed without a word
    elif connection.awaited is State.HEAD and connection.loop.draining:
        connection.refuse(ProtocolError(503, "The server is stopping."))
    elif connection.awaited is State.HEAD:
        error = ProtocolError(
            408,
            f"The request's head did not arrive within {config.header_timeout:g} s.",
            setting="header_timeout",
        )
        error.request_line = connection.parser.request_line
        connection.refuse(error)
    else:
        connection.refuse(
            ProtocolError(
                408,
                f"The request's body came too slowly: {config.body_timeout:g} s and a second "
                f"for each {config.body_min_rate:g} bytes are allowed.",
                setting="body_timeout",
            )
        )


def _expire_writing(connection: Connection) -> None:
    output = connection.output
    assert output is not None
    # A thread that waits for room keeps the deadline itself.
    if connection.awaiting_room or _is_taking_output(connection):
        connection.deadline = connection.loop.now + connection.loop.config.write_timeout
        return
    if connection.phase in (Phase.FLUSHING, Phase.REFUSING):
        connection.report_response("client stalled: write_timeout")
        connection.reset()
    else:
        output.fail(TimeoutError(errno.ETIMEDOUT, "the client takes no data"))
        connection.stream.client_gone.known = True
        connection.deadline = math.inf
        connection.loop.watch(connection, 0)


def _is_taking_output(connection: Connection) -> bool:
    """Return True if the client has read enough since the last call."""
    assert connection.output is not None
    before, connection.progress = connection.progress, connection.output.acknowledged()
    return connection.progress - before >= connection.loop.config.least_progress
