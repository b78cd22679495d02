"""The Python transport without a socket: streams are pairs of buffers, and nothing waits.

The server runs in the test's own thread, whenever the client has sent something or wants to read.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from functools import partial
from selectors import EVENT_READ, EVENT_WRITE
from typing import TYPE_CHECKING, Any

from penstock.listeners import DEFAULT_PORT
from penstock.telemetry.scoreboard import Scoreboard
from penstock.transport.config import TransportConfig
from penstock.transport.python import PythonTransport
from penstock.transport.python.connection import Connection
from penstock.transport.python.event_selector import OtherSelector
from penstock.transport.python.stream import ClientGone, Stream, Traffic
from penstock.wsgi.environ import base_environ
from penstock.wsgi.errors import ErrorStream
from penstock.wsgi.gateway import Gateway
from support.wire import Client

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

DISK_CATCHES_UP_WITHIN = 30.0
"""Seconds in which the disk has done what a test has it do."""

LOGGER = logging.getLogger("penstock.tests")


class NothingToDo(Exception):
    """The server would wait for an event, and the client is the one to cause it."""


class NeverGone(ClientGone):
    """A client that stays."""

    def __init__(self) -> None:
        super().__init__(lambda: -1)

    def __call__(self) -> bool:
        return self.known


class BufferStream(Stream):
    """A stream whose client is in the same thread."""

    def __init__(self) -> None:
        self.incoming = bytearray()
        self.outgoing = bytearray()
        self.input_ended = False
        self.output_ended = False
        self.closed = False
        self.room: int | None = None  # how much more output is taken; None is without a bound
        self.remote_addr, self.remote_port = "192.0.2.1", "1024"
        self.fileno = lambda: -1
        self.traffic = Traffic()
        self.recv = self._recv  # type: ignore[assignment]
        self.recv_into = self._recv_into  # type: ignore[assignment]
        self.send = self._send
        self.client_gone = NeverGone()

    def _recv(self, size: int) -> bytes:
        if not self.incoming and not self.input_ended:
            raise BlockingIOError
        data = bytes(self.incoming[:size])
        del self.incoming[:size]
        return data

    def _recv_into(self, buffer: bytearray) -> int:
        data = self._recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _send(self, data: bytes | memoryview, _flags: int) -> int:
        size = len(data) if self.room is None else min(self.room, len(data))
        if data and not size:
            raise BlockingIOError
        if self.room is not None:
            self.room -= size
        self.outgoing += data[:size]
        return size

    def sendmsg(self, pieces: Sequence[bytes]) -> int:
        return self.send(b"".join(pieces), 0)

    def send_file(self, descriptor: int, offset: int, count: int) -> int:
        return self.send(os.pread(descriptor, count, offset), 0)

    def peek(self) -> bool:
        if not self.incoming and not self.input_ended:
            raise BlockingIOError
        return bool(self.incoming)

    def wait_readable(self, seconds: float) -> bool:
        return bool(self.incoming or self.input_ended)

    def wait_writable(self, seconds: float) -> bool:
        return self.room != 0

    def hold_ahead(self, count: int) -> None:
        pass

    def unacknowledged(self) -> int:
        return 0

    def arrived(self) -> int:
        return len(self.incoming)

    def shut_down(self) -> None:
        self.output_ended = True

    def close(self) -> None:
        self.closed = self.output_ended = True

    def reset_on_close(self) -> None:
        pass

    def cut_off(self) -> None:
        self.close()


class BufferSelector(OtherSelector):
    """Knows at once which streams have input, or room for output."""

    def __init__(self) -> None:
        self.watched: dict[Any, tuple[Any, int]] = {}

    def register(self, source: Any, mask: int, handler: Any) -> None:
        self.watched[source] = (handler, mask)

    modify = register

    def unregister(self, source: Any) -> None:
        del self.watched[source]

    def select(self, timeout: float | None) -> list[tuple[Any, int]]:
        found = []
        for stream, (handler, mask) in self.watched.items():
            ready = 0
            if stream.incoming or stream.input_ended:
                ready |= EVENT_READ
            if stream.room != 0:
                ready |= EVENT_WRITE
            if ready & mask:
                found.append((handler, ready & mask))
        if not found and timeout != 0.0:
            raise NothingToDo
        return found

    def close(self) -> None:
        pass


class BufferServer:
    """A transport of one thread whose clients are buffers."""

    def __init__(
        self, application: WSGIApplication, kind: type[Connection] = Connection, **config: Any
    ) -> None:
        slot = Scoreboard(1, 1).take()
        assert slot is not None
        self.transport = PythonTransport((), TransportConfig(**config), slot=slot, logger=LOGGER)
        self.loop = self.transport._loop
        self.loop.selector.close()
        self.loop.selector = BufferSelector()
        self._kind = kind
        self._disk_goes: threading.Event | None = None  # the disk is stopped until it is set
        self._gateway = Gateway(application, logger=LOGGER, transport=self.transport)
        self._environ = base_environ(
            multithread=False,
            multiprocess=False,
            server_name="localhost",
            server_port=str(DEFAULT_PORT),
            errors=ErrorStream(LOGGER.error),
            software="penstock",
        )

    def connect(self) -> BufferClient:
        """Return a client on a new connection."""
        return BufferClient(self)

    def accept(self, stream: BufferStream) -> Connection:
        """Take a stream in, as if it had been accepted."""
        connection = self._kind(self.loop, stream, self._environ)
        self.loop.add(connection)
        return connection

    def serve(self) -> None:
        """Handle all that can be handled now."""
        while True:
            try:
                while (exchange := self.transport.next()) is not None:
                    self._gateway.handle(exchange)
                return
            except NothingToDo:
                pass
            if self._disk_goes is not None:
                return
            # What is written to temporary files is, and then there may be more to do.
            if not self.loop.disk.held and not self.loop._inbox:
                return
            assert self.loop.disk.catch_up(DISK_CATCHES_UP_WITHIN)

    def stop_disk(self) -> None:
        """Have all that is written to temporary files wait."""
        self._disk_goes = threading.Event()
        self.loop.disk.run(partial(_wait, self._disk_goes))

    def start_disk(self) -> None:
        """Let the disk do what has waited."""
        if self._disk_goes is not None:
            self._disk_goes.set()
            self._disk_goes = None

    def close(self) -> None:
        """Close all connections."""
        self.start_disk()
        self.transport.close()


def _wait(event: threading.Event) -> None:
    event.wait()


class _ClientEnd:
    """What `Client` uses of its socket, over the buffers of a stream."""

    def __init__(self, server: BufferServer, stream: BufferStream) -> None:
        self._server = server
        self._stream = stream

    def sendall(self, data: bytes) -> None:
        self._stream.incoming += data
        self._server.serve()

    def shutdown(self, _how: int) -> None:
        self._stream.input_ended = True
        self._server.serve()

    def recv(self, size: int) -> bytes:
        if not self._stream.outgoing:
            self._server.serve()
        data = bytes(self._stream.outgoing[:size])
        del self._stream.outgoing[:size]
        assert data or self._stream.output_ended, "the server waits, and so does the client"
        return data

    def close(self) -> None:
        self._stream.input_ended = True
        self._server.serve()


class BufferClient(Client):
    """A client of a `BufferServer`."""

    def __init__(self, server: BufferServer) -> None:
        self.server = server
        self.stream = BufferStream()
        self.connection = server.accept(self.stream)
        self.socket = _ClientEnd(server, self.stream)  # type: ignore[assignment]
        self.buffer = bytearray()
        self.ended = False
