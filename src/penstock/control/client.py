"""The client of the control socket: finds servers, and sends one request with one deadline."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import struct
import threading
import time
from dataclasses import dataclass
from typing import Any

from penstock.control.address import AUTO_NAME, Peer, peer_of, socket_path

PROBE_SECONDS = 1.0
"""For a server that was found to name its application: a supervisor answers at once, or hangs."""

MOST_BYTES = 64 * 1024 * 1024
"""Of a response: the stacks of a thousand workers are smaller."""

SOCKETS = "/proc/net/unix"
"""Where Linux lists the unix sockets of a network namespace (proc(5))."""

_ACCEPTS = 0x10000  # __SO_ACCEPTCON among the flags: the socket listens


class CannotReach(Exception):
    """No server answers at the address; the text says why."""


@dataclass(frozen=True)
class Reply:
    """A response of the server."""

    status: int
    text: str
    """JSON, in ASCII."""
    value: dict[str, Any]
    """The same, parsed."""


@dataclass(frozen=True)
class Found:
    """A server that was found by its abstract name."""

    address: str
    peer: Peer


def find_servers() -> list[Found]:
    """Return the servers that this user may use: its own, and for root all.

    Where containers share a network, the names of other containers are listed, too, but their
    processes cannot be seen: such servers are returned only if there is no other. Raises
    `CannotReach` where the list cannot be read.
    """
    found = []
    for name in _listening_names():
        with contextlib.suppress(OSError, CannotReach):
            sock = _connect(name, PROBE_SECONDS)
            with sock:
                peer = peer_of(sock)
            if peer is not None and (os.geteuid() in (0, peer.uid)):
                found.append(Found(name, peer))
    return [server for server in found if server.peer.pid] or found


def _listening_names() -> list[str]:
    try:
        with open(SOCKETS, encoding="utf-8", errors="surrogateescape") as table:
            rows = [line.split() for line in table][1:]
    except OSError as error:
        raise CannotReach(
            f"cannot look for servers in {SOCKETS}: {error.strerror}; name one with --control"
        ) from None
    # Num RefCount Protocol Flags Type St Inode Path, as proc(5) has it.
    names = {row[7] for row in rows if len(row) == 8 and int(row[3], 16) & _ACCEPTS}
    return sorted(name for name in names if AUTO_NAME.fullmatch(name))


def ask(address: str, method: str, target: str, timeout: float) -> Reply:
    """Send a request, and return the response, all within ``timeout`` seconds.

    Raises `CannotReach`, and `ServerLeft` where the server ended before it answered.
    """
    deadline = time.monotonic() + timeout
    sock = _connect(address, timeout)
    connection = http.client.HTTPConnection("localhost")
    connection.sock = sock
    late = threading.Event()

    def cut_off() -> None:
        late.set()
        with contextlib.suppress(OSError):  # the request has ended already
            sock.shutdown(socket.SHUT_RDWR)

    # A timeout of the socket bounds each read; a response that trickles would have many reads.
    timer = threading.Timer(max(0.0, deadline - time.monotonic()), cut_off)
    timer.daemon = True
    timer.start()
    try:
        connection.request(method, target)
        response = connection.getresponse()
        if response.length is None or response.length > MOST_BYTES:
            raise _not_ours(address)
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        if late.is_set() or isinstance(error, TimeoutError):
            raise CannotReach(f"no answer from {address} within {timeout:g} s") from None
        if isinstance(error, (OSError, http.client.IncompleteRead)):
            raise ServerLeft(f"the server at {address} ended without an answer") from None
        raise _not_ours(address) from None
    finally:
        timer.cancel()
        connection.close()
        sock.close()
    return _read(address, response.status, body)


class ServerLeft(CannotReach):
    """The connection ended before the response: the server has ended."""


def _read(address: str, status: int, body: bytes) -> Reply:
    try:
        text = body.decode("ascii")
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise _not_ours(address)
    return Reply(status, text, value)


def _not_ours(address: str) -> CannotReach:
    return CannotReach(f"the socket at {address} is not a control socket of Penstock")


def _connect(address: str, timeout: float) -> socket.socket:
    try:
        path = socket_path(address)
    except ValueError as error:
        raise CannotReach(f"cannot use {address!r}: {error}") from None
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # With a timeout of Python's, connect does not wait where the listen queue is full (EAGAIN).
    seconds, fraction = divmod(timeout, 1)
    wait = struct.pack("ll", int(seconds), int(fraction * 1_000_000))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, wait)
    try:
        sock.connect(path)
        sock.settimeout(timeout)
    except OSError as error:
        sock.close()
        reason = error.strerror or str(error)
        if isinstance(error, ConnectionRefusedError):
            reason = "no server listens there"
        elif isinstance(error, (BlockingIOError, TimeoutError)):
            reason = f"the server did not accept within {timeout:g} s"
        raise CannotReach(f"cannot connect to {address}: {reason}") from None
    return sock
