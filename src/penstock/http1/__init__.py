"""HTTP/1.1 without sockets: bytes to events, and responses to bytes.

Nothing here imports a socket, a thread, a clock or a logger. `parser.RequestParser` reads a
request: it splits the bytes in its buffer into lines, `head` makes a `Request` of them, and `body`
returns the content of the body, which becomes `Data`.
"""

from __future__ import annotations

from penstock.http1.errors import ProtocolError
from penstock.http1.events import (
    CONNECTION_CLOSED,
    NEED_DATA,
    Data,
    EndOfMessage,
    Event,
    Request,
    Signal,
    State,
)
from penstock.http1.limits import ParserLimits
from penstock.http1.parser import RequestParser
from penstock.http1.response import (
    CONTINUE,
    LAST_CHUNK,
    Framing,
    choose_framing,
    encode_chunk,
    encode_head,
    encode_head_of_lines,
    error_response,
    field_lines,
    has_body,
)

__all__ = [
    "CONNECTION_CLOSED",
    "CONTINUE",
    "LAST_CHUNK",
    "NEED_DATA",
    "Data",
    "EndOfMessage",
    "Event",
    "Framing",
    "ParserLimits",
    "ProtocolError",
    "Request",
    "RequestParser",
    "Signal",
    "State",
    "choose_framing",
    "encode_chunk",
    "encode_head",
    "encode_head_of_lines",
    "error_response",
    "field_lines",
    "has_body",
]
