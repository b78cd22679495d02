"""How an option is declared, and the kinds of values that options take.

A kind converts the value of a flag, a variable, a TOML file or a Python caller into the value that
the server works with, and back into text. Every kind accepts text, because flags and variables
hold only text, and the natural Python type.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from penstock.records import dataclass

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network

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
_RATE_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_RATE = re.compile(r"([0-9]{1,9})/([smh])(?:, ?([0-9]{1,9}))?", re.ASCII)
_THRESHOLDS = re.compile(r"[1-9][0-9]{0,8}(?:, ?[0-9]{1,9}){0,2}", re.ASCII)
_MAPPED_BITS = 96
"""What an address of IPv4 in the form of IPv6 begins with: ``::ffff:0:0/96``."""

_NETWORK = "an address or a network such as 10.0.0.0/8 or 2001:db8::/32, without bits beyond it"
_FIELD_NAME = re.compile(r"[!#$%&'*+\-.^`|~0-9a-z]+")  # a token, without the underscore
_FIELD_VALUE = re.compile(r"[!-+\--~]+")  # visible, and no comma, which separates values
_ALL_MODES = 0o777
_LONGEST_BURST_SECONDS = 24 * 3600.0
_TRUTHS = {"true": True, "yes": True, "on": True, "1": True}
_TRUTHS |= {"false": False, "no": False, "off": False, "0": False}


class NotAllowed(ValueError):
    """A value that is not allowed, where more than that is known."""

    def __init__(self, value: object, hint: str = "") -> None:
        """``value`` is the part that is wrong, and ``hint`` says what to write in its place."""
        super().__init__(value)
        self.value = value
        self.hint = hint


class Decimal(int):
    """A number of a file that is written in decimal digits; a file mode is written ``0o660``."""


@dataclass(frozen=True)
class Kind(Generic[T]):
    """A kind of value: what is allowed, in words, and how to convert and show a value.

    ``convert`` raises ``ValueError`` or ``TypeError`` for a value that is not allowed.
    """

    allowed: str
    metavar: str
    convert: Callable[[object], T]
    show: Callable[[T], str] = str


@dataclass(frozen=True)
class Option:
    """One option as declared: all that flag, variable, file, help text and page are made from."""

    kind: Kind[Any]
    section: str
    help: str
    reason: str
    """The reason for the default."""
    default: Any = None
    name: str = ""
    off_help: str = ""
    """Of a switch that is on by default: what its negative flag does, for ``--help``."""
    extra_flags: tuple[str, ...] = ()
    platform_variable: str = ""
    """A variable that platforms set. It overrides the default, and nothing else."""
    alone: str = ""
    """The value of a flag that is given without one; empty where it needs one."""
    words: tuple[str, ...] = ()
    """Further values of a switch, which its flag takes behind ``=``."""
    repeatable: bool = False
    command_only: bool = False
    """The option concerns the whole process: the command accepts it, a Python caller may not."""
    needs_supervisor: bool = False
    """Any value but the default is refused together with ``--no-supervisor``."""
    is_file: bool = False
    """The value is the path of a file or directory, made absolute as the settings are read."""
    is_mode: bool = False
    """The value is a file mode or a mask for them, which people write in octal."""
    is_mapping: bool = False
    """The values are prefixes with directories, ``/assets=DIR``, made absolute in the same way."""
    secret: bool = False
    """The values may be passwords: logs and ``--check`` do not show them."""
    also_called: tuple[str, ...] = ()
    """Other servers' names for this option, for the hint after an unknown name."""

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
        """Whether the flag takes no value, but for ``words``, and has a ``--no-`` form."""
        return self.kind is SWITCH or bool(self.words)


def option(kind: Kind[T], default: T, **declaration: Any) -> T:
    """Declare an option as a dataclass field; ``declaration`` holds the fields of `Option`."""
    declared = Option(kind=kind, default=default, **declaration)
    return field(default=default, metadata={"option": declared})


