"""The one error of the HTTP/1.1 parser: what is wrong, and the status that says so."""

from __future__ import annotations

from collections.abc import Mapping


class ProtocolError(Exception):
    """What the client sent is no valid HTTP/1.1 request, or passes a limit.

    ``status`` is the HTTP status to answer with, after which the connection must be closed.
    ``reason`` is a short sentence for the client and for the log; it never holds a byte that
    the client sent. ``rule`` names the section of the standard, and ``setting`` the option
    that moves the limit, where it is one. Two attributes are for logs alone: ``request_line`` is
    what the client asked for, where that much of it had arrived, unchecked, and decoded as
    latin-1; ``fields`` are those of a head of which every line is sound.
    """

    def __init__(self, status: int, reason: str, rule: str = "", setting: str = "") -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason
        self.rule = rule
        self.setting = setting
        self.request_line = ""
        self.fields: Mapping[str, str] = {}

    def __str__(self) -> str:
        """Return the reason, and in brackets the rule or the setting behind it."""
        behind = self.setting or self.rule
        return f"{self.reason} ({behind})" if behind else self.reason
