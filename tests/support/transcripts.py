"""Two servers in one process, one for each transport, and what each says to the same bytes."""

from __future__ import annotations

import fcntl
import re
import select
import socket
import struct
import termios
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from wsgiref.types import WSGIApplication

import penstock
from penstock.api import RunningServer
from support.serving import connect, descriptors, eventually
from support.wire import DEADLINE, Client

SILENT = {"error_logfile": "/dev/null", "log_level": "critical", "access_logfile": None}

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_DATE = re.compile(rb"\r\nDate: [^\r]*")
_STATUS = re.compile(rb"HTTP/1\.1 ([0-9]{3})")


@dataclass(frozen=True)
class Transcript:
    """All that a server sent on one connection, and how it ended it."""

    sent: bytes
    """With the value of Date struck out."""
    end: str
    """``"closed"``, or ``"reset"``: by TCP alone, a unix socket does not show it reliably."""

    def first_status(self) -> int:
        """Return the status of the first response; 0 where there is none."""
        match = _STATUS.match(self.sent)
        return int(match[1]) if match else 0


@dataclass(frozen=True)
class Pair:
    """A server on each transport; both call one application."""

    python: RunningServer
    native: RunningServer

    def servers(self) -> tuple[RunningServer, RunningServer]:
        """Return both: the reference first."""
        return self.python, self.native


@contextmanager
def pair(application: WSGIApplication, folder: Path, **by_name: Any) -> Iterator[Pair]:
    """Run the servers for as long as the block lasts; each has a TCP port and a unix socket.

    In the end neither has a connection left, nor a descriptor.
    """
    before = descriptors()
    with ExitStack() as stack:
        servers = [
            stack.enter_context(
                penstock.running(
                    application,
                    transport=name,
                    bind=["127.0.0.1:0", f"unix:{folder / name}"],
                    **SILENT,
                    **by_name,
                )
            )
            for name in ("python", "native")
        ]
        yield Pair(*servers)
        for server in servers:
            eventually(partial(_is_unconnected, server))
    assert descriptors() == before


def _is_unconnected(server: RunningServer) -> bool:
    return bool(server.snapshot()["connections"] == 0)


def transcript(server: RunningServer, blocks: list[bytes], *, paced_by: Path | None) -> Transcript:
    """Send ``blocks``, then the end; return what comes back.

    ``paced_by`` is the folder of the servers' unix sockets: there a client can see when the
    server has read a block, so that each block is read by itself. None sends by TCP.
    """
    client = connect(server) if paced_by is None else Client(str(paced_by))
    received = bytearray()
    with client:
        try:
            for block in blocks:
                client.send(block)
                if paced_by is not None:
                    _wait_until_read(client.socket, received)
            client.end_sending()
        except TimeoutError:
            raise
        except OSError:
            pass  # closed, or reset: what was said before is there to be read
        end = _read_to_end(client.socket, received)
    if paced_by is not None:
        end = "closed"
    return Transcript(_DATE.sub(b"\r\nDate: *", bytes(received)), end)


def _wait_until_read(sock: socket.socket, received: bytearray) -> None:
    """Wait until the server has read all; take what it sends, for which it may wait itself."""
    deadline = time.monotonic() + DEADLINE
    while struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, b"\0\0\0\0"))[0]:
        assert time.monotonic() < deadline, "the server has not read what was sent"
        if select.select([sock], [], [], 0)[0]:  # which also lets the server's threads run
            received += sock.recv(65536)


def _read_to_end(sock: socket.socket, received: bytearray) -> str:
    while True:
        try:
            data = sock.recv(65536)
        except ConnectionResetError:
            return "reset"
        if not data:
            return "closed"
        received += data
