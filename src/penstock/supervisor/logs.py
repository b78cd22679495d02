"""The log files of the workers, which the supervisor opens for them.

A worker opens no log by its name: it may run as a user that may not, and root must not follow what
that user puts there (`penstock.telemetry.log_files`). All workers of a generation write to the same
open files, so that one that starts after a rotation goes on where the others are.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from penstock import messages
from penstock.errors import SettingsError
from penstock.telemetry.log_files import open_stream, opener_for
from penstock.telemetry.log_sink import LogSink, cannot_open

if TYPE_CHECKING:
    import logging
    from collections.abc import Mapping

    from penstock.config.settings import Settings
    from penstock.system.privileges import Identity

SETTINGS = ("error_logfile", "access_logfile")
"""The settings that name log files, in the order in which descriptors are passed."""


class WorkerLogs:
    """The open log files of one generation, by setting; a standard stream is none of them."""

    def __init__(self, settings: Settings, identity: Identity | None) -> None:
        """Open the files, for workers that run as ``identity``. Raises `SettingsError`."""
        self.descriptors: dict[str, int] = {}
        self._settings = settings
        self._opener = opener_for(identity)
        try:
            for setting in SETTINGS:
                path = getattr(settings, setting)
                if path not in (None, "-"):
                    self.descriptors[setting] = self._open(setting, path)
        except SettingsError:
            self.close()
            raise

    def _open(self, setting: str, path: str) -> int:
        try:
            return self._opener(path)
        except (OSError, ValueError) as error:
            raise cannot_open(setting, path, error) from error

    def reopen(self, logger: logging.Logger) -> Mapping[str, int]:
        """Open the files again by their names; return those that could be opened."""
        fresh: dict[str, int] = {}
        for setting, descriptor in self.descriptors.items():
            try:
                opened = self._opener(getattr(self._settings, setting))
            except OSError as error:
                kind = setting.removesuffix("_logfile")
                messages.LOG_FILE_NOT_REOPENED.log(logger, kind=kind, error=error, setting=setting)
                continue
            os.dup2(opened, descriptor, inheritable=False)
            os.close(opened)
            fresh[setting] = descriptor
        return fresh

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
        """Close the files."""
        while self.descriptors:
            os.close(self.descriptors.popitem()[1])
