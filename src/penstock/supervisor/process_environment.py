"""What the system sees of the supervisor: the titles of processes, the pid file, systemd."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from penstock.config.identity import title_of
from penstock.errors import PenstockError
from penstock.system.pid_file import PidFile
from penstock.system.privileges import set_title
from penstock.system.systemd import Notifier

if TYPE_CHECKING:
    from penstock.config.settings import Settings

_SUCCESSORS_SUFFIX = ".2"
"""gunicorn's: of the pid file, as long as the old supervisor is there."""


class Surroundings:
    """Opened at the start, closed at the end; what changes meanwhile is told here."""

    def __init__(self, settings: Settings, application: str, logger: logging.Logger) -> None:
        """Nothing is open yet; ``application`` is as it was named."""
        self.notifier = Notifier()
        self._settings = settings
        self._application = application
        self._logger = logger
        self._pid_file: PidFile | None = None
        self._watchdog_due = 0.0

    def open(self, *, has_predecessor: bool) -> None:
        """Write the pid file; raises `SettingsError` where it cannot be, or is another's."""
        settings = self._settings
        if settings.pid is not None:
            suffix = _SUCCESSORS_SUFFIX if has_predecessor else ""
            pid_file = PidFile(settings.pid + suffix, settings.source_of("pid"))
            pid_file.create()
            self._pid_file = pid_file
        set_title("supervisor", title_of(settings, self._application))

    def tick(self, now: float) -> None:
        """Tell systemd that the server lives, where it waits for that."""
        interval = self.notifier.watchdog_interval
        if interval is not None and now >= self._watchdog_due:
            self._watchdog_due = now + interval
            self.notifier.watchdog()

    @property
    def next_due(self) -> float:
        """When `tick` is to be called next at the latest, on the monotonic clock."""
        return float("inf") if self.notifier.watchdog_interval is None else self._watchdog_due

    def predecessor_left(self, pid: int) -> None:
        """Take the pid file's own name: the old supervisor, whose process id is told, is gone."""
        if self._pid_file is not None and self._settings.pid is not None:
            try:
                self._pid_file.move_to(self._settings.pid, left_by=pid)
            except PenstockError as error:
                self._logger.error("%s", error)

    def abandon(self) -> None:
        """Let go of it in a forked child."""
        self.notifier.close()

    def close(self) -> None:
        """Remove the pid file, at the end."""
        if self._pid_file is not None:
            self._pid_file.remove()
        self.notifier.close()
