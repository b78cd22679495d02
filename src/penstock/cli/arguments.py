"""The command line: a parser made from the declared options, which takes gunicorn's flags, too."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NoReturn

from penstock.config.gunicorn_settings import add_flags, refusal
from penstock.config.options import Option, nearest
from penstock.config.other_servers import GUNICORN_ALONE, explain
from penstock.config.settings import DEFAULT_HOST, DEFAULT_PORT, OPTIONS
from penstock.config.sources import nearest_option
from penstock.errors import SettingsError

USAGE = "penstock [options] module:callable"

_HELP_COLUMNS = 79
_COMMANDS = ("--help", "--help-all", "--version", "--check", "--check-config", "--print-config")
_OTHERS = {
    "-v": "--version prints the version, and --log-level debug logs more",
    "-V": "--version prints the version",
    "--verbose": "--log-level debug logs more",
}
"""Flags of many programs, with what they are called here."""

_OF_GUNICORN = "gunicorn's "
"""Begins the names under which argparse keeps what gunicorn's own flags say."""
_EPILOG = (
    "Each setting is also a variable (PENSTOCK_MAX_BODY for --max-body) and a key of "
    "penstock.toml or of [tool.penstock] in pyproject.toml (max_body). A flag overrides the "
    "variable, and the variable overrides the file. Units of sizes: B, kB, MB, GB, TB, KiB, MiB, "
    "GiB, TiB; of times: ms, s, m, h."
)


@dataclass(frozen=True)
class CommandLine:
    """The typed command line: the application, the commands among the flags, and the settings."""

    application: str | None
    config_file: str | None
    uwsgi_file: str | None
    """The configuration file of uWSGI to read."""
    check: bool
    version: bool
    help: bool
    help_all: bool
    completion: str | None
    """The shell whose script is to be printed."""
    flags: dict[str, object]
    """The values of the settings' flags by the settings' names, unchecked."""
    gunicorn: dict[str, object]
    """The values of flags that gunicorn alone has, by the names of gunicorn's settings."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"{message} (see penstock --help-all)")


def parse_command_line(arguments: Sequence[str]) -> CommandLine:
    """Return the parsed command line. Raises `SettingsError` for an unknown flag."""
    _refuse_values_of_switches(arguments)
    typed, rest = build_parser().parse_known_args(arguments)
    names = vars(typed)
    gunicorn = {
        row.name: names.pop(_OF_GUNICORN + row.name)
        for row in GUNICORN_ALONE
        if _OF_GUNICORN + row.name in names
    }
    wrong = [_unknown_flag(each) for each in rest if each.startswith("-") and each != "--"]
    for row in GUNICORN_ALONE:
        if row.name in gunicorn and (reason := refusal(row, gunicorn[row.name])):
            wrong.append(f"{row.flags[0]}: {reason}")
    if not wrong:  # behind an unknown flag, any other argument may be its value
        wrong = [f"unexpected argument {argument!r}: usage: {USAGE}" for argument in rest[:1]]
    if wrong:
        raise SettingsError("; ".join(wrong))
    _compose_address(names)
    commands = {
        "application": names.pop("application"),
        # Many a script has "-c gunicorn.conf.py" as one word.
        "config_file": names.pop("config", "").strip() or None,
        "uwsgi_file": names.pop("ini", None),
        "check": names.pop("check", False),
        "version": names.pop("version", False),
        "help": names.pop("help", False),
        "help_all": names.pop("help_all", False),
        "completion": names.pop("completion", None),
    }
    return CommandLine(**commands, flags=names, gunicorn=gunicorn)


def _compose_address(names: dict[str, object]) -> None:
    """Put ``--host`` and ``--port`` together into one value of ``bind``."""
    host, port = names.pop("host", None), names.pop("port", None)
    if host is None and port is None:
        return
    if "bind" in names:
        flag = "--port" if host is None else "--host"
        raise SettingsError(f"{flag} and --bind are two ways to say one thing: give either")
    host = str(host or DEFAULT_HOST)
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"  # an address of IPv6
    names["bind"] = [f"{host}:{port or os.environ.get('PORT') or DEFAULT_PORT}"]


def _refuse_values_of_switches(arguments: Sequence[str]) -> None:
    """Refuse ``--trace=yes`` with a better message than that of argparse."""
    forms = dict.fromkeys(_COMMANDS, "takes no value")
    words = set()
    for option in OPTIONS.values():
        if option.is_switch:
            flags = (*option.flags, option.negative_flag)
            word = f", {option.flag}={option.word}" if option.word else ""
            value = f"takes no value: write {option.flag}{word} or {option.negative_flag}"
            forms |= dict.fromkeys(flags, value)
            words.add(f"{option.flag}={option.word}")
    for argument in arguments:
        flag, equals, _ = argument.partition("=")
        if argument == "--":
            return
        if equals and flag in forms and argument not in words:
            raise SettingsError(f"{flag} {forms[flag]} (see penstock --help-all)")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line, with a group for each section of the settings."""
    parser = _Parser(
        prog="penstock",
        usage=USAGE,
        description="Serve a WSGI application over HTTP.",
        epilog=_EPILOG,
        formatter_class=lambda prog: argparse.HelpFormatter(
            prog, max_help_position=28, width=_HELP_COLUMNS
        ),
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument(
        "application",
        nargs="?",
        default=None,
        metavar="module:callable",
        help="the application: module, module:callable, module:object.attribute or "
        "module:factory('argument', key=1)",
    )
    commands = parser.add_argument_group("Commands")
    commands.add_argument("-h", "--help", action="store_true", help="Print the short help.")
    commands.add_argument("--help-all", action="store_true", help="Print all options.")
    commands.add_argument(
        "--completion",
        choices=("bash", "zsh", "fish"),
        help="Print the script by which a shell completes the command line.",
    )
    commands.add_argument("--version", action="store_true", help="Print the version.")
    commands.add_argument(
        "--check",
        "--check-config",
        "--print-config",
        action="store_true",
        help="Load the application, print every setting and its source, and exit.",
    )
    commands.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        help="Settings file to read instead of the default ones: TOML, or Python as for gunicorn "
        "(FILE.py or python:MODULE).",
    )
    commands.add_argument(
        "--ini",
        "--yaml",
        "--xml",
        "--json",
        metavar="FILE",
        help="Configuration file of uWSGI to read: .ini, .yaml, .xml or .json; FILE:SECTION reads "
        "another section than uwsgi.",
    )
    # What most other servers call it; one address alone.
    parser.add_argument("--host", metavar="HOST", help=argparse.SUPPRESS)
    parser.add_argument("--port", metavar="PORT", help=argparse.SUPPRESS)
    for section, members in groupby(OPTIONS.values(), key=lambda option: option.section):
        group = parser.add_argument_group(section)
        for option in members:
            _add_option(group, option)
    for row in GUNICORN_ALONE:
        add_flags(parser, row, _OF_GUNICORN + row.name, help=argparse.SUPPRESS)
    return parser


