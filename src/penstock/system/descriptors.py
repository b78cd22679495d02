"""Receiving descriptors over a unix socket; sending them is `socket.send_fds`."""

from __future__ import annotations

import array
import os
import socket

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
