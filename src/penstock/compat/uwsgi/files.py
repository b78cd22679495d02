"""Reading uWSGI's configuration files: from a file to the options in it, in order.

The forms are those of uWSGI 2.0: INI, and the YAML, JSON and XML that say the same. Included files,
placeholders (``%d``, ``%(name)``, ``$(VARIABLE)``, ``@(file)``), conditions (``if-env``) and loops
(``for``) are done here, so that what is returned is plain. Nothing in a file is executed.
"""

from __future__ import annotations

import glob
import grp
import os
import pwd
import re
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path

from penstock.compat.uwsgi.settings import BY_NAME
from penstock.config.trust import Trust
from penstock.errors import SettingsError
from penstock.records import dataclass

USUAL_SECTION = "uwsgi"

_MOST_FILES = 100
"""Files that one may include, and files that these include: one that includes itself ends here."""
_MOST_ROUNDS = 10_000
"""Rounds of one loop of a file: a number that was mistyped must not fill the memory."""
_MOST_EXPANSIONS = 20
"""How deep placeholders may name others."""
_LARGEST_FILE = 1 << 20

_OLD_CONDITIONS = {
    "ifdir": "if-dir",
    "ifenv": "if-env",
    "ifexists": "if-exists",
    "ifplugin": "if-plugin",
}
"""Names of conditions that uWSGI still takes, and what they are called now."""

_INCLUDING = ("ini", "yaml", "yml", "xml", "json", "include", "inherit", "config")
_ENDS = ("end", "endif", "endfor", "end-if", "end-for")
_MAGIC = re.compile(r"%([A-Za-z0-9%])")
_PLACEHOLDER = re.compile(r"%\(([^()]*)\)")
_VARIABLE = re.compile(r"\$\(([^()]*)\)")
_CONTENT = re.compile(r"@\(([^()]*)\)")
_SCHEME = re.compile(r"[a-z+]+://")

Entries = list[tuple[str, str]]
"""Names and values, in the order of a file; a name may come several times."""


@dataclass(frozen=True)
class Given:
    """One option of a file, without placeholders."""

    name: str
    """With hyphens: ``wsgi-file``."""
    value: str
    """Empty where the file gives none, as for a switch."""
    source: str
    """The file's name and the option's, for messages."""

    @property
    def is_on(self) -> bool:
        """Whether a switch is on: uWSGI takes ``true``, ``1``, and no value at all."""
        return self.value.lower() in ("", "true", "1", "yes", "on")


@dataclass
class _Reading:
    """The state of reading a file and what it includes."""

    environ: Mapping[str, str]
    cwd: Path
    trust: Trust
    found: list[Given] = field(default_factory=list)
    files: int = 0
    unset: list[str] = field(default_factory=list)
    """Variables that the files use and that are not set."""
    used: set[str] = field(default_factory=set)
    """Names that placeholders have used."""

    def first(self, name: str) -> str | None:
        """Return the value that an option was given first, as uWSGI's placeholders take it."""
        self.used.add(name)
        for given in self.found:
            if given.name == name:
                return given.value
        return None


@dataclass(frozen=True)
class Contents:
    """What a file has, and the files that it includes."""

    options: tuple[Given, ...]
    """The options in their order. Names of a file's own, which placeholders use, are left out."""
    unset: tuple[str, ...]
    """Environment variables that the files use and that are not set."""


def read_options(location: str, cwd: Path, environ: Mapping[str, str], trust: Trust) -> Contents:
    """Return what a configuration file has.

    ``location`` is a path, or ``PATH:SECTION``, which is read in place of the section ``uwsgi``.
    Variables such as ``UWSGI_PROCESSES`` count after the file, as in uWSGI. Raises `SettingsError`
    if a file cannot be read.
    """
    reading = _Reading(environ, cwd, trust)
    _read(reading, location, None)
    for variable, value in sorted(environ.items()):
        name = variable.removeprefix("UWSGI_").lower().replace("_", "-")
        if variable.startswith("UWSGI_") and name in BY_NAME:
            reading.found.append(Given(name, value, variable))
    options = [
        Given(given.name, _expanded(reading, given.value, 0), given.source)
        for given in reading.found
    ]
    kept = [it for it in options if it.name in BY_NAME or it.name not in reading.used]
    return Contents(tuple(kept), tuple(reading.unset))


