"""The checks of the status and the headers that an application passes to ``start_response``."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from penstock import messages

if TYPE_CHECKING:
    from penstock.transport import HeaderList

# Both caches hold what applications send, which is little. The bound is for an application that
# makes names or reasons from its input. Any thread may read and write them.
CACHE_ENTRIES = 1024

# RFC 9112, section 4: the reason may be empty. The space before it is required on the wire, and
# `penstock.wsgi.response` adds it. Codes from 600 on are no HTTP (RFC 9110, section 15), but some
# applications pass on those of a server behind them.
_STATUS = re.compile(r"[2-9][0-9]{2}(?: [\t\x20-\x7e\x80-\xff]*)?")
_LAST_CODE = 599
# RFC 9110, section 15.5.22: its Upgrade field says which protocol the server would speak.
_UPGRADE_REQUIRED = 426
# RFC 9110, section 5.6.2: token
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
# RFC 9110, section 5.5: field-content, with the obs-text that latin-1 allows
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
# 18 digits are more bytes than any disk holds, and fit 63 bits.
_LENGTH = re.compile(r"[0-9]{1,18}")

# Kinds of field name. Only the server decides about the connection and its framing: fields of an
# application would break them (RFC 9110, section 7.6.1; PEP 3333, "Other HTTP Features"). Many come
# with the response of another server that an application passes on.
_PLAIN, _CONTENT_LENGTH, _CONNECTION, _REPORTED = range(4)
_SPECIAL = {
    "content-length": _CONTENT_LENGTH,
    "connection": _CONNECTION,
    "keep-alive": _REPORTED,
    "proxy-authenticate": _REPORTED,
    "proxy-authorization": _REPORTED,
    "te": _REPORTED,
    "trailer": _REPORTED,
    "trailers": _REPORTED,
    "transfer-encoding": _REPORTED,
    "upgrade": _REPORTED,
}

put_right: deque[messages.Notice] = deque(maxlen=CACHE_ENTRIES)
"""What was put right in the heads that were checked, for the gateway to warn of. For any thread."""

_codes: dict[str, int] = {}
_kinds: dict[str, int] = {}


CheckHead = Callable[[str, "HeaderList"], "tuple[int, HeaderList, int | None, bool]"]
"""The type of `check_head`, and of native code that does the same."""


def check_head(status: str, headers: HeaderList) -> tuple[int, HeaderList, int | None, bool]:
    """Check the arguments of `start_response`.

    Return the status code and what `check_headers` returns. Raises what `check_status` and
    `check_headers` raise.
    """
    code = check_status(status)
    return code, *check_headers(headers, keeps_upgrade=code == _UPGRADE_REQUIRED)


def check_status(status: str) -> int:
    """Return the code of a status such as ``"200 OK"``; raises `TypeError` or `ValueError`."""
    code = _codes.get(status)
    if code is None:
        if not isinstance(status, str):
            raise TypeError(f"the status must be a str, not {type(status).__name__}")
        if not _STATUS.fullmatch(status):
            raise ValueError(f"{status!a} is no status: three digits from 200, space, reason")
        code = int(status[:3])
        if code > _LAST_CODE or len(status) == 3:
            put_right.append(messages.APPLICATION_SENT_ODD_STATUS.notice(status=code))
        _remember(_codes, status, code)
    return code


def status_code(status: str) -> int:
    """Return the code of a status that was checked: mostly as it was found then."""
    return _codes.get(status) or int(status[:3])


def check_headers(
    headers: HeaderList, *, keeps_upgrade: bool = False
) -> tuple[HeaderList, int | None, bool]:
    """Check response headers, and remove those that the server decides about.

    Return the remaining headers, the Content-Length in bytes (None without one), and True if the
    application asked to close the connection. With ``keeps_upgrade`` an ``Upgrade`` stays, and
    ``Connection: upgrade`` is behind it.

    Raises `TypeError` for anything except a list or tuple of pairs of `str`, and `ValueError` for a
    name or a value that a header may not have. No error message holds a value: it may be secret,
    and messages are logged.
    """
    if not isinstance(headers, (list, tuple)):
        raise TypeError(f"the headers must be a list, not {type(headers).__name__}")
    fields: HeaderList = []  # a new list: the application could change its own after the check
    content_length = None
    close = False
    for item in headers:
        if type(item) is not tuple:
            item = _pair(item)
        if len(item) != 2:
            raise TypeError("a header must be a tuple of name and value")
        name, value = item
        kind = _kinds.get(name)
        if kind is None:
            kind = _learn_kind(name)
        if type(value) is not str or not value.isascii() or not value.isprintable():
            _check_value(name, value)
        if kind == _PLAIN:
            fields.append(item)
        elif kind == _CONTENT_LENGTH:
            if not _LENGTH.fullmatch(value):
                raise ValueError("Content-Length must be one number in plain digits")
            length = int(value)
            if content_length is not None and content_length != length:
                raise ValueError("Content-Length is given twice, with different values")
            content_length = length
        elif kind == _CONNECTION:
            close = close or "close" in map(str.strip, value.lower().split(","))
        elif kind == _REPORTED and keeps_upgrade and name.lower() == "upgrade":
            fields += [item, ("Connection", "upgrade")]
        else:
            put_right.append(messages.APPLICATION_SENT_HOP_BY_HOP.notice(name=name.title()))
    return fields, content_length, close


def _pair(item: object) -> tuple[str, str]:
    """Return a header that is a list, as other servers take it, as a tuple."""
    if not isinstance(item, (list, tuple)):
        raise TypeError("a header must be a tuple of name and value")
    return tuple(item)  # the caller checks its length


def _learn_kind(name: str) -> int:
    if not isinstance(name, str):
        raise TypeError(f"a header's name must be a str, not {type(name).__name__}")
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!a} is no header name")
    kind = _SPECIAL.get(name.lower(), _PLAIN)
    _remember(_kinds, name, kind)
    return kind


def _remember(cache: dict[str, int], key: str, value: int) -> None:
    if len(cache) >= CACHE_ENTRIES:
        cache.clear()
    cache[key] = value


def _check_value(name: str, value: str) -> None:
    if not isinstance(value, str):
        raise TypeError(f"the value of the header {name} must be a str, not {type(value).__name__}")
    if not _VALUE.fullmatch(value):
        raise ValueError(
            f"the value of the header {name} holds a control character or one beyond latin-1"
        )
