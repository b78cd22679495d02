"""How long a call of the application may last without progress, by its path."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from penstock.config.options import duration

if TYPE_CHECKING:
    from penstock.config.settings import Settings

REMEMBERED_PATHS = 256
"""How many paths are cached with their timeouts. Few: a path may have some kilobytes."""

_TIME = duration(0, 365 * 86400.0)


def _patterns(settings: Settings) -> list[tuple[str, float]]:
    pairs = (entry.split("=", 1) for entry in settings.timeout_for)
    return [(pattern, _TIME.convert(time.strip())) for pattern, time in pairs]


def timeouts_by_path(settings: Settings) -> Callable[[str], float] | None:
    """Return a function from a path to its timeout; None if all paths have the same.

    The function takes SCRIPT_NAME and PATH_INFO as the environ has them, and returns seconds, 0 for
    no limit. The first pattern that matches counts; ``*`` matches slashes, too. Thread-safe.
    """
    patterns = _patterns(settings)
    if not patterns:
        return None
    from fnmatch import fnmatchcase  # where there are patterns only

    usual = settings.timeout

    @lru_cache(REMEMBERED_PATHS)
    def timeout_of(path: str) -> float:
        for pattern, timeout in patterns:
            if fnmatchcase(path, pattern):
                return timeout
        return usual

    return timeout_of


def shortest_timeout(settings: Settings) -> float:
    """Return the shortest of all timeouts, in seconds; 0 if there is none."""
    timeouts = [settings.timeout, *(timeout for _, timeout in _patterns(settings))]
    return min(filter(None, timeouts), default=0.0)
