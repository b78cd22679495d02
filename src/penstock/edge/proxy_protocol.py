"""The PROXY protocol, versions 1 and 2: what a proxy says of a connection before its first byte.

The header is read once, before anything else on the connection, TLS included. `scan` tells how many
of the bytes that have come belong to it, so that no byte behind it is taken, and `parse` reads it.
Neither does input or output.

Native code has the same functions in ``reactor/src/proxy_protocol.rs``;
``tests/edge/test_proxy_protocol.py`` runs one table on both.
"""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Iterator
from dataclasses import field

from penstock.edge.addresses import shown
from penstock.http1 import ProtocolError
from penstock.records import dataclass

V1, V2 = 1, 2
VERSIONS = {
    "off": frozenset[int](),
    "v1": frozenset({V1}),
    "v2": frozenset({V2}),
    "auto": frozenset({V1, V2}),
}
"""The versions that the setting allows."""

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
"""What a header of version 2 begins with."""
_START = b"PROXY "
_LONGEST_LINE = 107
"""Bytes of a header of version 1 at most, with its line end; the specification says so."""
_FIXED = 16
"""Bytes of a header of version 2 before its addresses."""

_LINE = re.compile(rb"PROXY (TCP4|TCP6) ([0-9A-Fa-f.:]+) ([0-9A-Fa-f.:]+) ([0-9]+) ([0-9]+)")
_UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: [ -~]*)?")
_PORT = re.compile(rb"0|[1-9][0-9]{0,4}")
_TEXT = re.compile(rb"[ -~\x80-\xff]{1,255}")

# The command of version 2: the proxy speaks for itself, as in a health check, or for a client.
_LOCAL, _PROXY = 0, 1
# Family and protocol of version 2, and the bytes of the addresses.
_UNSPECIFIED, _TCP4, _TCP6, _UNIX = 0x00, 0x11, 0x21, 0x31
_ADDRESSES = {_UNSPECIFIED: 0, _TCP4: 12, _TCP6: 36, _UNIX: 216}
# Types of the values behind the addresses, and of those within the one about TLS.
_AUTHORITY, _CRC32C, _SSL = 0x02, 0x03, 0x20
_SSL_VERSION, _SSL_CN, _SSL_CIPHER = 0x21, 0x22, 0x23
_CLIENT_SSL, _CLIENT_CERTIFICATE = 0x01, 0x02 | 0x04

_VARIABLES = {
    _SSL_VERSION: "SSL_PROTOCOL",
    _SSL_CN: "SSL_CLIENT_S_DN_CN",
    _SSL_CIPHER: "SSL_CIPHER",
}


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """What a header says."""

    address: str = ""
    """The client's address; empty where it names none."""
    port: str = ""
    variables: dict[str, str] = field(default_factory=dict)
    """What is set in the environ where the client's connection to the proxy was secured."""


def scan(data: bytes, versions: frozenset[int], most: int) -> tuple[int, bool]:
    """Return how many bytes belong to the header, and whether it is complete with them.

    ``data`` begins with the connection's first byte. ``versions`` are those that are allowed,
    ``most`` is the most bytes of a header. Raises `ProtocolError` where there is none.
    """
    if _begins(data, SIGNATURE):
        if V2 not in versions:
            raise refused("The PROXY header has version 2.")
        if len(data) < _FIXED:
            return len(data), False
        if data[12] >> 4 != 2 or data[12] & 0xF not in (_LOCAL, _PROXY):
            raise malformed()
        size = _FIXED + int.from_bytes(data[14:16], "big")
        if size > most:
            raise refused("The PROXY header is too long.")
        return min(len(data), size), len(data) >= size
    if _begins(data, _START):
        if V1 not in versions:
            raise refused("The PROXY header has version 1.")
        end = data.find(b"\r\n", 0, _LONGEST_LINE)
        if end >= 0:
            return end + 2, True
        if len(data) >= _LONGEST_LINE:
            raise malformed()
        return len(data), False
    raise refused("The connection does not begin with a PROXY header.")


def parse(header: bytes) -> ProxyHeader:
    """Return what a complete header says. Raises `ProtocolError` if it is malformed."""
    return _parse_v1(header[:-2]) if header.startswith(_START) else _parse_v2(header)


def explained(error: ProtocolError, first: bool) -> ProtocolError:
    """Return an error of a request that may be a PROXY header where none is expected.

    ``first`` is whether it is the connection's first request.
    """
    begins = error.beginning.startswith(("PROXY TCP4 ", "PROXY TCP6 ", "PROXY UNKNOWN"))
    if error.status != 400 or not first or not (begins or error.reason == _EMPTY_LINE):
        return error
    told = refused(UNEXPECTED if begins else UNEXPECTED_V2)
    told.request_line, told.fields = error.request_line, error.fields
    return told


