"""Bytes in, events out: the server's side of one HTTP/1.1 connection.

parser.receive_data(block)                 IDLE
parser.next_event() -> Request             BODY
parser.next_event() -> Data, any number
parser.next_event() -> EndOfMessage        DONE
parser.start_next_request()                IDLE
"""

from __future__ import annotations

from penstock.http1 import grammar, limits
from penstock.http1.body import BodyReader, ChunkedReader, LengthReader
from penstock.http1.buffer import ReceiveBuffer
from penstock.http1.errors import ProtocolError
from penstock.http1.events import (
    CONNECTION_CLOSED,
    NEED_DATA,
    Data,
    EndOfMessage,
    Event,
    Request,
    State,
)
from penstock.http1.head import parse_fields, parse_request, parse_request_line, repeat_request
from penstock.http1.limits import ParserLimits

IDLE, HEAD, BODY, DONE, FAILED, CLOSED = State  # looking up an attribute of an Enum is slow

TRANSITIONS: dict[State, tuple[State, ...]] = {
    IDLE: (BODY, DONE, HEAD, FAILED, CLOSED),  # past HEAD if a whole head was received at once
    HEAD: (BODY, DONE, FAILED),
    BODY: (DONE, FAILED),
    DONE: (IDLE,),
    FAILED: (),
    CLOSED: (),
}
"""The states that may follow each state. The tests hold the parser to it: a check here, in each of
the three steps of every request, would cost a hundredth of the request."""

CACHED_HEAD_BYTES = 2048
"""A connection caches its last head, and what it means, up to this size in bytes.

A client sends the same fields again and again on one connection, and parsing them is more than half
of a parser's work; many send the same request line, too. An idle connection holds about twice their
size for it.
"""

BEGINNING_BYTES = 16
"""How much of a line is kept that may be another protocol: its first words."""

_END_OF_MESSAGE = EndOfMessage()

TLS_HANDSHAKE = b"\x16"
"""The first byte that a client of TLS sends (RFC 8446, section 5.1); no method begins with it."""


