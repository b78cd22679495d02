"""How an option is declared, and the kinds of value that options take.

A kind turns what a flag, a variable, a TOML file or a Python caller gives into the value that the
server works with, and back into text. Every kind takes text, because flags and variables have
nothing else, and the natural Python type.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")
S = TypeVar("S", bound=str)

_SIZE_UNITS = {
    "": 1,
    "b": 1,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
    "tb": 1000**4,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
    "tib": 1 << 40,
}
_DURATION_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_WITH_UNIT = re.compile(r"([0-9]+(?:\.[0-9]+)?)[ ]?([A-Za-z]*)", re.ASCII)
_TRUTHS = {"true": True, "yes": True, "on": True, "1": True}
_TRUTHS |= {"false": False, "no": False, "off": False, "0": False}


@dataclass(frozen=True)
class Kind(Generic[T]):
    """A kind of value: what is allowed, in words, and how to read and show it.

    ``convert`` raises ``ValueError`` or ``TypeError`` for what is not allowed.
    """

    allowed: str
    metavar: str
    convert: Callable[[object], T]
    show: Callable[[T], str] = str


@dataclass(frozen=True)
class Option:
    """One option as it is declared: everything that flag, variable, file, help and page need."""

    kind: Kind[Any]
    section: str
    help: str
    reason: str
    """Why the default is what it is."""
    default: Any = None
    name: str = ""
    off_help: str = ""
    """What the negative flag of a switch does, for the help of one that is on by default."""
    extra_flags: tuple[str, ...] = ()
    platform_variable: str = ""
    """A variable that platforms set; it counts less than a file and more than the default."""
    repeatable: bool = False
    command_only: bool = False
    """Concerns the whole process, so that only the command takes it, and never a Python caller."""
    secret: bool = False
    """Its values may well be passwords: where settings are told, they are not shown."""
    also_called: tuple[str, ...] = ()
    """Other servers' names for it, for the hint after an unknown name."""

    def show(self, value: Any) -> str:
        """Return a value as text for logs and `--check`."""
        return "(not shown)" if self.secret and value else self.kind.show(value)

    @property
    def flag(self) -> str:
        """The flag's canonical spelling, ``--max-body``."""
        return "--" + self.name.replace("_", "-")

    @property
    def flags(self) -> tuple[str, ...]:
        """Every spelling of the flag, short ones first."""
        short = tuple(flag for flag in self.extra_flags if not flag.startswith("--"))
        long = tuple(flag for flag in self.extra_flags if flag.startswith("--"))
        return (*short, self.flag, *long)

    @property
    def variable(self) -> str:
        """The environment variable, ``PENSTOCK_MAX_BODY``."""
        return "PENSTOCK_" + self.name.upper()

    @property
    def negative_flag(self) -> str:
        """The flag that switches a switch off, ``--no-sendfile``."""
        return "--no-" + self.flag.removeprefix("--")

    @property
    def is_switch(self) -> bool:
        """Whether the flag takes no value and has a ``--no-`` form."""
        return self.kind is SWITCH