def _read(reading: _Reading, location: str, within: Path | None) -> None:
    """Read a file; ``within`` is the one that includes it, and is meant where no path is named."""
    reading.files += 1
    if reading.files > _MOST_FILES:
        raise SettingsError(
            f"{location} is one of more than {_MOST_FILES} configuration files: does one include "
            "itself?"
        )
    if _SCHEME.match(location):
        raise SettingsError(
            f"cannot read {location}: configuration comes from files here, and from no program and "
            "no network"
        )
    name, colon, section = location.rpartition(":")
    if not colon:
        name, section = location, ""
    if not name and within is None:
        raise SettingsError(f"{location!r} names no configuration file")
    path = within if not name else reading.cwd / name
    assert path is not None
    reading.trust.check(path)
    text = _text_of(path)
    magic = _magic(path, name or path.name, section, reading.cwd)
    text = _MAGIC.sub(lambda match: magic.get(match[1], match[0]), text)
    entries = _entries(path, text, section or USUAL_SECTION)
    if entries is None:
        raise SettingsError(f"{path} has no section {section or USUAL_SECTION!r}")
    _take(reading, entries, path)


def _text_of(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            content = file.read(_LARGEST_FILE + 1)
        if len(content) > _LARGEST_FILE:
            raise SettingsError(f"the configuration file {path} is longer than 1 MiB")
        return content.decode("utf-8-sig")  # editors of Windows write a byte order mark
    except OSError as error:
        raise SettingsError(
            f"cannot read the configuration file {path}: {error.strerror}"
        ) from None
    except UnicodeDecodeError:
        raise SettingsError(f"the configuration file {path} is not UTF-8") from None


def _magic(path: Path, name: str, section: str, cwd: Path) -> dict[str, str]:
    """Return what the one-letter placeholders of a file stand for."""
    absolute = path if path.is_symlink() else Path(os.path.realpath(path))
    absolute = Path(os.path.abspath(absolute))
    folder = absolute.parent
    meanings = {
        "o": name,
        "p": str(absolute),
        "s": absolute.name,
        "d": f"{folder}/" if folder != Path("/") else "/",
        "c": folder.name,
        "e": absolute.suffix.removeprefix("."),
        "n": absolute.stem,
        "x": section or USUAL_SECTION,
        "v": str(cwd),
        "h": socket.gethostname(),
        "k": str(_cores()),
        "u": str(os.geteuid()),
        "U": _account(lambda: pwd.getpwuid(os.geteuid()).pw_name, os.geteuid()),
        "g": str(os.getegid()),
        "G": _account(lambda: grp.getgrgid(os.getegid()).gr_name, os.getegid()),
        "t": str(int(time.time())),
    }
    # In capitals they mean the outermost file in uWSGI; here each file has its own.
    meanings |= {letter.upper(): meanings[letter] for letter in "opsdcenx"}
    meanings["%"] = "%"
    return meanings | {str(n): part for n, part in enumerate(folder.parts[1:10])}


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _account(name: Callable[[], str], number: int) -> str:
    try:
        return name()
    except KeyError:
        return str(number)


# -- the forms ------------------------------------------------------------------------------------


def _entries(path: Path, text: str, section: str) -> Entries | None:
    """Return the names and values of a section; None if the file does not have it."""
    read = {
        ".yaml": _from_yaml,
        ".yml": _from_yaml,
        ".json": _from_json,
        ".js": _from_json,
        ".xml": _from_xml,
    }.get(path.suffix.lower(), _from_ini)
    return read(path, text, section)


def _from_ini(_path: Path, text: str, section: str) -> Entries | None:
    entries: Entries = []
    current, there = "", False
    for line in text.splitlines():
        line = line.strip(" \t\r")
        if not line or line[0] in ";#":
            continue
        if line[0] == "[":
            current = line[1:].removesuffix("]")
            there = there or current == section
        elif current == section:
            name, _, value = line.partition("=")
            entries.append((name.rstrip(), value.lstrip()))
    return entries if there else None


def _from_yaml(path: Path, text: str, section: str) -> Entries | None:
    """Return the section of a file in the subset of YAML that uWSGI's own reader takes.

    That is one level of ``name: value`` below the section's name, and lists of plain values.
    """
    entries: Entries = []
    current, name, there = "", "", False
    for number, line in enumerate(text.splitlines(), 1):
        content = re.split(r"(?:^|\s)#", line, maxsplit=1)[0].rstrip()
        stripped = content.strip()
        if not stripped or stripped in ("---", "..."):
            continue
        if stripped.startswith("- "):
            if current == section and name:
                entries.append((name, _unquoted(stripped[2:])))
            continue
        key, colon, value = stripped.partition(":")
        if not colon or (value and not value.startswith((" ", "\t"))):
            raise SettingsError(f"{path}, line {number}: write NAME: VALUE")
        if content[0] not in " \t":
            current, name = _unquoted(key), ""
            there = there or current == section
        elif current == section:
            name = _unquoted(key)
            if value.strip():
                entries.append((name, _unquoted(value)))
    return entries if there else None


def _unquoted(text: str) -> str:
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    return text


def _from_json(path: Path, text: str, section: str) -> Entries | None:
    import json

    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{path} is not valid JSON: {error}") from None
    table = document.get(section) if isinstance(document, dict) else None
    if not isinstance(table, dict):
        return None
    entries: Entries = []
    for name, value in table.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, (dict, list)):
                raise SettingsError(f"{path}: {name} has no plain value")
            plain = {True: "true", False: "false", None: ""}
            entries.append((name, plain[one] if one is None or one is True or one is False
                            else str(one)))  # fmt: skip
    return entries


