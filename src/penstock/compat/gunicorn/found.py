"""What gunicorn's sources of settings give, and whether there are any.

What reads them, `penstock.compat.gunicorn.config`, is imported where there are some: other servers
start sooner, and are smaller.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import TYPE_CHECKING

from penstock.records import dataclass
from penstock.system.paths import joined

if TYPE_CHECKING:
    from penstock.messages import Notice

Given = dict[str, tuple[object, str]]
"""As in `penstock.config.sources`."""

ARGUMENTS = "GUNICORN_CMD_ARGS"
USUAL_FILE = "gunicorn.conf.py"

FILE, MODULE = "file:", "python:"
"""What may stand before the name of a settings file, or of a module."""


@dataclass
class FromGunicorn:
    """What gunicorn's sources give."""

    flags: Given = field(default_factory=dict)
    """From flags on the command line that gunicorn alone has."""
    arguments: Given = field(default_factory=dict)
    """From GUNICORN_CMD_ARGS."""
    file: Given = field(default_factory=dict)
    """From the Python file."""
    config: str | None = None
    """The file that the command or GUNICORN_CMD_ARGS names."""
    application: str | None = None
    """``wsgi_app`` of the file, or of GUNICORN_CMD_ARGS."""
    ran_file: bool = False
    """Whether a Python file ran, which may have changed ``os.environ``."""
    hooks: dict[str, Callable[..., object]] = field(default_factory=dict)
    """The hooks that the file defines, checked, by name."""
    values: Mapping[str, object] = field(default_factory=dict)
    """The settings of the file as it has them, by gunicorn's names."""
    threads: tuple[int, str] | None = None
    """The number of threads where no source has one, and why; None without gunicorn's sources."""
    notes: list[str] = field(default_factory=list)
    """What was read, one line each, for the log."""
    warnings: list[Notice] = field(default_factory=list)


def is_python(config: str) -> bool:
    """Return True if a settings file is Python, as gunicorn's are, and not TOML."""
    if config.endswith(".toml"):
        return False
    return config.startswith((FILE, MODULE)) or config.endswith((".py", ".pyc"))


def has_sources(
    environ: Mapping[str, str], cwd: str, config: str | None, flags: Mapping[str, object]
) -> bool:
    """Return True if one of gunicorn's sources may have settings.

    ``config`` is the settings file that the command names: it may be one of gunicorn's.
    """
    return bool(
        flags
        or config is not None
        or environ.get(ARGUMENTS)
        or os.path.exists(joined(cwd, USUAL_FILE))
    )
