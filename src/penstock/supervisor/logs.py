"""The log files of the workers, which the supervisor opens for them.

A worker opens no log by its name: it may run as a user that may not, and root must not follow what
that user puts there (`penstock.telemetry.log_files`). All workers of a generation write to the same
open files, so that one that starts after a rotation goes on where the others are.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from penstock import messages
from penstock.errors import SettingsError
from penstock.telemetry.log_files import check_log, open_stream
from penstock.telemetry.log_sink import LogSink, cannot_open

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Mapping

    from penstock.config.settings import Settings
    from penstock.supervisor.helpers import Helpers
    from penstock.system.privileges import Identity

SETTINGS = ("error_logfile", "access_logfile")
"""The settings that name log files, in the order in which descriptors are passed."""


def check_logs(settings: Settings, identity: Identity | None) -> dict[str, str]:
    """Return who opens each log when the server starts, by setting; creates nothing.

    ``identity`` is that of the workers. Raises `SettingsError`, as `WorkerLogs` does.
    """
    found = {}
    for setting in SETTINGS:
        path = getattr(settings, setting)
        if path in (None, "-"):
            continue
        try:
            found[setting] = check_log(path, identity)
        except (OSError, ValueError) as error:
            raise cannot_open(setting, path, error) from None
    return found


class WorkerLogs:
    """The open log files of one generation, by setting; a standard stream is none of them."""

    def __init__(self, settings: Settings, identity: Identity | None, helpers: Helpers) -> None:
        """Begin to open the files, for workers that run as ``identity``.

        Raises `SettingsError` where it is known at once that one cannot be opened.
        """
        self.descriptors: dict[str, int] = {}
        self._settings = settings
        self._identity = identity
        self._helpers = helpers
        self._error: SettingsError | None = None
        self._closed = False
        wanted = {setting: getattr(settings, setting) for setting in SETTINGS}
        self._awaited = {name for name, path in wanted.items() if path not in (None, "-")}
        for setting in sorted(self._awaited):
            failed = partial(self._fail, setting)
            helpers.open_log(wanted[setting], identity, partial(self._add, setting), failed)
        self.check()

    @property
    def are_open(self) -> bool:
        """Whether all files are open, so that workers can start."""
        return not self._awaited

    @property
    def failure(self) -> str:
        """Why a file cannot be opened; empty where none has failed."""
        return str(self._error or "")

    def check(self) -> None:
        """Raise `SettingsError`, with all files closed, if one could not be opened."""
        if self._error is not None:
            self.close()
            raise self._error

    def _add(self, setting: str, descriptor: int) -> None:
        if self._closed:
            os.close(descriptor)
            return
        self.descriptors[setting] = descriptor
        self._awaited.discard(setting)

    def _fail(self, setting: str, error: OSError | ValueError) -> None:
        self._error = self._error or cannot_open(setting, getattr(self._settings, setting), error)

    def reopen(self, logger: logging.Logger, done: Callable[[Mapping[str, int]], None]) -> None:
        """Open the files again by their names; call ``done`` with each that could be opened."""
        for setting in list(self.descriptors):
            self._helpers.open_log(
                getattr(self._settings, setting),
                self._identity,
                partial(self._replace, setting, done),
                partial(report_not_reopened, setting, logger),
            )

    def _replace(
        self, setting: str, done: Callable[[Mapping[str, int]], None], opened: int
    ) -> None:
        if not self._closed:
            os.dup2(opened, self.descriptors[setting], inheritable=False)
        os.close(opened)
        if not self._closed:
            done({setting: self.descriptors[setting]})

    def access_sink(self) -> LogSink | None:
        """Return a sink for lines of the access log; None where there is no access log."""
        path = self._settings.access_logfile
        if path is None:
            return None
        descriptor = self.descriptors.get("access_logfile")
        # Not a copy of the workers' own: they could switch that to blocking mode.
        passed = open_stream(descriptor) if descriptor is not None else None
        return LogSink.open(path, setting="access_logfile", stream=1, passed=passed)

    def close(self) -> None:
        """Close the files, and those that are still to be opened."""
        self._closed = True
        while self.descriptors:
            os.close(self.descriptors.popitem()[1])


def report_not_reopened(setting: str, logger: logging.Logger, error: OSError | ValueError) -> None:
    """Log that a log goes on in its old file."""
    kind = setting.removesuffix("_logfile")
    messages.LOG_FILE_NOT_REOPENED.log(logger, kind=kind, error=error, setting=setting)
