"""The command line: a parser made from the declared options, and answers to gunicorn's flags."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NoReturn

from penstock.config.gunicorn_settings import is_our_worker_class
from penstock.config.options import Option, nearest
from penstock.config.other_servers import GUNICORN_FLAGS, explain, spelt
from penstock.config.settings import OPTIONS
from penstock.config.sources import nearest_option
from penstock.errors import SettingsError

USAGE = "penstock [options] module:callable"

_HELP_COLUMNS = 79
_COMMANDS = ("--help", "--version", "--check", "--check-config")
_EPILOG = (
    "Each setting is also a variable (PENSTOCK_MAX_BODY for --max-body) and a key of "
    "penstock.toml or of [tool.penstock] in pyproject.toml (max_body). A flag counts most, then "
    "the variable, then the file. Sizes take B, kB, MB, GB, TB, KiB, MiB, GiB, TiB; "
    "times take ms, s, m, h."
)


@dataclass(frozen=True)
class CommandLine:
    """What was typed: the application, the commands among the flags, and the settings."""

    application: str | None
    config_file: str | None
    check: bool
    version: bool
    help: bool
    flags: dict[str, object]
    """What was given for settings, by name, unchecked."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"{message} (see penstock --help)")


class _Refusal(argparse.Action):
    """A flag that gunicorn has, and penstock has not."""

    def __call__(self, _parser: Any, _names: Any, value: Any, flag: str | None = None) -> None:
        if "--worker-class" in self.option_strings and is_our_worker_class(value):
            return  # it asks for what there is anyway; many a Dockerfile has it
        raise SettingsError(f"{flag} is a flag of gunicorn, and not of penstock: {self.metavar}")


def parse_command_line(arguments: Sequence[str]) -> CommandLine:
    """Return what was typed; raises `SettingsError` for what no flag means."""
    _refuse_values_of_switches(arguments)
    typed, rest = build_parser().parse_known_args(arguments)
    for argument in rest:
        if argument.startswith("-") and argument != "--":
            raise SettingsError(_unknown_flag(argument))
        raise SettingsError(f"{argument!r} is one argument too many: usage: {USAGE}")
    names = vars(typed)
    commands = {
        "application": names.pop("application"),
        "config_file": names.pop("config", None),
        "check": names.pop("check", False),
        "version": names.pop("version", False),
        "help": names.pop("help", False),
    }
    return CommandLine(**commands, flags=names)


def _refuse_values_of_switches(arguments: Sequence[str]) -> None:
    """Refuse ``--trace=yes``; argparse would, but in words of its own."""
    forms = dict.fromkeys(_COMMANDS, "")
    for option in OPTIONS.values():
        if option.is_switch:
            flags = (*option.flags, option.negative_flag)
            forms |= dict.fromkeys(flags, f": write {option.flag} or {option.negative_flag}")
    for argument in arguments:
        flag, equals, _ = argument.partition("=")
        if argument == "--":
            return
        if equals and flag in forms:
            raise SettingsError(f"{flag} takes no value{forms[flag]} (see penstock --help)")


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
    commands.add_argument("-h", "--help", action="store_true", help="Print this page.")
    commands.add_argument("--version", action="store_true", help="Print the version.")
    commands.add_argument(
        "--check",
        "--check-config",
        action="store_true",
        help="Load the application, print every setting and where it came from, and exit.",
    )
    commands.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        help="Settings file to read in the place of the usual ones: TOML, or Python as gunicorn "
        "has it (FILE.py or python:MODULE).",
    )
    for section, members in groupby(OPTIONS.values(), key=lambda option: option.section):
        group = parser.add_argument_group(section)
        for option in members:
            _add_option(group, option)
    for flags, answer in GUNICORN_FLAGS.items():
        # argparse has no other place where an action of one's own could keep a text.
        text = spelt(answer, OPTIONS, "flag")
        parser.add_argument(
            *flags, action=_Refusal, nargs="?", metavar=text, help=argparse.SUPPRESS
        )
    return parser


def _add_option(group: argparse._ArgumentGroup, option: Option) -> None:
    help_text = f"{option.help} [{option.kind.show(option.default)}]".replace("%", "%%")
    hidden = argparse.SUPPRESS
    if option.is_switch:
        # The page shows the form that changes something.
        off_help, on_help = (option.off_help, hidden) if option.default else (hidden, help_text)
        group.add_argument(*option.flags, dest=option.name, action="store_true", help=on_help)
        group.add_argument(
            option.negative_flag, dest=option.name, action="store_false", help=off_help
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
    meant = None
    if flag.startswith("--"):
        explanation = explain(flag.removeprefix("--"), OPTIONS, "flag")
        if explanation is not None:
            return f"unknown flag {flag!r}: {explanation}"
        option = nearest_option(OPTIONS, flag.removeprefix("--"))
        meant = option.flag if option is not None else None
    if meant is None:
        meant = nearest(flag, [*_COMMANDS, "--config"])
    hint = f"; did you mean {meant!r}?" if meant is not None else " (see penstock --help)"
    return f"unknown flag {flag!r}{hint}"
