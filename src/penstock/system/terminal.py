"""The terminal that the server was started in the foreground of, and its end.

A window that is closed sends SIGHUP, which reloads a server. One that was started there would go on
without it, and keep its port, so it stops instead. Python does not tell who has sent a signal: what
counts is that the terminal has hung up only just now. A SIGHUP at any other time reloads.
"""

from __future__ import annotations

import math
import os
import select

AT_HANG_UP_SECONDS = 5.0
"""How long after the hang-up a SIGHUP is its effect: the shell may pass it on late."""


class Terminal:
    """The controlling terminal, if this process is in its foreground now.

    Of a process that runs under nohup, in the background or without a terminal it is none:
    `has_just_hung_up` returns False.
    """

    def __init__(self) -> None:
        self._descriptor: int | None = None
        self._hung_up_at = math.inf
        try:
            descriptor = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:
            return
        try:
            in_foreground = os.tcgetpgrp(descriptor) == os.getpgrp()
        except OSError:
            in_foreground = False
        if in_foreground:
            self._descriptor = descriptor
        else:
            os.close(descriptor)

    def look(self, now: float) -> None:
        """Note when the terminal hangs up; to be called every second or so."""
        if self._descriptor is not None and self._hung_up_at == math.inf:
            poll = select.poll()
            poll.register(self._descriptor, 0)  # of a hang-up poll reports without being asked
            if poll.poll(0):
                self._hung_up_at = now

    def has_just_hung_up(self, now: float) -> bool:
        """Return True if the terminal was closed a moment ago."""
        self.look(now)
        return self._hung_up_at <= now <= self._hung_up_at + AT_HANG_UP_SECONDS

    def close(self) -> None:
        """Close the descriptor; a forked child does that, too."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
