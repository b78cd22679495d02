"""Clients that have asked for a large response and read it slowly."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from harness import environment
from harness.servers import HOST

REQUEST = b"GET /bytes-1-mib HTTP/1.1\r\nHost: localhost\r\n\r\n"
RECEIVE_BUFFER = 4096
BLOCK = 4096
PAUSE_SECONDS = 0.1
CONNECT_SECONDS = 10.0


@contextmanager
def slow_readers(port: int, count: int) -> Iterator[None]:
    """Hold ``count`` slow readers of the server at a port for as long as the block lasts.

    Raises `EnvironmentProblem` where the server does not take them. One that has its whole
    response, or that the server has cut off, is replaced.
    """
    readers = [_opened(port) for _ in range(count)]
    stop = threading.Event()
    thread = threading.Thread(target=_read_slowly, args=(readers, port, stop))
    core = environment.cores()[1]
    with environment.on_core(core):
        thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        for reader in readers:
            reader.close()


def _opened(port: int) -> socket.socket:
    reader = socket.socket()
    # Before it connects: the window that it offers to the server depends on that.
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    reader.settimeout(CONNECT_SECONDS)
    try:
        reader.connect((HOST, port))
        reader.sendall(REQUEST)
    except OSError as error:
        reader.close()
        raise environment.EnvironmentProblem(f"a slow reader: {error!r}") from None
    reader.setblocking(False)
    return reader


def _read_slowly(readers: list[socket.socket], port: int, stop: threading.Event) -> None:
    while not stop.wait(PAUSE_SECONDS):
        for place, reader in enumerate(readers):
            try:
                if reader.recv(BLOCK):
                    continue
            except BlockingIOError:
                continue
            except OSError:
                pass
            reader.close()
            try:
                readers[place] = _opened(port)
            except environment.EnvironmentProblem:
                return  # the server has ended, which the turn shows
