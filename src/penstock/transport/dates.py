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


class DateClock:
    """The current Date value, formatted once a second. It follows the wall clock."""

    __slots__ = ("_second", "_text")

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def now(self) -> str:
        """Return the Date value for this second. Thread-safe: at worst it is formatted twice."""
        second = int(time.time())
        if second != self._second:
            self._text = imf_fixdate(second)
            self._second = second
        return self._text
