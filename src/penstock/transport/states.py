"""The states of a connection and of a response, and which follows which: the only place for it.

Native code has the same table in ``native/reactor/src/states.rs``, with two transitions more.
``docs/connection-states.md`` is drawn from this one.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, IntEnum
from typing import TypeVar

_State = TypeVar("_State", bound=Enum)


class Phase(Enum):
    """What a connection does."""

    AWAITING_PROXY = "waits for a PROXY header or a packet of the uwsgi protocol, or reads it"
    HANDSHAKING = "does the TLS handshake"
    READING = "waits for a request, or reads one"
    STORING = "has a part of a body written to a temporary file, and does not read"
    DISCARDING = "reads the rest of a body that the application did not read, and drops it"
    HANDED_OUT = "a thread answers its request"
    ANSWERED = "the thread has ended the response, and the leader has not acted on that yet"
    FLUSHING = "the response is finished, and the kernel has not taken all of it"
    REFUSING = "the server has refused the request, and the kernel has not taken all of that answer"
    LINGERING = "closed for writing; what still arrives is dropped until the client closes, too"
    CLOSED = "closed"


class Fate(IntEnum):
    """What happens to the connection when the response has ended. It only ever gets worse."""

    KEEP = 0
    """It waits for the next request."""
    CLOSE = 1
    """It is closed in good order."""
    RESET = 2
    """It is reset: the response ended early, and nothing else can show that."""


# Those who look at states for each request import these: an enum's attributes are slow to look up.
KEEP, CLOSE, RESET = Fate
(
    AWAITING_PROXY,
    HANDSHAKING,
    READING,
    STORING,
    DISCARDING,
    HANDED_OUT,
    ANSWERED,
    FLUSHING,
    REFUSING,
    LINGERING,
    CLOSED,
) = Phase

TRANSITIONS: dict[Phase, dict[Phase, str]] = {
    AWAITING_PROXY: {
        HANDSHAKING: "the header is complete, and TLS comes behind it",
        READING: "the header or the packet is complete",
        REFUSING: "there is none, or it is malformed, or late",
        CLOSED: "the proxy closes; its client may not connect; evicted",
    },
    HANDSHAKING: {
        READING: "the handshake is complete",
        REFUSING: "the client has sent a request without TLS",
        LINGERING: "the handshake fails",
        CLOSED: "the client closes; the deadline of the handshake is over; evicted",
    },
    READING: {
        STORING: "what has come of a body has to be written to its file",
        HANDED_OUT: "a request is complete, or its head where bodies are streamed",
        REFUSING: "the request breaks a rule, a limit or a deadline",
        LINGERING: "the keep-alive time ends",
        CLOSED: "the client closes; the same in a drain; evicted",
    },
    STORING: {
        READING: "it is written, or could not be",
        REFUSING: "the disk does not take it within the time for a body",
        CLOSED: "evicted; the server stops",
    },
    DISCARDING: {
        READING: "the body has ended",
        LINGERING: "the client ends its side within the body",
        CLOSED: "the client closes; the body comes too slowly",
    },
    HANDED_OUT: {ANSWERED: "the response has ended, or the server ends it"},
    ANSWERED: {
        READING: "all is sent, and the connection is kept",
        DISCARDING: "the same, with a short rest of the request's body unread",
        FLUSHING: "some of the response is not sent yet",
        LINGERING: "all is sent, and the connection is closed",
        CLOSED: "the same, with nothing to linger for; reset: the response is incomplete",
    },
    FLUSHING: {
        READING: "all is sent, and the connection is kept",
        DISCARDING: "the same, with a short rest of the request's body unread",
        LINGERING: "all is sent, and the connection is closed",
        CLOSED: "reset: the client is gone or takes no data",
    },
    REFUSING: {LINGERING: "all is sent", CLOSED: "the client is gone or takes no data"},
    LINGERING: {CLOSED: "the client closes; the time for it ends; it sends too much; evicted"},
    CLOSED: {},
}
"""The phases that may follow each, and why they do."""


class ResponseState(Enum):
    """How far the response of one exchange is."""

    WAITING = "nothing of it has been sent, but for interim responses"
    SENDING = "its head is being sent, or has been"
    RELAYING = "there is none: the application has a WebSocket, and the relay the client's stream"
    ENDED = "it is over: the connection is no longer the exchange's"
    ABORTED = "the server has ended it under the thread that has the exchange"


WAITING, SENDING, RELAYING, ENDED, ABORTED = ResponseState

RESPONSE_TRANSITIONS: dict[ResponseState, dict[ResponseState, str]] = {
    WAITING: {
        SENDING: "its thread makes the head",
        RELAYING: "the application takes the socket of a WebSocket handshake",
        ENDED: "refused or dropped in the queue; cut off before a head",
        ABORTED: "its deadline is over, or the server stops; 504 is sent",
    },
    SENDING: {
        ENDED: "all of it has been given to the connection; cut off",
        ABORTED: "its deadline is over, or the server stops; the connection is reset",
    },
    RELAYING: {
        ENDED: "the application has returned, and what it has sent has left; the client is gone",
        ABORTED: "the server stops; the connection is reset",
    },
    ENDED: {},
    ABORTED: {},
}
"""The states of a response that may follow each, and why they do.

Two threads may want to leave a state at once: the one that has the exchange, and one that ends it.
Each looks at the state and sets it in one step, so that one of them finds the other's.
"""


def diagram() -> str:
    """Return the tables as a page with a Mermaid diagram for each."""
    lines = [
        "# The states of a connection and of a response",
        "",
        "`make docs` writes this page from `src/penstock/transport/states.py`. Both transports",
        "keep to it.",
        "",
        "## A connection",
        "",
        "The native transport has two transitions more, which",
        "[native.md](native.md#the-states-of-a-connection) shows: it answers health checks without",
        "a thread, and takes back a request that it cannot hand out.",
        "",
        "```mermaid",
        "stateDiagram-v2",
        "    [*] --> HANDSHAKING: accepted, where clients speak TLS",
        "    [*] --> READING: accepted",
        *_arrows(TRANSITIONS),
        "    CLOSED --> [*]",
        "```",
        "",
        "| state | the connection |",
        "|---|---|",
        *(f"| `{phase.name}` | {phase.value} |" for phase in Phase),
        "",
        "## A response",
        "",
        "Each exchange has one. The thread that has the exchange and a thread that ends it at a",
        "deadline or a stop may both want to go on from a state; the first of them does.",
        "",
        "```mermaid",
        "stateDiagram-v2",
        "    [*] --> WAITING: the request's head is complete",
        *_arrows(RESPONSE_TRANSITIONS),
        "    ENDED --> [*]",
        "    ABORTED --> [*]",
        "```",
        "",
        "| state | the response |",
        "|---|---|",
        *(f"| `{state.name}` | {state.value} |" for state in ResponseState),
    ]
    return "\n".join(lines) + "\n"


def _arrows(table: Mapping[_State, Mapping[_State, str]]) -> list[str]:
    """Return the transitions of a table in Mermaid's form, where a semicolon ends a statement."""
    return [
        f"    {before.name} --> {after.name}: {why.replace(';', ',')}"
        for before, following in table.items()
        for after, why in following.items()
    ]


if __name__ == "__main__":
    print(diagram(), end="")
