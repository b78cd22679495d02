"""What the soak asks: answers that depend on the request, so that a wrong one is found."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

BLOCK = 64 << 10
LARGE = b"x" * (1 << 20)
PIECES = 20


def echo(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Return the query string."""
    body = environ["QUERY_STRING"].encode("latin-1")
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def pieces(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    """Give the query string several times, without saying how long that is."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    piece = environ["QUERY_STRING"].encode("latin-1")
    for _ in range(PIECES):
        yield piece


def checksum(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Read the body; return its CRC-32."""
    found = 0
    while block := environ["wsgi.input"].read(BLOCK):
        found = zlib.crc32(block, found)
    body = b"%08x" % found
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


def large(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Return what no socket takes at once."""
    start_response("200 OK", [("Content-Length", str(len(LARGE)))])
    return [LARGE]


def fail(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Raise: a defect in the application, which is answered with 500."""
    raise RuntimeError("on purpose")


VIEWS: dict[str, WSGIApplication] = {
    "/hello": echo,  # that the server is up
    "/echo": echo,
    "/pieces": pieces,
    "/checksum": checksum,
    "/large": large,
    "/fail": fail,
}


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    return VIEWS[environ["PATH_INFO"]](environ, start_response)
