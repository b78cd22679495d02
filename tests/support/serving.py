"""A server in this process, and applications whose progress a test decides on."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol
from wsgiref.types import StartResponse

from support.wire import DEADLINE, Client

Environ = dict[str, Any]

TEXT = [("Content-Type", "text/plain")]


class Place(Protocol):
    """A server, as far as it has to be known to connect to it."""

    @property
    def host(self) -> str:
        """The address, or the path of a unix socket."""

    @property
    def port(self) -> int:
        """The TCP port; 0 for a unix socket."""


def address(server: Place) -> tuple[str, int] | str:
    """Return where a `support.wire.Client` finds the server."""
    return (server.host, server.port) if server.port else server.host


def connect(
    server: Place, *, receive_buffer: int | None = None, source: str | None = None
) -> Client:
    """Return a client that is connected to the server, over TLS where its address is https.

    ``source`` is an address to come from, where it is to be another client's.
    """
    if getattr(server, "url", "").startswith("https://"):
        from support.tls import TlsClient

        return TlsClient((server.host, server.port), receive_buffer=receive_buffer)
    return Client(address(server), receive_buffer=receive_buffer, source=source)


def eventually(condition: Callable[[], object], timeout: float = DEADLINE) -> None:
    """Wait until the condition holds; fail after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "the condition did not hold in time"
        pause.wait(0.01)


def descriptors() -> int:
    """Return how many files and sockets this process has open."""
    return len(os.listdir("/proc/self/fd"))


def read_until(client: Client, end: bytes) -> bytes:
    """Return what the server sends, up to the first receipt that ends so, framing and all."""
    while not client.buffer.endswith(end):
        data = client.socket.recv(65536)
        assert data, f"the server closed after {bytes(client.buffer[-100:])!r}"
        client.buffer += data
    data = bytes(client.buffer)
    client.buffer.clear()
    return data


def get(target: str = "/", *fields: str, version: str = "HTTP/1.1") -> bytes:
    """Return a GET with a Host field and ``fields``."""
    return "\r\n".join([f"GET {target} {version}", "Host: a", *fields, "", ""]).encode()


def post(body: bytes, *fields: str, target: str = "/", length: int | None = None) -> bytes:
    """Return a POST whose Content-Length is ``length``, or that of ``body``."""
    size = len(body) if length is None else length
    head = [f"POST {target} HTTP/1.1", "Host: a", f"Content-Length: {size}", *fields, "", ""]
    return "\r\n".join(head).encode() + body


class Recorder:
    """An application that answers with what it was given, and keeps the targets it was given."""

    def __init__(self) -> None:
        self.targets: list[str] = []

    def __call__(self, environ: Environ, start_response: StartResponse) -> list[bytes]:
        self.targets.append(environ["RAW_URI"])
        body = environ["wsgi.input"].read()
        start_response("200 OK", TEXT)
        names = ("REQUEST_METHOD", "RAW_URI", "QUERY_STRING", "SERVER_PROTOCOL")
        seen = {name: environ[name] for name in names}
        return [json.dumps(seen | {"body": body.decode("latin-1")}).encode()]


class Gate:
    """An application that answers with its path; requests for ``/wait...`` wait until it opens."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._lock = threading.Lock()
        self.inside = 0
        self.most = 0
        self.seen: list[str] = []
        self.threads: set[str] = set()

    def open(self) -> None:
        """Let every waiting request continue, and every later one."""
        self._open.set()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.seen.append(path)
            self.threads.add(threading.current_thread().name)
        try:
            if path.startswith("/wait"):
                assert self._open.wait(DEADLINE)
        finally:
            with self._lock:
                self.inside -= 1
        start_response("200 OK", TEXT)
        return [path.encode()]


class Blocks:
    """An iterable response that counts the bytes taken from it, and sets an event at its close."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = iter(blocks)
        self.taken = 0
        self.closed = 0
        self.was_closed = threading.Event()

    def __iter__(self) -> Blocks:
        return self

    def __next__(self) -> bytes:
        block = next(self._blocks)
        self.taken += len(block)
        return block

    def close(self) -> None:
        self.closed += 1
        self.was_closed.set()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Blocks:
        start_response("200 OK", TEXT)
        return self
