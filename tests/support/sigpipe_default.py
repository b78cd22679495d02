"""An application for a process of its own: SIGPIPE would end it, and it sends a large file."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsgiref.types import StartResponse

FILE_BYTES = 64 * 1024 * 1024
"""More than the kernel takes at once, so that the client is gone before all is sent."""

signal.signal(signal.SIGPIPE, signal.SIG_DFL)

_file = tempfile.TemporaryFile()  # noqa: SIM115 (open for the life of the process)
_file.truncate(FILE_BYTES)


def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/file":
        start_response("200 OK", [("Content-Length", str(FILE_BYTES))])
        file = os.fdopen(os.dup(_file.fileno()), "rb")
        file.seek(0)
        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](file)
        return wrapped
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
