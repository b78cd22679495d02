"""Having the disk's thread write what has come of a body. Meanwhile its connection is not read."""

from __future__ import annotations

from functools import partial
from selectors import EVENT_READ
from typing import TYPE_CHECKING

from penstock.http1 import State
from penstock.transport.decisions import body_room, disk_is_full
from penstock.transport.python.body_clock import BodyClock
from penstock.transport.spool import no_room
from penstock.transport.states import Phase

if TYPE_CHECKING:
    from penstock.transport.python.connection import Connection
    from penstock.transport.python.exchange import PythonExchange
    from penstock.transport.spool import BodySpool


def unwritten(connection: Connection) -> int:
    """Return how many bytes of the body that is being read have to be written to its file."""
    if (
        connection.phase is not Phase.READING
        or connection.exchange is None
        or connection.exchange.spool is None
    ):
        return 0
    return connection.exchange.spool.unwritten


def room(connection: Connection, most: int) -> int:
    """Return how many bytes of the body may be read now, up to ``most``.

    Where the disk falls behind, these are as many as the memory takes that the connection may
    have for itself.
    """
    loop = connection.loop
    if not disk_is_full(loop.config, loop.disk.held):
        return most
    assert connection.exchange is not None
    if connection.exchange.spooled:
        return 0
    return min(most, body_room(loop.config, connection.exchange.held, loop.budget.bodies))


def store(connection: Connection) -> None:
    """Have written what has come of the body, and read no more until that is done.

    With nothing to write, the connection waits for its turn behind what others have written.
    """
    loop = connection.loop
    exchange = connection.exchange
    assert exchange is not None
    assert exchange.spool is not None
    if connection.awaited is not State.BODY:
        # All of the body came together with the head.
        connection.awaited = State.BODY
        connection.since = loop.now
        connection.body_clock = BodyClock(loop.config, loop.now)
    connection.phase = Phase.STORING
    connection.storing_since = loop.now
    # The client is not blamed for the disk's time, and yet no body lasts for ever.
    connection.deadline = connection.since + loop.config.max_body_time
    loop.watch(connection, connection.output_mask())
    spool = exchange.spool
    try:
        write = partial(_write_out, connection, spool)
        loop.disk.run(write, spool.unwritten, loop.config.max_connections)
    except OSError as error:
        connection.refuse(no_room(error))


def _write_out(connection: Connection, spool: BodySpool) -> None:
    """Write a part of the body, in the disk's thread."""
    spool.write_out()
    connection.stored = True
    connection.loop.post(connection)
    connection.loop.hurry()


def go_on(connection: Connection) -> PythonExchange | None:
    """Go on with a body of which a part was written, or could not be."""
    loop = connection.loop
    exchange = connection.exchange
    assert exchange is not None
    assert exchange.spool is not None
    connection.stored = False
    connection.phase = Phase.READING
    error = exchange.spool.error
    if error is not None:
        connection.refuse(no_room(error))
        return None
    loop.watch(connection, EVENT_READ | connection.output_mask())
    if connection.parser.state is State.DONE:
        return connection.complete()
    assert connection.body_clock is not None
    connection.body_clock.stored(loop.now - connection.storing_since)
    connection.deadline = connection.body_clock.deadline
    return connection.read()
