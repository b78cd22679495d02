"""The page of ``penstock --help``: one screen. ``--help-all`` has every option."""

from __future__ import annotations

from typing import Final

from penstock.config.settings import OPTIONS

_BEGIN: Final = """\
usage: penstock [options] module:callable

Serve a WSGI application over HTTP. Without :callable, application or app of
the module. Without an argument, that of the Django or Flask project here.

  penstock mysite.wsgi
  penstock "shop:create_app()" --bind 0.0.0.0:8000 --workers 4
  penstock shop:app --reload

"""

OFTEN_WANTED: Final = {
    "bind": "where to listen; also --host and --port",
    "workers": "number of processes",
    "threads": "requests at a time in each of them",
    "timeout": "longest time for a call of the application",
    "reload": "reload when a file changes",
    "certfile": "certificate for TLS",
    "keyfile": "its key",
    "static": "files to send, as in /assets=public",
    "forwarded_allow_ips": "proxies that are believed about clients",
    "chdir": "directory of the application",
    "env": "variable for the application",
    "access_logfile": "file for requests; - is standard output",
    "error_logfile": "file for everything else",
    "log_level": "debug, info, warning, error",
    "user": "user that the workers run as",
}
"""Settings, each with what it is in a few words."""

_END: Final = """\
  -c, --config FILE               settings: TOML, or a gunicorn.conf.py
  --check                         load all, print every setting, and exit
  --help-all                      all options, with their defaults

Each option is also a variable (PENSTOCK_WORKERS) and a key of penstock.toml.
penstockctl shows and controls a server that runs.
"""


def short_help() -> str:
    """Return the page, which fits on a screen of 80 columns and 40 lines."""
    lines = []
    for name, what in OFTEN_WANTED.items():
        option = OPTIONS[name]
        metavar = "NAME" if option.kind.metavar.startswith("{") else option.kind.metavar
        short = "".join(f"{flag}, " for flag in option.flags if not flag.startswith("--"))
        shown = f"{short}{option.flag}{'' if option.is_switch else f' {metavar}'}"
        lines.append(f"  {shown:<30}  {what}\n")
    return _BEGIN + "".join(lines) + _END
