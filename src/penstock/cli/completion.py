"""Completion of the command line by bash, zsh and fish, made from the declared options."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from penstock.config.settings import OPTIONS


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
    return _SCRIPTS[shell](list(_flags()))


def _flags() -> Iterator[_Flag]:
    yield from _OF_THE_COMMAND
    for option in OPTIONS.values():
        shown = " ".join(option.help.split("; ")[0].split(". ")[0].rstrip(".").split())
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


def _bash(flags: list[_Flag]) -> str:
    cases = []
    for flag in flags:
        if flag.takes:
            words = "" if flag.takes in ("file", "text") else flag.takes
            reply = f'-W "{words}"' if words else "-f"
            cases.append(
                f"        {'|'.join(flag.names)}) "
                f'COMPREPLY=($(compgen {reply} -- "$word")); return ;;\n'
            )
    names = " ".join(name for flag in flags for name in flag.names)
    return (
        "_penstock() {\n"
        '    local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}"\n'
        '    case "$before" in\n' + "".join(cases) + "    esac\n"
        '    if [[ "$word" == -* ]]; then\n'
        f'        COMPREPLY=($(compgen -W "{names}" -- "$word"))\n'
        "    fi\n"
        "}\n"
        "complete -o default -F _penstock penstock\n"
    )


def _zsh(flags: list[_Flag]) -> str:
    lines = []
    for flag in flags:
        shown = _escaped(flag.help, "[]:")
        value = {"": "", "file": ":file:_files", "text": ":value: "}.get(flag.takes)
        if value is None:
            value = f":value:({flag.takes})"
        lines += [f"    '*{name}[{shown}]{value}'" for name in flag.names]
    arguments = " \\\n".join([*lines, "    '1:application: '"])
    return f"#compdef penstock\n_arguments \\\n{arguments}\n"


def _fish(flags: list[_Flag]) -> str:
    lines = ["complete -c penstock -f"]
    for flag in flags:
        names = " ".join(
            f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in flag.names
        )
        value = {"": "", "file": " -r -F", "text": " -x"}.get(flag.takes)
        if value is None:
            value = f" -x -a '{flag.takes}'"
        lines.append(f"complete -c penstock {names}{value} -d '{_escaped(flag.help, '')}'")
    return "\n".join(lines) + "\n"


def _escaped(text: str, special: str) -> str:
    """Return text for single quotes, with a backslash before ``special`` characters."""
    text = text.replace("\\", "").replace("'", "")
    return "".join(f"\\{each}" if each in special else each for each in text)


_SCRIPTS: Final[dict[str, Callable[[list[_Flag]], str]]] = {
    "bash": _bash,
    "zsh": _zsh,
    "fish": _fish,
}