def _from_xml(path: Path, text: str, section: str) -> Entries | None:
    """Return the options of the element ``uwsgi``, with the section as its ``id`` if that is named.

    A file that declares entities is refused: a few of them can fill the memory.
    """
    from xml.etree import ElementTree

    if "<!" in re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL):
        raise SettingsError(f"{path} declares a document type or entities: write their values out")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise SettingsError(f"{path} is not valid XML: {error}") from None
    for element in root.iter(USUAL_SECTION):
        if section in (USUAL_SECTION, element.get("id")):
            return [(str(it.tag), (it.text or "").strip()) for it in element]
    return None


# -- conditions, loops, included files ------------------------------------------------------------


def _take(reading: _Reading, entries: Entries, path: Path) -> None:
    """Add the options of a section, as its conditions and loops say.

    As in uWSGI, blocks are not nested: a block ends where the next one begins, or at ``end``.
    """
    values: list[str] | None = None  # of the block, for %(_); None outside of one
    holds = True
    for name, value in entries:
        plain = name.replace("_", "-") if name.startswith(("if_", "for_", "end_")) else name
        plain = _OLD_CONDITIONS.get(plain, plain)
        if plain in _ENDS:
            values, holds = None, True
        elif plain == "else":
            values, holds = (None, True) if not holds else ([], False)
        elif plain.startswith("if-"):
            value = _expanded(reading, value, 0)
            holds, of_condition = _condition(reading, plain.removeprefix("if-"), value)
            values = [of_condition] if holds else []
        elif plain == "for" or plain.startswith("for-"):
            value = _expanded(reading, value, 0)
            values, holds = _rounds(reading, plain, value), True
        else:
            for one in [None] if values is None else values:
                _add(reading, name, value if one is None else value.replace("%(_)", one), path)


def _add(reading: _Reading, name: str, value: str, path: Path) -> None:
    if name in _INCLUDING:
        _read(reading, _expanded(reading, value, 0), path)
        return
    if name in ("set", "set-placeholder", "set-ph"):
        key, _, text = value.partition("=")
        name, value = key.strip(), text.strip()
    reading.found.append(Given(name, value, f"{path.name}:{name}"))


