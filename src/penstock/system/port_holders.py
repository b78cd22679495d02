"""Which process listens on an address, for the error about one in use. Linux alone tells."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress

_LISTENING = "0A"
"""TCP_LISTEN in /proc/net/tcp."""

_MOST_PROCESSES = 5000
_MOST_WORDS = 3
_MOST_SHOWN = 60
"""Characters of a command line that are shown, which also has arguments that are secret."""
_UCRED = struct.Struct("iII")
"""``struct ucred`` of unix(7): the ids of a process, its user and its group."""


def holder_of(port: int) -> str:
    """Return the process that listens on a TCP port, in words; empty where that is not known.

    The processes of other users are known to root alone.
    """
    with suppress(OSError, ValueError):
        sockets = _listening_on(port)
        if sockets and (pid := _process_with(sockets)):
            return _described(pid)
    return ""


def peer_of(connected: socket.socket) -> str:
    """Return the process that listens on a unix socket, in words; empty where that is not known.

    ``connected`` is a client of it. The kernel notes the process that called ``listen``, which may
    have ended since, and left the socket to another one.
    """
    with suppress(OSError, AttributeError):  # another system has no SO_PEERCRED
        credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        pid, _, _ = _UCRED.unpack(credentials)
        if pid:  # 0 is a process that is not visible in this container
            return _described(pid)
    return ""


def _listening_on(port: int) -> set[str]:
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(FileNotFoundError), open(table) as lines:
            next(lines, None)
            for line in lines:
                fields = line.split()
                if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    found.add(f"socket:[{fields[9]}]")
    return found


def _process_with(sockets: set[str]) -> int:
    """Return the oldest process that has one of the sockets open; 0 where none is found."""
    for name in sorted(filter(str.isdigit, os.listdir("/proc")), key=int)[:_MOST_PROCESSES]:
        with suppress(OSError), os.scandir(f"/proc/{name}/fd") as descriptors:
            for each in descriptors:
                with suppress(OSError):
                    if os.readlink(each.path) in sockets:
                        return int(name)
    return 0


def _described(pid: int) -> str:
    with open(f"/proc/{pid}/comm") as file:
        name = file.read().strip()
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        words = file.read(4096).decode("utf-8", "replace").split("\0")[:_MOST_WORDS]
    words = [os.path.basename(word) for word in words if "=" not in word]
    shown = " ".join(words)[:_MOST_SHOWN].strip()
    shown = "".join(each if each.isprintable() else "?" for each in shown)
    stops = f"; kill {pid} stops it" if name.startswith("penstock") else ""
    return f"process {pid} ({shown or name}){stops}"
