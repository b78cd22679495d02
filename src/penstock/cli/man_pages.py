"""The manual pages penstock(1) and penstockctl(1), made from the declared options.

``make docs`` writes them to docs/man/, from where the package installs them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from penstock.cli.help_page import build_parser
from penstock.control import penstockctl

_SIGNALS: Final = {
    "SIGTERM": "stops gracefully: requests in progress are finished",
    "SIGINT, SIGQUIT": "stops at once",
    "SIGHUP": "reloads settings and code; no request is lost",
    "SIGUSR1": "opens the log files again, after a rotation",
    "SIGUSR2": "upgrades the server itself",
    "SIGTTIN, SIGTTOU": "one worker more, one less",
}

_STATUSES: Final = {
    "0": "stopped, and all requests in progress were finished",
    "1": "the server failed, or requests were cut off when it stopped",
    "2": "the settings, or the command line, are wrong",
    "3 to 6": "the application cannot be loaded: its module (3), its code (4), the attribute (5), "
    "or what it is (6)",
    "7": "the server cannot listen on an address",
}

_FILES: Final = {
    "penstock.toml": "settings, in the current directory: workers = 4",
    "pyproject.toml": "settings in its table [tool.penstock], where there is no penstock.toml",
    "gunicorn.conf.py": "settings of gunicorn, in the current directory",
}


def penstock_page() -> str:
    """Return penstock(1) in roff."""
    parser = build_parser()
    lines = [
        *_head("penstock", "serve a WSGI application over HTTP"),
        *_synopsis("penstock", "[options] [module:callable]"),
        ".SH DESCRIPTION",
        _text(
            "penstock serves the application that module:callable names, until it gets SIGTERM or "
            "SIGINT. Without :callable it is application or app of the module, without an argument "
            "that of the Django or Flask project in the current directory. A supervisor starts and "
            "watches the workers; penstockctl(1) shows and controls them."
        ),
        ".PP",
        _text(
            "Each option is also a variable, such as PENSTOCK_WORKERS, and a key of penstock.toml, "
            "such as workers. A flag counts more than a variable, and a variable more than a file. "
            "Defaults are in brackets."
        ),
    ]
    for group in parser._action_groups:
        shown = [each for each in group._group_actions if each.help != argparse.SUPPRESS]
        flags = [each for each in shown if each.option_strings]
        if flags:
            lines.append(f".SH {_text((group.title or '').upper())}")
            for action in flags:
                lines += _option(action)
    lines += _table("SIGNALS", _SIGNALS)
    lines += _table("EXIT STATUS", _STATUSES)
    lines += _table("FILES", _FILES)
    lines += [".SH SEE ALSO", ".BR penstockctl (1)"]
    return "\n".join(lines) + "\n"


def penstockctl_page() -> str:
    """Return penstockctl(1) in roff."""
    parser = penstockctl.build_parser()
    lines = [
        *_head("penstockctl", "show the state of a running Penstock server, or control it"),
        *_synopsis("penstockctl", "[options] COMMAND [arguments]"),
        ".SH DESCRIPTION",
        _text(
            "penstockctl asks the supervisor over the control socket, and works also while every "
            "worker is stuck. Commands that change something wait for the outcome. WORKER is the "
            "number of a worker or its process id."
        ),
        ".SH COMMANDS",
    ]
    for name, command in commands_of(parser):
        own = [each for each in command._actions if not each.option_strings]
        arguments = " ".join(_shown_argument(each) for each in own)
        lines += [".TP", f".B {_flag(name)} {_text(arguments)}".rstrip()]
        lines.append(_text(command.description or ""))
        common = {flag for each in parser._actions for flag in each.option_strings}
        for action in command._actions:
            if action.option_strings and action.option_strings[0] not in common:
                lines += [".RS", *_option(action), ".RE"]
    lines.append(".SH OPTIONS")
    for action in parser._actions:
        if action.option_strings:
            lines += _option(action)
    lines += _table(
        "EXIT STATUS",
        {
            "0": "done",
            "1": "refused, failed or rolled back",
            "2": "wrong usage, or several servers",
            "3": "no server answers",
        },
    )
    lines += [".SH SEE ALSO", ".BR penstock (1)"]
    return "\n".join(lines) + "\n"


def commands_of(
    parser: argparse.ArgumentParser,
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield the commands of a parser, by name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


def _head(name: str, what: str) -> list[str]:
    return [
        '.\\" Made by "make docs" from src/penstock/cli/man_pages.py.',
        f'.TH {name.upper()} 1 "" Penstock',
        ".SH NAME",
        f"{name} \\- {_text(what)}",
    ]


def _synopsis(name: str, arguments: str) -> list[str]:
    return [".SH SYNOPSIS", f".B {name}", _text(arguments)]


def _table(heading: str, entries: dict[str, str]) -> list[str]:
    lines = [f".SH {heading}"]
    for name, what in entries.items():
        lines += [".TP", f".B {_text(name)}", _text(what)]
    return lines


def _option(action: argparse.Action) -> list[str]:
    flags = ", ".join(f"\\fB{_flag(each)}\\fR" for each in action.option_strings)
    value = ""
    if action.nargs != 0:
        name = action.metavar or "{" + ",".join(map(str, action.choices or ())) + "}"
        value = f" \\fI{_text(str(name))}\\fR"
    text = (action.help or "").replace("%%", "%")
    return [".TP", f"{flags}{value}", _text(text)]


def _shown_argument(action: argparse.Action) -> str:
    name = str(action.metavar or action.dest)
    return f"[{name}]" if action.nargs == "?" else name


def _flag(text: str) -> str:
    return _text(text).replace("-", "\\-")


def _text(text: str) -> str:
    """Return text for roff: no backslash means anything, and no line begins with a request."""
    text = " ".join(text.split()).replace("\\", "\\e")
    return f"\\&{text}" if text[:1] in (".", "'") else text


PAGES: Final[dict[str, Callable[[], str]]] = {
    "penstock.1": penstock_page,
    "penstockctl.1": penstockctl_page,
}
"""By the names of the files."""

if __name__ == "__main__":
    for file_name, page in PAGES.items():
        Path(sys.argv[1], file_name).write_text(page(), "utf-8")
