"""What the kernel tells of listening sockets, and how much it holds for the client of a socket."""

from __future__ import annotations

import os
import socket
import struct
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# struct tcp_info of <linux/tcp.h> begins with eight bytes and four words of 32 bits. The word that
# follows, tcpi_unacked, is the length of the accept queue where the socket listens.
_TCP_INFO_BYTES = 28
_ACCEPT_QUEUE_AT = 24


def accept_queue_length(listening: socket.socket) -> int | None:
    """Return how many connections wait to be accepted; None where the kernel does not tell.

    Linux tells it of TCP alone.
    """
    if listening.family == socket.AF_UNIX or not hasattr(socket, "TCP_INFO"):
        return None
    try:
        info = listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    except OSError:
        return None
    if len(info) < _TCP_INFO_BYTES:
        return None
    return int(struct.unpack_from("@I", info, _ACCEPT_QUEUE_AT)[0])


def hold_ahead(sock: socket.socket, count: int) -> None:
    """Have the kernel hold up to ``count`` bytes that are not on their way to the client.

    Accepted sockets have this of their listener. On Linux alone: elsewhere the native transport
    does not raise it.
    """
    if sys.platform == "linux":
        with suppress(OSError):  # a Unix socket does not, and does not need it
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, count)


def listen_overflows(root: str | Path = "/") -> int | None:
    """Return how many connections found a full accept queue, in this network namespace.

    None where the kernel does not tell.
    """
    try:
        with open(
            os.path.join(root, "proc/net/netstat"), encoding="ascii", errors="replace"
        ) as file:
            lines = file.read().splitlines()
    except OSError:
        return None
    # Each group is a line of names and a line of numbers.
    for names, numbers in zip(lines[::2], lines[1::2], strict=False):
        if names.startswith("TcpExt:"):
            found = dict(zip(names.split(), numbers.split(), strict=False)).get("ListenOverflows")
            return int(found) if found is not None and found.isdigit() else None
    return None
