"""The application that is measured: one WSGI callable with a view for every path.

Every server serves this same module, so that what differs is the server alone. The frameworks'
applications are beside it.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

# Under load, waitress logs a warning for many a request; no server is to be measured logging.
logging.getLogger("waitress.queue").setLevel(logging.ERROR)

FILE_VARIABLE = "BENCHMARK_FILE"
"""Names the file that is served; the harness makes it."""

BLOCK = 64 << 10
CHUNKS = 100

GREETING = b"Hello, world!\n"
GREETING_HEADERS = [("Content-Type", "text/plain"), ("Content-Length", str(len(GREETING)))]
UNMEASURED_HEADERS = [("Content-Type", "text/plain")]
ARTICLES = [
    {"id": number, "name": f"Article {number}", "price": number * 3.25, "tags": ["a", "b", "c"]}
    for number in range(1, 28)
]
BODIES = {size: b"x" * size for size in (1 << 10, 10 << 10, 1 << 20)}


def greet(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Do nothing: what is measured is the server."""
    start_response("200 OK", list(GREETING_HEADERS))
    return [GREETING]


def block_10_ms(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    time.sleep(0.010)
    return greet(environ, start_response)


def block_20_ms(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    time.sleep(0.020)
    return greet(environ, start_response)


def block_50_ms(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    time.sleep(0.050)
    return greet(environ, start_response)


def compute_1_ms(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    # The thread's own CPU time, so that a request costs the same however many threads compete.
    end = time.thread_time() + 0.001
    while time.thread_time() < end:
        pass
    return greet(environ, start_response)


def generate(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    """Return a generator: the server does not know the length, and has to frame the body."""
    start_response("200 OK", list(UNMEASURED_HEADERS))
    yield GREETING


def chunks(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", list(UNMEASURED_HEADERS))
    chunk = BODIES[1 << 10]
    for _ in range(CHUNKS):
        yield chunk


def bytes_10_kib(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    return _body(10 << 10, start_response)


def listing(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Return what a JSON API does: some objects, some 2 KiB, encoded for each request."""
    body = json.dumps({"articles": ARTICLES, "next": "/json?page=2"}).encode()
    length = str(len(body))
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", length)])
    return [body]


def bytes_1_mib(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    return _body(1 << 20, start_response)


def file(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Return a file through the server's wrapper, or in blocks where it has none."""
    path = os.environ[FILE_VARIABLE]
    size = str(Path(path).stat().st_size)
    start_response("200 OK", [*UNMEASURED_HEADERS, ("Content-Length", size)])
    opened = open(path, "rb")  # noqa: SIM115 - the server closes what is returned
    wrapper = environ.get("wsgi.file_wrapper", _Blocks)
    wrapped: Iterable[bytes] = wrapper(opened, BLOCK)
    return wrapped


def take(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Read the body, and fail where not all of it came."""
    left = int(environ["CONTENT_LENGTH"])
    source = environ["wsgi.input"]
    while left and (block := source.read(min(left, BLOCK))):
        left -= len(block)
    if left:
        start_response("400 Bad Request", [("Content-Length", "0")])
        return []
    return greet(environ, start_response)


VIEWS: dict[str, WSGIApplication] = {
    "/hello": greet,
    "/generate": generate,
    "/chunks": chunks,
    "/bytes-10-kib": bytes_10_kib,
    "/bytes-1-mib": bytes_1_mib,
    "/file": file,
    "/json": listing,
    "/take": take,
    "/block-10-ms": block_10_ms,
    "/block-20-ms": block_20_ms,
    "/block-50-ms": block_50_ms,
    "/compute-1-ms": compute_1_ms,
}


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    return VIEWS[environ["PATH_INFO"]](environ, start_response)


def _body(size: int, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [*UNMEASURED_HEADERS, ("Content-Length", str(size))])
    return [BODIES[size]]


class _Blocks:
    """A file in blocks, for servers without wsgi.file_wrapper."""

    def __init__(self, opened: IO[bytes], size: int) -> None:
        self.opened = opened
        self.size = size

    def __iter__(self) -> Iterator[bytes]:
        while block := self.opened.read(self.size):
            yield block

    def close(self) -> None:
        self.opened.close()
