"""The formats of the access log: what its lines consist of.

Formats are ``combined``, ``json``, ``short`` and templates of gunicorn's atoms; docs/logging.md
describes them. Nothing that a client sends can begin a line or end a quoted field.
"""

from __future__ import annotations

import binascii
import json.encoder
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from penstock.errors import SettingsError
from penstock.telemetry.request_finished import SPAN_ID, TRACE_ID, Needs, RequestFinished
from penstock.telemetry.terminal import request_line

SHORT: Final = "short"
"""The format for people: see `penstock.telemetry.terminal`."""

Format = Callable[[RequestFinished], str]


class LineFormat(NamedTuple):
    """What native code makes lines with."""

    pieces: list[tuple[str, str]]
    """What a line consists of, in order: kinds and their texts.

    ``("text", " - ")``, ``("atom", "h")``, ``("i", "referer")`` and ``("o", "etag")`` with a
    field's name in lower case, or ``("json", "line")`` for a whole line, which is ``("json",
    "sampled")`` where it says how many requests it stands for.
    """
    second_text: Callable[[int], str]
    """Returns the text of a second, given in seconds since the epoch."""
    rules: NativeRules | None = None
    """Which requests get a line; None for all."""


class NativeRules(NamedTuple):
    """What native code decides with: `penstock.telemetry.access_log_rules.Rules` explains it."""

    skip: list[tuple[bytes, bool, int, int]]
    """A path, whether it is the beginning of one, and the first and the last status."""
    first_failure: int
    """From this status on a request has failed."""
    slow: float
    """Seconds; 0 where time does not count."""
    threshold: int
    """`penstock.telemetry.access_log_rules.threshold_of` the share; 0 where nothing is sampled."""
    mixer: int
    """What the checksum of a request's id is multiplied by."""
    weight: str
    """How many requests a line of the sample stands for."""
    hides_query: bool
    """Whether a target with a query is Python's to show."""
    hidden_fields: list[bytes]
    """The fields in the lines that are Python's to show, where a request has them."""
    url_fields: list[bytes]
    """The fields in the lines that are Python's to show where they have a query."""


def escape(value: str) -> str:
    r"""Return ``value`` for a quoted field, with ``\xHH`` for every byte that is not plain.

    Plain is printable ASCII but for the quotation mark and the backslash.
    """
    if value.isascii() and value.isprintable() and '"' not in value and "\\" not in value:
        return value
    return _UNSAFE.sub(_escaped_character, value)


_UNSAFE: Final = re.compile(r"[^ !#-\[\]-~]")


def _escaped_character(match: re.Match[str]) -> str:
    character = match[0]
    if character <= "\xff":
        return f"\\x{ord(character):02x}"
    # Not from the wire (that is Latin-1) but from an application's environ or headers.
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogatepass"))


_CACHED_FIELDS: Final = 128
"""How many values are kept with what they become: clients send the same ones again and again, and
to look at each character takes four times as long. A value has at most 8 KiB by default."""


def _word(value: str) -> str:
    """Return ``value`` for a field without quotation marks, which a space ends."""
    return escape(value).replace(" ", "\\x20") or "-"


_escape_repeated: Final = lru_cache(_CACHED_FIELDS)(escape)
_word_repeated: Final = lru_cache(_CACHED_FIELDS)(_word)


def _quoted(value: str) -> str:
    return escape(value) or "-"


class _SecondCache:
    """Returns the text of a moment's second, which it renders once for each second."""

    def __init__(self, render: Callable[[int], str]) -> None:
        self._render = render
        self._cached = (0, render(0))

    def __call__(self, moment: float) -> str:
        second = int(moment)
        cached = self._cached
        if cached[0] != second:
            cached = self._cached = (second, self._render(second))
        return cached[1]


