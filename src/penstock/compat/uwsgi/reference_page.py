"""Writes docs/uwsgi-options.md, the page of uWSGI's options, from the table."""

from __future__ import annotations

from penstock.compat.uwsgi.settings import PREFIXES, UWSGI_OPTIONS, UwsgiOption
from penstock.config.settings import OPTIONS

_INTRODUCTION = """\
# uWSGI's options, one by one

`make docs` writes this page from the table in `src/penstock/compat/uwsgi/settings.py`. Change the
table, not this page. [migrating.md](migrating.md#from-uwsgi) explains how the files are read.

As of uWSGI 2.0.31. "Here" is the setting of Penstock that an option becomes. A dash means that the
option has no effect: one warning names it, with the remark. "Needs nothing" means that the server
does what the option asks for, or has no part that would need it; no warning is logged.

| uWSGI | Here | Remark |
|---|---|---|
"""

_PREFIXES = """
Options that begin with one of these, and are not above, have no effect:

| Beginning | Remark |
|---|---|
"""

_NO_SETTINGS = {
    "application": "the application",
    "virtualenv": "-",
    "protocol": "needs nothing",
}


def uwsgi_page() -> str:
    """Return the page, in Markdown."""
    prefixes = [f"| `{name}` | {_linked(text)} |\n" for name, text in PREFIXES.items()]
    return "".join([_INTRODUCTION, *map(_row, UWSGI_OPTIONS), _PREFIXES, *prefixes])


def _row(option: UwsgiOption) -> str:
    names = ", ".join(f"`{name}`" for name in option.names)
    if option.ours:
        here = _NO_SETTINGS.get(option.ours) or _linked(f"{{{option.ours}}}")
    else:
        here = "-" if option.instead else "needs nothing"
    return f"| {names} | {here} | {_linked(option.instead or option.differs)} |\n"


def _linked(text: str) -> str:
    return text.format_map({name: f"[`{name}`](settings.md#{name})" for name in OPTIONS})


if __name__ == "__main__":
    print(uwsgi_page(), end="")
