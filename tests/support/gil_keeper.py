"""An application that calls C code which keeps the interpreter's lock: for a process of its own."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsgiref.types import StartResponse

KEPT_SECONDS = 3

DROWSY_SECONDS = 0.5
"""Seconds without a request after which the stall monitor sleeps."""


def keep(*, after: float) -> None:
    threading.Event().wait(after)
    os.write(2, b"keeping the lock\n")
    ctypes.PyDLL(None).usleep(KEPT_SECONDS * 1_000_000)  # a PyDLL does not give the lock up


def keep_until_written_to(path: str) -> None:
    """Keep the lock until a byte is written to a named pipe."""
    descriptor = os.open(path, os.O_RDONLY)  # waits for the writer, without the lock
    ctypes.PyDLL(None).read(descriptor, ctypes.create_string_buffer(1), 1)
    os.close(descriptor)


def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/keep":
        keep(after=0)
    elif environ["PATH_INFO"] == "/keep-until":
        keep_until_written_to(environ["QUERY_STRING"])
    elif environ["PATH_INFO"] == "/keep-later":
        threading.Thread(target=keep, kwargs={"after": DROWSY_SECONDS}).start()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"done"]
