"""The application of `story.py`: a small shop, whose faults are switched on by variables.

- ``STORY_DATABASE``: host and port of what stands for its database; ``/orders`` asks it.
- ``STORY_KEEP_LOCK=1``: the C function that ``/picture`` calls keeps the interpreter lock.
- ``STORY_KEPT_BYTES``: ``/visit`` keeps that many bytes of each request, for ever.
"""

from __future__ import annotations

import ctypes
import os
import random
import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsgiref.types import StartResponse

DATABASE = os.environ.get("STORY_DATABASE", "127.0.0.1:1")
ANSWER_SECONDS = 30.0
KEPT_BYTES = int(os.environ.get("STORY_KEPT_BYTES", "0"))
PIXELS = random.Random(1).choices(b"abcdefgh", k=260_000)
"""What `picture` compresses: it takes a processor some 40 ms."""

# Both call the same C function. CDLL releases the interpreter lock around the call, PyDLL does not.
_Library = ctypes.PyDLL if os.environ.get("STORY_KEEP_LOCK") == "1" else ctypes.CDLL
_zlib = _Library("libz.so.1")
_pixels = bytes(PIXELS)
_visits: list[bytes] = []


def query(statement: str) -> str:
    """Ask the database, and return its answer."""
    host, _, port = DATABASE.rpartition(":")
    with socket.create_connection((host, int(port)), ANSWER_SECONDS) as connection:
        connection.sendall(statement.encode() + b"\n")
        with connection.makefile() as lines:
            return lines.readline()


def orders() -> str:
    """Return what the database has."""
    return query("SELECT * FROM orders WHERE customer = 7")


def picture() -> str:
    """Compute, in C."""
    room = ctypes.c_ulong(len(_pixels) * 2)
    packed = ctypes.create_string_buffer(room.value)
    _zlib.compress2(packed, ctypes.byref(room), _pixels, ctypes.c_ulong(len(_pixels)), 6)
    return f"{room.value} bytes\n"


def visit() -> str:
    """Count a visitor; with the fault, keep what is known of each."""
    if KEPT_BYTES:
        _visits.append(b"x" * KEPT_BYTES)
    return "welcome\n"


VIEWS = {"/orders": orders, "/picture": picture, "/visit": visit}


def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    """Answer with the text of a view."""
    view = VIEWS.get(environ["PATH_INFO"])
    text = view() if view is not None else "hello\n"
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    return [text.encode()]
