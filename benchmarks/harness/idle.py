"""Connections that have asked once and then stay silent."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from harness import environment, processes
from harness.servers import HOST

REQUEST = b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n"
ANSWER_SECONDS = 10.0
SPARE_DESCRIPTORS = 300
"""What servers, wrk and this program need besides."""


@contextmanager
def idle_connections(pid: int, port: int, count: int) -> Iterator[float]:
    """Hold ``count`` idle connections to the server at a port for as long as the block lasts.

    Gives the KiB of resident memory that each takes. Raises `EnvironmentProblem` where a server
    does not take them, or does not keep them.
    """
    most = environment.descriptors() - SPARE_DESCRIPTORS
    if count > most:
        raise environment.EnvironmentProblem(
            f"this process may open {most} connections only (ulimit -n), not {count}"
        )
    before = processes.resident_kib(pid)
    held: list[socket.socket] = []
    try:
        for number in range(count):
            held.append(_asked_once(port, number))
        yield (processes.resident_kib(pid) - before) / count
        _check_all_open(held)
    finally:
        for connection in held:
            connection.close()


def _asked_once(port: int, number: int) -> socket.socket:
    try:
        connection = socket.create_connection((HOST, port), ANSWER_SECONDS)
    except OSError as error:
        raise environment.EnvironmentProblem(f"connection {number + 1}: {error!r}") from None
    try:
        connection.sendall(REQUEST)
        answer = connection.recv(65536)
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise OSError(f"answered {answer[:40]!r}")
    except OSError as error:
        connection.close()
        raise environment.EnvironmentProblem(f"connection {number + 1}: {error!r}") from None
    connection.setblocking(False)
    return connection


def _check_all_open(held: list[socket.socket]) -> None:
    closed = 0
    for connection in held:
        try:
            # A server may send head and body apart; only the end of input shows that it has closed.
            while block := connection.recv(65536):
                del block
            closed += 1
        except BlockingIOError:
            pass
        except OSError:
            closed += 1
    if closed:
        raise environment.EnvironmentProblem(
            f"the server closed {closed} of {len(held)} idle connections"
        )
