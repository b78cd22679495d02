"""What the parser reports: three kinds of event, two signals, and the states between them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final, TypeAlias


@dataclass(slots=True)
class Request:
    """A complete and valid head. Text is latin-1, so that ``encode("latin-1")`` is the wire's."""

    method: str
    """A token of at most 32 characters, in the case it was sent in."""

    target: str
    """The request target exactly as received."""

    version: str
    """``"HTTP/1.0"``, or ``"HTTP/1.1"`` for every later 1.x."""

    path: str
    """The target's path, undecoded; ``"/"`` where it is empty, ``"*"`` for ``OPTIONS *``."""

    query: str
    """What follows the target's first ``?``, undecoded; ``""`` if nothing does."""

    fields: dict[str, str]
    """Lower-case names to trimmed values. Repeated fields are joined with a comma, ``cookie``
    with ``"; "``. For an absolute-form target ``host`` is the target's authority. Not to be
    changed: requests of one connection that have the same fields share them.
    """

    content_length: int | None
    """The value of Content-Length in bytes; None if there is no such field."""

    chunked: bool
    """Whether the body comes in chunks."""

    keep_alive: bool
    """Whether the client lets the connection persist."""

    expect_continue: bool
    """Whether the client may hold its body back until it sees ``100 Continue``."""

    body_expected: bool
    """Whether body bytes follow, as far as the head can tell (an empty chunked body may)."""

    repeated: bool = field(default=False, compare=False)
    """Whether ``fields`` is the very object that the connection's last request had."""


@dataclass(slots=True)
class Data:
    """A piece of the body, freed of its framing; never empty."""

    data: bytes


@dataclass(frozen=True, slots=True)
class EndOfMessage:
    """The request is complete. Trailer fields were checked and dropped."""


class Signal(Enum):
    """What the parser answers when there is no event."""

    NEED_DATA = "need data"
    CONNECTION_CLOSED = "connection closed"


NEED_DATA: Final = Signal.NEED_DATA
"""There is no event before `RequestParser.receive_data` or `receive_eof` is called again."""

CONNECTION_CLOSED: Final = Signal.CONNECTION_CLOSED
"""The client closed between two requests, and there will be no other."""

Event: TypeAlias = Request | Data | EndOfMessage | Signal


class State(Enum):
    """Where in a request the parser is."""

    __hash__ = object.__hash__  # an Enum's own is Python code, and each request needs it

    IDLE = "idle"
    """No byte of a request was seen."""

    HEAD = "head"
    """Part of a head was seen, or it is whole but not asked for yet."""

    BODY = "body"
    """The head was handed out; the message has not ended."""

    DONE = "done"
    """The message has ended; `RequestParser.start_next_request` begins another."""

    FAILED = "failed"
    """The client broke a rule or a limit; nothing it sends is looked at any more."""

    CLOSED = "closed"
    """The client closed the connection between two requests."""
