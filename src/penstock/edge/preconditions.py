"""Conditional requests (RFC 9110, section 13), ranges (section 14) and content codings (12.5.3).

Functions of field values: they know no file and no socket.
"""

from __future__ import annotations

import re
import time
from calendar import timegm
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

# -- dates (RFC 9110, section 5.6.7) ------------------------------------------------------------

_MONTH_NAMES: Final = ("Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec").split()  # noqa: SIM905
_MONTHS: Final = {name: number for number, name in enumerate(_MONTH_NAMES, 1)}
_DAYS: Final = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
_LONG_DAYS: Final = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
_DAY, _LONG_DAY = f"(?:{'|'.join(_DAYS)})", f"(?:{'|'.join(_LONG_DAYS)})"
_TIME = r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_MONTH = f"(?P<month>{'|'.join(_MONTHS)})"
_DATES: Final = [
    re.compile(rf"{_DAY}, (?P<day>[0-9]{{2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_TIME} GMT"),
    re.compile(rf"{_LONG_DAY}, (?P<day>[0-9]{{2}})-{_MONTH}-(?P<short>[0-9]{{2}}) {_TIME} GMT"),
    re.compile(rf"{_DAY} {_MONTH} (?P<day>[ 0-9][0-9]) {_TIME} (?P<year>[0-9]{{4}})"),
]


def format_date(seconds: int) -> str:
    """Return a time in seconds since 1970 as an IMF-fixdate."""
    year, month, day, hour, minute, second, weekday, *_ = time.gmtime(seconds)
    name = _MONTH_NAMES[month - 1]
    return f"{_DAYS[weekday]}, {day:02} {name} {year:04} {hour:02}:{minute:02}:{second:02} GMT"


def parse_date(text: str) -> int | None:
    """Return the seconds since 1970 of an HTTP-date in one of its three forms, or None."""
    for form in _DATES:
        match = form.fullmatch(text)
        if match is not None:
            break
    else:
        return None
    found = match.groupdict()
    if short := found.get("short"):
        # More than fifty years ahead means the past.
        this_year = time.gmtime().tm_year
        year = this_year - this_year % 100 + int(short)
        year -= 100 if year > this_year + 50 else 0
    else:
        year = int(found["year"])
    month, day = _MONTHS[found["month"]], int(found["day"])
    hour, minute, second = (int(found[part]) for part in ("hour", "minute", "second"))
    if not (1 <= day <= 31 and hour < 24 and minute < 60 and second <= 60 and year):
        return None
    return timegm((year, month, day, hour, minute, second))


# -- entity tags (RFC 9110, section 8.8.3) ------------------------------------------------------

_TAG: Final = r'(?:W/)?"[!#-~\x80-\xff]*"'
_TAGS: Final = re.compile(rf"[ \t,]*(?P<tag>{_TAG})[ \t]*(?=,|$)")


def tags_of(value: str) -> list[str]:
    """Return the entity tags of If-Match or If-None-Match, up to the first malformed one."""
    found = []
    position = 0
    while match := _TAGS.match(value, position):
        found.append(match["tag"])
        position = match.end()
    return found


def matches_weakly(value: str, etag: str) -> bool:
    """Return True if a list of entity tags has ``etag``, strong or weak; ``*`` has any."""
    if value == etag or value.strip(" \t") == "*":
        return True
    opaque = etag.removeprefix("W/")
    return any(tag.removeprefix("W/") == opaque for tag in tags_of(value))


def matches_strongly(value: str, etag: str) -> bool:
    """Return True if both are strong and the same; ``*`` has any."""
    if value.strip(" \t") == "*":
        return True
    return not etag.startswith("W/") and etag in tags_of(value)


# -- preconditions (RFC 9110, section 13.2.2) ---------------------------------------------------


def evaluate(environ: Mapping[str, Any], etag: str, modified: int | None) -> int:
    """Return 200, 304 or 412 for a GET or HEAD of what has this tag and this time.

    ``etag`` is empty, and ``modified`` (seconds since 1970) None, for what has none.
    """
    if (value := environ.get("HTTP_IF_MATCH")) is not None:
        if not (matches_strongly(value, etag) if etag else value.strip(" \t") == "*"):
            return 412
    elif (value := environ.get("HTTP_IF_UNMODIFIED_SINCE")) is not None:
        date = parse_date(value)
        if date is not None and modified is not None and modified > date:
            return 412
    if (value := environ.get("HTTP_IF_NONE_MATCH")) is not None:
        if matches_weakly(value, etag) if etag else value.strip(" \t") == "*":
            return 304
    elif (value := environ.get("HTTP_IF_MODIFIED_SINCE")) is not None:
        date = parse_date(value)
        if date is not None and modified is not None and modified <= date:
            return 304
    return 200


