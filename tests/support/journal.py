"""A socket that stands for systemd's journal, and reads its protocol."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path

MOST = 1 << 18


def decoded(data: bytes) -> dict[str, str]:
    """Return the fields of an entry."""
    found: dict[str, str] = {}
    while data:
        name, separator, rest = data.partition(b"\n")
        if b"=" in name:
            name, _, value = name.partition(b"=")
            data = rest
        else:
            size = int.from_bytes(rest[:8], "little")
            value, data = rest[8 : 8 + size], rest[8 + size :]
            assert data[:1] == b"\n"
            data = data[1:]
        assert separator
        found[name.decode()] = value.decode()
    return found


class FakeJournal:
    """Takes entries as the journal does: datagrams, and descriptors of files in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seals = 0
        """The seals of the last file."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(20)

    def receive(self) -> dict[str, str]:
        """Return the fields of the next entry."""
        data, descriptors, _, _ = socket.recv_fds(self._socket, MOST, 1)
        if descriptors:
            assert data == b""
            self.seals = fcntl.fcntl(descriptors[0], fcntl.F_GET_SEALS)
            with os.fdopen(descriptors[0], "rb") as file:
                file.seek(0)
                data = file.read()
        return decoded(data)

    def close(self) -> None:
        """Close the socket, and remove its path."""
        self._socket.close()
        self.path.unlink(missing_ok=True)
