"""The Date field (RFC 9110, section 5.6.7)."""

from __future__ import annotations

import time

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

    The date follows the wall clock. Any thread may ask: at worst two render the same second.
    """

    __slots__ = ("_second", "_server", "lines")

    def __init__(self, server: str | None) -> None:
        """``server`` is the value of Server, None to leave it out."""
        self._second = -1
        self._server = server
        self.lines = ""

    def now(self) -> str:
        """Return both as header lines, each with its CRLF."""
        second = int(time.time())
        if second != self._second:
            self.lines = self.date_line() + self.server_line()
            self._second = second
        return self.lines

    def date_line(self) -> str:
        """Return the line of Date."""
        return f"Date: {imf_fixdate(time.time())}\r\n"

    def server_line(self) -> str:
        """Return the line of Server, or nothing where there is none."""
        return f"Server: {self._server}\r\n" if self._server else ""