# -- ranges (RFC 9110, section 14) --------------------------------------------------------------

MOST_RANGES = 16
"""With more ranges than this a request gets the whole file (RFC 9110, section 14.2): readers of
documents ask for a few at once, and each costs a head of its own."""

_RANGE: Final = re.compile(r"[ \t]*(?P<first>[0-9]*)-(?P<last>[0-9]*)[ \t]*")
_DIGITS = 18
"""A position with more digits is beyond any file."""

Range = tuple[int, int]
"""Where it begins, and how many bytes it has."""


def if_range_holds(value: str | None, etag: str, modified: int | None, now: float) -> bool:
    """Return True if ``If-Range`` lets the ranges be sent (RFC 9110, section 13.1.5).

    A date has to be the very one, and a strong validator: the second that it names is over.
    """
    if value is None:
        return True
    value = value.strip(" \t")
    if value.startswith(('"', "W/")):
        return bool(etag) and value == etag and not etag.startswith("W/")
    date = parse_date(value)
    return date is not None and date == modified and now >= date + 1


def requested_ranges(value: str, size: int) -> list[Range] | None:
    """Return the ranges of a file of ``size`` bytes that ``Range`` asks for.

    None is for a field that has no effect: another unit, a malformed one, or too many ranges. An
    empty list is for 416: there are none of these bytes. Ranges that overlap are one.
    """
    unit, separator, specs = value.partition("=")
    if not separator or unit.strip(" \t").lower() != "bytes" or len(specs) > 1024:
        return None
    parts = [part for part in specs.split(",") if part.strip(" \t")]
    if not parts or len(parts) > MOST_RANGES:
        return None
    found: list[Range] = []
    for part in parts:
        match = _RANGE.fullmatch(part)
        if match is None or not (match["first"] or match["last"]):
            return None
        first, last = (_position(match[name]) for name in ("first", "last"))
        if first is None:
            assert last is not None
            if last and not size:
                return None  # the last bytes of nothing are all of it
            begin, end = max(0, size - last), size
        else:
            if last is not None and last < first:
                return None
            begin, end = first, size if last is None else min(last + 1, size)
        if begin < end:
            found.append((begin, end - begin))
    return _apart(found)


def _position(digits: str) -> int | None:
    if not digits:
        return None
    return int(digits) if len(digits.lstrip("0")) <= _DIGITS else 10**_DIGITS


def _apart(ranges: list[Range]) -> list[Range]:
    """Return the ranges as they were asked for, or merged where some overlap."""
    merged: list[Range] = []
    for begin, count in sorted(ranges):
        if merged and begin < sum(merged[-1]):
            start, before = merged[-1]
            merged[-1] = (start, max(start + before, begin + count) - start)
        else:
            merged.append((begin, count))
    return ranges if len(merged) == len(ranges) else merged


# -- content codings (RFC 9110, section 12.5.3) -------------------------------------------------

_CODING: Final = re.compile(
    r"[ \t]*(?P<coding>[!#$%&'*+\-.^_`|~0-9A-Za-z]+)[ \t]*"
    r"(?:;[ \t]*[qQ]=(?P<weight>0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)[ \t]*)?"
)
IDENTITY = "identity"


def choose_coding(value: str | None, available: Sequence[str]) -> str | None:
    """Return the best coding of ``available``, ``identity``, or None if the client takes neither.

    ``available`` is in the order in which the server prefers them where the client does not mind.
    Without the field a client gets no coding: it may be a very simple one.
    """
    if value is None:
        return IDENTITY
    return _choose(value, tuple(available)) if len(value) <= 256 else _chosen(value, available)


def _chosen(value: str, available: Sequence[str]) -> str | None:
    weights: dict[str, float] = {}
    for part in value.split(","):
        match = _CODING.fullmatch(part)
        if match is not None:
            coding = match["coding"].lower()
            weight = float(match["weight"] or 1)
            weights[coding.removeprefix("x-") if coding == "x-gzip" else coding] = weight
    others = weights.get("*")
    best, most = None, 0.0
    for coding in available:
        weight = weights.get(coding, others or 0.0)
        if weight > most:
            best, most = coding, weight
    # Acceptable unless it is excluded, and then preferred to nothing alone.
    plain = weights.get(IDENTITY, 0.0 if others == 0 else 0.0001)
    return IDENTITY if plain > most else best


_choose = lru_cache(maxsize=256)(_chosen)
