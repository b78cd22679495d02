"""From the lines of a head to a `Request`: request line, fields, and what they say together.

No line that is passed in here holds a control character except HTAB, and none passes a limit: the
caller has checked both when it split the bytes into lines.
"""

from __future__ import annotations

from functools import lru_cache

from penstock.http1 import grammar
from penstock.http1.errors import ProtocolError
from penstock.http1.events import Request
from penstock.http1.limits import body_too_large

MAX_METHOD = 32
"""The most characters of a method; 501 above (RFC 9110, section 9.1). The longest registered one
has 17."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"})

_SINGLE_FIELDS = frozenset({"host", "content-length", "content-type"})
"""Fields that may not be repeated: one recipient may use the first line, another the last."""

_COOKIE_SEPARATOR = "; "  # RFC 9113, section 8.2.3: a comma can be a part of a cookie's value


class FieldNames(dict[str, str]):
    """A cache from field names, as sent, to the same in lower case. Every name in it is valid.

    Its count and the length of the names are bounded, because clients choose the names. Threads
    may share it: a race at worst checks a name twice.
    """

    MAX_COUNT = 1024
    MAX_LENGTH = 64

    def __missing__(self, name: str) -> str:
        """Check a name that is not in the cache; raises `ProtocolError` if it is not a token."""
        if not grammar.TOKEN.fullmatch(name):
            raise _bad_field_name(name)
        lower = name.lower()
        if len(self) < self.MAX_COUNT and len(name) <= self.MAX_LENGTH:
            self[name] = lower
        return lower


def _bad_field_name(name: str) -> ProtocolError:
    if name[:1] in (" ", "\t"):
        return ProtocolError(400, "A field line begins with a blank.", "RFC 9112, section 5.2")
    if name[-1:] in (" ", "\t"):
        return ProtocolError(400, "A blank precedes a field's colon.", "RFC 9112, section 5.1")
    return ProtocolError(400, "A field name is not a token.", "RFC 9110, section 5.1")


_FIELD_NAMES = FieldNames()


class FieldLines(dict[str, tuple[str, str]]):
    """A cache from field lines, as sent, to their names in lower case and their trimmed values.

    Most lines of a client's requests are in those of many others. What is in the cache is valid.
    Its count and the length of the lines are bounded, because clients choose them: once it is
    full, it begins anew. Threads may share it: a race at worst reads a line twice.
    """

    MAX_COUNT = 512
    MAX_LENGTH = 160

    def __missing__(self, line: str) -> tuple[str, str]:
        """Read a line that is not in the cache; raises `ProtocolError`."""
        name, colon, value = line.partition(":")
        if not colon:
            raise ProtocolError(400, "A field line has no colon.", "RFC 9112, section 5")
        field = (_FIELD_NAMES[name], value.strip(" \t"))
        if len(line) <= self.MAX_LENGTH:
            if len(self) >= self.MAX_COUNT:
                self.clear()
            self[line] = field
        return field


_FIELD_LINES = FieldLines()

MAX_CACHED_LINE = 128
"""The most characters of a request line that is remembered, because clients choose them."""


def parse_request(lines: list[str], max_body: int) -> Request:
    """Return the request whose head is ``lines``; raises `ProtocolError`."""
    line = parse_request_line(lines[0])
    fields = parse_fields(lines[1:])
    try:
        return _interpret(line, fields, max_body)
    except ProtocolError as error:
        error.fields = fields
        raise


def _interpret(
    line: tuple[str, str, str, str, str, str], fields: dict[str, str], max_body: int
) -> Request:
    method, target, version, path, query, authority = line
    host = fields.get("host")
    https_target, replaced_host = False, ""
    if authority:
        https_target = target[:5].lower() == "https"
        if host and not is_same_host(host, authority, https_target):
            replaced_host = host
        fields["host"] = authority  # first, because the log shows the fields of a refused head
    if host is None:
        if version != "HTTP/1.0":
            raise ProtocolError(400, "The Host field is missing.", "RFC 9112, section 3.2")
    elif host or version != "HTTP/1.0":
        check_host(host)
    chunked = "transfer-encoding" in fields
    length = None
    if chunked:
        _check_transfer_encoding(fields, version)
    elif "content-length" in fields:
        length = parse_content_length(fields["content-length"], max_body)
    body_expected = chunked or bool(length)
    connection = fields.get("connection")
    if connection is None:
        keep_alive = version == "HTTP/1.1"
    else:
        keep_alive = connection == "keep-alive" or _asks_keep_alive(connection, version)
    expect_continue = False
    if "expect" in fields:
        expect_continue = _asks_continue(fields["expect"], version) and body_expected
    return Request(
        method,
        target,
        version,
        path,
        query,
        fields,
        length,
        chunked,
        keep_alive,
        expect_continue,
        body_expected,
        https_target,
        replaced_host,
    )


def is_same_host(host: str, authority: str, https: bool) -> bool:
    """Return True if both name the same host and port; an empty port is the scheme's own."""
    port = ":443" if https else ":80"
    bare = [name.lower().removesuffix(port).removesuffix(":") for name in (host, authority)]
    return bare[0] == bare[1]


