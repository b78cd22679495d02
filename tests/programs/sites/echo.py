"""Says what has arrived: the query, the checksum of the body, the client's port, the process."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

BLOCK = 1 << 16


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes] | list[bytes]:
    checksum = 0
    while block := environ["wsgi.input"].read(BLOCK):
        checksum = zlib.crc32(block, checksum)
    query = environ["QUERY_STRING"]
    line = f"{query} {checksum:08x} {environ['REMOTE_PORT']} {os.getpid()}\n".encode()
    fields = [("Content-Type", "text/plain")]
    if query.isdecimal() and int(query) % 5 == 0:
        start_response("200 OK", fields)
        return (line[place : place + 4] for place in range(0, len(line), 4))
    start_response("200 OK", [*fields, ("Content-Length", str(len(line)))])
    return [line]
