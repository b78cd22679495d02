"""What is known of a request when it is over, and how observers get it.

A transport makes one `RequestFinished` for each request and hands it to the observers: the access
log and the trace. A record holds no environ and nothing else that the application can change. An
observer names what it needs beyond the rest, and the transport copies that alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from penstock.telemetry.access_log_format import LineFormat

Ended = Literal["complete", "refused", "disconnected", "aborted"]
"""How a request ended.

``complete``: the application's response was sent to its end. ``refused``: the server answered by
itself, and the application did not see the request. ``disconnected``: the client went away, or
took no data.
``aborted``: the server ended the request before the application did.
"""

NOTHING: Final[Mapping[str, str]] = {}

TRACE_ID: Final = "penstock.trace_id"
SPAN_ID: Final = "penstock.span_id"
"""The environ variables that name a request's span, in hexadecimal digits (setting: otel)."""


class Needs(NamedTuple):
    """What a record has to hold beyond what it always holds."""

    request_fields: frozenset[str] = frozenset()
    """Names of request header fields, in lower case."""
    response_fields: frozenset[str] = frozenset()
    """Names of response header fields, in lower case."""
    environ: frozenset[str] = frozenset()
    """Names of environ variables."""
    transcript: bool = False
    """Whether `Transcript` is needed."""

    def with_those_of(self, other: Needs) -> Needs:
        """Return what both need."""
        return Needs(
            self.request_fields | other.request_fields,
            self.response_fields | other.response_fields,
            self.environ | other.environ,
            self.transcript or other.transcript,
        )


class Transcript(NamedTuple):
    """What went over the connection for one request; the framing of bodies is left out.

    Of each body the beginning is kept: `TransportConfig.trace_body_bytes`.
    """

    connection: int
    """The number of the connection in its worker, from 1."""
    number: int
    """The number of the request on its connection, from 1."""
    head: bytes
    """The head as received, as far as it came."""
    request_body: bytes
    """The beginning of the request's body; empty where nothing has read it."""
    interim: str
    """The statuses of interim responses, such as ``100 Continue``, each with a line end."""
    status: str
    """The status, such as ``200 OK``; empty where no response was begun."""
    headers: Sequence[tuple[str, str]]
    """The application's header fields."""
    added: str
    """The header lines that the server added, each with its CRLF."""
    response_body: bytes
    """The beginning of the response's body."""

    @property
    def size(self) -> int:
        """About how many characters it holds."""
        fields = sum(len(name) + len(value) for name, value in self.headers)
        parts = (self.head, self.request_body, self.interim, self.added, self.response_body)
        return fields + sum(map(len, parts))


class RequestFinished(NamedTuple):
    """One finished request.

    Text is as in an environ: bytes decoded as Latin-1. Where no head was parsed, the method, the
    target, the protocol and the request line are ``"-"`` or what is known of them. Times are
    seconds of ``time.monotonic()``; None where that did not happen.
    """

    request_id: str
    """Names the request in every log; printable ASCII."""
    client_addr: str
    """The client's address; empty for a unix socket."""
    client_port: str
    """The client's TCP port, as REMOTE_PORT has it; empty for a unix socket."""
    method: str
    """The method, such as ``GET``."""
    target: str
    """The request target as sent: ``/path?query``."""
    protocol: str
    """The protocol, such as ``HTTP/1.1``."""
    request_line: str
    """The request line as sent, without its line end."""
    status: int
    """The status code that was sent; 499 where the client left before there was one."""
    bytes_in: int
    """Bytes of request body received, without chunked framing."""
    bytes_out: int
    """Bytes of response body sent, without chunked framing."""
    ended: Ended
    """How the request ended."""
    reason: str
    """Why the server answered by itself or cut the response, in a short sentence; else empty."""
    wall_time: float
    """The time of the end by the wall clock, in seconds since the epoch."""
    finished_at: float
    """When the response had been handed to the kernel, or was given up."""
    begun_at: float
    """When the first byte of the request was read."""
    accepted_at: float | None = None
    """When the connection was accepted."""
    head_at: float | None = None
    """When the head was complete."""
    body_at: float | None = None
    """When the body was complete; None for one that the application reads as it arrives."""
    taken_at: float | None = None
    """When a thread took the request to call the application."""
    first_byte_at: float | None = None
    """When the head of the response was sent."""
    request_fields: Mapping[str, str] = NOTHING
    """Those of `Needs` that the request has, by lower-case name; repeated ones are joined."""
    response_fields: Mapping[str, str] = NOTHING
    """Those of `Needs` that the application gave, by lower-case name; repeated ones are joined."""
    environ: Mapping[str, str] = NOTHING
    """Those of `Needs` that the environ had at the end, as text."""
    transcript: Transcript | None = None
    """What went over the connection, if an observer needs it."""
    queue_time: float = 0.0
    """Seconds for which the request waited for a thread."""
    peer_addr: str = ""
    """The address of the connection's peer: a proxy's, where the client is behind one; empty for a
    unix socket."""

    @property
    def duration(self) -> float:
        """Seconds from the first byte of the request to the end."""
        return self.finished_at - self.begun_at


class Observer(Protocol):
    """What is done with finished requests. Its methods are called by one thread."""

    @property
    def needs(self) -> Needs:
        """What the records have to hold; it never changes."""

    @property
    def line_format(self) -> LineFormat | None:
        """How native code may make text of requests for this observer, where it is the only one.

        None where it takes records alone. Otherwise a batch may hold text in their place.
        """

    def requests_finished(self, batch: Sequence[RequestFinished], patience: float) -> None:
        """Take finished requests, mostly in the order of their ends.

        May wait ``patience`` seconds for an output that does not keep up.
        """

    def requests_lost(self, count: int) -> None:
        """Take note that ``count`` requests are missing: too many waited for the observers."""

    def close(self) -> None:
        """Close the output; there are no more requests."""


def wanted_fields(names: frozenset[str], headers: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return the fields of a response that are needed, by lower-case name."""
    found: dict[str, str] = {}
    for name, value in headers:
        name = name.lower()
        if name in names:
            found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def wanted_variables(names: frozenset[str], environ: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables of an environ that are needed, as text.

    A name that is missing is looked for in capitals, too. A variable whose text cannot be had is
    left out: the value is the application's own object.
    """
    found: dict[str, str] = {}
    for name in names:
        value = environ.get(name, environ.get(name.upper()))
        if value is not None:
            try:
                found[name] = str(value)
            except Exception:
                continue
    return found
