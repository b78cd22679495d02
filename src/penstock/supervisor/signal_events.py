"""What each signal to the supervisor asks for."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable

from penstock.supervisor import events
from penstock.system.terminal import Terminal


def event_of(number: int, wanted: int, terminal: Terminal, logger: logging.Logger) -> events.Event:
    """Return the event of a signal. ``wanted`` is the number of workers that are wanted now.

    SIGHUP reloads, unless it comes from a terminal that was closed.
    """
    if number == signal.SIGHUP and terminal.has_just_hung_up(time.monotonic()):
        logger.info("the terminal that the server was started in was closed: it stops")
        return events.StopWanted()
    if number == signal.SIGTTIN:
        return events.ScaleWanted(wanted + 1)
    if number == signal.SIGTTOU:
        return events.ScaleWanted(max(1, wanted - 1))
    return _MEANINGS[signal.Signals(number)]()


_MEANINGS: dict[signal.Signals, Callable[[], events.Event]] = {
    signal.SIGTERM: events.StopWanted,
    signal.SIGINT: events.Interrupted,
    signal.SIGQUIT: events.QuitWanted,
    signal.SIGHUP: events.ReloadWanted,
    signal.SIGUSR1: events.ReopenWanted,
    signal.SIGUSR2: events.UpgradeWanted,
    signal.SIGWINCH: events.NoWorkersWanted,
}
