"""The error that the HTTP/1.1 parser raises: the reason, and the HTTP status to answer with."""

from __future__ import annotations

from collections.abc import Mapping


class ProtocolError(Exception):
    """What the client sent is not a valid HTTP/1.1 request, or passes a limit.

    ``status`` is the HTTP status to answer with. The connection must be closed after the answer,
    unless the request was read whole.
    ``reason`` is a short sentence for the client and for the log; it never holds a byte that the
    client sent. ``rule`` names the section of the standard; ``setting`` names the setting that
    changes the limit, and is empty if the error is not about a limit.

    ``request_line`` is the request line if all of it had arrived, unchecked and decoded as latin-1:
    for logs, and because the answer to HEAD has no body. ``beginning`` is what that line begins
    with, also where it is incomplete: it may be another protocol. ``fields``, for logs only, are
    the fields of a head if every line of it is well-formed. ``received`` is what has come of the
    head and behind it when a fault was found in the head. ``retry_after`` is when the client may
    ask again, in seconds; None where that is unknown.
    """

    def __init__(self, status: int, reason: str, rule: str = "", setting: str = "") -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason
        self.rule = rule
        self.setting = setting
        self.request_line = ""
        self.beginning = ""
        self.received = b""
        self.fields: Mapping[str, str] = {}
        self.retry_after: int | None = None

    def __str__(self) -> str:
        """Return the reason, followed by the setting or else the rule in parentheses."""
        behind = self.setting or self.rule
        return f"{self.reason} ({behind})" if behind else self.reason
