"""What a connection is at, besides what its parser is at."""

from __future__ import annotations

from enum import Enum


class Phase(Enum):
    """What a connection is at."""

    READING = "waiting for a request, or in the middle of one"
    HANDED_OUT = "its request is with the application"
    FLUSHING = "the response is finished, and the kernel has not taken all of it"
    LINGERING = "closed for writing, read from until the client closes too"
    CLOSED = "closed"
