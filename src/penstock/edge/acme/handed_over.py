"""What the ordering process hands to the supervisor, checked there.

The process runs as the user of the workers and speaks with the network, so the supervisor, which
may be root, believes nothing of it: names are those of the settings, sizes and numbers have bounds,
tokens have their syntax. Whether a pair fits is checked besides, with OpenSSL, when it is new.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from penstock.records import dataclass

T = TypeVar("T")

MOST_CERTIFICATE_BYTES = 32 << 10
MOST_KEY_BYTES = 4 << 10
"""Of one pair: a chain has 5 KiB, a key of P-256 has 241 bytes."""

MOST_CHALLENGES = 10
"""That are open at a time: names are ordered one after the other, with one challenge each."""

MOST_TEXT = 300
"""Characters of a reason; more are cut off."""

STATES = ("valid", "expired", "self-signed")
"""What is served for a name."""

# RFC 8555, section 8.1: at least 128 bits in base64url.
_TOKEN = re.compile(r"[A-Za-z0-9_-]{20,200}")
_THUMBPRINT = re.compile(r"[A-Za-z0-9_-]{43}")
_MOST_NUMBER = 1 << 53


@dataclass(frozen=True, slots=True)
class HandedPair:
    """A certificate and its key, not checked against each other yet."""

    name: str
    certificate: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class HandedOver:
    """All that is to be served; it replaces what was handed over before."""

    number: int
    pairs: tuple[HandedPair, ...]
    """One for each name, in the order of the settings."""
    challenges: tuple[tuple[str, str], ...]
    """Token and key authorization, for http-01."""
    alpn_challenges: tuple[HandedPair, ...]


@dataclass(frozen=True, slots=True)
class NameStatus:
    """How a name stands."""

    state: str
    """One of `STATES`."""
    detail: str
    """What the process does, or waits for."""
    next_at: float
    """When it acts again, in Unix time; 0 for now."""
    not_after: float
    """Of the certificate that is served."""


def read_handed_over(message: Mapping[str, Any], names: Collection[str]) -> HandedOver:
    """Return what a message hands over. Raises `ValueError`, whose text says what is wrong.

    ``names`` are those of the settings.
    """
    by_name = {}
    for entry in _list(message, "pairs", len(names)):
        pair = _pair(entry, names)
        by_name[pair.name] = pair
    if by_name.keys() != set(names):
        raise ValueError("pairs that are not one for each name")
    challenges = []
    for entry in _list(message, "challenges", MOST_CHALLENGES):
        token, authorization = _texts(entry, 2)
        first, _, thumbprint = authorization.partition(".")
        if not (_TOKEN.fullmatch(token) and first == token and _THUMBPRINT.fullmatch(thumbprint)):
            raise ValueError("a malformed challenge")
        challenges.append((token, authorization))
    alpn = [_pair(entry, names) for entry in _list(message, "alpn", MOST_CHALLENGES)]
    pairs = tuple(by_name[name] for name in names)
    return HandedOver(read_number(message), pairs, tuple(challenges), tuple(alpn))


def read_number(message: Mapping[str, Any]) -> int:
    """Return the number of a message. Raises `ValueError`."""
    number = message.get("number")
    if not isinstance(number, int) or not 0 < number < _MOST_NUMBER:
        raise ValueError("a malformed number")
    return number


def read_statuses(message: Mapping[str, Any], names: Collection[str]) -> dict[str, NameStatus]:
    """Return how each name stands. Raises `ValueError`."""
    found = {}
    for entry in _list(message, "names", len(names)):
        if not isinstance(entry, dict) or entry.get("name") not in names:
            raise ValueError("the status of an unknown name")
        state = entry.get("state")
        if state not in STATES:
            raise ValueError("a malformed status")
        times = _time(entry.get("next_at")), _time(entry.get("not_after"))
        found[entry["name"]] = NameStatus(state, read_text(entry.get("detail")), *times)
    return found


def read_text(value: object) -> str:
    """Return a text that a log and a terminal can take. Raises `ValueError`."""
    if not isinstance(value, str):
        raise ValueError("a text that is none")
    return "".join(each if each.isprintable() else "?" for each in value[:MOST_TEXT])


def _list(message: Mapping[str, Any], key: str, most: int) -> list[Any]:
    value = message.get(key)
    if not isinstance(value, list) or len(value) > most:
        raise ValueError(f"malformed {key}")
    return value


def _pair(entry: object, names: Collection[str]) -> HandedPair:
    name, certificate, key = _texts(entry, 3)
    if name not in names:
        raise ValueError("a pair of an unknown name")
    if len(certificate) > MOST_CERTIFICATE_BYTES or len(key) > MOST_KEY_BYTES:
        raise ValueError("a pair that is too long")
    return _checked(lambda: HandedPair(name, certificate.encode("ascii"), key.encode("ascii")))


def _texts(entry: object, count: int) -> list[str]:
    if (
        isinstance(entry, list)
        and len(entry) == count
        and all(isinstance(each, str) for each in entry)
    ):
        return entry
    raise ValueError("a malformed entry")


def _checked(make: Callable[[], T]) -> T:
    try:
        return make()
    except UnicodeEncodeError:
        raise ValueError("a pair that is not PEM") from None


def _time(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("a malformed time")
    if not 0 <= value < 1e12:
        raise ValueError("a malformed time")
    return float(value)
