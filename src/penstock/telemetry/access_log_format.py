"""The access log: one line for each response, formatted at once, written by a thread of its own.

Formats are ``combined``, ``json`` and templates of gunicorn's atoms; docs/logging.md describes
them. Nothing that a client sends can begin a line, or leave a quoted field.
"""

from __future__ import annotations

import base64
import binascii
import json.encoder
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from penstock import messages
from penstock.errors import SettingsError

if TYPE_CHECKING:
    import logging

    from penstock.telemetry.log_sink import LogSink

# A second of a busy worker; beyond it the reader of the log has stalled.
MAX_QUEUED_LINES: Final = 10_000
# Lines of 100 KiB are possible, where a client fills its header fields with quotes.
MAX_QUEUED_CHARACTERS: Final = 8 * 1024 * 1024
# Long enough that a busy worker writes 20 times a second, short enough for someone who watches.
GATHER_SECONDS: Final = 0.05
# How long the writing thread waits for a slow reader before it drops a batch.
PATIENCE_SECONDS: Final = 1.0
# A loss within this time of the last one is part of it, and is not told again: where a reader is
# a little too slow, the error log must not fill in its place.
QUIET_SECONDS: Final = 10.0

TOO_MANY_WAIT: Final = "too many wait to be written"

Format = Callable[["Transaction"], str]


class LineSource(Protocol):
    """Where lines are made, and kept until they are taken. All thread-safe."""

    def take(self) -> tuple[str, int, int]:
        """Take all lines as one text; return how many there are, and how many were lost."""

    def is_quiet(self) -> bool:
        """Tell whether there is nothing to take; if so, the next line calls `AccessLog.wake`."""


@dataclass(slots=True)
class Transaction:
    """One response and what it answers, as the access log sees it.

    Text is as in an environ: bytes decoded as Latin-1. Where no head was parsed, the method,
    the target, the version and the request line are ``"-"`` or what is known.
    """

    client_addr: str
    """The client's address; empty for a unix socket."""
    client_port: str
    """The client's TCP port, as REMOTE_PORT has it; empty for a unix socket."""
    method: str
    """The method, such as ``GET``."""
    target: str
    """The request target as sent: ``/path?query``."""
    version: str
    """The protocol, such as ``HTTP/1.1``."""
    request_line: str
    """The request line as sent, without its line end."""
    status: int
    """The status code that was sent, or would have been."""
    bytes_in: int
    """Bytes of request body received, without chunked framing."""
    bytes_out: int
    """Bytes of response body sent, without chunked framing."""
    duration: float
    """Seconds from the first byte of the request to the last of the response."""
    finished_at: float
    """Wall-clock time of the end of the response, in seconds since the epoch."""
    request_id: str
    """The exchange's name, printable ASCII."""
    request_fields: Mapping[str, str]
    """Request header fields by lower-case name."""
    response_headers: Sequence[tuple[str, str]]
    """Response header fields in order."""
    environ: Mapping[str, Any] | None = None
    """The environ, where the request reached an application."""
    reason: str = ""
    """Why the server answered by itself or cut the response, in a short sentence."""


