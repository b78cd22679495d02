"""The file of ``--env-file``: variables for the application, one ``NAME=VALUE`` a line.

Messages name the file and the line, and never a value: most of these files hold passwords.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from penstock.errors import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

MOST_BYTES: Final = 1 << 20
"""A larger file is no file of variables: the kernel takes 128 KiB for one, and a few MiB in all."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_EXPORT = re.compile(r"export[ \t]+")
_BLANKS = " \t"
_ESCAPES: Mapping[str, str] = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "$": "$"}


def read_env_file(path: str | Path) -> dict[str, str]:
    """Return the variables of a file, in its order. Raises `SettingsError`."""
    try:
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror} (setting: env_file)") from None
    if len(content) > MOST_BYTES:
        raise SettingsError(f"{path} is longer than {MOST_BYTES >> 20} MiB (setting: env_file)")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _Wrong("it is not UTF-8", line).at(path) from None
    try:
        return _Reader(text.removeprefix("\ufeff").replace("\r\n", "\n")).read()
    except _Wrong as wrong:
        raise wrong.at(path) from None


class _Wrong(Exception):
    """What is wrong in a line."""

    def __init__(self, what: str, line: int) -> None:
        super().__init__(what)
        self._line = line

    def at(self, path: str | Path) -> SettingsError:
        return SettingsError(f"{path}:{self._line}: {self} (setting: env_file)")


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0

    def read(self) -> dict[str, str]:
        found: dict[str, str] = {}
        lines: dict[str, int] = {}
        while self._position < len(self._text):
            self._skip(_BLANKS + "\n")
            if self._next() == "#":
                self._skip_line()
            elif self._next():
                line = self._line()
                name = self._name()
                if name in found:
                    raise _Wrong(f"{name} is there already, in line {lines[name]}", line)
                found[name], lines[name] = self._value(), line
        return found

    def _line(self) -> int:
        return self._text.count("\n", 0, self._position) + 1

    def _next(self) -> str:
        return self._text[self._position : self._position + 1]

    def _skip(self, characters: str) -> None:
        while self._next() and self._next() in characters:
            self._position += 1

    def _skip_line(self) -> None:
        end = self._text.find("\n", self._position)
        self._position = len(self._text) if end < 0 else end

    def _name(self) -> str:
        if export := _EXPORT.match(self._text, self._position):
            self._position = export.end()
        name = _NAME.match(self._text, self._position)
        if name is None:
            raise _Wrong("a line is NAME=VALUE, and a name has letters, digits and _", self._line())
        self._position = name.end()
        self._skip(_BLANKS)
        if self._next() != "=":
            raise _Wrong(f"no = follows {name[0]}", self._line())
        self._position += 1
        self._skip(_BLANKS)
        if name[0].startswith("PENSTOCK_"):
            raise _Wrong(
                f"{name[0]} is for the server, and this file is for the application: give the "
                "setting as a flag, in the environment, or in penstock.toml",
                self._line(),
            )
        return name[0]

    def _value(self) -> str:
        quote = self._next()
        line = self._line()
        value = self._quoted(quote, line) if quote and quote in "'\"" else self._plain()
        if "\0" in value:
            raise _Wrong("a value cannot have a NUL", line)
        return value

    def _plain(self) -> str:
        begin = self._position
        self._skip_line()
        value = self._text[begin : self._position]
        return re.split(r"(?:^|[ \t]+)#", value, maxsplit=1)[0].strip(_BLANKS)

    def _quoted(self, quote: str, line: int) -> str:
        """Read a value in quotes, which may have several lines, and what follows it."""
        self._position += 1
        parts = []
        while (character := self._next()) != quote:
            if not character:
                raise _Wrong(f"the quote {quote} is not closed", line)
            self._position += 1
            if character == "\\" and quote == '"':
                following = self._next()
                self._position += 1
                character = _ESCAPES.get(following, "\\" + following)
            parts.append(character)
        self._position += 1
        self._skip(_BLANKS)
        if self._next() not in ("", "\n", "#"):
            raise _Wrong("something follows the closing quote", self._line())
        self._skip_line()
        return "".join(parts)
