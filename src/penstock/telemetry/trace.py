"""What ``--trace`` prints: every exchange, line by line, in the manner of ``curl -v``.

Seen from the server: ``< `` is before each line of the request, ``> `` before each line of the
response, ``* `` before everything else. A trace shows a request before the application answers, so
the transports call it as an exchange goes on; it is no observer of finished requests.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Final, Protocol

from penstock.telemetry.log_sink import LogSink

# Enough to recognise a body; a trace is for reading.
MAX_BODY_BYTES: Final = 1024
# After each header line that the server added to the application's.
SERVER_MARK: Final = "   [server]"

_REQUEST_COLOUR: Final = "\x1b[36m"
_RESPONSE_COLOUR: Final = "\x1b[32m"
_ADDED_COLOUR: Final = "\x1b[2m"
_INFO_COLOUR: Final = "\x1b[33m"
_NO_COLOUR: Final = "\x1b[0m"

_LINE_END: Final = re.compile(rb"\r?\n")

Fields = Sequence[tuple[str, str]]


class TextOutput(Protocol):
    """The output of a trace: a `LogSink`, a file opened for text, a ``StringIO``."""

    def write(self, text: str, /) -> object:
        """Write ``text`` in one piece."""


class Trace:
    """Prints exchanges. Each call is one write, so the lines of several threads do not mix.

    A call raises only if ``output`` does; a `LogSink` does not.
    """

    def __init__(self, output: TextOutput, *, colour: bool = False) -> None:
        self._output = output
        self._colour = colour

    @classmethod
    def to_stderr(cls) -> Trace:
        """Return a trace on standard error, coloured on a terminal unless NO_COLOR is set."""
        sink = LogSink.open("-", setting="trace")
        return cls(sink, colour=sink.is_terminal() and not os.environ.get("NO_COLOR"))

    def request(
        self,
        connection_id: int,
        number: int,
        peer: str,
        head: bytes,
        body: bytes,
        body_length: int,
    ) -> None:
        """Print request ``number`` of a connection.

        ``head`` is as received, ``body`` its beginning without chunked framing, ``body_length``
        its length in bytes.
        """
        lines = [self._info(f"connection {connection_id} from {peer}: request {number}")]
        for line in _LINE_END.split(head.rstrip(b"\r\n")):
            lines.append(self._line("<", visible(line), _REQUEST_COLOUR))
        lines.append("< ")
        lines += self._body("<", body, body_length, _REQUEST_COLOUR)
        self._print(lines)

    def response(
        self,
        connection_id: int,
        number: int,
        status: str,
        headers: Fields,
        added_headers: Fields,
        body: bytes,
        body_length: int,
        note: str = "",
    ) -> None:
        """Print the response to request ``number`` of a connection.

        ``status`` is such as ``200 OK``; ``headers`` are the application's, ``added_headers``
        the server's; ``body`` is the body's beginning without chunked framing, ``body_length``
        its length in bytes; ``note`` is printed last, such as why the server answered itself.
        """
        lines = [self._info(f"connection {connection_id}: response to request {number}")]
        lines.append(self._line(">", _shown(f"HTTP/1.1 {status}"), _RESPONSE_COLOUR))
        for name, value in headers:
            lines.append(self._line(">", _shown(f"{name}: {value}"), _RESPONSE_COLOUR))
        for name, value in added_headers:
            field = _shown(f"{name}: {value}") + SERVER_MARK
            lines.append(self._line(">", field, _ADDED_COLOUR))
        lines.append("> ")
        lines += self._body(">", body, body_length, _RESPONSE_COLOUR)
        if note:
            lines.append(self._info(f"connection {connection_id}: {note}"))
        self._print(lines)

    def note(self, connection_id: int, text: str) -> None:
        """Print one line about a connection: an error, its closing."""
        self._print([self._info(f"connection {connection_id}: {text}")])

    def close(self) -> None:
        """Close the output if it is a `LogSink`, which this trace alone uses."""
        if isinstance(self._output, LogSink):
            self._output.close()

    def _print(self, lines: list[str]) -> None:
        self._output.write("\n".join(lines) + "\n")

    def _info(self, text: str) -> str:
        return self._line("*", _shown(text), _INFO_COLOUR)

    def _line(self, prefix: str, text: str, colour: str) -> str:
        # The colour begins after the prefix, so that grep finds the prefix at the start of a line.
        if self._colour and text:
            text = f"{colour}{text}{_NO_COLOUR}"
        return f"{prefix} {text}"

    def _body(self, prefix: str, body: bytes, length: int, colour: str) -> list[str]:
        shown = body[:MAX_BODY_BYTES]
        lines = []
        if shown:
            # A line end at the very end does not begin another line.
            for line in _LINE_END.split(re.sub(rb"\r?\n\Z", b"", shown)):
                lines.append(self._line(prefix, visible(line), colour))
        more = length - len(shown)
        if more > 0:
            of_what = "request" if prefix == "<" else "response"
            unit = "byte" if more == 1 else "bytes"
            lines.append(self._info(f"{more} more {unit} of the {of_what} body"))
        return lines


def visible(line: bytes) -> str:
    r"""Return the bytes of a line as text that no terminal acts on.

    Printable text in UTF-8 stays; every other byte is ``\xHH``. A backslash stays as it is.
    """
    text = line.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else _byte_escapes(character) for character in text
    )


def _byte_escapes(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in character.encode())


def _shown(text: str) -> str:
    """Return header text, whose characters are bytes (Latin-1), as `visible` returns bytes."""
    try:
        return visible(text.encode("latin-1"))
    except UnicodeEncodeError:
        return visible(text.encode("utf-8", "backslashreplace"))
