"""The applications that are measured: one WSGI callable with a view for every path.

Every server serves this same module, so that what differs is the server alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

# Under load, waitress logs a warning for many a request; no server is to be measured logging.
logging.getLogger("waitress.queue").setLevel(logging.ERROR)

GREETING = b"Hello, world!\n"
GREETING_HEADERS = [("Content-Type", "text/plain"), ("Content-Length", str(len(GREETING)))]


def greet() -> None:
    """Do nothing: what is measured is the server."""


def block_10_ms() -> None:
    time.sleep(0.010)


def block_50_ms() -> None:
    time.sleep(0.050)


def compute_1_ms() -> None:
    # The thread's own CPU time, so that a request costs the same however many threads compete.
    end = time.thread_time() + 0.001
    while time.thread_time() < end:
        pass


VIEWS: dict[str, Callable[[], None]] = {
    "/hello": greet,
    "/block-10-ms": block_10_ms,
    "/block-50-ms": block_50_ms,
    "/compute-1-ms": compute_1_ms,
}


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    VIEWS[environ["PATH_INFO"]]()
    start_response("200 OK", list(GREETING_HEADERS))
    return [GREETING]