class RequestParser:
    """Reads the requests of one connection. One thread at a time may use it.

    It accepts what RFC 9112 allows a client to send, and nothing else. The events, with the pieces
    of a body joined, depend only on the bytes and not on how packets split them. All work is
    linear in the number of bytes.
    """

    __slots__ = (
        "_body",
        "_eof",
        "_error",
        "_head_size",
        "_last_head",
        "_last_line",
        "_last_request",
        "_limits",
        "_lines",
        "_skipped_line",
        "_whole_head",
        "buffer",
        "state",
    )

    def __init__(self, bounds: ParserLimits) -> None:
        self.state: State = IDLE
        self._limits = bounds
        # In a head that is this short, no line can pass its limit.
        self._whole_head = min(bounds.request_line, bounds.field_size, bounds.head)
        self.buffer = ReceiveBuffer()  # its `data` is empty where nothing is buffered
        self._eof = False
        self._error: ProtocolError | None = None
        self._body: BodyReader | None = None
        self._lines: list[str] = []  # the lines received so far of an incomplete head
        self._head_size = 0  # bytes of these lines with their CRLFs
        self._skipped_line = False  # whether an empty line preceded this request
        self._last_head = b""  # of the connection's last request
        self._last_line = 0  # how long the request line in it is
        self._last_request: Request | None = None

    @property
    def buffered(self) -> int:
        """Bytes received and not yet consumed: more of this message, or of later ones."""
        return len(self.buffer.data) - self.buffer.start

    @property
    def request_line(self) -> str:
        """The request line of an incomplete head; ``""`` while the line itself is incomplete."""
        return self._lines[0] if self._lines else ""

    @property
    def body_remaining(self) -> int | None:
        """Bytes of the body that are still to be received; None if that is not known."""
        if self.state is DONE:
            return 0
        if self.state is not BODY or not isinstance(self._body, LengthReader):
            return None
        return max(self._body.remaining - len(self.buffer), 0)

    def receive_data(self, data: bytes) -> None:
        """Add bytes that the client sent; `next_event` returns what they mean."""
        if self._eof:
            raise RuntimeError("data after the end of the connection")
        if self._error is None:
            if self.buffer.data:
                self.buffer.append(data)
            else:  # as `append` does, without the call: each request comes here
                self.buffer.data = data

    def receive_eof(self) -> None:
        """Record that the client has closed its side: it sends no more."""
        self._eof = True

    def next_event(self) -> Event:
        """Return the next event, or a signal that there is none.

        Raises `ProtocolError` if the client broke a rule or a limit; every later call raises the
        same error. The caller answers with it and closes the connection. After the end of a
        message it returns `EndOfMessage` until `start_next_request` is called.
        """
        try:
            state = self.state
            if state is IDLE or state is HEAD:
                return self._next_of_head()
            if state is BODY:
                return self._next_of_body()
        except ProtocolError as error:
            self._error = error
            error.request_line = error.request_line or self.request_line
            error.beginning = error.request_line or self._beginning()
            if self.state is not BODY:
                error.received = error.received or self._received()
            self.buffer.clear()
            self._lines.clear()
            self.state = FAILED
            raise
        if self._error is not None:
            raise self._error.with_traceback(None)
        return _END_OF_MESSAGE if self.state is DONE else CONNECTION_CLOSED

    def start_next_request(self) -> None:
        """Prepare for the next request, of which a part or all may be buffered already.

        Raises `RuntimeError` unless the request before it has been taken to its end.
        """
        if self.state is not DONE:
            raise RuntimeError(f"a parser cannot start a request in the state {self.state.value}")
        self.state = IDLE
        self._skipped_line = False

    def _next_of_head(self) -> Event:
        request = self._take_whole_head()
        if request is None:
            lines = self._take_head_by_lines()
            if lines is not None:
                request = self._parse_request(lines)
                self._last_request = None  # the next request repeats this one, or none
        if request is not None:
            if request.body_expected:
                self._body = self._body_reader(request)
                self.state = BODY
            else:
                self.state = DONE
            return request
        # A CR may belong to an empty line before the request, which is not a part of it.
        if self._lines or self._first_byte() not in (b"", b"\r"):
            if self._eof:
                raise ProtocolError(400, "The request ends within its head.", "RFC 9112, section 8")
            if self.state is IDLE:
                self.state = HEAD
        elif self._eof:
            self.state = CLOSED
            return CONNECTION_CLOSED
        return NEED_DATA

    def _take_whole_head(self) -> Request | None:
        """Return the request whose head has been received whole and has nothing unusual in it.

        Nearly all heads are read here. None leaves the head to `_take_head_by_lines`, which
        accepts it or finds its first fault.
        """
        buffer = self.buffer
        data, start = buffer.data, buffer.start
        if self._lines or buffer.scanned != start:
            return None  # `_take_head_by_lines` has begun with this head
        last = self._last_request
        if last is not None and last.repeated and data.startswith(self._last_head, start):
            buffer.consume_to(start + len(self._last_head))
            return last
        end = data.find(b"\r\n\r\n", start, start + self._whole_head)
        if end <= start:
            return None
        line_end = data.find(b"\r\n", start)
        request = None
        if last is not None and data[line_end : end + 4] == self._last_head[self._last_line :]:
            request = self._repeat_request(data[start:line_end], last)
        if request is None:
            head = data[start:end]
            lines = str(head, "latin-1").split("\r\n")
            # Each line end has two control characters. Any other one makes the sums differ.
            controls = len(head) - len(head.translate(None, grammar.CONTROLS))
            fields = len(lines) - 1
            if controls != 2 * fields or fields > self._limits.fields or not lines[0]:
                return None
            request = self._parse_request(lines)
        end += 4
        if end - start <= CACHED_HEAD_BYTES:
            self._last_head = bytes(data[start:end])
            self._last_line = line_end - start
            self._last_request = request
        else:
            self._last_request = None
        buffer.consume_to(end)
        return request

    def _parse_request(self, lines: list[str]) -> Request:
        try:
            return parse_request(lines, self._limits.body)
        except ProtocolError as error:
            error.request_line = lines[0]
            error.received = "\r\n".join([*lines, "", ""]).encode("latin-1")
            raise

    def _repeat_request(self, line: bytes | bytearray, last: Request) -> Request | None:
        try:
            return repeat_request(str(line, "latin-1"), last)
        except ProtocolError:
            return None  # the checks of all other heads, in their order, choose the error

    def _take_head_by_lines(self) -> list[str] | None:
        """Take the lines of a head that have been received; return all once it is complete.

        A line is checked when it ends; its length and its bytes are checked as they arrive.
        """
        lines = self._lines
        while (line := self._take_head_line()) is not None:
            if line:
                lines.append(line)
                if len(lines) > 1:
                    parse_fields([line])
                else:
                    parse_request_line(line)
            elif lines:
                self._lines = []
                self._head_size = 0
                return lines
            elif self._skipped_line:
                raise ProtocolError(400, "The request line is empty.", "RFC 9112, section 2.2")
            else:
                self._skipped_line = True
        return None

    def _take_head_line(self) -> str | None:
        bounds, buffer = self._limits, self.buffer
        if self._lines:
            limit, too_long = bounds.field_size, limits.field_too_long
            forbidden = grammar.CONTROL
            if len(self._lines) > bounds.fields:
                limit, too_long = 0, limits.too_many_fields
        else:
            limit, too_long = bounds.request_line, limits.request_line_too_long
            forbidden = grammar.NOT_IN_REQUEST_LINE
            self._check_first_byte()
        # A line fits if its CRLF and the empty line after it fit too: so the empty line always
        # fits.
        left = max(bounds.head - self._head_size - len(b"\r\n\r\n"), 0)
        if left < limit:
            limit, too_long = left, limits.head_too_long
        line = buffer.take_line(limit, too_long, forbidden)
        if line:
            self._head_size += len(line) + len(b"\r\n")
        return line

    def _first_byte(self) -> bytes | bytearray:
        return self.buffer.data[self.buffer.start : self.buffer.start + 1]

    def _beginning(self) -> str:
        start = self.buffer.start
        return str(self.buffer.data[start : start + BEGINNING_BYTES], "latin-1")

    def _received(self) -> bytes:
        """Return the lines of an incomplete head, and what is buffered behind them."""
        lines = "".join(f"{line}\r\n" for line in self._lines).encode("latin-1")
        return lines + bytes(self.buffer.data[self.buffer.start :])

    def _check_first_byte(self) -> None:
        first = self._first_byte()
        if first and first != b"\r" and first[0] not in grammar.TOKEN_BYTES:
            if first == TLS_HANDSHAKE:
                reason = "The client speaks TLS, and this address is for plain HTTP."
                raise ProtocolError(400, reason, "RFC 9112, section 3")
            raise ProtocolError(400, "The request begins with no method.", "RFC 9112, section 3")

    def _next_of_body(self) -> Event:
        body = self._body
        assert body is not None
        if not body.complete:
            data = body.read(self.buffer)
            if data:
                return Data(data)
        if not body.complete:
            if self._eof:
                raise ProtocolError(400, "The request ends within its body.", "RFC 9112, section 8")
            return NEED_DATA
        self._body = None
        self.state = DONE
        return _END_OF_MESSAGE

    def _body_reader(self, request: Request) -> BodyReader:
        if request.chunked:
            return ChunkedReader(self._limits)
        return LengthReader(request.content_length or 0)
