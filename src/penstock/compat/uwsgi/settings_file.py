"""Writing the penstock.toml that says what a file of uWSGI says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from penstock.compat.uwsgi.config import from_uwsgi
from penstock.config.settings import OPTIONS, Settings
from penstock.config.sources import build
from penstock.config.trust import Trust


def settings_file(location: str, environ: Mapping[str, str], cwd: Path) -> tuple[str, list[str]]:
    """Return a penstock.toml, and the warnings about what is lost, one line each.

    ``location`` is a path, or ``PATH:SECTION``. Raises `SettingsError` for what cannot be read.
    """
    found = from_uwsgi(OPTIONS, environ, cwd, location, Trust(False))
    settings = build(found.given, found.warnings)
    warnings = [warning.render() for warning in settings.warnings]
    application = found.application or "module:callable"
    lines = [f"# From {location}. Start the server with: penstock {application}", ""]
    lines += [f"# {warning}" for warning in warnings]
    lines += [""] if warnings else []
    lines += [f"{name} = {_value(settings, name)}" for name in OPTIONS if name in found.given]
    return "\n".join([*lines, ""]), warnings


def _value(settings: Settings, name: str) -> str:
    """Return a setting's value as TOML has it, and file modes as people write them."""
    value = getattr(settings, name)
    if OPTIONS[name].is_mode and isinstance(value, int):
        return f"0o{value:03o}"
    return _literal(value)


def _literal(value: object) -> str:
    """Return a setting's value as TOML has it."""
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_literal, value)) + "]"
    if isinstance(value, str):
        # The strings of JSON are strings of TOML, but for one character that JSON leaves as it is.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if value is None:
        return '"none"'
    return json.dumps(value)
