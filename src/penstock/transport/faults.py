"""Where in a refused head the fault is, and what of the head may be shown."""

from __future__ import annotations

import re

from penstock.http1 import EndOfMessage, ParserLimits, ProtocolError, RequestParser
from penstock.http1.grammar import CONTROLS, TARGET, TOKEN_BYTES

_SECRET_NAME = rb"[^:\r\n]*(?:cookie|auth|token|secret|passw|session|api-?key|signature)"
_SECRET = re.compile(
    # The name, and behind it the rest of the line with the lines that continue it. The name may be
    # broken, and the colon missing: then all behind the word is hidden.
    rb"(?i)(?<=[\r\n])("
    + _SECRET_NAME
    + rb"[-\w]*[ \t]*:?)([^\r\n]*(?:(?:\r\n|\n|\r)[ \t][^\r\n]*)*)"
)
_END_OF_HEAD = re.compile(rb"\r?\n\r?\n|\r\r")
_USER = re.compile(rb"(?<=://)[^/?# \r\n]+@")
_REFERER = re.compile(rb"(?i)(?<=[\r\n])(referer[ \t]*:[^\r\n?#]*)([?#][^\r\n]*)")
_SHOWN_CHARACTER = re.compile(rb"[!-~]")
_FIELD_NAME = re.compile(r"[A-Z][A-Za-z]*(?:-[A-Z][A-Za-z]*)*")
_VERSION = re.compile(rb"HTTP/[0-9]\.[0-9]")


def find_fault(head: bytes, limits: ParserLimits, reason: str, setting: str) -> int | None:
    """Return the index of the byte that a head was refused for; None where it is no single one.

    The parser says which is the shortest beginning that it refuses. Within the line that ends there
    the first byte is looked for that may not be in it. Where each byte may be, the fault is in what
    they say: then it is the value of the field that ``reason`` names.
    """
    if setting == "header_map":
        return _first_underscore(head)
    refused = _shortest_refused(head, limits)
    if refused is None:
        return None
    last = refused - 1
    if head[last] in CONTROLS and head[last : last + 1] not in b"\r\n":
        return last
    begin = head.rfind(b"\n", 0, last) + 1
    line = head[begin:last].removesuffix(b"\r")
    if not line:
        return _named_field(head[:begin], reason)
    is_request_line = not head[:begin].strip(b"\r\n")
    found = _fault_in_request_line(line) if is_request_line else _fault_in_field(line)
    if found is not None:
        return begin + found
    # A CR or LF alone, or one byte more than a limit.
    return last if head[last : last + 1] != b"\n" or head[last - 1 : last] != b"\r" else begin


def _shortest_refused(head: bytes, limits: ParserLimits) -> int | None:
    """Return the length of the shortest beginning that a parser refuses.

    It refuses all that are longer, too.
    """
    low, high = 0, len(head)
    if not _is_refused(head, limits):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if _is_refused(head[:middle], limits):
            high = middle
        else:
            low = middle
    return high


def _is_refused(data: bytes, limits: ParserLimits) -> bool:
    parser = RequestParser(limits)
    parser.receive_data(data)
    try:
        # A request, its body in one piece, and its end: what follows was not refused.
        for _ in range(3):
            if isinstance(parser.next_event(), EndOfMessage):
                break
    except ProtocolError:
        return True
    return False


def _first_underscore(head: bytes) -> int | None:
    found = re.search(rb"\n[^:\r\n]*?(_)", head)
    return found.start(1) if found else None


def _named_field(head: bytes, reason: str) -> int:
    """Return where the value begins of the last field that a reason names; else 0."""
    # Of a reason such as "Content-Length is not a plain decimal number." also the first word.
    names = [*_FIELD_NAME.findall(reason), *(["Content-Length"] if "too large" in reason else [])]
    places = []
    for name in names:
        pattern = rb"(?i)\n" + re.escape(name.encode()) + rb"[ \t]*:[ \t]*"
        places += [match.end() for match in re.finditer(pattern, head)]
    return max(places, default=0)


def _fault_in_request_line(line: bytes) -> int | None:
    method, _, rest = line.partition(b" ")
    for index, byte in enumerate(method):
        if byte not in TOKEN_BYTES:
            return index
    target, _, version = rest.partition(b" ")
    begin = len(method) + 1
    match = TARGET.match(target.decode("latin-1"))
    well = match.end() if match else 0
    if well < len(target) or not target:
        return min(begin + well, len(line))
    begin += len(target) + 1
    return None if _VERSION.fullmatch(version) else min(begin, len(line))


def _fault_in_field(line: bytes) -> int | None:
    name, colon, value = line.partition(b":")
    for index, byte in enumerate(name):
        if byte not in TOKEN_BYTES:
            return index
    if not name or not colon:
        return len(name)
    for index, byte in enumerate(value):
        if byte in CONTROLS:
            return len(name) + 1 + index
    return None


def without_secrets(head: bytes) -> bytes:
    """Return a head with ``*`` for each character that may be a secret's; no byte moves.

    These are the query, that of Referer, a user with a password in the target, and the values of
    Cookie, Authorization and the like; what comes behind the head is left out. Bytes that may not
    be in a head stay as they are: such a one may be the fault.
    """
    if end := _END_OF_HEAD.search(head, 1):
        head = head[: end.end()]
    line_end = head.find(b"\n")
    line = head if line_end < 0 else head[:line_end]
    fields = _SECRET.sub(_mask_value, head[len(line) :])
    return _masked_line(line) + _REFERER.sub(_mask_value, fields)


def masked(request_line: str) -> str:
    """Return a request line with ``*`` in the place of the query's characters."""
    return _masked_line(request_line.encode("latin-1", "replace")).decode("latin-1")


def _masked_line(line: bytes) -> bytes:
    line = _USER.sub(lambda match: _SHOWN_CHARACTER.sub(b"*", match[0][:-1]) + b"@", line)
    begin = line.find(b"?") + 1
    if not begin:
        return line
    # Up to the protocol: a blank in a query may be the fault.
    end = line.rfind(b" HTTP/", begin)
    if end < 0 or b" " in line[end + 1 :].rstrip():
        end = len(line)
    return line[:begin] + _SHOWN_CHARACTER.sub(b"*", line[begin:end]) + line[end:]


def _mask_value(match: re.Match[bytes]) -> bytes:
    return match[1] + _SHOWN_CHARACTER.sub(b"*", match[2])
