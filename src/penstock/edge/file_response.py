"""A file as the answer to a request: conditional requests, ranges, and how its bytes are sent."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from penstock.edge.preconditions import (
    Range,
    evaluate,
    format_date,
    if_range_holds,
    requested_ranges,
)
from penstock.errors import FileTruncatedError
from penstock.http1.statuses import REASON_PHRASES
from penstock.records import dataclass

if TYPE_CHECKING:
    from penstock.transport import Exchange, HeaderList

_FOR_CACHES = frozenset(
    {"cache-control", "content-location", "date", "etag", "expires", "set-cookie", "vary"}
)
"""Of the fields of a 200, those that a 304 has as well (RFC 9110, section 15.4.5), and cookies."""

_BLOCK_BYTES = 64 * 1024
"""How much of a file is read at once where the kernel does not send it."""

_REPRODUCIBLE = 366 * 24 * 3600
"""Tools that build the same bytes from the same source set the times of all files to one within a
year of 1970 or of 1980. Two versions of a file would have the same tag, if their sizes agree."""
_REPRODUCIBLE_BEGINS = (0, 315532800)


@dataclass(frozen=True, slots=True)
class Representation:
    """What is known of an open file, or of one whose content is in memory."""

    size: int
    etag: str
    """A strong entity tag; empty for none."""
    modified: int | None
    """When it was changed, in seconds since 1970; None where its time says nothing."""
    headers: HeaderList
    """All fields of a 200 but those of its length."""
    content: bytes | None
    descriptor: int
    """An open file, where the content is not in memory; else -1."""
    sendfile: bool = True
    """Whether the kernel may send it."""


def validators(status: os.stat_result, mark: str = "") -> tuple[str, int | None]:
    """Return a file's strong entity tag and its time; ``mark`` sets codings of it apart."""
    modified: int | None = int(status.st_mtime)
    changed = status.st_mtime_ns
    assert modified is not None
    if any(begin <= modified <= begin + _REPRODUCIBLE for begin in _REPRODUCIBLE_BEGINS):
        modified, changed = None, status.st_ctime_ns
    else:
        modified = min(modified, int(time.time()))  # never after Date (RFC 9110, section 8.8.2.1)
    return f'"{changed:x}-{status.st_size:x}{mark}"', modified


def validator_fields(etag: str, modified: int | None) -> HeaderList:
    """Return the fields of what `validators` gave."""
    fields = [("ETag", etag)]
    if modified is not None:
        fields.append(("Last-Modified", format_date(modified)))
    return fields


def send_conditionally(exchange: Exchange, found: Representation, is_head: bool) -> None:
    """Answer GET or HEAD with a file: 200, 206, 304, 412 or 416."""
    environ = exchange.environ
    outcome = evaluate(environ, found.etag, found.modified)
    if outcome == 304:
        kept = [field for field in found.headers if field[0].lower() in _FOR_CACHES]
        exchange.respond("304 Not Modified", kept, None)
        exchange.finish()
    elif outcome == 412:
        send_status(exchange, 412)
    elif is_head or (ranges := _ranges(environ, found)) is None:
        send_whole(exchange, found, is_head)
    elif not ranges:
        send_status(exchange, 416, [("Content-Range", f"bytes */{found.size}")])
    elif len(ranges) == 1:
        _send_range(exchange, found, ranges[0])
    else:
        _send_ranges(exchange, found, ranges)


def send_whole(
    exchange: Exchange, found: Representation, is_head: bool, status: str = "200 OK"
) -> None:
    """Send a file from its beginning to its end."""
    exchange.respond(status, found.headers, found.size)
    if is_head:
        exchange.finish()
    elif found.content is not None:
        exchange.finish(found.content)
    else:
        _send_part(exchange, found, (0, found.size))
        exchange.finish()


def _ranges(environ: Mapping[str, Any], found: Representation) -> list[Range] | None:
    value = environ.get("HTTP_RANGE")
    if value is None:
        return None
    condition = environ.get("HTTP_IF_RANGE")
    if not if_range_holds(condition, found.etag, found.modified, time.time()):
        return None
    return requested_ranges(value, found.size)


def _send_range(exchange: Exchange, found: Representation, part: Range) -> None:
    begin, count = part
    where = ("Content-Range", f"bytes {begin}-{begin + count - 1}/{found.size}")
    exchange.respond("206 Partial Content", [*found.headers, where], count)
    _send_part(exchange, found, part)
    exchange.finish()


def _send_ranges(exchange: Exchange, found: Representation, ranges: list[Range]) -> None:
    """Send several ranges in one body (RFC 9110, section 14.6)."""
    # Random: who writes the file must not be able to end a part in it.
    boundary = os.urandom(16).hex()
    kind = ""
    headers = []
    for name, value in found.headers:
        if name.lower() == "content-type":
            kind = f"Content-Type: {value}\r\n"
        else:
            headers.append((name, value))
    headers.append(("Content-Type", f"multipart/byteranges; boundary={boundary}"))
    heads = [
        f"\r\n--{boundary}\r\n{kind}Content-Range: bytes {begin}-{begin + count - 1}/{found.size}"
        "\r\n\r\n".encode("latin-1")
        for begin, count in ranges
    ]
    heads[0] = heads[0][2:]
    end = f"\r\n--{boundary}--\r\n".encode("ascii")
    length = sum(map(len, heads)) + sum(count for _, count in ranges) + len(end)
    exchange.respond("206 Partial Content", headers, length)
    for head, part in zip(heads, ranges, strict=True):
        exchange.send(head)
        _send_part(exchange, found, part)
    exchange.finish(end)


def _send_part(exchange: Exchange, found: Representation, part: Range) -> None:
    begin, count = part
    if found.content is not None:
        exchange.send(found.content[begin : begin + count])
    elif found.sendfile:
        exchange.send_file(found.descriptor, begin, count)
    else:
        end = begin + count
        while begin < end:
            block = os.pread(found.descriptor, min(_BLOCK_BYTES, end - begin), begin)
            if not block:
                raise FileTruncatedError(errno.EIO, "the file became shorter while it was sent")
            exchange.send(block)
            begin += len(block)


def send_status(exchange: Exchange, status: int, more: HeaderList | None = None) -> None:
    """Answer with a status and its reason as text."""
    phrase = REASON_PHRASES[status]
    text = f"{phrase}\n".encode("ascii")
    headers = [("Content-Type", "text/plain; charset=utf-8"), *(more or [])]
    exchange.respond(f"{status} {phrase}", headers, len(text))
    exchange.finish(text)
