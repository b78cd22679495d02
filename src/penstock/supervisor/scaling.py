"""The number of workers that ``penstockctl scale`` or SIGTTIN has set, after a reload."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

from penstock.records import dataclass

if TYPE_CHECKING:
    from penstock.config.settings import Settings


@dataclass(frozen=True)
class Scaled:
    """A number of workers that was set by a command.

    It is kept over reloads and upgrades: a deployment of new code must not take away the workers
    that were added for the load. Where a person changes the setting, that is what is wanted last.
    """

    workers: int
    setting: int | Literal["auto"]
    """The setting ``workers`` at that time."""

    def lasts(self, settings: Settings) -> bool:
        """Return True if this number counts with other settings, too."""
        return settings.workers == self.setting

    def report(self, settings: Settings, count: int, logger: logging.Logger) -> None:
        """Log which number counts with other settings; ``count`` is that of the settings."""
        if self.lasts(settings):
            logger.info(
                "the number of workers stays %d, as it was scaled (the setting workers is %s)",
                self.workers,
                count if settings.workers != "auto" else f"auto ({count})",
            )
        else:
            logger.info(
                "the number of workers is %d, since the setting workers has changed (it was scaled "
                "to %d)",
                count,
                self.workers,
            )
