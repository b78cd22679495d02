"""A file system in memory that stops answering when it is told to, as a disk or a mount that hangs.

A process of its own answers for it, by FUSE: a call that waits for it keeps neither the test nor
the GIL. Nothing of it is kept in the kernel's cache, so that each read is asked for.
"""

from __future__ import annotations

import ctypes
import errno
import os
import selectors
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_LIBC = ctypes.CDLL(None, use_errno=True)
_MNT_DETACH = 2


class StoppingMount:
    """What a test does with the file system."""

    def __init__(self, path: Path, process: subprocess.Popen[bytes]) -> None:
        self.path = path
        self._process = process

    def stop(self) -> None:
        """Answer no call from now on."""
        self._tell(b"stop\n")

    def start(self) -> None:
        """Answer those that wait, and all that come."""
        self._tell(b"start\n")

    def _tell(self, command: bytes) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(command)
        self._process.stdin.flush()
        assert self._process.stdout.readline() == command


@contextmanager
def stopping_mount(place: Path) -> Iterator[StoppingMount]:
    """Mount one on a directory. Skips the test where the system does not let root mount FUSE."""
    try:
        device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        pytest.skip(f"no FUSE: {error}")
    path = str(place).encode()
    try:
        options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
        if _LIBC.mount(b"penstock-test", path, b"fuse", 0, options.encode()):
            pytest.skip(f"no mount of FUSE: {os.strerror(ctypes.get_errno())}")
        process = subprocess.Popen(
            [sys.executable, __file__, str(device)],
            pass_fds=[device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
    finally:
        os.close(device)
    try:
        yield StoppingMount(place, process)
    finally:
        process.kill()  # what still waits for it ends with an error
        process.communicate()
        assert not _LIBC.umount2(path, _MNT_DETACH), os.strerror(ctypes.get_errno())


# -- the process that answers -----------------------------------------------------------------

_LOOKUP, _FORGET, _GETATTR, _SETATTR, _UNLINK, _OPEN, _READ, _WRITE = 1, 2, 3, 4, 10, 14, 15, 16
_STATFS, _RELEASE, _FLUSH, _INIT, _CREATE, _INTERRUPT, _BATCH_FORGET = 17, 18, 25, 26, 35, 36, 42
_ROOT = 1
_DIRECT_IO = 1  # FOPEN_DIRECT_IO
_SIZE_IS_SET = 1 << 3  # FATTR_SIZE
_OPENED = struct.pack("=QII", 0, _DIRECT_IO, 0)


class _Files:
    def __init__(self) -> None:
        self._contents: dict[int, bytearray] = {}  # by node
        self._nodes: dict[bytes, int] = {}  # by name

    def answer(self, opcode: int, node: int, body: bytes) -> bytes:
        """Return what answers a call; raises `OSError`."""
        if opcode == _INIT:
            major, _ = struct.unpack_from("=II", body)
            answer = struct.pack("=IIIIHHIIHHI", major, 31, 0, 0, 12, 9, 131072, 1, 32, 0, 0)
            return answer.ljust(64, b"\0")
        if opcode == _LOOKUP:
            return self._entry(self._node(body))
        if opcode == _GETATTR:
            return struct.pack("=QII", 0, 0, 0) + self._attributes(node)
        if opcode == _SETATTR:
            valid, _, _, size = struct.unpack_from("=IIQQ", body)
            if valid & _SIZE_IS_SET:
                content = self._contents[node]
                content[:] = content[:size].ljust(size, b"\0")
            return struct.pack("=QII", 0, 0, 0) + self._attributes(node)
        if opcode == _CREATE:
            made = len(self._contents) + _ROOT + 1
            self._nodes[body[16:].rstrip(b"\0")] = made
            self._contents[made] = bytearray()
            return self._entry(made) + _OPENED
        if opcode == _OPEN:
            return _OPENED
        if opcode == _READ:
            _, offset, size = struct.unpack_from("=QQI", body)
            return bytes(self._contents[node][offset : offset + size])
        if opcode == _WRITE:
            _, offset, size = struct.unpack_from("=QQI", body)
            content = self._contents[node]
            content.extend(bytes(max(0, offset - len(content))))
            content[offset : offset + size] = body[40:]
            return struct.pack("=II", size, 0)
        if opcode == _UNLINK:
            self._nodes.pop(body.rstrip(b"\0"), None)
            return b""
        if opcode == _STATFS:
            answer = struct.pack(
                "=QQQQQIII", 1 << 20, 1 << 20, 1 << 20, 9999, 9999, 4096, 255, 4096
            )
            return answer.ljust(80, b"\0")
        if opcode in (_RELEASE, _FLUSH):
            return b""
        raise OSError(errno.ENOSYS, "")

    def _node(self, body: bytes) -> int:
        node = self._nodes.get(body.rstrip(b"\0"))
        if node is None:
            raise OSError(errno.ENOENT, "")
        return node

    def _entry(self, node: int) -> bytes:
        return struct.pack("=QQQQII", node, 0, 0, 0, 0, 0) + self._attributes(node)

    def _attributes(self, node: int) -> bytes:
        mode = stat.S_IFDIR | 0o755 if node == _ROOT else stat.S_IFREG | 0o600
        size = len(self._contents.get(node, b""))
        return struct.pack(
            "=QQQQQQIIIIIIIIII", node, size, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0
        )


def _serve(device: int) -> None:
    files = _Files()
    selector = selectors.DefaultSelector()
    selector.register(device, selectors.EVENT_READ)
    selector.register(0, selectors.EVENT_READ)
    waiting: list[tuple[int, int, int, bytes]] = []
    stopped = False

    def answer(opcode: int, unique: int, node: int, body: bytes) -> None:
        number, content = 0, b""
        try:
            content = files.answer(opcode, node, body)
        except OSError as error:
            number = -(error.errno or errno.EIO)
        header = struct.pack("=IiQ", 16 + len(content), number, unique)
        try:
            os.write(device, header + content)
        except FileNotFoundError:
            pass  # the call was interrupted

    while True:
        for key, _ in selector.select():
            if key.fd == 0:
                command = os.read(0, 100)
                if not command:
                    return
                stopped = command == b"stop\n"
                if not stopped:
                    for call in waiting:
                        answer(*call)
                    waiting.clear()
                os.write(1, command)
                continue
            call_bytes = os.read(device, 1 << 18)
            _, opcode, unique, node = struct.unpack_from("=IIQQ", call_bytes)
            call = (opcode, unique, node, call_bytes[40:])
            if opcode in (_FORGET, _BATCH_FORGET, _INTERRUPT):
                continue
            if stopped:
                waiting.append(call)
            else:
                answer(*call)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