UNEXPECTED = "A PROXY header comes from a peer that may not send one."
UNEXPECTED_V2 = "The request line is empty, as in a PROXY header, which this peer may not send."
_EMPTY_LINE = "The request line is empty."


def refused(reason: str) -> ProtocolError:
    """Return the error for a connection that does not begin as it has to."""
    return ProtocolError(400, reason, setting="proxy_protocol")


def malformed() -> ProtocolError:
    """Return the error for a header that breaks the rules."""
    return refused("The PROXY header is malformed.")


def _begins(data: bytes, start: bytes) -> bool:
    """Return True if ``data``, as far as it has come, begins with ``start``."""
    return bool(data) and data[: len(start)] == start[: len(data)]


def _parse_v1(line: bytes) -> ProxyHeader:
    if _UNKNOWN.fullmatch(line):
        return ProxyHeader()
    match = _LINE.fullmatch(line)
    if match is None:
        raise malformed()
    family = socket.AF_INET if match[1] == b"TCP4" else socket.AF_INET6
    source, _ = (_address(family, text.decode("ascii")) for text in match.group(2, 3))
    ports = match.group(4, 5)
    if not all(_PORT.fullmatch(port) and int(port) < 65536 for port in ports):
        raise malformed()
    return ProxyHeader(source, ports[0].decode("ascii"))


def _address(family: int, text: str) -> str:
    try:
        return shown(socket.inet_pton(family, text))
    except OSError:
        raise malformed() from None


def _parse_v2(header: bytes) -> ProxyHeader:
    if header[12] & 0xF == _LOCAL:
        return ProxyHeader()
    size = _ADDRESSES.get(header[13])
    if size is None or len(header) < _FIXED + size:
        raise malformed()
    block = header[_FIXED : _FIXED + size]
    values = list(_values(header, _FIXED + size))
    if sums := [(place, value) for kind, place, value in values if kind == _CRC32C]:
        _check_sum(header, sums)
    variables = _of_tls({kind: value for kind, _, value in values})
    if size == 12:
        return ProxyHeader(shown(block[:4]), str(int.from_bytes(block[8:10], "big")), variables)
    if size == 36:
        return ProxyHeader(shown(block[:16]), str(int.from_bytes(block[32:34], "big")), variables)
    return ProxyHeader(variables=variables)  # a client of the proxy without an address


def _values(data: bytes, place: int = 0) -> Iterator[tuple[int, int, bytes]]:
    """Yield the type, the place and the bytes of each value from a place on.

    Raises `ProtocolError` if they do not fill ``data``.
    """
    while place < len(data):
        if place + 3 > len(data):
            raise malformed()
        kind, size = struct.unpack_from("!BH", data, place)
        place += 3
        if place + size > len(data):
            raise malformed()
        yield kind, place, data[place : place + size]
        place += size


def _check_sum(header: bytes, sums: list[tuple[int, bytes]]) -> None:
    """Raise `ProtocolError` unless there is one sum, of the header with zeros in its place."""
    place, given = sums[0]
    if len(sums) > 1 or len(given) != 4:
        raise malformed()
    if crc32c(header[:place] + bytes(4) + header[place + 4 :]) != int.from_bytes(given, "big"):
        raise malformed()


def crc32c(data: bytes) -> int:
    """Return the checksum of RFC 4960, appendix B, bit by bit: there is one for each connection."""
    rest = 0xFFFFFFFF
    for byte in data:
        rest ^= byte
        for _ in range(8):
            rest = rest >> 1 ^ (0x82F63B78 if rest & 1 else 0)
    return rest ^ 0xFFFFFFFF


def _of_tls(values: dict[int, bytes]) -> dict[str, str]:
    """Return what is set in the environ for a client whose connection to the proxy is secured."""
    tls = values.get(_SSL)
    if tls is None:
        return {}
    if len(tls) < 5:
        raise malformed()
    inner = {kind: value for kind, _, value in _values(tls, 5)}
    if not tls[0] & _CLIENT_SSL:
        return {}
    variables = {"wsgi.url_scheme": "https", "HTTPS": "on"}
    for kind, name in _VARIABLES.items():
        if kind in inner:
            variables[name] = _text(inner[kind])
    if _AUTHORITY in values:
        variables["SSL_SERVER_NAME"] = _text(values[_AUTHORITY])
    verified = "SUCCESS" if tls[1:5] == bytes(4) else "FAILED"
    variables["SSL_CLIENT_VERIFY"] = verified if tls[0] & _CLIENT_CERTIFICATE else "NONE"
    return variables


def _text(value: bytes) -> str:
    if not _TEXT.fullmatch(value):
        raise malformed()
    return value.decode("latin-1")
