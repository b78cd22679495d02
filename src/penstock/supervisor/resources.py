"""What the supervisor asks the system, and does about settings that have changed."""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from penstock import messages
from penstock.errors import SettingsError
from penstock.listeners import Listener, bind_listeners
from penstock.system.cgroups import Cgroups
from penstock.telemetry.error_log import ErrorLog

if TYPE_CHECKING:
    from penstock.config.settings import Settings


HANDSHAKE_SECONDS = 1.0
"""How long an address that goes is still accepted at: a client's handshake may be under way."""

LONGEST_SECONDS = 2.0
"""After so long it goes, whoever waits there."""

LOOK_SECONDS = 0.01


def has_terminal() -> bool:
    """Tell whether the process has a controlling terminal, whose size may change."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def rebind(settings: Settings, before: Settings, listeners: Sequence[Listener]) -> list[Listener]:
    """Return the listeners for new settings: those that stay, and others that are bound now.

    One whose path somebody has removed is bound anew: nobody comes to it any more. Raises
    `ListenError`, and has bound nothing then.
    """
    left = [each for each in listeners if not each.is_lost]
    if settings.bind == before.bind and len(left) == len(listeners):
        return left
    result: list[Listener | None] = []
    missing: list[str] = []
    for text in settings.bind:
        there = next((each for each in left if each.address.text == text), None)
        if there is not None:
            left.remove(there)
        else:
            missing.append(text)
        result.append(there)
    fresh = iter(bind_listeners(missing))
    return [each if each is not None else next(fresh) for each in result]


def run_dry(listeners: Sequence[Listener]) -> None:
    """Turn newcomers away at addresses that go, until the workers have accepted who waits there.

    The supervisor does nothing else meanwhile, for a second or two; the workers go on.
    """
    if not listeners:
        return
    begun = time.monotonic()
    lasting = [listener for listener in listeners if listener.ignore_new_connections()]
    earliest = begun + HANDSHAKE_SECONDS if lasting else begun
    queues = select.poll()
    for listener in listeners:
        queues.register(listener.socket, select.POLLIN)
    while (now := time.monotonic()) < begun + LONGEST_SECONDS:
        if now >= earliest and not queues.poll(0):
            return
        threading.Event().wait(LOOK_SECONDS)


def take_over(listeners: Sequence[Listener]) -> None:
    """Have what a predecessor passed for one's own."""
    for listener in listeners:
        listener.take_over()


def hand_over(listeners: Sequence[Listener]) -> None:
    """Leave the sockets to a successor, which has them too."""
    for listener in listeners:
        listener.disown()
        listener.close()


def reopen_log(log: ErrorLog) -> None:
    """Open the supervisor's log again by its name."""
    try:
        log.reopen()
    except OSError as error:
        messages.LOG_FILE_NOT_REOPENED.log(
            log.logger, kind="error", error=error, setting="error_logfile"
        )


def renew_log(log: ErrorLog, before: Settings, settings: Settings) -> ErrorLog:
    """Return the supervisor's log as a reload wants it: the same one, or another."""
    place = (settings.error_logfile, settings.log_level)
    if place == (before.error_logfile, before.log_level):
        reopen_log(log)
        return log
    try:
        fresh = ErrorLog(*place, log.logger)
    except SettingsError as error:  # the directory has gone since the workers opened theirs
        messages.SUPERVISOR_LOG_NOT_RENEWED.log(log.logger, error=error)
        return log
    log.close()
    return fresh


def tell_of_new_settings(settings: Settings, before: Settings, logger: logging.Logger) -> None:
    """Log what is to be said of settings that a reload has read, where they do not take effect."""
    for warning in settings.warnings:
        warning.log(logger)
    for name in ("pid", "name"):
        if getattr(settings, name) != getattr(before, name):
            logger.warning("%s has changed; that takes an upgrade (SIGUSR2)", name)


def worker_memory(settings: Settings, cgroups: Cgroups) -> int | None:
    """Return how many bytes a worker may have resident by the settings; None for any number."""
    bound = settings.max_memory
    if isinstance(bound, float):
        available = cgroups.available_memory()
        return None if available is None else int(bound * available)
    return bound
