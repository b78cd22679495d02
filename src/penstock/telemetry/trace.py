"""What ``--trace`` prints: every exchange, line by line, in the manner of ``curl -v``.

Seen from the server: ``< `` is before each line of the request, ``> `` before each line of the
response, ``* `` before everything else. The trace is an observer of finished requests, so it shows
an exchange when it is over. The log and ``penstockctl`` name a request that is not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from penstock.telemetry.colours import CYAN, FAINT, GREEN, PLAIN, YELLOW
from penstock.telemetry.log_sink import LogSink
from penstock.telemetry.request_finished import Needs

if TYPE_CHECKING:
    from penstock.telemetry.request_finished import RequestFinished, Transcript

# Enough to recognise a body; a trace is for reading.
MAX_BODY_BYTES: Final = 1024
# After each header line that the server added to the application's.
SERVER_MARK: Final = "   [server]"

_LINE_END: Final = re.compile(rb"\r?\n")


class Trace:
    """Prints exchanges: a `penstock.telemetry.request_finished.Observer`.

    Its methods are the log writer's. What its output does not take in time is lost, and counted
    there.
    """

    needs = Needs(transcript=True)
    line_format = None

    def __init__(self, sink: LogSink, *, colour: bool = False) -> None:
        """Take over ``sink``."""
        self._sink = sink
        self._colour = colour

    @classmethod
    def to_stderr(cls) -> Trace:
        """Return a trace on standard error, coloured on a terminal unless NO_COLOR is set."""
        sink = LogSink.open("-", setting="trace")
        return cls(sink, colour=sink.is_terminal() and not os.environ.get("NO_COLOR"))

    def requests_finished(self, batch: Sequence[RequestFinished], patience: float) -> None:
        """Print the exchanges in one write."""
        text = "".join(map(self.text_of, batch))
        if text:
            self._sink.write(text, patience=patience)

    def requests_lost(self, count: int) -> None:
        """Print how many requests are missing."""
        requests = "1 request is" if count == 1 else f"{count} requests are"
        self._sink.write(self._info(f"{requests} missing: too many wait to be printed"))

    def close(self) -> None:
        """Close the sink."""
        self._sink.close()

    def text_of(self, request: RequestFinished) -> str:
        """Return what is printed of an exchange: empty if it has no transcript."""
        transcript = request.transcript
        if transcript is None:
            return ""
        name = f"connection {transcript.connection}"
        peer = request.client_addr or "a unix socket"
        if request.client_port:
            peer = f"{peer}:{request.client_port}"
        lines = [self._info(f"{name} from {peer}: request {transcript.number}")]
        for line in _LINE_END.split(transcript.head.rstrip(b"\r\n")):
            lines.append(self._line("<", visible(line), CYAN))
        lines.append("< ")
        lines += self._body("<", transcript.request_body, request.bytes_in, CYAN)
        for status in transcript.interim.splitlines():
            lines.append(self._info(f"{name}: sent HTTP/1.1 {status}"))
        if transcript.status:
            lines.append(self._info(f"{name}: response to request {transcript.number}"))
            lines += self._response(transcript, request.bytes_out)
        if request.ended == "refused":
            lines.append(self._info(f"{name}: refused by the server: {request.reason}"))
        elif request.reason:
            lines.append(self._info(f"{name}: {request.reason}"))
        return "\n".join(lines) + "\n"

    def _response(self, transcript: Transcript, length: int) -> list[str]:
        lines = [self._line(">", _shown(f"HTTP/1.1 {transcript.status}"), GREEN)]
        for name, value in transcript.headers:
            lines.append(self._line(">", _shown(f"{name}: {value}"), GREEN))
        for line in transcript.added.split("\r\n"):
            if line:
                lines.append(self._line(">", _shown(line) + SERVER_MARK, FAINT))
        lines.append("> ")
        return lines + self._body(">", transcript.response_body, length, GREEN)

    def _info(self, text: str) -> str:
        return self._line("*", _shown(text), YELLOW)

    def _line(self, prefix: str, text: str, colour: str) -> str:
        # The colour begins after the prefix, so that grep finds the prefix at the start of a line.
        if self._colour and text:
            text = f"{colour}{text}{PLAIN}"
        return f"{prefix} {text}"

    def _body(self, prefix: str, body: bytes, length: int, colour: str) -> list[str]:
        lines = []
        if body:
            # A line end at the very end does not begin another line.
            for line in _LINE_END.split(re.sub(rb"\r?\n\Z", b"", body)):
                lines.append(self._line(prefix, visible(line), colour))
        more = length - len(body)
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
