"""The command line: the flags of the declared options, and gunicorn's, too."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise

from penstock.cli.flags import OF_GUNICORN, all_flags, read
from penstock.config.gunicorn_settings import refusal
from penstock.config.options import nearest
from penstock.config.other_servers import GUNICORN_ALONE, explain, spelt
from penstock.config.settings import DEFAULT_HOST, DEFAULT_PORT, OPTIONS
from penstock.config.sources import nearest_option
from penstock.errors import SettingsError
from penstock.records import dataclass

USAGE = "penstock [options] module:callable"

_COMMANDS = ("--help", "--help-all", "--version", "--check", "--check-config", "--print-config")
_OTHERS = {
    "-v": "--version prints the version, and --log-level debug logs more",
    "-V": "--version prints the version",
    "--verbose": "--log-level debug logs more",
    "--debug": "--log-level debug logs more, and --reload reloads when a file changes",
}
"""Flags of many programs, with what they are called here."""


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


def parse_command_line(arguments: Sequence[str]) -> CommandLine:
    """Return the parsed command line. Raises `SettingsError` for an unknown flag."""
    _refuse_values_of_switches(arguments)
    names, rest = read(all_flags(), arguments)
    application = rest.pop(0) if rest and not rest[0].startswith("-") else None
    gunicorn = {
        row.name: names.pop(OF_GUNICORN + row.name)
        for row in GUNICORN_ALONE
        if OF_GUNICORN + row.name in names
    }
    wrong = [
        _unknown_flag(each) for each in rest if each.startswith("-") and each not in ("-", "--")
    ]
    for row in GUNICORN_ALONE:
        if row.name in gunicorn and (reason := refusal(row, gunicorn[row.name])):
            wrong.append(f"{row.flags[0]}: {reason}")
    if not wrong:  # behind an unknown flag, any other argument may be its value
        wrong = [_unexpected(each, arguments) for each in rest[:1]]
    if application is not None and "paste" in gunicorn:
        wrong.append(f"--paste has an application, and {application!r} is another: give either")
    if wrong:
        raise SettingsError("; ".join(wrong))
    _compose_address(names)
    commands = {
        "application": application,
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
            forms_with_words = [f"{option.flag}={word}" for word in option.words]
            written = ", ".join([option.flag, *forms_with_words])
            value = f"takes no value: write {written} or {option.negative_flag}"
            forms |= dict.fromkeys(flags, value)
            words.update(forms_with_words)
    for argument in arguments:
        flag, equals, _ = argument.partition("=")
        if argument == "--":
            return
        if equals and flag in forms and argument not in words:
            raise SettingsError(f"{flag} {forms[flag]} (see penstock --help-all)")


def _unexpected(argument: str, arguments: Sequence[str]) -> str:
    """Return why an argument is refused that belongs to no flag, or behind a switch."""
    flags = {flag for it in OPTIONS.values() if argument in it.words for flag in it.flags}
    for before, word in pairwise(arguments):
        if word and word == argument and before in flags:
            return f"{before} {word}: write {before}={word}"
    return f"unexpected argument {argument!r}: usage: {USAGE}"


def _unknown_flag(argument: str) -> str:
    flag = argument.partition("=")[0]
    if flag in _OTHERS:
        return f"unknown flag {flag!r}: {_OTHERS[flag]}"
    meant = None
    if flag.startswith("--"):
        explanation = explain(flag.removeprefix("--"), OPTIONS, "flag")
        if explanation is not None:
            return f"unknown flag {flag!r}: {explanation}"
        explanation = _of_uwsgi(flag.removeprefix("--"))
        if explanation is not None:
            return f"unknown flag {flag!r}: {explanation}"
        option = nearest_option(OPTIONS, flag.removeprefix("--"))
        meant = option.flag if option is not None else None
    if meant is None:
        meant = nearest(flag, [*_COMMANDS, "--config"])
    hint = f"; did you mean {meant!r}?" if meant is not None else " (see penstock --help-all)"
    return f"unknown flag {flag!r}{hint}"


def _of_uwsgi(name: str) -> str | None:
    """Return what to use instead of a flag of uWSGI; None for any other name, or a nearer one."""
    from penstock.compat.uwsgi.settings import BY_NAME  # only where a flag is wrong

    found = BY_NAME.get(name)
    if found is None or any(name.replace("-", "_") in it.also_called for it in OPTIONS.values()):
        return None
    if found.ours == "application":
        answer = "the application is an argument without a flag, as in module:callable"
    elif found.ours in OPTIONS:
        answer = f"see {OPTIONS[found.ours].flag}"
    elif found.instead:
        answer = spelt(found.instead, OPTIONS, "flag")
    else:
        answer = f"leave it out: {spelt(found.differs, OPTIONS, 'flag')}"
    return f"it is an option of uWSGI, whose files --ini reads: {answer}"
