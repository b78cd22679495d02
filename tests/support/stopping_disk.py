"""An application whose process can stop the disk under its uploads, with no help of the system's.

Each temporary file is replaced by a pipe that is full, under the descriptor that the server has:
a write to it blocks as one to a disk that stands still does. When the disk goes on, what came into
the pipe is written to the file, before the application reads it.
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import dataclass
from wsgiref.types import StartResponse, WSGIEnvironment

TEXT = [("Content-Type", "text/plain")]


@dataclass
class Stopped:
    """A file, and the pipe in its place."""

    number: int
    file: int
    place: int
    pipe: int
    filled: int
    came: bytes = b""


class StoppingDisk:
    """The application, for a server whose ``temp_dir`` is ``directory``."""

    def __init__(self, directory: str) -> None:
        self._directory = os.path.realpath(directory)
        self._stopped: list[Stopped] = []
        self._goes = threading.Event()
        self._goes.set()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        """Answer with the length of the body and the sum of its bytes; or stop the disk."""
        path = environ["PATH_INFO"]
        if path == "/sizes":
            report: object = self.sizes()
        elif path == "/stop":
            report = self.stop()
        else:
            body = environ["wsgi.input"]
            if path == "/upload":
                self._mend()
            data = body.read()
            report = [len(data), sum(data)]
        start_response("200 OK", TEXT)
        return [json.dumps(report).encode()]

    def sizes(self) -> list[int]:
        """Return the sizes of the temporary files."""
        return sorted(os.fstat(number).st_size for number in self._numbers())

    def _numbers(self) -> list[int]:
        found = []
        for name in os.listdir("/proc/self/fd"):
            try:
                link = os.readlink(f"/proc/self/fd/{name}")
            except OSError:
                continue  # closed meanwhile
            if link.startswith(self._directory) and link.endswith("(deleted)"):
                found.append(int(name))
        return found

    def stop(self) -> int:
        """Stop the disk for the files that there are; return how many. None is written to now."""
        self._goes.clear()
        for number in self._numbers():
            file = os.dup(number)
            reader, writer = os.pipe()
            os.set_blocking(writer, False)
            filled = 0
            try:
                while True:
                    filled += os.write(writer, b"." * 4096)
            except BlockingIOError:
                os.set_blocking(writer, True)
            os.dup2(writer, number, inheritable=False)
            os.close(writer)
            place = os.lseek(file, 0, os.SEEK_CUR)
            self._stopped.append(Stopped(number, file, place, reader, filled))
        return len(self._stopped)

    def start(self) -> None:
        """Let the disk go on."""
        for it in self._stopped:
            # A file that was closed meanwhile does not come back, nor a number that is another's.
            if _is_same(it.pipe, it.number):
                os.dup2(it.file, it.number, inheritable=False)
            came = bytearray()
            while block := os.read(it.pipe, 65536):  # until the write in progress is over
                came += block
            it.came = bytes(came[it.filled :])
            os.close(it.pipe)
        self._goes.set()

    def _mend(self) -> None:
        """Put what came into the pipes into the files, before what was written after that."""
        assert self._goes.wait(30)
        for it in self._stopped:
            behind = os.pread(it.file, os.fstat(it.file).st_size, it.place)
            os.pwrite(it.file, it.came + behind, it.place)
            os.close(it.file)
        self._stopped.clear()

    def close(self) -> None:
        """Close what is open."""
        for it in self._stopped:
            os.close(it.file)
        self._stopped.clear()


def _is_same(pipe: int, number: int) -> bool:
    try:
        return os.path.sameopenfile(pipe, number)
    except OSError:
        return False  # it is closed


if directory := os.environ.get("STOPPING_DISK"):
    app = StoppingDisk(directory)
