"""Writes docs/settings.md, the reference of all settings, from the declarations."""

from __future__ import annotations

from penstock.config.options import Option, grouped
from penstock.config.settings import OPTIONS

_INTRODUCTION = """\
# Settings

`make docs` writes this page from the declarations in `src/penstock/config/settings.py`. Change the
declarations, not this page.

A setting can be given in several places. The first of these wins:

1. a flag of the command;
2. the environment variable: `PENSTOCK_` and the name in capitals;
3. `GUNICORN_CMD_ARGS`, with gunicorn's flags;
4. a TOML file: the file of `-c FILE`, or else `penstock.toml`, or else the table `[tool.penstock]`
   of `pyproject.toml`, both in the directory where the command is run;
5. `gunicorn.conf.py` in that directory. `-c FILE` replaces it, and FILE may itself be such a file:
   [migrating.md](migrating.md#from-gunicorn) explains how it is read;
6. a variable that platforms set: `PORT` (listen on that port of all IPv4 addresses),
   `WEB_CONCURRENCY` and `SCRIPT_NAME`;
7. the default.

Sockets that systemd passes (`LISTEN_FDS`, `LISTEN_PID`) replace `bind`, whatever its source.
`penstock --check module:callable` prints every setting and its source.

The server refuses unknown names, values that are not allowed, and impossible combinations.
Keys of a file may be written with `-` or `_`. A list is an array in a file, a repeated flag, or
text with commas in a variable. Lists are not merged: the list of the first source counts. Sizes are
bytes, or have a unit: `kB`, `MB`, `GB`, `TB` (powers of 1000), `KiB`, `MiB`, `GiB`, `TiB` (powers
of 1024). Times are seconds, or have a unit: `ms`, `s`, `m`, `h`. File modes are octal; in a TOML
file they are text (`"0660"`) or begin with `0o`. Variables that Kubernetes sets for a service
called "penstock" (such as `PENSTOCK_SERVICE_HOST`) are ignored.

`penstock.serve(app, ...)` and `penstock.running(app, ...)` take the same settings by name, as
Python values or as text. They read no file and no variable.

For example:

```toml
bind = ["127.0.0.1:8000", "unix:/run/app.sock"]
threads = 8
max_body = "50MiB"
access_logfile = "-"
```
"""


def settings_page() -> str:
    """Return the page, in Markdown."""
    sections = grouped(OPTIONS.values(), lambda option: option.section)
    links = [f"[{name}](#{name.lower().replace(' ', '-')})" for name in sections]
    parts = [_INTRODUCTION, f"Sections: {', '.join(links)}.\n"]
    for section, members in sections.items():
        parts.append(f"## {section}\n")
        parts.extend(_entry(option) for option in members)
    return "\n".join(parts)


def _entry(option: Option) -> str:
    flags = [f"{flag} {option.kind.metavar}".strip() for flag in option.flags]
    if option.is_switch:
        flags.append(option.negative_flag)
        flags += [f"{option.flag}={word}" for word in option.words]
    lines = [
        f"### {option.name}\n",
        f"{option.help}\n",
        f"- Flag: {', '.join(f'`{flag}`' for flag in flags)}{_remark(option)}",
        f"- Variable: `{option.variable}`{_platform(option)}",
        f"- Allowed: {option.kind.allowed}",
        f"- Default: `{option.kind.show(option.default)}`. {option.reason}",
        "",
    ]
    return "\n".join(lines)


def _remark(option: Option) -> str:
    repeated = " (may be given several times)" if option.repeatable else ""
    return repeated + (
        " (for the command only, not for Python callers)" if option.command_only else ""
    )


def _platform(option: Option) -> str:
    return f", or `{option.platform_variable}`" if option.platform_variable else ""


if __name__ == "__main__":
    print(settings_page(), end="")
