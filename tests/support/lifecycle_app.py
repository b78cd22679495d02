"""The application of the tests of processes: numbered answers, and what harms a worker.

An answer begins with the request's number, which `support.load` checks, and goes on with the
version of the code and the worker's process id. A module of a test's own makes it, as in
``app = make("one")``.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support import websockets

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication

Environ = dict[str, Any]
Answer = bytes | Iterable[bytes]

HOLD_AT_MOST = 90.0
"""Seconds that a request is held: a test that failed must not leave a process behind."""

BLOCK = bytes(512 * 1024)

hoard: list[bytes] = []


def number(environ: Environ) -> bytes:
    """Return what the answer begins with: the query up to ``&``."""
    query: str = environ["QUERY_STRING"]
    return query.partition("&")[0].encode()


def argument(environ: Environ) -> str:
    """Return what comes after ``&`` in the query."""
    query: str = environ["QUERY_STRING"]
    return query.partition("&")[2]


def echo(environ: Environ) -> Answer:
    return number(environ)


def upload(environ: Environ) -> Answer:
    """Read the body; answer with its checksum."""
    found = 0
    while block := environ["wsgi.input"].read(65536):
        found = zlib.crc32(block, found)
    return b"%b:%08x" % (number(environ), found)


def large(environ: Environ) -> Answer:
    """Answer with what no socket takes at once."""
    return number(environ) + b" " + BLOCK


def work(environ: Environ) -> Answer:
    """Take some milliseconds, as a view does that waits for its database."""
    threading.Event().wait(float(argument(environ) or 0.01))
    return number(environ)


def hold(environ: Environ) -> Answer:
    """Tell by a file that it has begun, and wait until another one is there."""
    begun = Path(argument(environ))
    begun.with_suffix(".begun").touch()
    _wait_for(begun.with_suffix(".go"))
    return number(environ)


def poll(environ: Environ) -> Answer:
    """Do the same, out of the count of threads if it may; answer whether it was."""
    left = environ["penstock.io_bound"]()
    hold(environ)
    return number(environ) + b" " + str(left).encode()


def _wait_for(path: Path) -> None:
    pause, end = threading.Event(), time.monotonic() + HOLD_AT_MOST
    while not path.exists() and time.monotonic() < end:
        pause.wait(0.005)


def stubborn(environ: Environ) -> Answer:
    """Hold, and let no exception end that."""
    end = time.monotonic() + HOLD_AT_MOST
    while True:
        try:
            return hold(environ)
        except BaseException:
            if time.monotonic() > end:
                raise


def deaf(environ: Environ) -> Answer:
    """Wait in one call of C, which no exception reaches."""
    Path(argument(environ)).with_suffix(".begun").touch()
    return deadlock(environ)


def deadlock(environ: Environ) -> Answer:
    """Wait in C for a lock that stays locked."""
    lock = threading.Lock()
    with lock:
        lock.acquire(timeout=HOLD_AT_MOST)
    return number(environ)


def keep_the_gil(environ: Environ) -> Answer:
    """Stay in native code that does not give the interpreter's lock up."""
    Path(argument(environ)).with_suffix(".begun").touch()
    ctypes.PyDLL(None)["sleep"](int(HOLD_AT_MOST))
    return number(environ)


def die(environ: Environ) -> Answer:
    """End the process in the way that is asked for."""
    how = argument(environ)
    if how == "exit":
        os._exit(7)
    elif how == "abort":
        os.abort()
    elif how == "segfault":
        ctypes.string_at(0)
    else:
        os.kill(os.getpid(), getattr(signal, how))
        threading.Event().wait(HOLD_AT_MOST)
    return b"survived"


def grow(environ: Environ) -> Answer:
    """Keep this many MiB until the process ends."""
    hoard.append(os.urandom(1 << 20) * int(argument(environ)))
    return number(environ)


def left(environ: Environ) -> Answer:
    """Return whether the request has a deadline, and how many seconds are left."""
    deadline = environ.get("penstock.deadline")
    return b"none" if deadline is None else b"%.1f" % (deadline - time.monotonic())


def websocket(environ: Environ) -> Answer:
    """Speak WebSocket: tell the worker, and send back what comes, until the client has closed."""
    side = websockets.ServerSide(environ)
    side.send(websockets.TEXT, str(os.getpid()).encode())
    while (received := side.read()) is not None:
        side.send(*received)
        if received[0] == websockets.CLOSE:
            break
    return b""


def identity(environ: Environ) -> Answer:
    """Tell user, group, umask and title of the worker."""
    mask = os.umask(0)
    os.umask(mask)
    return f"{os.getuid()} {os.getgid()} {sorted(os.getgroups())} {mask:o}".encode()


def stray(environ: Environ) -> Answer:
    """Leave a process behind whose parent ends at once."""
    child = os.fork()
    if child == 0:
        grandchild = os.fork()
        if grandchild == 0:
            with contextlib.suppress(OSError):
                os.execvp("true", ["true"])
        os._exit(0)
    os.waitpid(child, 0)
    return number(environ)


def make(version: str) -> WSGIApplication:
    """Return the application, whose answers have the version."""
    tag = f" {version}:".encode()

    def pieces(environ: Environ) -> Iterator[bytes]:
        yield number(environ)
        for _ in range(5):
            yield b""
        yield tag
        yield str(os.getpid()).encode()

    views: dict[str, Callable[[Environ], Answer]] = {
        "/" + view.__name__.replace("_", "-"): view
        for view in [
            *(
                echo,
                upload,
                large,
                work,
                hold,
                poll,
                stubborn,
                deaf,
                deadlock,
                keep_the_gil,
                die,
                grow,
                left,
            ),
            *(websocket, identity, stray, pieces),
        ]
    }

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        answer = views[environ["PATH_INFO"]](environ)
        if not isinstance(answer, bytes):
            start_response("200 OK", [("Content-Type", "text/plain")])
            return answer
        body = answer + tag + str(os.getpid()).encode()
        start_response(
            "200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))]
        )
        return [body]

    return app


app = make("one")