def repeat_request(line: str, last: Request) -> Request | None:
    """Return the request with the request line ``line`` and the same fields as ``last``.

    None if the fields have to be parsed again, because the request line changes what they mean.
    Raises `ProtocolError`.
    """
    method, target, version, path, query, authority = parse_request_line(line)
    if version != last.version or authority or last.target[0] not in "/*":
        return None
    return Request(
        method,
        target,
        version,
        path,
        query,
        last.fields,
        last.content_length,
        last.chunked,
        last.keep_alive,
        last.expect_continue,
        last.body_expected,
        repeated=True,
    )


def parse_request_line(line: str) -> tuple[str, str, str, str, str, str]:
    """Return method, target, version, path, query and authority (``""`` if there is none).

    RFC 9112, section 3. Raises `ProtocolError`.
    """
    return _known_line(line) if len(line) <= MAX_CACHED_LINE else _split_line(line)


def _split_line(line: str) -> tuple[str, str, str, str, str, str]:
    try:
        method, target, version = line.split(" ")
    except ValueError:
        raise ProtocolError(
            400, "The request line is not 'method target version'.", "RFC 9112, section 3"
        ) from None
    known = method in _METHODS
    if not known and not grammar.TOKEN.fullmatch(method):
        raise ProtocolError(400, "The method is not a token.", "RFC 9110, section 9.1")
    if not grammar.TARGET.fullmatch(target):
        raise _bad_target()
    if version != "HTTP/1.1":
        version = _check_version(version)
    if not known:
        _check_method(method)
    if target[0] == "/":
        path, _, query = target.partition("?")
        return method, target, version, path, query, ""
    return method, target, version, *_split_other_target(method, target)


_known_line = lru_cache(maxsize=256)(_split_line)


def _check_method(method: str) -> None:
    if method == "CONNECT":
        raise ProtocolError(
            405, "CONNECT is for proxies; this is an origin server.", "RFC 9110, section 9.3.6"
        )
    if len(method) > MAX_METHOD:
        raise ProtocolError(501, "The method is too long.", "RFC 9110, section 9.1")


def _bad_target() -> ProtocolError:
    return ProtocolError(400, "The request target is not valid.", "RFC 9112, section 3.2")


def _check_version(version: str) -> str:
    match = grammar.VERSION.fullmatch(version)
    if not match:
        raise ProtocolError(400, "The protocol version is not valid.", "RFC 9112, section 2.3")
    if match[1] != "1":
        raise ProtocolError(
            505, "Only HTTP/1.0 and HTTP/1.1 are spoken here.", "RFC 9110, section 15.6.6"
        )
    return "HTTP/1.0" if match[2] == "0" else "HTTP/1.1"


def _split_other_target(method: str, target: str) -> tuple[str, str, str]:
    """Return path, query and authority of a target that is not in origin-form.

    Raises `ProtocolError`.
    """
    if target == "*":
        if method != "OPTIONS":
            raise ProtocolError(
                400, "The target '*' is for OPTIONS alone.", "RFC 9112, section 3.2.4"
            )
        return "*", "", ""
    match = grammar.ABSOLUTE_FORM.fullmatch(target)
    if not match:
        raise _bad_target()
    authority, path, query = match.groups("")
    if not grammar.is_host(authority):  # this also refuses userinfo (RFC 9110, section 4.2.4)
        raise _bad_target()
    return path or "/", query, authority


