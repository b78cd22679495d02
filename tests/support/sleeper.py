"""An application that lets other threads run while it answers: for a process of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsgiref.types import StartResponse

NAP_SECONDS = 0.005


def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    threading.Event().wait(NAP_SECONDS)  # gives up the interpreter lock
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"done"]
