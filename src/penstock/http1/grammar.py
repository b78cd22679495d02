"""The grammar of a request. Each rule names its section of the standard.

No pattern can backtrack over more than one run of characters, so all match in linear time.
"""

from __future__ import annotations

import re
from functools import lru_cache

TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
"""RFC 9110, section 5.6.2: methods and field names."""

TOKEN_BYTES = frozenset(
    b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)
"""The bytes of a token, for the check of a request's first byte."""

VERSION = re.compile(r"HTTP/([0-9])\.([0-9])")
"""RFC 9112, section 2.3: case-sensitive, one digit each."""

TARGET = re.compile(r'[!"$-\[\]-~\x80-\xff]+')
"""RFC 9112, section 3.2: visible ASCII except ``#`` and ``\\``, and all bytes above ASCII.

Wider than RFC 3986, because clients send ``{``, ``|``, ``"`` and the bytes of UTF-8 without
encoding them, and all parsers read those alike. They do not read a fragment or a backslash alike.
"""

ABSOLUTE_FORM = re.compile(r"https?://([^/?]*)([^?]*)(?:\?(.*))?", re.IGNORECASE)
"""RFC 9112, section 3.2.2, and RFC 9110, section 4.2: authority, path and query."""

_HOST = re.compile(
    r"(?:\[([0-9A-Fa-f:.]{2,45})\]"  # IPv6address; a zone has no meaning on another machine
    r"|(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})+)"  # IPv4address or reg-name
    r"(?::([0-9]{0,5}))?"
)

_GROUP = re.compile(r"[0-9A-Fa-f]{1,4}")
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = re.compile(rf"(?:{_OCTET}[.]){{3}}{_OCTET}")

MAX_PORT = 65535


@lru_cache(maxsize=256)
def is_host(text: str) -> bool:
    """Return True for ``uri-host [ ":" port ]`` (RFC 9112, section 3.2) that is not empty.

    It refuses more than the grammar does: an IP-literal that is not an address, and a port above
    65535. `urlsplit`, with which applications parse their own URL, raises for those. IPvFuture
    (RFC 3986, section 3.2.2) is refused because no version except 6 was ever defined.
    """
    match = _HOST.fullmatch(text)
    if match is None:
        return False
    literal, port = match.groups()
    return (literal is None or _is_ipv6_address(literal)) and int(port or 0) <= MAX_PORT


def _is_ipv6_address(text: str) -> bool:
    """Return True for an address without a zone (RFC 4291, section 2.2).

    `ipaddress` does this, too, and takes 0.2 MB.
    """
    left, gap, right = text.partition("::")
    groups = [group for part in (left, right) if part for group in part.split(":")]
    count = len(groups)
    if groups and not text.endswith("::") and _IPV4.fullmatch(groups[-1]):
        groups.pop()
        count += 1  # it stands for two groups
    return (count < 8 if gap else count == 8) and all(map(_GROUP.fullmatch, groups))


DIGITS = re.compile(r"[0-9]+")
"""RFC 9110, section 8.6: Content-Length. (``str.isdigit`` and ``int`` accept much more.)"""

TRANSFER_CODING = re.compile(
    r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
    r"(?:[ \t]*;[ \t]*[!#$%&'*+\-.^_`|~0-9A-Za-z]+[ \t]*=[ \t]*[!#$%&'*+\-.^_`|~0-9A-Za-z]+)*"
)
"""RFC 9112, section 7: a coding and its parameters.

Parameters with quoted values are refused. The only difference is that the client gets a 400 instead
of a 501.
"""

CHUNK_SIZE_DIGITS = 16
"""Hexadecimal digits of a chunk's size: with 64 bits no other recipient overflows."""

CHUNK_LINE = re.compile(
    rf"([0-9A-Fa-f]{{1,{CHUNK_SIZE_DIGITS}}})"
    r"((?:;[ \t]*[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
    r"(?:[ \t]*=[ \t]*(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
    r'|"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"))?[ \t]*)*)'
)
"""RFC 9112, section 7.1: the chunk size and the chunk extensions.

Blanks are allowed inside the extensions (section 7.1.1), but not next to the size.
"""

PLAIN_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")
"""What most chunks begin with: a size line without extensions."""

CONTROLS = bytes(byte for byte in range(0x20) if byte != 0x09) + b"\x7f"
"""RFC 9110, section 5.5: neither a field value nor any other part of a head may hold these."""

CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
"""One of `CONTROLS`."""

NOT_IN_REQUEST_LINE = re.compile(rb"[\x00-\x1f\x7f]")
"""RFC 9112, section 3: a request line has spaces, and no other blank or control character."""
