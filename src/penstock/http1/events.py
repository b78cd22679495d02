"""What the parser returns: three kinds of event and two signals; and the parser's states."""

from __future__ import annotations

from dataclasses import field
from enum import Enum
from typing import Final, TypeAlias

from penstock.records import dataclass


@dataclass(slots=True)
class Request:
    """A complete and valid head. Text is decoded as latin-1; encoding it gives the bytes sent."""

    method: str
    """A token of at most 32 characters, as it was sent."""

    target: str
    """The request target as it was sent."""

    version: str
    """``"HTTP/1.0"``, or ``"HTTP/1.1"`` for every later 1.x."""

    path: str
    """The target's path, not decoded; ``"/"`` if it is empty, ``"*"`` for ``OPTIONS *``."""

    query: str
    """What follows the target's first ``?``, not decoded; ``""`` if nothing does."""

    fields: dict[str, str]
    """Lower-case names and trimmed values. The values of repeated fields are joined with a comma,
    those of ``cookie`` with ``"; "``. For an absolute-form target, ``host`` is the target's
    authority. Do not change this: requests of one connection with the same fields share it.
    """

    content_length: int | None
    """The value of Content-Length in bytes; None if there is no such field."""

    chunked: bool
    """Whether the body is chunked."""

    keep_alive: bool
    """Whether the client lets the connection persist."""

    expect_continue: bool
    """Whether the client may wait for ``100 Continue`` before it sends the body."""

    body_expected: bool
    """Whether a body follows. True for a chunked body too, which may turn out to be empty."""

    https_target: bool = False
    """Whether the target is an ``https`` URI. What that means is for the connection to decide."""

    replaced_host: str = ""
    """The Host field as it was sent, where an authority in the target names another host and has
    replaced it (RFC 9112, section 3.2.2); ``""`` otherwise.
    """

    repeated: bool = field(default=False, compare=False)
    """Whether ``fields`` is the same object as in the connection's previous request."""


@dataclass(slots=True)
class Data:
    """A piece of the body without its framing; never empty."""

    data: bytes


@dataclass(frozen=True, slots=True)
class EndOfMessage:
    """The request is complete. Trailer fields were checked and dropped."""


class Signal(Enum):
    """What the parser returns when there is no event."""

    NEED_DATA = "need data"
    CONNECTION_CLOSED = "connection closed"


NEED_DATA: Final = Signal.NEED_DATA
"""There is no event until `RequestParser.receive_data` or `receive_eof` is called."""

CONNECTION_CLOSED: Final = Signal.CONNECTION_CLOSED
"""The client closed between two requests: there are no more events."""

Event: TypeAlias = Request | Data | EndOfMessage | Signal


class State(Enum):
    """Where in a request the parser is."""

    __hash__ = object.__hash__  # Enum's own is Python code, and each request calls it

    IDLE = "idle"
    """No byte of a request has been parsed."""

    HEAD = "head"
    """A part of a head has been parsed."""

    BODY = "body"
    """The head has been returned; the message has not ended."""

    DONE = "done"
    """The message has ended; `RequestParser.start_next_request` begins another."""

    FAILED = "failed"
    """The client broke a rule or a limit; the parser discards everything it sends after that."""

    CLOSED = "closed"
    """The client closed the connection between two requests."""