def _add_option(group: argparse._ArgumentGroup, option: Option) -> None:
    help_text = f"{option.help} [{option.kind.show(option.default)}]".replace("%", "%%")
    hidden = argparse.SUPPRESS
    if option.is_switch:
        # The help page shows the flag that changes the default.
        off_help, on_help = (option.off_help, hidden) if option.default else (hidden, help_text)
        group.add_argument(*option.flags, dest=option.name, action="store_true", help=on_help)
        group.add_argument(
            option.negative_flag, dest=option.name, action="store_false", help=off_help
        )
        if option.word:
            # The parser looks for an argument as a whole before it divides it at "=".
            group.add_argument(
                f"{option.flag}={option.word}",
                dest=option.name,
                action="store_const",
                const=option.word,
                help=hidden,
            )
        return
    if option.alone:
        group.add_argument(
            *option.flags,
            dest=option.name,
            nargs="?",
            const=option.alone,
            metavar=option.kind.metavar,
            help=help_text,
        )
        return
    group.add_argument(
        *option.flags,
        dest=option.name,
        action="append" if option.repeatable else "store",
        metavar=option.kind.metavar,
        help=help_text,
    )


def _unknown_flag(argument: str) -> str:
    flag = argument.partition("=")[0]
    if flag in _OTHERS:
        return f"unknown flag {flag!r}: {_OTHERS[flag]}"
    meant = None
    if flag.startswith("--"):
        explanation = explain(flag.removeprefix("--"), OPTIONS, "flag")
        if explanation is not None:
            return f"unknown flag {flag!r}: {explanation}"
        option = nearest_option(OPTIONS, flag.removeprefix("--"))
        meant = option.flag if option is not None else None
    if meant is None:
        meant = nearest(flag, [*_COMMANDS, "--config"])
    hint = f"; did you mean {meant!r}?" if meant is not None else " (see penstock --help-all)"
    return f"unknown flag {flag!r}{hint}"
