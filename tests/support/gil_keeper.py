"""An application that calls C code which keeps the interpreter's lock: for a process of its own."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsgiref.types import StartResponse

KEPT_SECONDS = 3


def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/keep":
        ctypes.PyDLL(None).usleep(KEPT_SECONDS * 1_000_000)  # a PyDLL does not give the lock up
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"done"]
