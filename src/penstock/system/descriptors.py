"""Descriptors that come from other processes: over a unix socket, and from what started this one.

To send them over a socket there is `socket.send_fds`.
"""

from __future__ import annotations

import array
import os
import socket
from contextlib import suppress

_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


def receive_descriptors(
    sock: socket.socket, size: int, most: int, flags: int = 0
) -> tuple[bytes, list[int]]:
    """Return up to ``size`` bytes, and up to ``most`` descriptors. Raises OSError.

    They close when this process executes another program. `socket.recv_fds` ignores its flags in
    Python 3.11, and a program that another thread starts at this moment would have the descriptors.
    """
    found = array.array("i")
    room = socket.CMSG_SPACE(most * found.itemsize)
    data, ancillary, _flags, _address = sock.recvmsg(size, room, flags | _CLOSE_ON_EXEC)
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(content[: len(content) - len(content) % found.itemsize])
    if not _CLOSE_ON_EXEC:
        for descriptor in found:
            os.set_inheritable(descriptor, False)
    return data, list(found)


_FIRST_AFTER_STREAMS = 3
"""0 to 2 are the standard streams."""

_MOST_WITHOUT_LIST = 1024
"""How many are looked at where the system does not list them."""

_from_outside: dict[int, tuple[int, int]] = {}
"""The device and the inode of each descriptor that this process was started with, and has no use
for. Changed at the start and by the supervisor's only thread."""


def note_inherited() -> None:
    """Note what this process was started with, besides its standard streams.

    To be called before it opens anything by itself.
    """
    try:
        numbers = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        numbers = list(range(_MOST_WITHOUT_LIST))
    for number in numbers:
        if number >= _FIRST_AFTER_STREAMS and (file := _file_of(number)) is not None:
            _from_outside[number] = file


def use_inherited(descriptor: int) -> None:
    """Note that this process uses a descriptor that it was started with, and closes it itself."""
    _from_outside.pop(descriptor, None)


def close_inherited() -> None:
    """Close what this process was started with and does not use.

    For a process that becomes another user: what root's shell has opened is not for that one. The
    supervisor keeps it, as the lock of a script that has started it.
    """
    for number, file in _from_outside.items():
        if _file_of(number) == file:  # else code of the settings has closed it, and it came again
            with suppress(OSError):
                os.close(number)
    _from_outside.clear()


def _file_of(descriptor: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino
