"""What the world around sees of the supervisor: titles, the pid file, systemd, control and health."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from penstock.errors import PenstockError
from penstock.identity import set_title, title_of
from penstock.notify import Notifier
from penstock.pid_file import PidFile
from penstock.supervisor.control import open_admin, open_control

if TYPE_CHECKING:
    import selectors

    from penstock.settings import Settings
    from penstock.supervisor.fleet import Fleet
    from penstock.supervisor.service import Service
    from penstock.supervisor.upgrade import Predecessor

_SUCCESSORS_SUFFIX = ".2"
"""gunicorn's: of the pid file, as long as the old supervisor is there."""


class Surroundings:
    """Opened at the start, closed at the end; what changes meanwhile is told here."""

    def __init__(
        self,
        settings: Settings,
        application: str,
        logger: logging.Logger,
        notifier: Notifier,
        predecessor: Predecessor | None,
    ) -> None:
        """Nothing is open yet; ``predecessor`` is the supervisor that this one is to replace."""
        self.notifier = notifier
        self._settings = settings
        self._application = application
        self._logger = logger
        self._predecessor = predecessor
        self._pid_file: PidFile | None = None
        self._control: Service | None = None
        self._admin: Service | None = None
        self._watchdog_due = 0.0

    def open(self, fleet: Fleet, selector: selectors.BaseSelector) -> None:
        """Open all that the settings want; raises a `PenstockError` where that cannot be."""
        settings, before = self._settings, self._predecessor
        if settings.pid is not None:
            suffix = _SUCCESSORS_SUFFIX if before is not None else ""
            pid_file = PidFile(settings.pid + suffix, settings.source_of("pid"))
            pid_file.create()
            self._pid_file = pid_file
        inherited = before.services if before is not None else {}
        self._control = open_control(
            settings.control, fleet, selector, self._logger,
            inherited=inherited.get(f"control {settings.control}"),
        )  # fmt: skip
        if settings.admin is not None:
            self._admin = open_admin(
                settings.admin, fleet, selector, self._logger,
                inherited=inherited.get(f"admin {settings.admin}"),
            )  # fmt: skip
        set_title("supervisor", title_of(settings, self._application))

    @property
    def services(self) -> list[Service]:
        """What is open for control and health."""
        return [service for service in (self._control, self._admin) if service is not None]

    def descriptors(self) -> dict[str, int]:
        """Return the sockets of control and health for a successor, by setting and address."""
        settings = self._settings
        found = {}
        if self._control is not None and settings.control != "auto":
            found[f"control {settings.control}"] = self._control.listener.socket.fileno()
        if self._admin is not None:
            found[f"admin {settings.admin}"] = self._admin.listener.socket.fileno()
        return found

    def tick(self, now: float) -> None:
        """Do what is due: deadlines of connections, and systemd's watchdog."""
        for service in self.services:
            service.expire(now)
        interval = self.notifier.watchdog_interval
        if interval is not None and now >= self._watchdog_due:
            self._watchdog_due = now + interval
            self.notifier.watchdog()

    def next_due(self) -> float:
        """Return when `tick` is to be called next at the latest, on the monotonic clock."""
        due = [service.next_deadline() for service in self.services]
        if self.notifier.watchdog_interval is not None:
            due.append(self._watchdog_due)
        return min(due, default=float("inf"))

    def predecessor_left(self) -> None:
        """Take the pid file's own name: the old supervisor is gone."""
        if self._pid_file is not None and self._settings.pid is not None:
            try:
                self._pid_file.move_to(self._settings.pid)
            except PenstockError as error:
                self._logger.error("%s", error)

    def hand_over(self) -> None:
        """Leave control and health to a successor, which has the sockets too."""
        for service in self.services:
            service.stop_accepting(keep_path=True)

    def abandon(self) -> None:
        """Let go of it all in a forked child."""
        for service in self.services:
            service.abandon()
        self.notifier.close()

    def close(self) -> None:
        """Close it all, at the end."""
        now = time.monotonic()
        for service in self.services:
            service.expire(now)
            service.close()
        if self._pid_file is not None:
            self._pid_file.remove()
        self.notifier.close()