def grouped(items: Iterable[T], section: Callable[[T], str]) -> dict[str, list[T]]:
    """Return the items by their sections, each section once, in the order of its first item."""
    found: dict[str, list[T]] = {}
    for item in items:
        found.setdefault(section(item), []).append(item)
    return found


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that a mistyped name most likely means, or None."""
    from difflib import get_close_matches  # imported for errors only, to keep the start short

    return next(iter(get_close_matches(name, list(known), n=1)), None)


def integer(minimum: int, maximum: int) -> Kind[int]:
    """Return the kind of whole numbers within bounds."""

    def convert(value: object) -> int:
        if isinstance(value, str):
            value = int(value) if value.isascii() and value.isdigit() else value
        return _within(_whole(value), minimum, maximum)

    return Kind(f"a whole number from {minimum} to {maximum}", "N", convert)


def size(minimum: int, maximum: int) -> Kind[int]:
    """Return the kind of numbers of bytes, with or without a unit.

    Decimal units (kB) and binary units (KiB) differ.
    """

    def convert(value: object) -> int:
        if isinstance(value, str):
            value = int(_number_with_unit(value, _SIZE_UNITS))
        return _within(_whole(value), minimum, maximum)

    bounds = f"from {show_size(minimum)} to {show_size(maximum)}"
    return Kind(f"a size such as 8190, 64KiB or 10MB, {bounds}", "SIZE", convert, show_size)


def duration(minimum: float, maximum: float) -> Kind[float]:
    """Return the kind of times in seconds, with or without a unit."""

    def convert(value: object) -> float:
        if isinstance(value, str):
            value = _number_with_unit(value, _DURATION_UNITS)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(value)
        return _within(float(value), minimum, maximum)

    bounds = f"from {show_duration(minimum)} to {show_duration(maximum)}"
    return Kind(f"a time such as 30s, 500ms, 5m or 1h, {bounds}", "TIME", convert, show_duration)


def choice(*names: S, also: Mapping[str, S] | None = None) -> Kind[S]:
    """Return the kind that allows these names, in upper or lower case.

    ``also`` are other names for some of them.
    """
    by_text = {**{str(name): name for name in names}, **(also or {})}

    def convert(value: object) -> S:
        return by_text[_text(value).lower()]

    return Kind(" or ".join(names), "{" + ",".join(names) + "}", _key_error_is_value_error(convert))


def numbered_choice(*names: S) -> Kind[S]:
    """Return the same kind, where the number of a name, from 0, stands for it, too."""
    by_name = choice(*names)
    numbers = ", ".join(f"{name} ({number})" for number, name in enumerate(names))

    def convert(value: object) -> S:
        if isinstance(value, str) and value.isascii() and value.isdigit():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool):  # also an IntEnum of ssl's
            return names[_within(int(value), 0, len(names) - 1)]
        return by_name.convert(value)

    return Kind(numbers, by_name.metavar, convert)


def word_or(word: S, kind: Kind[T]) -> Kind[T | S]:
    """Return a kind that allows one word in addition to the values of ``kind``."""

    def convert(value: object) -> T | S:
        if isinstance(value, str) and value.lower() == word:
            return word
        return kind.convert(value)

    def show(value: T | S) -> str:
        return word if value == word else kind.show(cast(T, value))

    return Kind(f"{word}, or {kind.allowed}", kind.metavar, convert, show)


def memory_bound() -> Kind[int | float]:
    """Return the kind of bounds on memory: bytes, or a share of the container's limit."""
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


def share() -> Kind[float]:
    """Return the kind of shares above 0 and up to 1: ``1/100``, ``0.01`` or ``1%``."""

    def convert(value: object) -> float:
        if isinstance(value, str):
            part, slash, whole = value.partition("/")
            if slash:
                value = _digits(part) / _digits(whole)
            elif value.endswith("%"):
                value = float(value[:-1]) / 100
            else:
                value = float(value)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(value)
        return _within(float(value), LEAST_SHARE, 1.0)

    def show(value: float) -> str:
        every = 1 / value
        return f"1/{every:.0f}" if 1 < every == round(every) else f"{value:.10g}"

    return Kind("a share such as 1/100, 0.01 or 1%, up to 1", "SHARE", convert, show)


LEAST_SHARE = 1e-6
"""Of fewer requests no count can be restored."""


def _digits(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) == 0:
        raise ValueError(text)
    return int(text)


@dataclass(frozen=True)
class Rate:
    """A number of requests in a unit of time, and how many of them may come at once."""

    requests: int
    seconds: float
    burst: int

    @property
    def interval(self) -> float:
        """The time in seconds that each request uses up."""
        return self.seconds / self.requests

    def __str__(self) -> str:
        """Return the rate as a setting has it: ``100/s,200``."""
        unit = next(name for name, worth in _RATE_UNITS.items() if worth == self.seconds)
        return f"{self.requests}/{unit},{self.burst}"


def rate(most: int) -> Kind[Rate]:
    """Return the kind of rates up to ``most`` a second, such as ``100/s`` or ``100/s,200``.

    Without a burst, as many requests may come at once as the rate allows in its unit of time.
    """

    def convert(value: object) -> Rate:
        if isinstance(value, Rate):
            return value
        match = _RATE.fullmatch(_text(value).strip())
        if match is None:
            raise ValueError(value)
        requests = int(match[1])
        seconds = _RATE_UNITS[match[2]]
        burst = requests if match[3] is None else int(match[3])
        # A day is the longest time after which a client's burst has to be whole again.
        if not (0 < requests <= most * seconds and 0 < burst <= 1_000_000):
            raise ValueError(value)
        if burst * seconds > _LONGEST_BURST_SECONDS * requests:
            raise ValueError(value)
        return Rate(requests, seconds, burst)

    return Kind(
        f"a rate such as 100/s or 600/m, of at most {most}/s, and the burst after a comma, as in "
        "100/s,200",
        "RATE",
        convert,
    )


