"""The uwsgi protocol: a request as nginx's ``uwsgi_pass`` sends it.

A connection has one request. It begins with a packet: four bytes (``modifier1``, the size of what
follows in little-endian order, ``modifier2``) and then names and values, each behind its length.
The body follows, as long as CONTENT_LENGTH says; the response is that of HTTP.

`parse` makes the head of an HTTP request of a packet, which goes through the parser of HTTP. So
there is one grammar, one set of limits and one way to the application. What a head cannot say, or
only a trusted proxy may, is beside it: who the client is, the scheme, the mount point. The version
in the head is HTTP/1.0, because the front-end knows neither chunks nor interim responses.

Native code has the same functions in ``reactor/src/uwsgi.rs``; ``tests/edge/test_uwsgi.py`` runs
one table on both. Neither does input or output.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from penstock import percent
from penstock.edge.forwarded import REQUEST_ID, Forwarded, address_of, is_prefix
from penstock.http1 import ProtocolError
from penstock.http1.grammar import CONTROL, NOT_IN_REQUEST_LINE, TOKEN, is_host
from penstock.records import dataclass

HEADER_BYTES = 4
"""Bytes of a packet before its names and values."""

MODIFIERS = (0, 30)
"""The values of ``modifier1`` that mean a request of WSGI. With 30, PATH_INFO begins with
SCRIPT_NAME, which is looked at in any case."""

RULE = "uwsgi protocol"

_SINGLE = frozenset({b"REQUEST_METHOD", b"REQUEST_URI", b"CONTENT_LENGTH", b"CONTENT_TYPE"})
"""What may not be there twice: where the body ends, and what is asked for, has to be beyond doubt.
Of other names the last value counts: a ``uwsgi_param`` stands behind an ``include``."""

_OTHERS = frozenset(
    {b"SCRIPT_NAME", b"PATH_INFO", b"QUERY_STRING", b"REMOTE_ADDR", b"REMOTE_PORT", b"SERVER_PORT",
     b"UWSGI_SCHEME", b"HTTPS", b"REQUEST_SCHEME", b"REQUEST_ID"}
)  # fmt: skip
VARIABLES = ("SERVER_NAME", "REMOTE_USER", "AUTH_TYPE", "SSL_PROTOCOL", "SSL_CIPHER",
             "SSL_SERVER_NAME", "SSL_CLIENT_VERIFY", "SSL_CLIENT_S_DN", "SSL_CLIENT_I_DN",
             "SSL_CLIENT_SERIAL")  # fmt: skip
"""What the application gets as it is. It gets no other name that is not a field's: uWSGI takes
orders from names such as UWSGI_FILE."""
_KNOWN = _SINGLE | _OTHERS | {name.encode("ascii") for name in VARIABLES}

_FIELD = re.compile(rb"HTTP_[A-Z0-9_]+")
_LEFT_OUT = frozenset(
    {b"HTTP_CONTENT_LENGTH", b"HTTP_CONTENT_TYPE", b"HTTP_CONNECTION", b"HTTP_KEEP_ALIVE",
     b"HTTP_PROXY_CONNECTION", b"HTTP_TE", b"HTTP_TRAILER", b"HTTP_TRANSFER_ENCODING",
     b"HTTP_UPGRADE", b"HTTP_EXPECT"}
)  # fmt: skip
"""Fields of the client's connection to the front-end, which says nothing of this one. The length
and the type of the body have names of their own."""

_SCHEMES = {b"http": "http", b"https": "https"}
_PORT = re.compile(rb"[0-9]{1,5}")
_PATH_SAFE = "/-._~!$&'()*+;=:@"
"""Bytes of a path that need no percent-encoding. The comma is not among them: no prefix has one."""


@dataclass(frozen=True, slots=True)
class Packet:
    """What a packet says."""

    head: bytes
    """The head of the request, as HTTP has it."""
    address: str
    """The client's address; empty where the packet names none."""
    port: str
    said: Forwarded
    """What the front-end says of the request."""
    variables: dict[str, str]
    """What is set in the environ."""


def scan(header: bytes | bytearray, most: int) -> int:
    """Return the size of a whole packet, as far as its first bytes tell: ``HEADER_BYTES`` or more.

    ``most`` is the most bytes of names and values. Raises `ProtocolError` for what is no packet.
    """
    if header and header[0] not in MODIFIERS:
        raise ProtocolError(400, NO_PACKET, RULE, setting="bind")
    if len(header) < HEADER_BYTES:
        return HEADER_BYTES
    if header[3] != 0:
        raise ProtocolError(400, NO_PACKET, RULE, setting="bind")
    size = int.from_bytes(header[1:3], "little")
    if size > most:
        raise ProtocolError(431, "The uwsgi packet is too long.", RULE, "limit_request_head")
    return HEADER_BYTES + size


NO_PACKET = "The connection does not begin with a uwsgi packet."


def malformed() -> ProtocolError:
    """Return the error for a packet whose lengths do not fit, or that ends too early."""
    return ProtocolError(400, "The uwsgi packet is malformed.", RULE)


