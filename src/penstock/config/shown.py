"""The settings as the dashboard shows them: each with its value and its source, and no secret.

A value is masked where its setting may hold passwords, and wherever it looks like one: the user of
a URL, and what is assigned to a name such as ``password`` or ``token``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, TypedDict

from penstock.config.settings import OPTIONS

if TYPE_CHECKING:
    from penstock.config.settings import Settings

MASK: Final = "***"

_USER_OF_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^/\s]*@")
_NAMES = "pass(?:word|wd|phrase)?|pwd|secret|token|credentials?|auth|(?:api|access|private)[_-]?key"
_ASSIGNED = re.compile(rf"((?:{_NAMES})[\w-]*[\"']?\s*[=:]\s*)[^\s,;&]+", re.IGNORECASE)


class SettingRow(TypedDict):
    """One setting."""

    name: str
    section: str
    value: str
    """As logs show it; what may be a secret is replaced by `MASK`."""
    source: str
    """``--threads``, ``penstock.toml:threads``, ``PENSTOCK_THREADS``, ``default``."""
    is_default: bool
    """Whether no source has given it."""


def setting_rows(settings: Settings) -> list[SettingRow]:
    """Return all settings, in the order of ``--help``."""
    rows: list[SettingRow] = []
    for name, option in OPTIONS.items():
        value = getattr(settings, name)
        if option.secret:
            text = ",".join(_without_value(entry) for entry in value) or "none"
        else:
            text = masked(option.kind.show(value))
        rows.append(
            {
                "name": name,
                "section": option.section,
                "value": text,
                "source": masked(settings.source_of(name)),
                "is_default": name not in settings.sources,
            }
        )
    return rows


def masked(text: str) -> str:
    """Return a text with `MASK` in place of each part that looks like a secret."""
    return _ASSIGNED.sub(rf"\g<1>{MASK}", _USER_OF_URL.sub(rf"\g<1>{MASK}@", text))


def _without_value(assignment: str) -> str:
    """Return ``NAME=VALUE`` without the value."""
    return f"{assignment.partition('=')[0]}={MASK}"