def _condition(reading: _Reading, kind: str, value: str) -> tuple[bool, str]:
    """Return whether a condition holds, and what ``%(_)`` stands for in its block."""
    wanted = True
    if kind.startswith("not-"):
        kind, wanted = kind.removeprefix("not-"), False
    name, equals, expected = value.partition("=")
    path = reading.cwd / value
    if kind in ("env", "opt"):
        there = reading.environ.get(name) if kind == "env" else reading.first(name)
        holds = there is not None and (not equals or there == expected)
        return holds is wanted, there or ""
    checks: Mapping[str, Callable[[], bool]] = {
        "exists": path.exists,
        "file": path.is_file,
        "dir": path.is_dir,
        "directory": path.is_dir,
        "hostname": lambda: socket.gethostname() == value,
        "hostname-match": lambda: re.search(value, socket.gethostname()) is not None,
        "plugin": lambda: value.startswith("python"),
        "reload": lambda: False,
    }
    if kind not in checks:
        raise SettingsError(f"the condition if-{kind} of uWSGI is not known here")
    try:
        return checks[kind]() is wanted, value
    except (OSError, re.error) as error:
        raise SettingsError(f"cannot check if-{kind} = {value}: {error}") from None


def _rounds(reading: _Reading, kind: str, value: str) -> list[str]:
    """Return what ``%(_)`` stands for in each round of a loop."""
    if kind == "for":
        return value.split(" ") if value else []
    if kind == "for-glob":
        found = sorted(glob.glob(value, root_dir=reading.cwd))
        return found[:_MOST_ROUNDS] or [value]
    if kind == "for-times" and value.isascii() and value.isdigit() and int(value) <= _MOST_ROUNDS:
        return [str(number) for number in range(1, int(value) + 1)]
    if kind == "for-readline":
        return _text_of(reading.cwd / value).splitlines()[:_MOST_ROUNDS]
    raise SettingsError(f"cannot do the loop {kind} = {value}")


# -- placeholders ---------------------------------------------------------------------------------


def _expanded(reading: _Reading, value: str, depth: int) -> str:
    """Return a value with what its placeholders stand for."""
    if depth > _MOST_EXPANSIONS:
        raise SettingsError(f"the placeholders of {value!r} name each other without an end")

    def variable(match: re.Match[str]) -> str:
        name = match[1]
        if name not in reading.environ and name not in reading.unset:
            reading.unset.append(name)
        return reading.environ.get(name, match[0])

    def content(match: re.Match[str]) -> str:
        if _SCHEME.match(match[1]):
            raise SettingsError(
                f"cannot read {match[0]} of {value!r}: @(...) takes the path of a file here"
            )
        return _text_of(reading.cwd / match[1]).strip()

    def option(match: re.Match[str]) -> str:
        computed = _computed(reading, match[1])
        # A name that is no option belongs to something else, such as a format of log lines.
        return match[0] if computed is None else _expanded(reading, computed, depth + 1)

    value = _CONTENT.sub(content, _VARIABLE.sub(variable, value))
    return _PLACEHOLDER.sub(option, value)


def _computed(reading: _Reading, text: str) -> str | None:
    """Return what ``%(...)`` stands for: an option, or several words joined or reckoned with.

    The words are taken from left to right: ``%(processes cores + 2)`` is the text of both, plus 2.
    A number can be the first of several: ``%(%k * 2)``.
    """
    value, operator = "", ""
    words = text.split()
    for number, word in enumerate(words):
        if word in ("+", "-", "*", "/", "++", "--"):
            operator = word
            if word in ("++", "--"):
                value, operator = str(_number(value) + (1 if word == "++" else -1)), ""
            continue
        there = reading.first(word)
        if there is None:
            is_first = number == 0 and len(words) > 1
            if not (operator or is_first) or not word.isdigit():
                return None
            there = word
        value = _joined(value, operator, there)
        operator = ""
    return value


def _joined(value: str, operator: str, other: str) -> str:
    if not operator:
        return value + other
    left, right = _number(value), _number(other)
    if operator == "/":
        return str(left // right) if right else "0"
    return str({"+": left + right, "-": left - right, "*": left * right}[operator])


def _number(text: str) -> int:
    match = re.match(r"\s*-?[0-9]+", text)
    return int(match[0]) if match else 0
