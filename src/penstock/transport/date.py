"""The Date field (RFC 9110, section 5.6.7)."""

from __future__ import annotations

import time
from collections.abc import Container

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def imf_fixdate(seconds: float) -> str:
    """Return ``seconds`` since the epoch as ``Sun, 06 Nov 1994 08:49:37 GMT``.

    Not ``strftime``, whose names follow the locale, which an application may set.
    """
    year, month, day, hour, minute, second, weekday, _, _ = time.gmtime(seconds)
    return (
        f"{_DAYS[weekday]}, {day:02} {_MONTHS[month - 1]} {year:04} "
        f"{hour:02}:{minute:02}:{second:02} GMT"
    )


class ServerFields:
    """The fields Date and Server of every response, rendered once a second.

    Over TLS there may be Strict-Transport-Security, too (RFC 6797). The date follows the wall
    clock. Any thread may ask: at worst two render the same second.
    """

    __slots__ = ("_begin", "_end", "_lasting", "lines")

    def __init__(self, server: str | None, hsts: str | None = None) -> None:
        """Take the values of Server and Strict-Transport-Security, None to leave one out."""
        self._begin = self._end = 0.0  # of the second that `lines` are of
        self._lasting = {
            name.lower(): f"{name}: {value}\r\n"
            for name, value in (("Server", server), ("Strict-Transport-Security", hsts))
            if value
        }
        self.lines = ""

    def now(self) -> str:
        """Return all of them as header lines, each with its CRLF."""
        if not self._begin <= (now := time.time()) < self._end:
            self.lines = self.without(())
            self._begin = now // 1
            self._end = self._begin + 1
        return self.lines

    def without(self, given: Container[str]) -> str:
        """Return the lines but for those of the ``given`` names, which are in lower case."""
        date = "" if "date" in given else f"Date: {imf_fixdate(time.time())}\r\n"
        return date + "".join(line for name, line in self._lasting.items() if name not in given)
