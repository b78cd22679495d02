"""The settings reference, docs/settings.md, made from the declarations."""

from __future__ import annotations

from itertools import groupby

from penstock.config.options import Option
from penstock.config.settings import OPTIONS

_INTRODUCTION = """\
# Settings

`make docs` writes this page from the declarations in `src/penstock/config/settings.py`. Change the
declarations, not this page.

A setting can be given in several places. The first of these wins:

1. a flag of the command;
2. the environment variable, `PENSTOCK_` and the name in capitals;
3. `GUNICORN_CMD_ARGS`, with gunicorn's flags;
4. a TOML file: the one of `-c FILE`, or else `penstock.toml`, or else the table `[tool.penstock]`
   of `pyproject.toml`, both in the directory where the command is typed;
5. `gunicorn.conf.py` in that directory. `-c FILE` replaces it, and may name such a file itself:
   [migrating.md](migrating.md#from-gunicorn) tells how it is read;
6. a variable that platforms set: `PORT` (listen on that port of all IPv4 addresses),
   `WEB_CONCURRENCY` and `SCRIPT_NAME`;
7. the default.

Sockets that systemd passes (`LISTEN_FDS`, `LISTEN_PID`) replace `bind`, wherever it was given.
`penstock --check module:callable` prints every setting and where it came from.

Unknown names and values that are not allowed are refused, and so is what is impossible together.
Keys of a file may be written with `-` or `_`. A list is an array in a file, a repeated flag, or
text with commas in a variable; the list of one place replaces the whole list of another. Sizes are
bytes, or have a unit: `kB`, `MB`, `GB`, `TB` (powers of 1000), `KiB`, `MiB`, `GiB`, `TiB` (powers
of 1024). Times are seconds, or have a unit: `ms`, `s`, `m`, `h`. Variables that Kubernetes makes
for a service called "penstock" (such as `PENSTOCK_SERVICE_HOST`) are left alone.

`penstock.serve(app, ...)` and `penstock.running(app, ...)` take the same settings by name, as
Python values or as text, and read no file and no variable.

A file can look like this:

```toml
bind = ["127.0.0.1:8000", "unix:/run/app.sock"]
threads = 8
max_body = "50MiB"
access_logfile = "-"
```
"""


def settings_page() -> str:
    """Return the reference page, in Markdown."""
    parts = [_INTRODUCTION]
    for section, members in groupby(OPTIONS.values(), key=lambda option: option.section):
        parts.append(f"## {section}\n")
        parts.extend(_entry(option) for option in members)
    return "\n".join(parts)


def _entry(option: Option) -> str:
    flags = [f"{flag} {option.kind.metavar}".strip() for flag in option.flags]
    if option.is_switch:
        flags.append(option.negative_flag)
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
    return repeated + (" (the command only, no Python caller)" if option.command_only else "")


def _platform(option: Option) -> str:
    return f", or `{option.platform_variable}`" if option.platform_variable else ""


if __name__ == "__main__":
    print(settings_page(), end="")
