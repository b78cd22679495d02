"""What a front-end sends before all else: a PROXY header, or a packet of the uwsgi protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.edge import proxy_protocol, uwsgi
from penstock.http1 import ProtocolError
from penstock.transport.python import handshaking
from penstock.transport.python.clients import named
from penstock.transport.states import Phase

if TYPE_CHECKING:
    from penstock.transport.python.connection import Connection
    from penstock.transport.python.exchange import PythonExchange


def expect_header(connection: Connection) -> None:
    """Expect a PROXY header before all else."""
    connection.phase = Phase.AWAITING_PROXY
    connection.deadline = connection.loop.now + connection.loop.config.header_timeout


def go_on(connection: Connection) -> PythonExchange | None:
    """Read on; return the first request where it has come already."""
    if connection.packet is not None:
        return _read_packet(connection, connection.packet)
    return _read_header(connection)


def _read_header(connection: Connection) -> PythonExchange | None:
    """Take the bytes of the header, and none behind it: those may be TLS."""
    config = connection.loop.config
    most = config.proxy_header_bytes
    try:
        while True:
            there = connection.stream.peek_raw(most)
            if not there:
                if connection.header:
                    raise proxy_protocol.malformed()
                connection.close()
                return None
            size, complete = proxy_protocol.scan(
                connection.header + there, config.proxy_versions, most
            )
            connection.header += connection.stream.recv_raw(size - len(connection.header))
            if complete:
                return _go_on_behind(connection, proxy_protocol.parse(connection.header))
    except (BlockingIOError, InterruptedError):
        return None
    except ProtocolError as error:
        connection.refuse_in_plain(error)
    except OSError:
        connection.close()
    return None


def _go_on_behind(
    connection: Connection, header: proxy_protocol.ProxyHeader
) -> PythonExchange | None:
    """Go on with what comes behind a PROXY header."""
    if not _be_client(connection, header.address, header.port, header.variables):
        return None
    if connection.stream.secure:
        handshaking.begin(connection)
        return handshaking.go_on(connection)
    connection.begin_reading()
    return connection.read()


def _be_client(connection: Connection, address: str, port: str, variables: dict[str, str]) -> bool:
    """Be the connection of a client that a proxy names; empty text is none.

    Return False, with the connection closed, if that client may not connect.
    """
    loop = connection.loop
    connection.header = b""
    # Where no client is named, its fields are not the proxy's own: it only passes them on.
    connection.trusted = False
    if address:
        admitted, connection.client_key = loop.clients.admit(address)
        if not admitted:
            connection.close()
            return False
        connection.remote_addr, connection.remote_port = address, port
        connection.peer = named(address, port)
        connection.trusted = loop.config.forwarded.peers.trusts(address)
    connection.proxied = variables
    return True


def expect_packet(connection: Connection) -> None:
    """Expect a packet of the uwsgi protocol, and one request by it."""
    expect_header(connection)
    connection.packet = bytearray()


def _read_packet(connection: Connection, packet: bytearray) -> PythonExchange | None:
    """Take the bytes of the packet, and none behind it: those are the body's."""
    config = connection.loop.config
    try:
        while True:
            size = uwsgi.scan(packet[: uwsgi.HEADER_BYTES], config.parser.head)
            if len(packet) == size and size > uwsgi.HEADER_BYTES:
                whole = bytes(packet)
                packet.clear()
                id_length = config.forwarded.request_id_length
                return _take_packet(connection, uwsgi.parse(whole, id_length))
            data = connection.stream.recv_raw(size - len(packet))
            if not data:
                if packet:
                    raise uwsgi.malformed()
                connection.close()
                return None
            packet += data
    except (BlockingIOError, InterruptedError):
        pass
    except ProtocolError as error:
        connection.refuse(error)
    except OSError:
        connection.close()
    return None


def _take_packet(connection: Connection, packet: uwsgi.Packet) -> PythonExchange | None:
    """Go on with the request of a packet as with one of HTTP."""
    if not _be_client(connection, packet.address, packet.port, packet.variables):
        return None
    connection.said = packet.said
    connection.begin_reading()
    connection.receive(packet.head)
    return connection.advance()


def expire(connection: Connection) -> None:
    """Refuse a connection whose header or packet has not come in time."""
    if not connection.header and not connection.packet:
        connection.close()
        return
    what = "PROXY header" if connection.packet is None else "uwsgi packet"
    reason = f"The {what} did not arrive within {connection.loop.config.header_timeout:g} s."
    connection.refuse_in_plain(ProtocolError(408, reason, setting="header_timeout"))
