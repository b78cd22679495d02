"""Completion of penstock and penstockctl by bash, zsh and fish, made from the declared options."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from penstock.cli.man_pages import commands_of
from penstock.config.settings import OPTIONS
from penstock.control import penstockctl

if TYPE_CHECKING:
    import argparse


_AFTER_FIRST_PART: Final = re.compile(r" \[|; |\. ")


class _Flag(NamedTuple):
    names: tuple[str, ...]
    help: str
    takes: str
    """Nothing, ``file``, ``text``, or words with spaces between them: the values to choose from."""


_OF_THE_COMMAND: Final = (
    _Flag(("-h", "--help"), "print the short help", ""),
    _Flag(("--help-all",), "print all options", ""),
    _Flag(("--version",), "print the version", ""),
    _Flag(("--check",), "load all, print every setting, and exit", ""),
    _Flag(("-c", "--config"), "settings file", "file"),
    _Flag(("--ini",), "configuration file of uWSGI", "file"),
    _Flag(("--host",), "address to listen on", "text"),
    _Flag(("--port",), "port to listen on", "text"),
    _Flag(("--completion",), "print a script of a shell", "bash zsh fish"),
)


def script(shell: str) -> str:
    """Return the script that a shell reads; ``shell`` is bash, zsh or fish."""
    return _SCRIPTS[shell](list(_flags()), _Control())


class _Control:
    """The command line of penstockctl."""

    def __init__(self) -> None:
        parser = penstockctl.build_parser()
        self.flags = _flags_of(parser)
        self.commands = {
            name: (command.description or "", _flags_of(command))
            for name, command in commands_of(parser)
        }


def _flags_of(parser: argparse.ArgumentParser) -> list[_Flag]:
    return [
        _Flag(tuple(action.option_strings), _brief(action.help or ""), _value_of(action))
        for action in parser._actions
        if action.option_strings
    ]


def _value_of(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    return "file" if action.metavar == "ADDRESS" else "text"


def _brief(text: str) -> str:
    """Return the first part of a help text."""
    return " ".join(_AFTER_FIRST_PART.split(text, maxsplit=1)[0].rstrip(".").split())


def _flags() -> Iterator[_Flag]:
    yield from _OF_THE_COMMAND
    for option in OPTIONS.values():
        shown = _brief(option.help)
        metavar = option.kind.metavar
        if option.is_switch:
            names = (option.negative_flag,) if option.default else option.flags
            yield _Flag(names, shown, "")
            continue
        takes = "text"
        if metavar.startswith("{"):
            takes = metavar.strip("{}").replace(",", " ")
        elif option.is_file or option.is_mapping or metavar in ("PATH", "FILE"):
            takes = "file"
        yield _Flag(option.flags, shown, takes)


def _bash(flags: list[_Flag], control: _Control) -> str:
    names = " ".join(name for flag in flags for name in flag.names)
    commands = " ".join(control.commands)
    flags_of_commands = "".join(
        f'        {name}) flags="{" ".join(each for flag in own for each in flag.names)}" ;;\n'
        for name, (_, own) in control.commands.items()
    )
    return (
        "_penstock() {\n"
        '    local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}"\n'
        f"{_bash_values(flags)}"
        '    if [[ "$word" == -* ]]; then\n'
        f'        COMPREPLY=($(compgen -W "{names}" -- "$word"))\n'
        "    fi\n"
        "}\n"
        "complete -o default -F _penstock penstock\n"
        "_penstockctl() {\n"
        '    local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}"\n'
        '    local each command=""\n'
        f'    local flags="{" ".join(name for flag in control.flags for name in flag.names)}"\n'
        f"{_bash_values(control.flags)}"
        '    for each in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do\n'
        f'        case "$each" in {commands.replace(" ", "|")}) command="$each"; break ;; esac\n'
        "    done\n"
        f'    case "$command" in\n{flags_of_commands}    esac\n'
        '    if [[ "$word" == -* ]]; then\n'
        '        COMPREPLY=($(compgen -W "$flags" -- "$word"))\n'
        '    elif [[ -z "$command" ]]; then\n'
        f'        COMPREPLY=($(compgen -W "{commands}" -- "$word"))\n'
        '    elif [[ "$command" == import ]]; then\n'
        '        COMPREPLY=($(compgen -f -- "$word"))\n'
        "    fi\n"
        "}\n"
        "complete -F _penstockctl penstockctl\n"
    )


def _bash_values(flags: list[_Flag]) -> str:
    """Return what completes the values of flags."""
    cases = []
    for flag in flags:
        if flag.takes:
            words = "" if flag.takes in ("file", "text") else flag.takes
            reply = f'-W "{words}"' if words else "-f"
            cases.append(
                f"        {'|'.join(flag.names)}) "
                f'COMPREPLY=($(compgen {reply} -- "$word")); return ;;\n'
            )
    return '    case "$before" in\n' + "".join(cases) + "    esac\n"


def _zsh(flags: list[_Flag], control: _Control) -> str:
    """Return a script for a directory of ``fpath``, and for eval after compinit."""
    shown = {name: _escaped(what.rstrip("."), ":") for name, (what, _) in control.commands.items()}
    commands = " ".join(f"'{name}:{what}'" for name, what in shown.items())
    of_penstock = _zsh_arguments(flags, ["'1:application: '"])
    of_commands = {flag for _, own in control.commands.values() for flag in own}
    of_control = _zsh_arguments(
        list(dict.fromkeys([*control.flags, *sorted(of_commands)])),
        ["'1:command:->command'", "'*:argument:_files'"],
    )
    return (
        "#compdef penstock penstockctl\n"
        "_penstock() {\n"
        f"{of_penstock}"
        "}\n"
        "_penstockctl() {\n"
        "    local state\n"
        f"    local -a commands=({commands})\n"
        f"{of_control}"
        "    [[ $state == command ]] && _describe command commands\n"
        "}\n"
        # Read as a file of fpath, it is itself the function that completes.
        'if [[ "$funcstack[1]" == _penstock ]]; then\n'
        '    "_$service" "$@"\n'
        "else\n"
        "    compdef _penstock penstock\n"
        "    compdef _penstockctl penstockctl\n"
        "fi\n"
    )


def _zsh_arguments(flags: list[_Flag], places: list[str]) -> str:
    lines = []
    for flag in flags:
        shown = _escaped(flag.help, "[]:")
        value = {"": "", "file": ":file:_files", "text": ":value: "}.get(flag.takes)
        if value is None:
            value = f":value:({flag.takes})"
        lines += [f"    '*{name}[{shown}]{value}'" for name in flag.names]
    arguments = " \\\n".join([*lines, *(f"    {place}" for place in places)])
    return f"    _arguments \\\n{arguments}\n"


def _fish(flags: list[_Flag], control: _Control) -> str:
    lines = ["complete -c penstock -f", *_fish_flags("penstock", flags)]
    lines += ["complete -c penstockctl -f", *_fish_flags("penstockctl", control.flags)]
    common = set(control.flags)
    for name, (what, own) in control.commands.items():
        lines.append(
            f"complete -c penstockctl -n __fish_use_subcommand -a {name} "
            f"-d '{_escaped(what.rstrip('.'), '')}'"
        )
        program = f"penstockctl -n '__fish_seen_subcommand_from {name}'"
        lines += _fish_flags(program, [flag for flag in own if flag not in common])
    lines.append("complete -c penstockctl -n '__fish_seen_subcommand_from import' -F")
    return "\n".join(lines) + "\n"


def _fish_flags(program: str, flags: list[_Flag]) -> Iterator[str]:
    for flag in flags:
        names = " ".join(
            f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in flag.names
        )
        value = {"": "", "file": " -r -F", "text": " -x"}.get(flag.takes)
        if value is None:
            value = f" -x -a '{flag.takes}'"
        yield f"complete -c {program} {names}{value} -d '{_escaped(flag.help, '')}'"


def _escaped(text: str, special: str) -> str:
    """Return text for single quotes, with a backslash before ``special`` characters."""
    text = text.replace("\\", "").replace("'", "")
    return "".join(f"\\{each}" if each in special else each for each in text)


_SCRIPTS: Final[dict[str, Callable[[list[_Flag], _Control], str]]] = {
    "bash": _bash,
    "zsh": _zsh,
    "fish": _fish,
}
