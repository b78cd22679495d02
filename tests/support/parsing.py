"""Feeding the parser in every way that packets may come, and reading what it says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from penstock.http1 import (
    CONNECTION_CLOSED,
    NEED_DATA,
    Data,
    EndOfMessage,
    ParserLimits,
    ProtocolError,
    Request,
    RequestParser,
    State,
)
from penstock.http1.parser import TRANSITIONS

SMALL_LIMITS = ParserLimits(
    request_line=60,
    fields=4,
    field_size=40,
    head=150,
    chunk_overhead=12,
    chunk_framing=30,
    chunk_framing_ratio=2,
    body=40,
)
"""Small limits, so that short inputs reach them."""


class WatchedParser(RequestParser):
    """A parser that checks each transition of its state against the table."""

    __slots__ = ("_watched",)

    @property
    def state(self) -> State:
        return self._watched

    @state.setter
    def state(self, after: State) -> None:
        before = getattr(self, "_watched", None)
        assert before is None or after in TRANSITIONS[before], f"{before} to {after}"
        self._watched = after


@dataclass(slots=True)
class Message:
    """A request and as much of its body as came."""

    request: Request
    body: bytes = b""
    complete: bool = False


@dataclass(slots=True)
class Outcome:
    """All that a parser said about a stream of bytes."""

    messages: list[Message]
    error: ProtocolError | None = None
    closed: bool = False

    def essence(self) -> tuple[list[Message], int | None, bool]:
        """Return what must not depend on how the bytes were split."""
        return self.messages, self.error.status if self.error else None, self.closed


def parse(
    blocks: Iterable[bytes], *, eof: bool = False, limits: ParserLimits | None = None
) -> Outcome:
    """Feed ``blocks`` to a parser one after the other, and take every event."""
    parser = WatchedParser(limits or ParserLimits())
    outcome = Outcome([])
    try:
        for block in blocks:
            parser.receive_data(block)
            _take_events(parser, outcome)
        if eof:
            parser.receive_eof()
            _take_events(parser, outcome)
    except ProtocolError as error:
        outcome.error = error
    return outcome


def _take_events(parser: RequestParser, outcome: Outcome) -> None:
    while True:
        event = parser.next_event()
        if event is NEED_DATA:
            return
        if event is CONNECTION_CLOSED:
            outcome.closed = True
            return
        if isinstance(event, Request):
            outcome.messages.append(Message(event))
        elif isinstance(event, Data):
            assert event.data, "an empty Data"
            outcome.messages[-1].body += event.data
        else:
            assert isinstance(event, EndOfMessage)
            outcome.messages[-1].complete = True
            parser.start_next_request()


def byte_by_byte(raw: bytes) -> Iterator[bytes]:
    """Split into blocks of one byte."""
    return (raw[i : i + 1] for i in range(len(raw)))
