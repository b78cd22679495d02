"""What the command hands to the supervisor: what to serve, and how to read the settings again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.config.settings import Settings


@dataclass(frozen=True)
class Launch:
    """What was typed, and what came of it."""

    directory: str
    """Where it was typed."""
    environ: Mapping[str, str]
    """The environment as it was then."""
    application: str
    """As it was named: ``module:callable``."""
    settings: Settings
    read_settings: Callable[[], Settings]
    """Reads the settings again, from every place that can give one; raises `SettingsError`."""
    prepare: Callable[[Settings], None]
    """Makes a worker's process what the settings want: directory, search path, variables, mask."""