# Not strftime: an application may set a locale, which changes the names of months.
MONTHS: Final = (
    *("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    *("Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
)


def _common_log_time(second: int) -> str:
    local = time.localtime(second)
    sign = "-" if local.tm_gmtoff < 0 else "+"
    hours, minutes = divmod(abs(local.tm_gmtoff) // 60, 60)
    return (
        f"[{local.tm_mday:02}/{MONTHS[local.tm_mon - 1]}/{local.tm_year:04}"
        f":{local.tm_hour:02}:{local.tm_min:02}:{local.tm_sec:02} {sign}{hours:02}{minutes:02}]"
    )


def iso_time(second: int) -> str:
    """Return a second, given since the epoch, as ``2026-01-31T12:00:00`` in UTC."""
    utc = time.gmtime(second)
    return (
        f"{utc.tm_year:04}-{utc.tm_mon:02}-{utc.tm_mday:02}"
        f"T{utc.tm_hour:02}:{utc.tm_min:02}:{utc.tm_sec:02}"
    )


def _user(request: RequestFinished) -> str:
    """Return the name that the client claims with Basic credentials, unchecked."""
    scheme, _, credentials = request.request_fields.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return "-"
    try:
        decoded = binascii.a2b_base64(credentials.strip(), strict_mode=True)
    except (binascii.Error, ValueError):
        return "-"
    return _word(decoded.partition(b":")[0].decode("latin-1"))


def split_target(target: str) -> tuple[str, str]:
    """Return path and query; the path of an absolute-form target begins after its authority."""
    path, _, query = target.partition("?")
    if "://" in path and not path.startswith("/"):
        path = "/" + path.partition("://")[2].partition("/")[2]
    return path, query


COMBINED_TEMPLATE: Final = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"'
"""The template that makes the same lines as ``combined``, more slowly."""


def _combined_format() -> Format:
    common_log_time = _SecondCache(_common_log_time)

    def combined(request: RequestFinished) -> str:
        fields = request.request_fields
        user = _user(request) if "authorization" in fields else "-"
        referer, agent = fields.get("referer") or "-", fields.get("user-agent") or "-"
        return (
            f"{_word_repeated(request.client_addr)} - {user}"
            f" {common_log_time(request.wall_time)}"
            f' "{_quoted(request.request_line)}"'
            f" {request.status} {request.bytes_out or '-'}"
            f' "{_escape_repeated(referer)}" "{_escape_repeated(agent)}"\n'
        )

    return combined


_json_quoted: Final = json.encoder.encode_basestring_ascii


def _json_text(value: str | None) -> str:
    r"""Return a JSON string, or null for an empty value or ``-``.

    Bytes beyond ASCII are read as UTF-8, as nearly all of them are; a byte that is not UTF-8
    becomes the four characters of its ``\xHH``.
    """
    if not value or value == "-":
        return "null"
    if not value.isascii():
        try:
            value = value.encode("latin-1").decode("utf-8", "backslashreplace")
        except UnicodeEncodeError:
            # Strict readers refuse a line with lone surrogates.
            value = value.encode("utf-8", "backslashreplace").decode()
    return _json_quoted(value)


def _json_format(*, sampled: bool = False, traced: bool = False) -> Format:
    second_text = _SecondCache(iso_time)
    if sampled:
        whole = _json_format(traced=traced)
        return lambda request: f'{whole(request)[:-2]},"sample":{_sample(request)}}}\n'

    def ids(request: RequestFinished) -> str:
        trace, span = request.environ.get(TRACE_ID), request.environ.get(SPAN_ID)
        return f',"trace_id":{_json_text(trace)},"span_id":{_json_text(span)}'

    def json_line(request: RequestFinished) -> str:
        fields = request.request_fields
        path, query = split_target(request.target)
        referer = _json_text(fields.get("referer"))
        wall_time = request.wall_time
        port = request.client_port
        return (
            f'{{"time":"{second_text(wall_time)}.{int(wall_time * 1000) % 1000:03}Z"'
            f',"client.address":{_json_text(request.client_addr)}'
            f',"client.port":{int(port) if port.isdecimal() else "null"}'
            f',"network.peer.address":{_json_text(request.peer_addr)}'
            f',"http.request.method":{_json_text(request.method)}'
            f',"url.path":{_json_text(path)}'
            f',"url.query":{_json_text(query)}'
            f',"network.protocol.version":{_json_text(request.protocol.removeprefix("HTTP/"))}'
            f',"http.response.status_code":{request.status}'
            f',"http.server.request.duration":{request.duration:.6f}'
            f',"queue":{request.queue_time:.6f}'
            f',"http.request.body.size":{request.bytes_in}'
            f',"http.response.body.size":{request.bytes_out}'
            f',"user_agent.original":{_json_text(fields.get("user-agent"))}'
            f',"http.request.header.referer":{"null" if referer == "null" else f"[{referer}]"}'
            f',"process.pid":{os.getpid()}'
            f',"request_id":{_json_text(request.request_id)}'
            f"{ids(request) if traced else ''}"
            f',"reason":{_json_text(request.reason)}}}\n'
        )

    return json_line


class SampledRequest(RequestFinished):
    """A finished request with the number of requests that its line stands for."""

    sample = "1"


def _sample(request: RequestFinished) -> str:
    return getattr(request, "sample", "1")


# gunicorn's atoms, and our own with longer names. `T`, `M`, `D`, `B` and `s` are whole numbers, so
# `d` may stand for `s` there.
_ATOMS: Final[Mapping[str, Format]] = {
    "h": lambda request: _word_repeated(request.client_addr),
    "l": lambda request: "-",
    "u": _user,
    "r": lambda request: _quoted(request.request_line),
    "m": lambda request: _word(request.method),
    "U": lambda request: _word(split_target(request.target)[0]),
    "q": lambda request: escape(split_target(request.target)[1]).replace(" ", "\\x20"),
    "H": lambda request: _word(request.protocol),
    "s": lambda request: str(request.status),
    "B": lambda request: str(request.bytes_out),
    "b": lambda request: str(request.bytes_out or "-"),
    "f": lambda request: _quoted(request.request_fields.get("referer", "")),
    "a": lambda request: _quoted(request.request_fields.get("user-agent", "")),
    "T": lambda request: str(int(request.duration)),
    "M": lambda request: str(int(request.duration * 1000)),
    "D": lambda request: str(int(request.duration * 1_000_000)),
    "L": lambda request: f"{request.duration:.6f}",
    "queue": lambda request: f"{request.queue_time:.6f}",
    "peer": lambda request: _word_repeated(request.peer_addr),
    "sample": _sample,
    "p": lambda request: f"<{os.getpid()}>",
    "trace_id": lambda request: _word(request.environ.get(TRACE_ID, "")),
    "span_id": lambda request: _word(request.environ.get(SPAN_ID, "")),
}
_WHOLE_NUMBERS: Final = frozenset("TMDBs")
_PLACEHOLDER: Final = re.compile(r"%(?:(%)|\(([^()]*)\)([sd])|)")
_NAMED_ATOM: Final = re.compile(r"\{([^{}]+)\}([ioe])")


def _request_field(name: str) -> Format:
    name = name.lower()
    return lambda request: _quoted(request.request_fields.get(name, ""))


def _response_field(name: str) -> Format:
    name = name.lower()
    return lambda request: _quoted(request.response_fields.get(name, ""))


def _environ_variable(name: str) -> Format:
    return lambda request: _quoted(request.environ.get(name, ""))


_NAMED: Final[Mapping[str, Callable[[str], Format]]] = {
    "i": _request_field,
    "o": _response_field,
    "e": _environ_variable,
}


def _atom(placeholder: re.Match[str], setting: str) -> Format:
    _, name, conversion = placeholder.groups()
    if name is None:
        at = f"character {placeholder.start() + 1}"
        raise SettingsError(f"{setting}: '%' at {at} begins no atom; write '%%' for a percent sign")
    named = _NAMED_ATOM.fullmatch(name)
    if _is_unknown(name):
        return lambda _: "-"
    if conversion == "d" and name not in _WHOLE_NUMBERS:
        raise SettingsError(f"{setting}: %({name})d is not a whole number; write %({name})s")
    if named:
        return _NAMED[named[2]](named[1])
    if name == "t":
        return _time_atom()
    return _ATOMS[name]


def unknown_atoms(format: str) -> list[str]:
    """Return the placeholders of a valid format that are no atoms: a line has ``-`` for each."""
    found = [part for part in _parts(format) if not isinstance(part, str) and not part[1]]
    return [each[0] for each in found if _is_unknown(each[2])]


def _is_unknown(name: str) -> bool:
    return name not in _ATOMS and name != "t" and not _NAMED_ATOM.fullmatch(name)


def _time_atom() -> Format:
    common_log_time = _SecondCache(_common_log_time)
    return lambda request: common_log_time(request.wall_time)


def _parts(template: str) -> Iterator[str | re.Match[str]]:
    """Yield a template's own text and the placeholders in it, in order, up to the line end."""
    end = 0
    for placeholder in _PLACEHOLDER.finditer(template):
        yield template[end : placeholder.start()]
        yield placeholder
        end = placeholder.end()
    yield template[end:] + "\n"


def _template_format(template: str, setting: str) -> Format:
    pattern = ""
    atoms: list[Format] = []
    for part in _parts(template):
        if isinstance(part, str):
            pattern += part
        elif part[1]:
            pattern += "%%"
        else:
            atoms.append(_atom(part, setting))
            pattern += "%s"
    return lambda request: pattern % tuple([atom(request) for atom in atoms])


def compile_format(
    format: str, setting: str = "access_logformat", *, sampled: bool = False, traced: bool = False
) -> Format:
    """Return the function that makes a line (with its line end) of a finished request.

    ``format`` is ``combined``, ``json`` or a template such as ``%(h)s "%(r)s" %(s)s``. With
    ``sampled`` each line says how many requests it stands for. Where requests are ``traced``,
    ``json`` has the ids of their spans. Raises `SettingsError`, which names ``setting`` and the
    atom.
    """
    if format == "json":
        return _json_format(sampled=sampled, traced=traced)
    if format == SHORT:
        return short_format(colour=False, sampled=sampled)
    if sampled:
        format = _with_sample(format)
    if format == "combined":
        return _combined_format()
    if "%" not in format:
        raise SettingsError(
            f"{setting}: {format!r} is neither 'combined' nor 'json' nor 'short' nor a template"
            " with atoms such as %(h)s"
        )
    return _template_format(format, setting)


def _with_sample(format: str) -> str:
    """Return a format whose lines say how many requests they stand for."""
    if format == "combined":
        format = COMBINED_TEMPLATE
    if "%" not in format or "%(sample)s" in format:
        return format
    return f"{format} sample=%(sample)s"


def short_format(*, colour: bool, sampled: bool = False) -> Format:
    """Return the function that makes lines for people, with the status in colour or without."""

    def short(request: RequestFinished) -> str:
        return request_line(request, escape(request.method), escape(request.target), colour=colour)

    if not sampled:
        return short
    return lambda request: f"{short(request)[:-1]} sample={_sample(request)}\n"


def line_format(format: str, *, sampled: bool = False) -> LineFormat | None:
    """Return what native code makes lines of a valid format with.

    None where it cannot: lines with environ variables show the application's own objects, and those
    for people are made here. ``sampled`` is `compile_format`'s.
    """
    if format == SHORT:
        return None
    second_text = iso_time if format == "json" else _common_log_time
    if format == "json":
        return LineFormat([("json", "sampled" if sampled else "line")], second_text)
    pieces = list(_pieces(_with_sample(format) if sampled else format))
    if any(kind == "e" for kind, _ in pieces):
        return None
    return LineFormat(
        [(kind, text if kind in ("text", "atom") else text.lower()) for kind, text in pieces],
        second_text,
    )


def needs_of(format: str, *, traced: bool = False) -> Needs:
    """Return what a record has to hold for lines of a valid format; see `compile_format`."""
    if format == "json":
        ids = frozenset({TRACE_ID, SPAN_ID} if traced else ())
        return Needs(request_fields=frozenset({"user-agent", "referer"}), environ=ids)
    if format == SHORT:
        return Needs()
    found: dict[str, set[str]] = {"i": set(), "o": set(), "e": set()}
    for kind, text in _pieces(format):
        if kind in found:
            found[kind].add(text if kind == "e" else text.lower())
        elif kind == "atom" and text in _FIELD_OF_ATOM:
            found["i"].add(_FIELD_OF_ATOM[text])
    return Needs(frozenset(found["i"]), frozenset(found["o"]), frozenset(found["e"]))


_FIELD_OF_ATOM: Final = {"u": "authorization", "f": "referer", "a": "user-agent"}


_VARIABLE_OF_ATOM: Final = {"trace_id": TRACE_ID, "span_id": SPAN_ID}
"""Atoms whose values are environ variables, which native code leaves to this module."""

_ATOMS_OF_NATIVE_CODE: Final = {"queue": "Q", "peer": "P", "sample": "S"}
"""Native code tells atoms apart by a letter."""


def _pieces(format: str) -> Iterator[tuple[str, str]]:
    """Yield the pieces of a format, as `LineFormat` has them, and ``("e", name)``."""
    template = COMBINED_TEMPLATE if format == "combined" else format
    for part in _parts(template):
        if isinstance(part, str):
            if part:
                yield "text", part
        elif part[1]:
            yield "text", "%"
        elif named := _NAMED_ATOM.fullmatch(part[2]):
            yield named[2], named[1]
        elif _is_unknown(part[2]):
            yield "text", "-"
        elif part[2] in _VARIABLE_OF_ATOM:
            yield "e", _VARIABLE_OF_ATOM[part[2]]
        else:
            yield "atom", _ATOMS_OF_NATIVE_CODE.get(part[2], part[2])