def option(kind: Kind[T], default: T, **declaration: Any) -> T:
    """Declare an option as a dataclass field; ``declaration`` holds the fields of `Option`."""
    declared = Option(kind=kind, default=default, **declaration)
    return field(default=default, metadata={"option": declared})


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that a mistyped one most likely means."""
    from difflib import get_close_matches  # needed for errors only, and the start is timed

    return next(iter(get_close_matches(name, list(known), n=1)), None)


def integer(minimum: int, maximum: int) -> Kind[int]:
    """A whole number within bounds."""

    def convert(value: object) -> int:
        if isinstance(value, str):
            value = int(value) if value.isascii() and value.isdigit() else value
        return _within(_whole(value), minimum, maximum)

    return Kind(f"a whole number from {minimum} to {maximum}", "N", convert)


def size(minimum: int, maximum: int) -> Kind[int]:
    """A number of bytes, with or without a unit; decimal (kB) and binary (KiB) units differ."""

    def convert(value: object) -> int:
        if isinstance(value, str):
            value = int(_number_with_unit(value, _SIZE_UNITS))
        return _within(_whole(value), minimum, maximum)

    bounds = f"from {show_size(minimum)} to {show_size(maximum)}"
    return Kind(f"a size such as 8190, 64KiB or 10MB, {bounds}", "SIZE", convert, show_size)


def duration(minimum: float, maximum: float) -> Kind[float]:
    """A time in seconds, with or without a unit."""

    def convert(value: object) -> float:
        if isinstance(value, str):
            value = _number_with_unit(value, _DURATION_UNITS)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(value)
        return _within(float(value), minimum, maximum)

    bounds = f"from {show_duration(minimum)} to {show_duration(maximum)}"
    return Kind(f"a time such as 30s, 500ms, 5m or 1h, {bounds}", "TIME", convert, show_duration)


def choice(*names: S) -> Kind[S]:
    """One of a few names, in any case."""

    def convert(value: object) -> S:
        return {str(name): name for name in names}[_text(value).lower()]

    return Kind(" or ".join(names), "{" + ",".join(names) + "}", _key_error_is_value_error(convert))


def word_or(word: S, kind: Kind[T]) -> Kind[T | S]:
    """A kind with one more value, which is a word."""

    def convert(value: object) -> T | S:
        if isinstance(value, str) and value.lower() == word:
            return word
        return kind.convert(value)

    def show(value: T | S) -> str:
        return word if value == word else kind.show(cast(T, value))

    return Kind(f"{word}, or {kind.allowed}", kind.metavar, convert, show)


def memory_bound() -> Kind[int | float]:
    """A number of bytes, or a share of the memory that the container may have."""
    bytes_ = size(1 << 20, 1 << 50)

    def convert(value: object) -> int | float:
        if isinstance(value, str) and value.endswith("%"):
            value = float(value[:-1]) / 100
        if isinstance(value, float):
            return _within(value, 0.01, 1.0)
        return bytes_.convert(value)

    def show(value: int | float) -> str:
        return f"{value * 100:g}%" if isinstance(value, float) else bytes_.show(value)

    return Kind(f"{bytes_.allowed}, or a share such as 40%", "SIZE", convert, show)


def text(allowed: str, metavar: str, pattern: str) -> Kind[str]:
    """Text that matches a pattern as a whole."""
    compiled = re.compile(pattern)

    def convert(value: object) -> str:
        if compiled.fullmatch(_text(value)) is None:
            raise ValueError(value)
        return cast(str, value)

    return Kind(allowed, metavar, convert, lambda value: value or '""')


def optional(kind: Kind[T], none: str) -> Kind[T | None]:
    """A kind that may also be absent; ``none`` is the word for that, as is empty text."""

    def convert(value: object) -> T | None:
        return None if value is None or value in ("", none) else kind.convert(value)

    def show(value: T | None) -> str:
        return none if value is None else kind.show(value)

    return Kind(f"{kind.allowed}, or {none!r}", kind.metavar, convert, show)


def listing(item: Kind[str], least: int = 0) -> Kind[tuple[str, ...]]:
    """A list: of a repeated flag, of a TOML array, or of text with commas between its items."""

    def convert(value: object) -> tuple[str, ...]:
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",")]
        elif isinstance(value, Mapping):
            value = [f"{key}={_text(entry)}" for key, entry in value.items()]
        if not isinstance(value, (list, tuple)) or len(value) < least:
            raise TypeError(value)
        return tuple(item.convert(entry) for entry in value)

    def show(value: tuple[str, ...]) -> str:
        return ",".join(value) or "none"

    return Kind(item.allowed, item.metavar, convert, show)


def mode_mask() -> Kind[int]:
    """A file mode mask: ``022`` and ``0o22`` are octal, ``18`` is decimal."""

    def convert(value: object) -> int:
        if isinstance(value, str):
            octal = re.fullmatch("0[0-7]+", value) is not None
            value = int(value, 8 if octal else 0)
        return _within(_whole(value), 0, 0o777)

    return Kind("a file mode mask from 0 to 0o777", "MASK", convert, lambda mask: f"0o{mask:03o}")


def show_size(count: int) -> str:
    """Return a number of bytes in the largest binary unit that says it exactly."""
    for unit, worth in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count and count % worth == 0:
            return f"{count // worth}{unit}"
    return str(count)


def show_duration(seconds: float) -> str:
    """Return a time in seconds with its unit."""
    return f"{seconds:g}s"


def _convert_switch(value: object) -> bool:
    return value if isinstance(value, bool) else _TRUTHS[_text(value).lower()]


def _key_error_is_value_error(convert: Callable[[object], T]) -> Callable[[object], T]:
    def wrapped(value: object) -> T:
        try:
            return convert(value)
        except KeyError:
            raise ValueError(value) from None

    return wrapped


def _number_with_unit(value: str, units: Mapping[str, float]) -> float:
    match = _WITH_UNIT.fullmatch(value.strip())
    if match is None or match[2].lower() not in units:
        raise ValueError(value)
    return float(match[1]) * units[match[2].lower()]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(value)
    return value


def _within(value: T, minimum: T, maximum: T) -> T:
    # Written so that a NaN, which compares false with everything, is refused too.
    if minimum <= value <= maximum:  # type: ignore[operator]
        return value
    raise ValueError(value)


SWITCH: Kind[bool] = Kind(
    "true or false",
    "",
    _key_error_is_value_error(_convert_switch),
    lambda value: "true" if value else "false",
)
"""On or off: a flag without a value, ``--trace`` and ``--no-trace``."""