def parse(packet: bytes, request_id_length: int) -> Packet:
    """Return what a complete packet says. Raises `ProtocolError`.

    ``request_id_length`` is the most characters of a request id that counts.
    """
    said: dict[bytes, bytes] = {}
    fields: list[bytes] = []
    for name, value in _pairs(packet, HEADER_BYTES):
        if name in _KNOWN:
            if name in said and name in _SINGLE:
                raise _bad(name, "is there twice")
            said[name] = value
        elif name not in _LEFT_OUT and _FIELD.fullmatch(name):
            fields.append(_field(name[5:].lower().replace(b"_", b"-"), value))
    for field, name in ((b"content-type", b"CONTENT_TYPE"), (b"content-length", b"CONTENT_LENGTH")):
        if said.get(name):
            fields.append(_field(field, said[name]))
    script_name = _script_name(said)
    method = said.get(b"REQUEST_METHOD", b"")
    if not TOKEN.fullmatch(method.decode("latin-1")):
        raise _bad(b"REQUEST_METHOD", "is no method")
    line = b"%s %s HTTP/1.0\r\n" % (method, _target(said, script_name))
    address = port = ""
    if (given := said.get(b"REMOTE_ADDR", b"")) not in (b"", b"unix:"):  # as nginx names a socket
        found = address_of(given.decode("latin-1"))
        if found is None:
            raise _bad(b"REMOTE_ADDR", "is no address")
        address, port = found, _port(said, b"REMOTE_PORT")
    return Packet(
        b"".join([line, *fields, b"\r\n"]),
        address,
        port,
        Forwarded(
            scheme=_scheme(said),
            port=_port(said, b"SERVER_PORT"),
            script_name=percent.encoded(script_name, _PATH_SAFE),
            request_id=_request_id(said.get(b"REQUEST_ID", b""), request_id_length),
        ),
        _variables(said),
    )


def _pairs(packet: bytes, place: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield names and values from a place on. Raises `ProtocolError` if they do not fill it."""

    def text(place: int) -> tuple[bytes, int]:
        begin = place + 2
        end = begin + int.from_bytes(packet[place:begin], "little")
        if max(begin, end) > len(packet):
            raise malformed()
        return packet[begin:end], end

    while place < len(packet):
        name, place = text(place)
        value, place = text(place)
        yield name, value


def _bad(name: bytes, what: str) -> ProtocolError:
    """Return the error for the value of a known name."""
    return ProtocolError(400, f"{name.decode('ascii')} of the uwsgi packet {what}.", RULE)


def _field(field: bytes, value: bytes) -> bytes:
    if CONTROL.search(value):
        raise ProtocolError(400, "A field of the uwsgi packet has a control character.", RULE)
    return b"%s: %s\r\n" % (field, value)


def _script_name(said: dict[bytes, bytes]) -> bytes:
    name = said.get(b"SCRIPT_NAME", b"").rstrip(b"/")
    if name and not is_prefix(percent.encoded(name, _PATH_SAFE)):
        raise _bad(b"SCRIPT_NAME", "is no path")
    return name


def _target(said: dict[bytes, bytes], script_name: bytes) -> bytes:
    """Return the request target: REQUEST_URI, unless the front-end has rewritten the path.

    Then it is made of the path that counts, so that everything that looks at one sees the same.
    """
    target = said.get(b"REQUEST_URI", b"")
    if target and (target[:1] != b"/" or NOT_IN_REQUEST_LINE.search(target) or b" " in target):
        raise _bad(b"REQUEST_URI", "is no path")
    path = said.get(b"PATH_INFO", b"")
    if not path and not (script_name and b"PATH_INFO" in said):
        if not target:
            raise _bad(b"REQUEST_URI", "is missing")
        return target
    if path and path[:1] != b"/":
        raise _bad(b"PATH_INFO", "is no path")
    asked, _, asked_query = target.partition(b"?")
    asked = percent.decoded(asked.decode("latin-1")).encode("latin-1")
    if asked == script_name + path:
        path = asked
    elif not script_name or not (path == script_name or path.startswith(script_name + b"/")):
        path = script_name + path
    query = said.get(b"QUERY_STRING", asked_query)
    if (path, query) == (asked, asked_query):
        return target
    if NOT_IN_REQUEST_LINE.search(query) or b" " in query:
        raise _bad(b"QUERY_STRING", "has a control character")
    quoted = percent.encoded(path, _PATH_SAFE).encode("ascii")
    return quoted + b"?" + query if query else quoted


def _port(said: dict[bytes, bytes], name: bytes) -> str:
    text = said.get(name, b"")
    if not text:
        return ""
    if not _PORT.fullmatch(text) or not int(text) < 65536:
        raise _bad(name, "is no port")
    return str(int(text) or "")


def _scheme(said: dict[bytes, bytes]) -> str:
    """Return the scheme by what an operator sets for it, before what nginx's own file has."""
    if https := said.get(b"HTTPS"):
        otherwise = "https" if https.lower() in (b"on", b"1") else "http"
    else:
        otherwise = _scheme_of(said, b"REQUEST_SCHEME")
    return _scheme_of(said, b"UWSGI_SCHEME") or otherwise


def _scheme_of(said: dict[bytes, bytes], name: bytes) -> str:
    text = said.get(name, b"")
    if not text:
        return ""
    scheme = _SCHEMES.get(text.lower())
    if scheme is None:
        raise _bad(name, "is no scheme")
    return scheme


def _request_id(text: bytes, most: int) -> str:
    shown = text.decode("latin-1")
    return shown if len(text) <= most and REQUEST_ID.fullmatch(shown) else ""


def _variables(said: dict[bytes, bytes]) -> dict[str, str]:
    found = {}
    for name in VARIABLES:
        value = said.get(name.encode("ascii"), b"")
        if CONTROL.search(value):
            raise _bad(name.encode("ascii"), "has a control character")
        # nginx has "_" for a server that no name leads to, and "~..." for a pattern.
        if value and (name != "SERVER_NAME" or (value != b"_" and _is_name(value))):
            found[name] = value.decode("latin-1")
    return found


def _is_name(value: bytes) -> bool:
    return b":" not in value and is_host(value.decode("latin-1"))
