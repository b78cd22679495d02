"""The application that harness/conformance.py asks: it shows what a server does of PEP 3333."""

from __future__ import annotations

import sys
import time
import zlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

BETWEEN_BLOCKS_SECONDS = 0.5
"""How long the generator takes for its second block: a server that sends the first one when PEP
3333 says so sends it that much earlier."""
PATTERN = bytes(range(256)) * 4096
"""A body of 1 MiB in which a part that is missing or out of order changes the sum."""

_closes: list[Closing] = []


class Closing:
    """An iterable that counts how often `close` is called."""

    def __init__(self, blocks: list[bytes]) -> None:
        self.blocks = blocks

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.blocks)

    def close(self) -> None:
        _closes.append(self)


def hello(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with the query, so that each answer tells which request it is for."""
    return _answer(start_response, environ.get("QUERY_STRING", "").encode("latin-1") or b"hello")


def closing(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return Closing([b"hello"])


def closed(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer how often `close` was called so far."""
    return _answer(start_response, b"%d" % len(_closes))


def blocks(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"first\n"
    time.sleep(BETWEEN_BLOCKS_SECONDS)
    yield b"second\n"


def pattern(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    return _answer(start_response, PATTERN)


def checksum(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Read the body; answer with its CRC-32."""
    found = 0
    length = environ.get("CONTENT_LENGTH")
    left = int(length) if length else sys.maxsize  # a chunked body ends with an empty block
    while left and (block := environ["wsgi.input"].read(min(left, 64 << 10))):
        found = zlib.crc32(block, found)
        left -= len(block)
    return _answer(start_response, b"%08x" % found)


def _answer(start_response: StartResponse, body: bytes) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


VIEWS: dict[str, WSGIApplication] = {
    "/hello": hello,
    "/closing": closing,
    "/closed": closed,
    "/blocks": blocks,
    "/pattern": pattern,
    "/checksum": checksum,
}


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    return VIEWS[environ["PATH_INFO"]](environ, start_response)