def parse_fields(lines: list[str]) -> dict[str, str]:
    """Return lower-case names and trimmed values; the values of repeated fields are joined.

    RFC 9112, section 5, and RFC 9110, section 5.3. Raises `ProtocolError`.
    """
    known = _FIELD_LINES
    fields: dict[str, str] = {}
    for line in lines:
        name, value = known[line]
        fields[name] = value
    if len(fields) != len(lines):
        _join_repeated(fields, lines)
    return fields


def _join_repeated(fields: dict[str, str], lines: list[str]) -> None:
    """Set each repeated field to all its values in the order sent (RFC 9110, section 5.3)."""
    values: dict[str, list[str]] = {name: [] for name in fields}
    for line in lines:
        name, value = _FIELD_LINES[line]
        values[name].append(value)
    for name, several in values.items():
        if len(several) > 1:
            if name in _SINGLE_FIELDS:
                raise ProtocolError(
                    400,
                    "Host, Content-Length or Content-Type is repeated.",
                    "RFC 9110, section 5.3",
                )
            fields[name] = (_COOKIE_SEPARATOR if name == "cookie" else ",").join(several)


@lru_cache(maxsize=256)
def check_host(host: str) -> None:
    """Raise `ProtocolError` unless ``host`` is a valid and not empty value of Host."""
    if not grammar.is_host(host):
        raise ProtocolError(400, "The Host field is not valid.", "RFC 9112, section 3.2")


def parse_content_length(value: str, max_body: int) -> int:
    """Return the value of Content-Length in bytes; raises `ProtocolError`."""
    if not grammar.DIGITS.fullmatch(value):
        raise ProtocolError(
            400, "Content-Length is not a plain decimal number.", "RFC 9112, section 6.3"
        )
    # int() raises ValueError for thousands of digits, and its time is not linear in their number.
    digits = value.lstrip("0") or "0"
    if len(digits) > 19 or int(digits) > max_body:
        raise body_too_large()
    return int(digits)


def _check_transfer_encoding(fields: dict[str, str], version: str) -> None:
    """Raise `ProtocolError` unless the only coding is ``chunked``, once.

    RFC 9112, sections 6.1 and 6.3.
    """
    if version == "HTTP/1.0":
        raise ProtocolError(400, "HTTP/1.0 has no Transfer-Encoding.", "RFC 9112, section 6.1")
    if "content-length" in fields:
        raise ProtocolError(
            400, "Both Content-Length and Transfer-Encoding are there.", "RFC 9112, section 6.3"
        )
    value = fields["transfer-encoding"]
    if value == "chunked":
        return
    codings = [coding.strip(" \t").lower() for coding in value.split(",")]
    if codings == ["chunked"]:
        return
    others = codings[:-1]
    # `identity` is not a coding since RFC 7230, and some recipients let it undo `chunked`.
    if codings[-1] != "chunked" or not all(map(_is_other_coding, others)):
        raise ProtocolError(
            400, "Transfer-Encoding does not end in one 'chunked'.", "RFC 9112, section 6.3"
        )
    raise ProtocolError(501, "Only the coding 'chunked' is known here.", "RFC 9112, section 6.1")


def _is_other_coding(coding: str) -> bool:
    name = coding.partition(";")[0].rstrip(" \t")
    return name not in ("chunked", "identity") and bool(grammar.TRANSFER_CODING.fullmatch(coding))


def _asks_keep_alive(connection: str, version: str) -> bool:
    """Return True if the client lets the connection persist (RFC 9112, section 9.3)."""
    options = {option.strip(" \t") for option in connection.lower().split(",")}
    if "close" in options:
        return False
    return version == "HTTP/1.1" or "keep-alive" in options


def _asks_continue(expect: str, version: str) -> bool:
    """Return True if the client may wait for a 100; raises 417 for any other expectation."""
    members = {member.strip(" \t") for member in expect.lower().split(",")} - {""}
    if members - {"100-continue"}:
        raise ProtocolError(
            417, "The only expectation known here is 100-continue.", "RFC 9110, section 10.1.1"
        )
    return bool(members) and version == "HTTP/1.1"  # an HTTP/1.0 client is never sent a 1xx
