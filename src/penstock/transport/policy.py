"""What a transport is told of the server around it, besides its limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from penstock.telemetry.scoreboard import Slot

HEALTHY = b"ok\n"
"""The body of a health or readiness check's answer that is 200."""

UNHEALTHY = b"no\n"
"""The body of one that is 503."""

GIVEN_UP = "The application did not answer in time."
"""What a client is told whose request is given up."""

DEPARTED_SECONDS = 0.5
"""A queued request whose client has ended its side for so long is dropped.

Somebody who half-closes to say that the request is complete waits for an answer, and cannot be
told from somebody who has left; on a server with a free thread the question does not come up.
"""


@dataclass(frozen=True)
class Policy:
    """What a transport is told of the server around it, besides its limits."""

    slot: Slot
    """The worker's place on the scoreboard, which the transport keeps."""
    timeout: float = 0.0
    """Seconds that a call of the application may last; 0 is for ever."""
    timeout_for: Callable[[str], float] | None = None
    """Returns the same for a path (PATH_INFO with SCRIPT_NAME), where paths differ."""
    health_path: str | None = None
    """Path that is answered with whether something moves."""
    ready_path: str | None = None
    """Path that is answered with whether requests are wanted."""
    settle: Callable[[], None] | None = None
    """Called in `next` by a thread whose call was interrupted (the record's INTERRUPTED).

    An exception that was raised in the thread from outside may still be pending then: the transport
    calls again until this returns.
    """
