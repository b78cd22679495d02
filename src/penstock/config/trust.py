"""Which settings files root takes, where the workers run as another user.

A file in Python is executed by root, and a TOML file names files that root writes to, and the user
of the workers. So a file that the workers' user can change would make that user root. The check is
for root with ``--user`` alone; docs/privileges.md describes it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from penstock.errors import SettingsError
from penstock.system.paths import not_roots_alone

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.config.settings import Settings

_USER = ("user", "group")


class Trust:
    """Checks the settings files of one reading of the settings."""

    def __init__(self, has_user: bool, *sources: Mapping[str, object]) -> None:
        """``has_user`` is True if the server that runs has a user; ``sources`` are read already."""
        self._has_user = has_user
        self._refused: SettingsError | None = None
        self.read: list[str] = []
        """The files that settings were read from."""
        for source in sources:
            self.note(source)

    def note(self, source: Mapping[str, object]) -> None:
        """Take notice of the settings of one more source."""
        self._has_user = self._has_user or any(name in source for name in _USER)

    def check(self, path: str | Path, *, python: bool = False) -> None:
        """Refuse a file that others than root can change. Raises `SettingsError`.

        Where no user is known yet, `finish` refuses it: the file itself may name the user. A file
        in Python that does so is refused before it is executed.
        """
        if str(path) not in self.read:
            self.read.append(str(path))
        reason = _distrusted(str(path))
        if not reason:
            return
        refused = SettingsError(
            f"the settings file {path} is refused, because root starts the server for another "
            f"user, and {reason}: make root the owner of the file and of its directories (chown "
            "root, chmod go-w), or name another file with -c"
        )
        if self._has_user or (python and _names_user(path)):
            raise refused
        self._refused = self._refused or refused

    def takes_directory(self, path: str | Path) -> bool:
        """Return True if root may import modules from a directory."""
        return not self._has_user or not _distrusted(str(path))

    def finish(self, settings: Settings) -> None:
        """Refuse what was read of a file, if the workers have a user. Raises `SettingsError`."""
        if self._refused is not None and settings.has_user:
            raise self._refused


def _distrusted(path: str) -> str:
    """Return why root must not rely on a file, or an empty text; also where it is missing."""
    if os.geteuid() != 0:
        return ""
    try:
        return not_roots_alone(os.path.abspath(path))
    except FileNotFoundError:
        return ""  # reading it reports that
    except OSError as error:
        return f"its path cannot be checked ({error.strerror})"


def _names_user(path: str | Path) -> bool:
    """Return True if a Python file sets the user or the group, as far as its text shows."""
    import ast

    try:
        with open(path, "rb") as file:
            tree = ast.parse(file.read())
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
        return False  # executing it reports that
    return any(isinstance(node, ast.Name) and node.id in _USER for node in ast.walk(tree))