def escape(value: str) -> str:
    r"""Return ``value`` fit for a quoted field: ``\xHH`` for every byte that is not plain.

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


def _word(value: str) -> str:
    """Return ``value`` fit for a field without quotation marks, where a space ends the field."""
    return escape(value).replace(" ", "\\x20") or "-"


def _quoted(value: str) -> str:
    return escape(value) or "-"


class _SecondCache:
    """The text of a second, rendered once. Threads may race: each writes the same pair."""

    def __init__(self, render: Callable[[int], str]) -> None:
        self._render = render
        self._cached = (0, render(0))

    def __call__(self, moment: float) -> str:
        second = int(moment)
        cached = self._cached
        if cached[0] != second:
            cached = self._cached = (second, self._render(second))
        return cached[1]


# Not strftime: an application may set a locale, and the names of months are fixed here.
_MONTHS: Final = (
    *("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    *("Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
)


def _common_log_time(second: int) -> str:
    local = time.localtime(second)
    sign = "-" if local.tm_gmtoff < 0 else "+"
    hours, minutes = divmod(abs(local.tm_gmtoff) // 60, 60)
    return (
        f"[{local.tm_mday:02}/{_MONTHS[local.tm_mon - 1]}/{local.tm_year:04}"
        f":{local.tm_hour:02}:{local.tm_min:02}:{local.tm_sec:02} {sign}{hours:02}{minutes:02}]"
    )


def _iso_time(second: int) -> str:
    utc = time.gmtime(second)
    return (
        f"{utc.tm_year:04}-{utc.tm_mon:02}-{utc.tm_mday:02}"
        f"T{utc.tm_hour:02}:{utc.tm_min:02}:{utc.tm_sec:02}"
    )


def _user(transaction: Transaction) -> str:
    """Return the name that the client claims with Basic credentials; nobody verified it."""
    scheme, _, credentials = transaction.request_fields.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return "-"
    try:
        decoded = base64.b64decode(credentials.strip(), validate=True)
    except (binascii.Error, ValueError):
        return "-"
    return _word(decoded.partition(b":")[0].decode("latin-1"))


def _split_target(target: str) -> tuple[str, str]:
    """Return path and query; the path of an absolute-form target begins after its authority."""
    path, _, query = target.partition("?")
    if "://" in path and not path.startswith("/"):
        path = "/" + path.partition("://")[2].partition("/")[2]
    return path, query


COMBINED_TEMPLATE: Final = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"'
"""The template that gives the same lines as ``combined``, and takes longer for it."""


def _combined_format() -> Format:
    common_log_time = _SecondCache(_common_log_time)

    def combined(transaction: Transaction) -> str:
        fields = transaction.request_fields
        user = _user(transaction) if "authorization" in fields else "-"
        referer, agent = fields.get("referer") or "-", fields.get("user-agent") or "-"
        return (
            f"{_word(transaction.client_addr)} - {user}"
            f" {common_log_time(transaction.finished_at)}"
            f' "{_quoted(transaction.request_line)}"'
            f" {transaction.status} {transaction.bytes_out or '-'}"
            f' "{escape(referer)}" "{escape(agent)}"\n'
        )

    return combined


_json_quoted: Final = json.encoder.encode_basestring_ascii


def _json_text(value: str | None) -> str:
    r"""Return a JSON string, or null where there is nothing or only ``-``.

    Bytes beyond ASCII are read as UTF-8, as nearly all of them are; a byte that is not UTF-8
    becomes the four characters of its ``\xHH``.
    """
    if not value or value == "-":
        return "null"
    if not value.isascii():
        try:
            value = value.encode("latin-1").decode("utf-8", "backslashreplace")
        except UnicodeEncodeError:
            # Lone surrogates would make the line invalid for strict readers.
            value = value.encode("utf-8", "backslashreplace").decode()
    return _json_quoted(value)


def _json_format() -> Format:
    iso_time = _SecondCache(_iso_time)

    def json_line(transaction: Transaction) -> str:
        fields = transaction.request_fields
        path, query = _split_target(transaction.target)
        referer = _json_text(fields.get("referer"))
        finished_at = transaction.finished_at
        port = transaction.client_port
        return (
            f'{{"time":"{iso_time(finished_at)}.{int(finished_at * 1000) % 1000:03}Z"'
            f',"client.address":{_json_text(transaction.client_addr)}'
            f',"client.port":{int(port) if port.isdecimal() else "null"}'
            f',"http.request.method":{_json_text(transaction.method)}'
            f',"url.path":{_json_text(path)}'
            f',"url.query":{_json_text(query)}'
            f',"network.protocol.version":{_json_text(transaction.version.removeprefix("HTTP/"))}'
            f',"http.response.status_code":{transaction.status}'
            f',"http.server.request.duration":{transaction.duration:.6f}'
            f',"http.request.body.size":{transaction.bytes_in}'
            f',"http.response.body.size":{transaction.bytes_out}'
            f',"user_agent.original":{_json_text(fields.get("user-agent"))}'
            f',"http.request.header.referer":{"null" if referer == "null" else f"[{referer}]"}'
            f',"process.pid":{os.getpid()}'
            f',"request_id":{_json_text(transaction.request_id)}'
            f',"reason":{_json_text(transaction.reason)}}}\n'
        )

    return json_line


# gunicorn's atoms; `T`, `M`, `D`, `B` and `s` are whole numbers, so `d` may stand for `s` there.
_ATOMS: Final[Mapping[str, Format]] = {
    "h": lambda transaction: _word(transaction.client_addr),
    "l": lambda transaction: "-",
    "u": _user,
    "r": lambda transaction: _quoted(transaction.request_line),
    "m": lambda transaction: _word(transaction.method),
    "U": lambda transaction: _word(_split_target(transaction.target)[0]),
    "q": lambda transaction: escape(_split_target(transaction.target)[1]).replace(" ", "\\x20"),
    "H": lambda transaction: _word(transaction.version),
    "s": lambda transaction: str(transaction.status),
    "B": lambda transaction: str(transaction.bytes_out),
    "b": lambda transaction: str(transaction.bytes_out or "-"),
    "f": lambda transaction: _quoted(transaction.request_fields.get("referer", "")),
    "a": lambda transaction: _quoted(transaction.request_fields.get("user-agent", "")),
    "T": lambda transaction: str(int(transaction.duration)),
    "M": lambda transaction: str(int(transaction.duration * 1000)),
    "D": lambda transaction: str(int(transaction.duration * 1_000_000)),
    "L": lambda transaction: f"{transaction.duration:.6f}",
    "p": lambda transaction: f"<{os.getpid()}>",
}
_WHOLE_NUMBERS: Final = frozenset("TMDBs")
_PLACEHOLDER: Final = re.compile(r"%(?:(%)|\(([^()]*)\)([sd])|)")
_NAMED_ATOM: Final = re.compile(r"\{([^{}]+)\}([ioe])")


def _request_field(name: str) -> Format:
    name = name.lower()
    return lambda transaction: _quoted(transaction.request_fields.get(name, ""))


def _response_field(name: str) -> Format:
    name = name.lower()

    def value(transaction: Transaction) -> str:
        found = [text for field, text in transaction.response_headers if field.lower() == name]
        return _quoted(", ".join(found))

    return value


def _environ_variable(name: str) -> Format:
    def value(transaction: Transaction) -> str:
        environ = transaction.environ or {}
        found = environ.get(name, environ.get(name.upper(), ""))
        try:
            return _quoted(str(found))
        except Exception:
            # The application's own object: its failure costs its field, not the line.
            return "-"

    return value


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
    if conversion == "d" and name not in _WHOLE_NUMBERS:
        raise SettingsError(f"{setting}: %({name})d is not a whole number; write %({name})s")
    if named:
        return _NAMED[named[2]](named[1])
    if name == "t":
        return _time_atom()
    if name not in _ATOMS:
        known = " ".join([*_ATOMS, "t", "{Header}i", "{Header}o", "{variable}e"])
        raise SettingsError(f"{setting}: unknown atom %({name})s; there are {known}")
    return _ATOMS[name]


def _time_atom() -> Format:
    common_log_time = _SecondCache(_common_log_time)
    return lambda transaction: common_log_time(transaction.finished_at)


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
    return lambda transaction: pattern % tuple([atom(transaction) for atom in atoms])


def compile_format(format: str, setting: str = "access_logformat") -> Format:
    """Return the function that makes a line (with its line end) of a transaction.

    ``format`` is ``combined``, ``json`` or a template such as ``%(h)s "%(r)s" %(s)s``. Raises
    `SettingsError`, which names ``setting`` and the atom.
    """
    if format == "combined":
        return _combined_format()
    if format == "json":
        return _json_format()
    if "%" not in format:
        raise SettingsError(
            f"{setting}: {format!r} is neither 'combined' nor 'json' nor a template with atoms"
            " such as %(h)s"
        )
    return _template_format(format, setting)


def line_pieces(format: str) -> list[tuple[str, str]] | None:
    """Return what lines of a valid format consist of, for those who make them without Python.

    Each piece is a kind and its text: ``("text", " - ")``, ``("atom", "h")``, ``("i", "referer")``
    and ``("o", "etag")`` with a field's name in lower case, or ``("json", "line")`` for a whole
    line.
    None where only Python can make the lines, since they show the application's own objects.
    """
    if format == "json":
        return [("json", "line")]
    template = COMBINED_TEMPLATE if format == "combined" else format
    pieces: list[tuple[str, str]] = []
    for part in _parts(template):
        if isinstance(part, str):
            pieces.append(("text", part))
        elif part[1]:
            pieces.append(("text", "%"))
        elif not (named := _NAMED_ATOM.fullmatch(part[2])):
            pieces.append(("atom", part[2]))
        elif named[2] == "e":
            return None
        else:
            pieces.append((named[2], named[1].lower()))
    return [(kind, text) for kind, text in pieces if text]


def second_text(format: str) -> Callable[[int], str]:
    """Return what renders the second in lines of a format, given seconds since the epoch."""
    return _iso_time if format == "json" else _common_log_time


def _json_notice(count: int) -> str:
    now = time.time()
    return (
        f'{{"time":"{_iso_time(int(now))}.{int(now * 1000) % 1000:03}Z","dropped_lines":{count}}}\n'
    )


class AccessLog:
    """Queues a line for each response; a thread writes them in batches. All thread-safe.

    The thread is started here: create the log in the process that serves, after any fork.
    """

    def __init__(
        self, sink: LogSink, format: str = "combined", logger: logging.Logger | None = None
    ) -> None:
        """Take over ``sink``; ``logger`` is told when lines begin to be lost.

        Raises `SettingsError` for a format that makes no sense.
        """
        self.format = format
        self._make_line = compile_format(format)
        self._sink = sink
        self._source: LineSource | None = None
        self._logger = logger
        # The writing thread's: when lines were lost last, and None once that is over.
        self._lost_at: float | None = None
        if format == "json":
            sink.notice = _json_notice
        # The lock guards the five fields below; it is held for an append or a swap only.
        self._lock = threading.Lock()
        self._lines: list[str] = []
        self._characters = 0
        self._overflowed = 0
        self._overflow_reason = ""
        self._asleep = False
        # Released to wake the writing thread. Not an Event: the handler of a signal may
        # raise between any two steps of one, and leave its lock taken.
        self._alarm = threading.Lock()
        self._alarm.acquire()
        self._closing = threading.Event()
        self._deadline = 0.0
        self._thread = threading.Thread(target=self._write, name="access-log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """How many lines were lost so far, to a full queue or to a sink that does not take them."""
        with self._lock:
            return self._sink.dropped + self._overflowed

    def line(self, transaction: Transaction) -> str | None:
        """Return the line for one response, with its line end; None where there can be none."""
        try:
            return self._make_line(transaction)
        except Exception as error:
            # A field of the wrong type, a wall clock beyond the calendar: the request goes on.
            with self._lock:
                self._overflow_reason = f"a line cannot be formatted: {type(error).__name__}"
            return None

    def log(self, transaction: Transaction) -> None:
        """Queue the line for one response. Never blocks, never raises, keeps nothing of it."""
        line = self.line(transaction)
        with self._lock:
            full = len(self._lines) >= MAX_QUEUED_LINES or self._characters >= MAX_QUEUED_CHARACTERS
            if line is None or full or self._closing.is_set():
                self._overflowed += 1
                if line is not None:
                    self._overflow_reason = TOO_MANY_WAIT
            else:
                self._lines.append(line)
                self._characters += len(line)
            if self._asleep:
                self._ring()

    def take_from(self, source: LineSource) -> None:
        """Write the lines of ``source``, too; it calls `wake` where `LineSource` says so."""
        self._source = source
        self.wake()  # a thread that sleeps already has not told the source so

    def wake(self) -> None:
        """Take notice that the source has lines again. Never blocks, never raises."""
        with self._lock:
            self._ring()

    def _ring(self) -> None:
        """Wake the writing thread, with the lock held. The last step makes others do without."""
        try:
            self._alarm.release()
        except RuntimeError:
            pass  # it is about to wake already
        self._asleep = False

    def reopen(self) -> None:
        """Open the file anew after a rotation. Raises OSError, and keeps the old one then."""
        self._sink.reopen()

    def close(self, timeout: float = 2.0) -> None:
        """Write what is queued, for at most ``timeout`` seconds, and close the sink."""
        self._deadline = time.monotonic() + timeout
        self._closing.set()
        with self._lock:
            self._ring()
        # A little longer than the thread waits for room: then it has counted what is lost.
        self._thread.join(timeout + GATHER_SECONDS)
        if not self._thread.is_alive():
            self._sink.close()

    def _write(self) -> None:
        while not self._closing.is_set():
            with self._lock:
                # Under the lock: a line is either seen here, or its queueing sees us asleep.
                self._asleep = (
                    not self._lines
                    and not self._overflowed
                    and (self._source is None or self._source.is_quiet())
                )
                asleep = self._asleep
            if asleep and not self._closing.is_set():
                self._alarm.acquire()
            self._closing.wait(GATHER_SECONDS)
            self._write_batch(PATIENCE_SECONDS)
        self._write_batch(max(0.0, self._deadline - time.monotonic()))

    def _write_batch(self, patience: float) -> None:
        made, count, dropped = ("", 0, 0) if self._source is None else self._source.take()
        with self._lock:
            lines, self._lines = self._lines, []
            self._characters = 0
            self._overflowed += dropped
            # Only this thread writes to the sink, so nobody holds its lock for long.
            self._sink.count_dropped(self._overflowed)
            reason = (self._overflow_reason or TOO_MANY_WAIT) if self._overflowed else ""
            self._overflowed = 0
            self._overflow_reason = ""
        if count:
            lines.append(made)
        if lines and not self._sink.write("".join(lines), patience=patience):
            reason = self._sink.failure
        if self._logger is not None and (lines or reason):
            try:
                self._tell(self._logger, reason)
            except Exception:
                pass  # an application's own handler: its failure must not end this thread

    def _tell(self, logger: logging.Logger, reason: str) -> None:
        """Tell when lines begin to be lost, which is what ``reason`` means, and when no more are.

        The error log may well have the same trouble; its sink counts and drops as this one.
        """
        now, lost_at = time.monotonic(), self._lost_at
        if reason:
            self._lost_at = now
            if lost_at is None:
                messages.ACCESS_LOG_LINES_LOST.log(logger, reason=reason)
        elif lost_at is not None and now - lost_at >= QUIET_SECONDS:
            self._lost_at = None
            logger.info("the access log is written again")