@dataclass(frozen=True)
class Thresholds:
    """The thresholds of Python's garbage collector, as `gc.set_threshold` takes them."""

    numbers: tuple[int, ...]

    def __str__(self) -> str:
        """Return them as a setting has them: ``700,10,10``."""
        return ",".join(map(str, self.numbers))


def thresholds(*words: S) -> Kind[Thresholds | S]:
    """Return the kind of one to three thresholds of the garbage collector, or a word."""
    word = choice(*words)

    def convert(value: object) -> Thresholds | S:
        if isinstance(value, Thresholds):
            return value
        text = str(value) if type(value) is int else _text(value)
        if _THRESHOLDS.fullmatch(text.strip()) is None:
            return word.convert(value)
        return Thresholds(tuple(int(part) for part in text.split(",")))

    return Kind(f"{', '.join(words)}, or one to three numbers such as 700,10,10", "MODE", convert)


def networks() -> Kind[tuple[str, ...]]:
    """Return the kind of lists of networks and addresses of IPv4 and IPv6; ``none`` is empty."""

    def convert_one(value: object) -> str:
        return str(_network(_text(value).strip()))

    return listing_or_none(Kind(_NETWORK, "NETWORK", convert_one))


def _network(text: str) -> IPv4Network | IPv6Network:
    """Return a network. One of mapped addresses (``::ffff:192.0.2.1``) is that of IPv4.

    In this form a socket for both families shows the clients of IPv4, whose addresses the server
    reads as those of IPv4: the network would match none. Raises ``ValueError``.
    """
    from ipaddress import IPv4Network, IPv6Network, ip_network  # where there are any only

    network = ip_network(text)
    if not isinstance(network, IPv6Network) or network.prefixlen < _MAPPED_BITS:
        return network
    first = network.network_address.ipv4_mapped
    return network if first is None else IPv4Network((first, network.prefixlen - _MAPPED_BITS))


def peers() -> Kind[tuple[str, ...]]:
    """Return the kind of lists of trusted peers: networks, ``unix`` and ``*``; ``none`` is empty.

    A network of all addresses is not allowed: as a hop that a proxy names, each client would be a
    trusted one, and would choose its own address.
    """

    def convert_one(value: object) -> str:
        text = _text(value).strip()
        if text in ("unix", "*"):
            return text
        network = _network(text)
        if not network.prefixlen:
            raise ValueError(value)
        return str(network)

    allowed = f"{_NETWORK}, 'unix' for unix sockets, '*' for every peer (not 0.0.0.0/0)"
    return listing_or_none(Kind(allowed, "PEER", convert_one))


def forwarded_fields(names: Iterable[str]) -> Kind[tuple[str, ...]]:
    """Return the kind of lists of fields: one of ``names``, or NAME=VALUE; ``none`` is empty."""
    known = tuple(names)

    def convert_one(value: object) -> str:
        name, equals, secure = _text(value).strip().partition("=")
        name = name.lower()
        if equals and (not _FIELD_NAME.fullmatch(name) or not _FIELD_VALUE.fullmatch(secure)):
            raise ValueError(value)
        # Its value is a scheme, which the server knows.
        if (name, secure) == ("x-forwarded-proto", "https"):
            return name
        if (equals and name in known) or (not equals and name not in known):
            raise ValueError(value)
        return f"{name}={secure}" if equals else name

    allowed = f"{', '.join(known)}, or NAME=VALUE of a field whose value means https"
    return listing_or_none(Kind(allowed, "FIELD", convert_one))


def listing_or_none(item: Kind[str]) -> Kind[tuple[str, ...]]:
    """Return the kind of lists that the word ``none`` empties.

    Their entries have no commas, so that one flag may have several, as gunicorn's have.
    """
    several = listing(item)

    def convert(value: object) -> tuple[str, ...]:
        if value and isinstance(value, (list, tuple)) and all(isinstance(it, str) for it in value):
            value = ",".join(value)
        return () if value == "none" else several.convert(value)

    return Kind(f"{item.allowed}, or 'none'", item.metavar, convert, several.show)


def text(allowed: str, metavar: str, pattern: str) -> Kind[str]:
    """Return the kind of text that matches a pattern as a whole."""

    def convert(value: object) -> str:
        # Compiled here, and kept by `re`: a start uses a few of these patterns.
        if re.fullmatch(pattern, _text(value)) is None:
            raise ValueError(value)
        return cast(str, value)

    return Kind(allowed, metavar, convert, lambda value: value or '""')


