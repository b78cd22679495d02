"""Addresses of the control socket, for the server that binds them and for penstockctl."""

from __future__ import annotations

import socket
import struct
import sys

from penstock.records import dataclass

AUTO = "auto"
OFF = "off"

HAS_ABSTRACT_NAMES = sys.platform == "linux"
"""Whether unix sockets can have names that are not in a directory (unix(7))."""

_SO_PEERCRED: int | None = getattr(socket, "SO_PEERCRED", None)
_UCRED = struct.Struct("iII")  # pid, uid and gid: struct ucred of unix(7)
_OVERFLOW_UID = "/proc/sys/kernel/overflowuid"
_USUAL_OVERFLOW_UID = 65534


def socket_path(address: str) -> str:
    r"""Return what to bind or connect to for ``PATH``, ``@NAME``, and either after ``unix:``.

    The result of ``@NAME`` begins with NUL. Raises `ValueError` with a message for the user.
    """
    path = address.removeprefix("unix:")
    if path in ("", "@"):
        raise ValueError("the path is missing")
    if not path.startswith("@"):
        return path
    if not HAS_ABSTRACT_NAMES:
        raise ValueError("names that begin with @ exist on Linux alone; give a path")
    return "\0" + path[1:]


@dataclass(frozen=True)
class Peer:
    """The process at the other end of a unix socket, as the kernel reports it."""

    pid: int
    """0 where the process cannot be seen from here: it is in another container."""
    uid: int


def peer_of(sock: socket.socket) -> Peer | None:
    """Return the process that connected, or listens; None where the system does not report it."""
    if _SO_PEERCRED is None:
        return None
    pid, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, _SO_PEERCRED, _UCRED.size))
    return Peer(pid, uid)


def overflow_uid() -> int:
    """Return the user id that the kernel reports for every user without one in this namespace.

    It is 65534, the id of ``nobody``, unless a system sets another one. A process with this id may
    be that of any user, so that the id proves nothing (user_namespaces(7)).
    """
    try:
        with open(_OVERFLOW_UID, "rb") as file:
            return int(file.read())
    except (OSError, ValueError):
        return _USUAL_OVERFLOW_UID
