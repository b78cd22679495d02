"""Where a process was when a signal of its native code ended it, by what `faulthandler` wrote."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from typing import Final

from penstock.records import dataclass
from penstock.system.stacks import DUMPED_FRAME, PACKAGE, is_of_library

MOST_FRAMES: Final = 3
"""Functions that are named, the innermost first: they show who called native code."""

MOST_MODULES: Final = 10
MOST_OF_NAME: Final = 100
"""Characters of a function, and of the name of a module."""

_MOST_OF_LINE: Final = 4096
"""Characters of a line that are looked at; a path has no more."""

# Found as they stand: a pattern over all that a process has written could take long.
_FATAL: Final = "Fatal Python error: "
_CURRENT: Final = "\nCurrent thread "
_MODULES: Final = "\nExtension modules: "
_TOTAL: Final = " (total: "
_OWN: Final = "penstock._native"
_INSTALLED: Final = re.compile(r".*/(?:site|dist)-packages/([^/]+?)(?:\.py|/.*)")


@dataclass(frozen=True)
class CrashSite:
    """Where a process crashed."""

    frames: Sequence[str]
    """The innermost functions of the thread, such as ``thumbnail (shop/images.py:12)``."""
    likely: Sequence[str]
    """The extension modules that the innermost function likely was in; empty where none is."""
    modules: Sequence[str]
    """The extension modules that were loaded and are not of the standard library, with those."""


def crash_site(dump: bytes) -> CrashSite | None:
    """Return where a process crashed; None where no signal of its own was written down.

    The process may have written anything.
    """
    text = dump.decode("utf-8", "backslashreplace")
    fatal = text.find(_FATAL)
    if fatal < 0:
        return None
    _, _, current = text[fatal:].partition(_CURRENT)
    frames = []
    for line in islice(current.splitlines(), 1, 1 + MOST_FRAMES):
        frame = DUMPED_FRAME.fullmatch(line[:_MOST_OF_LINE])
        if frame is None:
            break
        frames.append(frame.groups())
    _, _, listed = text[fatal:].rpartition(_MODULES)
    names, _, _ = listed.partition("\n")[0].rpartition(_TOTAL)
    modules = [name for name in names.split(", ") if name]
    likely = _likely(frames[0][0], modules) if frames else []
    others = [name for name in modules if name not in likely and name != _OWN]
    return CrashSite(
        frames=[_shown(*frame) for frame in frames],
        likely=_cut(likely),
        modules=_cut([*likely, *others]),
    )


def _likely(file: str, modules: Sequence[str]) -> list[str]:
    """Return the extension modules that code of a file likely has called."""
    package = _package_of(file)
    of_package = [name for name in modules if package and name.partition(".")[0] == package]
    others = [name for name in modules if name != _OWN]
    if of_package or is_of_library(file) or len(others) != 1:
        return of_package
    return others


def _package_of(file: str) -> str:
    """Return the package, or the module, that a file is of; empty for one that is not installed."""
    if file.startswith(PACKAGE):
        return "penstock"
    installed = _INSTALLED.fullmatch(file)
    return installed[1] if installed is not None else ""


def _shown(file: str, line: str, function: str) -> str:
    short = "/".join(file.rsplit("/", 2)[-2:])
    return f"{function[:MOST_OF_NAME]} ({short[-MOST_OF_NAME:]}:{line[:MOST_OF_NAME]})"


def _cut(names: Sequence[str]) -> list[str]:
    return [name[:MOST_OF_NAME] for name in names[:MOST_MODULES]]