def optional(kind: Kind[T], none: str, *, empty: bool = True) -> Kind[T | None]:
    """Return a kind that also allows None, given as the word ``none`` or as empty text.

    Without ``empty`` that is a bad value: a variable of a script without a value means no choice.
    """
    words = ("", none) if empty else (none,)

    def convert(value: object) -> T | None:
        return None if value is None or value in words else kind.convert(value)

    def show(value: T | None) -> str:
        return none if value is None else kind.show(value)

    return Kind(f"{kind.allowed}, or {none!r}", kind.metavar, convert, show)


def listing(item: Kind[str], least: int = 0, *, commas: bool = False) -> Kind[tuple[str, ...]]:
    """Return the kind of lists: a repeated flag, a TOML array, or text with commas.

    With ``commas`` each entry may be several, since none has a comma itself.
    """

    def convert(value: object) -> tuple[str, ...]:
        if not least and value in ("none", ["none"]):
            return ()  # as `show` has it
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",")]
        elif isinstance(value, Mapping):
            value = [f"{key}={_text(entry)}" for key, entry in value.items()]
        elif commas and isinstance(value, (list, tuple)):
            value = [part.strip() for entry in value for part in _text(entry).split(",")]
        if not isinstance(value, (list, tuple)) or len(value) < least:
            raise TypeError(value)
        return tuple(map(convert_one, value))

    def convert_one(entry: object) -> str:
        try:
            return item.convert(entry)
        except NotAllowed:
            raise
        except (ValueError, TypeError):
            raise NotAllowed(entry) from None

    def show(value: tuple[str, ...]) -> str:
        return ",".join(value) or "none"

    return Kind(item.allowed, item.metavar, convert, show)


def zero_as(kind: Kind[T], instead: T, meaning: str) -> Kind[T]:
    """Return a kind that also takes 0, as gunicorn's flags do, which becomes ``instead``."""

    def convert(value: object) -> T:
        is_zero = value in ("0", 0) and not isinstance(value, bool)
        return instead if is_zero else kind.convert(value)

    return Kind(f"{kind.allowed}, or 0 {meaning}", kind.metavar, convert, kind.show)


def on_as(kind: Kind[T | None], instead: T) -> Kind[T | None]:
    """Return a kind that also takes ``on`` and true, which become ``instead``, and false."""

    def convert(value: object) -> T | None:
        if isinstance(value, str) and value.lower() in ("on", "true"):
            return instead
        if isinstance(value, bool):
            return instead if value else None
        return kind.convert(value)

    return Kind(f"on, {kind.allowed}", kind.metavar, convert, kind.show)


def mode_mask() -> Kind[int]:
    """Return the kind of file mode masks: ``022`` and ``0o22`` are octal, ``18`` is decimal."""
    return Kind("a file mode mask such as 022", "MASK", _mode, lambda mask: f"0o{mask:03o}")


def mode() -> Kind[int]:
    """Return the kind of file modes: ``660`` and ``0o660`` are octal, as chmod(1) has them.

    A number, as in a file of settings, is the mode itself: TOML has ``0o660``.
    """

    def convert(value: object) -> int:
        if isinstance(value, str) and re.fullmatch("[0-7]{3}", value):
            value = "0" + value
        return _mode(value)

    return Kind("a file mode such as 660", "MODE", convert, lambda value: f"0{value:03o}")


def _mode(value: object) -> int:
    """Return a mode. Decimal digits that may be meant as octal ones are refused."""
    written = isinstance(value, (str, Decimal)) or (type(value) is int and value > _ALL_MODES)
    if written and re.fullmatch("[1-7][0-7]+", str(value)):
        raise NotAllowed(
            value,
            f'write "0{value}" or 0o{value} if that is octal: as a decimal number it is '
            f"0o{int(cast(str, value)):03o}",
        )
    if isinstance(value, str):
        octal = re.fullmatch("0[0-7]+", value) is not None
        value = int(value, 8 if octal else 0)
    return _within(_whole(value), 0, _ALL_MODES)


def show_size(count: int) -> str:
    """Return a number of bytes as text, in the largest binary unit that is exact."""
    for unit, worth in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count and count % worth == 0:
            return f"{count // worth}{unit}"
    return str(count)


def show_duration(seconds: float) -> str:
    """Return a time in seconds as text, with its unit."""
    return f"{seconds:.15g}s"  # without an exponent, which could not be given


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
    # In this form a NaN, for which every comparison is false, is refused, too.
    if minimum <= value <= maximum:  # type: ignore[operator]
        return value
    raise ValueError(value)


SWITCH: Kind[bool] = Kind(
    "true or false",
    "",
    _key_error_is_value_error(_convert_switch),
    lambda value: "true" if value else "false",
)
"""The kind of switches: a flag without a value, ``--trace`` and ``--no-trace``."""
