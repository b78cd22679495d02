"""Writes docs/gunicorn-settings.md, the page of gunicorn's settings, from the table."""

from __future__ import annotations

from penstock.config.gunicorn_settings import GUNICORN_SETTINGS, HOOKS, GunicornSetting
from penstock.config.settings import OPTIONS

_INTRODUCTION = """\
# gunicorn's settings, one by one

`make docs` writes this page from the table in `src/penstock/config/gunicorn_settings.py`. Change
the table, not this page. [migrating.md](migrating.md#from-gunicorn) explains how the settings are
read.

As of gunicorn 27.0.1. "Here" is the setting of Penstock that it becomes, in a `gunicorn.conf.py`,
in `GUNICORN_CMD_ARGS` and on the command line. "Needs no setting" means that nothing is missed
without it; the log notes some of these. A dash means that Penstock ignores it, with a warning if
its value differs from gunicorn's default.

| gunicorn | Flags | Here | Remark |
|---|---|---|---|
"""

_HOOKS = """
## Hooks

| Hook | When it is called |
|---|---|
"""

_WHEN = {
    "on_starting": "in the supervisor, before any worker is started; an exception ends the start",
    "on_reload": "in the supervisor, when a reload begins",
    "when_ready": "in the supervisor, when its first workers serve",
    "pre_fork": "in the supervisor, before a worker is started",
    "post_fork": "in the worker, before the application is loaded",
    "post_worker_init": "in the worker, when the application is loaded",
    "worker_int": "in the worker, when it stops at once, by SIGINT or SIGQUIT",
    "worker_abort": "in the worker, when it is ended because a request hangs",
    "pre_exec": "in the supervisor, before an upgrade starts the new supervisor",
    "pre_request": "in the thread of the request, before the application; an exception is answered "
    "with 500",
    "post_request": "in the thread of the request, after the response was closed; the last two "
    "arguments are optional",
    "child_exit": "in the supervisor, when a worker has ended",
    "worker_exit": "in the worker, when it is about to end",
    "ssl_context": "in the worker, for each set of certificates; it returns an `ssl.SSLContext`. "
    "It needs the Python transport, which `auto` takes then. For the names (SNI) of further "
    "certificates the server loads those; all else that the hook sets holds for them, too. Where "
    "it raises, the worker does not start, or the earlier certificates stay",
    "nworkers_changed": "in the supervisor, when the wanted number of workers changes; the old "
    "value is `None` at the start",
    "on_exit": "in the supervisor, when it is about to end",
}


def gunicorn_page() -> str:
    """Return the page, in Markdown."""
    rows = [_row(row) for row in GUNICORN_SETTINGS.values()]
    hooks = [f"| `{name}({', '.join(HOOKS[name])})` | {_WHEN[name]} |\n" for name in HOOKS]
    return "".join([_INTRODUCTION, *rows, _HOOKS, *hooks])


def _row(row: GunicornSetting) -> str:
    links = {name: f"[`{name}`](settings.md#{name})" for name in OPTIONS}
    here = links[row.ours] if row.ours else "-"
    if row.silent or row.needless:
        here = "needs no setting"
    remark = row.differs if row.ours else row.instead
    flags = ", ".join(f"`{flag}`" for flag in row.flags) or "-"
    return f"| `{row.name}` | {flags} | {here} | {remark.format_map(links)} |\n"


if __name__ == "__main__":
    print(gunicorn_page(), end="")
