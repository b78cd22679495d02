"""The flags of the command, and how a command line with them is read.

The help page and the man pages are made from the same flags, by `penstock.cli.help_page`. They are
read here as `argparse` reads them: it would take 0.5 MB in each worker, and a tenth of the start.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from penstock.config.gunicorn_settings import flag_of
from penstock.config.options import Option
from penstock.config.other_servers import GUNICORN_ALONE
from penstock.config.settings import OPTIONS
from penstock.errors import SettingsError

OF_GUNICORN = "gunicorn's "
"""Begins the names of what gunicorn's own flags say."""

_COMMANDS = "Commands"


class Flag(NamedTuple):
    """One flag, with all of its spellings."""

    names: tuple[str, ...]
    destination: str
    takes: Literal["value", "list", "switch", "maybe"] = "value"
    """What follows it: a value, one value of several, nothing, or an optional value."""
    const: object = True
    """The value of a flag that is given without one."""
    help: str | None = None
    """For the help page, which leaves out a flag without it."""
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    section: str = ""
    """The section of the help page."""


def all_flags() -> Iterator[Flag]:
    """Yield the flags of the command: its own, those of the settings, and gunicorn's."""
    yield Flag(("-h", "--help"), "help", "switch", help="Print the short help.", section=_COMMANDS)
    yield Flag(("--help-all",), "help_all", "switch", help="Print all options.", section=_COMMANDS)
    yield Flag(
        ("--completion",),
        "completion",
        help="Print the script by which a shell completes the command line.",
        choices=("bash", "zsh", "fish"),
        section=_COMMANDS,
    )
    yield Flag(("--version",), "version", "switch", help="Print the version.", section=_COMMANDS)
    yield Flag(
        ("--check", "--check-config", "--print-config"),
        "check",
        "switch",
        help="Load the application, print every setting and its source, and exit.",
        section=_COMMANDS,
    )
    yield Flag(
        ("-c", "--config"),
        "config",
        help="Settings file to read instead of the default ones: TOML, or Python as for gunicorn "
        "(FILE.py or python:MODULE).",
        metavar="FILE",
        section=_COMMANDS,
    )
    yield Flag(
        ("--ini", "--yaml", "--xml", "--json"),
        "ini",
        help="Configuration file of uWSGI to read: .ini, .yaml, .xml or .json; FILE:SECTION reads "
        "another section than uwsgi.",
        metavar="FILE",
        section=_COMMANDS,
    )
    # What most other servers call it; one address alone.
    yield Flag(("--host",), "host")
    yield Flag(("--port",), "port")
    for option in OPTIONS.values():
        yield from _of_option(option)
    for row in GUNICORN_ALONE:
        takes, const = flag_of(row)
        yield Flag(row.flags, OF_GUNICORN + row.name, takes, const)


def _of_option(option: Option) -> Iterator[Flag]:
    help_text = f"{option.help} [{option.kind.show(option.default)}]"
    section, metavar = option.section, option.kind.metavar
    if not option.is_switch:
        takes: Literal["value", "list", "maybe"] = "list" if option.repeatable else "value"
        if option.alone:
            takes = "maybe"
        yield Flag(
            option.flags, option.name, takes, option.alone, help_text, metavar, section=section
        )
        return
    # The help page shows the flag that changes the default.
    on_help, off_help = (None, option.off_help) if option.default else (help_text, None)
    yield Flag(option.flags, option.name, "switch", True, on_help, section=section)
    yield Flag((option.negative_flag,), option.name, "switch", False, off_help, section=section)
    for word in option.words:
        # A flag as a whole is looked for before the argument is divided at "=".
        yield Flag((f"{option.flag}={word}",), option.name, "switch", word, section=section)


def read(flags: Iterable[Flag], arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the values by their destinations, and the other arguments.

    Among these are unknown flags. Raises `SettingsError`.
    """
    known = {name: flag for flag in flags for name in flag.names}
    values: dict[str, Any] = {}
    rest: list[str] = []
    left = list(reversed(arguments))
    while left:
        argument = left.pop()
        if argument == "--":
            rest += reversed(left)
            break
        name, joined = _divided(known, argument)
        if name is None:
            rest.append(argument)
            continue
        flag = known[name]
        if flag.takes != "switch":
            value = joined
            if value is None and left and _is_value(known, left[-1]):
                value = left.pop()
            _note(values, flag, value)
            continue
        values[flag.destination] = flag.const
        if joined is not None:
            # Behind a switch of one letter there may be another one: -Rv.
            if name.startswith("--") or f"-{joined[:1]}" not in known:
                raise _wrong(flag, f"ignored explicit argument {joined!r}")
            left.append(f"-{joined}")
    return values, rest


def _divided(known: Mapping[str, Flag], argument: str) -> tuple[str | None, str | None]:
    """Return the flag of an argument, and the value that is joined to it; None for none."""
    if argument in known:
        return argument, None
    name, equals, value = argument.partition("=")
    if equals and name in known:
        return name, value
    if not argument.startswith("--") and argument[:2] in known and argument[0] == "-":
        return argument[:2], argument[2:]
    return None, None


def _is_value(known: Mapping[str, Flag], argument: str) -> bool:
    """Return True for what is no flag, not even an unknown one: ``-1`` and ``-`` are none."""
    if not argument.startswith("-") or argument == "-":
        return True
    if argument == "--" or _divided(known, argument)[0] is not None:
        return False
    return " " in argument or _is_number(argument)


def _is_number(argument: str) -> bool:
    whole, _, part = argument[1:].partition(".")
    digits = whole + part
    return digits.isdecimal() and not argument.endswith(".")


def _note(values: dict[str, Any], flag: Flag, value: str | None) -> None:
    if value is None and flag.takes != "maybe":
        raise _wrong(flag, "expected one argument")
    if flag.choices and value not in flag.choices:
        allowed = ", ".join(map(repr, flag.choices))
        raise _wrong(flag, f"invalid choice: {value!r} (choose from {allowed})")
    if flag.takes == "list":
        values.setdefault(flag.destination, []).append(value)
    else:
        values[flag.destination] = flag.const if value is None else value


def _wrong(flag: Flag, reason: str) -> SettingsError:
    return SettingsError(f"argument {'/'.join(flag.names)}: {reason} (see penstock --help-all)")
