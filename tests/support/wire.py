"""A client that speaks in bytes: what is sent, and when, is the test's to say."""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

DEADLINE = 20.0
"""Seconds that any answer may take on a busy machine. A test that waits that long has failed.
`graceful_timeout` is longer by default, as is what an application of the tests holds."""

MAX_RESPONSE = 256 * 1024 * 1024
"""Bytes of one response at most: a server that never ends must not fill the memory."""


@dataclass
class Response:
    """One response as it was on the wire."""

    version: str
    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    complete: bool = True
    """Whether the framing promised no more than came."""
    trailers: list[tuple[str, str]] = field(default_factory=list)

    def header(self, name: str) -> str | None:
        """Return the value of the one field of this name, None without it; two are an error."""
        values = self.all(name)
        assert len(values) < 2, f"{name} occurs {len(values)} times: {values}"
        return values[0] if values else None

    def all(self, name: str) -> list[str]:
        """Return the values of all fields of this name, in their order."""
        return [value for key, value in self.headers if key.lower() == name.lower()]


class Client:
    """One connection. Every wait is bounded by `DEADLINE`; what came too much stays in `buffer`."""

    def __init__(
        self,
        address: tuple[str, int] | str,
        *,
        receive_buffer: int | None = None,
        source: str | None = None,
    ) -> None:
        """Connect to ``(host, port)``, or to the path of a unix socket.

        ``source`` is an address to come from, where it is to be another client's.

        ``receive_buffer`` bounds, in bytes, what the kernel takes for a client that reads slowly;
        it has to be set before the connection is made.
        """
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        if isinstance(address, tuple) and ":" in address[0]:
            family = socket.AF_INET6
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(DEADLINE)
        self.buffer = bytearray()
        self.ended = False
        try:
            if source is not None:
                self.socket.bind((source, 0))
            self.socket.connect(address)
        except ConnectionResetError:
            # Accepted, and reset before this thread had looked: an end as any other.
            self.ended = True
        except BaseException:
            self.socket.close()
            raise
        if family != socket.AF_UNIX and not self.ended:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        """Send all of it at once."""
        self.socket.sendall(data)

    def send_bytewise(self, data: bytes) -> None:
        """Send each byte in a segment of its own, as far as the kernel goes along."""
        for index in range(len(data)):
            self.socket.sendall(data[index : index + 1])

    def end_sending(self) -> None:
        """Close the sending half: the server reads the end, and may still answer."""
        self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the connection in order (FIN, where nothing is unread)."""
        self.socket.close()

    def reset(self) -> None:
        """Close the connection with a RST, as a client does that crashes."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def request(
        self, method: str, target: str, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> Response:
        """Send an HTTP/1.1 request with a Host field, and return the response to it."""
        fields = {"Host": "localhost"} | (headers or {})
        if body and "Transfer-Encoding" not in fields:
            fields.setdefault("Content-Length", str(len(body)))
        lines = [f"{method} {target} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in fields.items()]
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        return self.read_response(method)

    def read_response(self, method: str = "GET") -> Response:
        """Read one response with its body; the ``method`` answered decides whether it has one.

        A connection that ends within the response gives what came, with ``complete`` False; one
        that ends before it raises `ConnectionError`.
        """
        head = self._until(b"\r\n\r\n")
        response = parse_head(head)
        if method == "HEAD" or response.status < 200 or response.status in (204, 304):
            return response
        if response.header("Transfer-Encoding") == "chunked":
            self._read_chunks(response)
        elif (length := response.header("Content-Length")) is not None:
            response.body = self._at_most(int(length))
            response.complete = len(response.body) == int(length)
        else:
            response.body = self.read_to_end()
        return response

    def read_to_end(self) -> bytes:
        """Return all that comes until the server closes; a RST counts as an end too."""
        while self._receive():
            pass
        return self._take(len(self.buffer))

    def is_closed_by_server(self) -> bool:
        """Wait for input from the server; return True if it is the end of the connection."""
        return not self.buffer and not self._receive()

    def _read_chunks(self, response: Response) -> None:
        """Decode a chunked body; any deviation from RFC 9112, section 7.1, is an error."""
        blocks = []
        try:
            while size := int(self._until(b"\r\n")[:-2], 16):
                block = self._at_most(size + 2)
                blocks.append(block[:size])
                if block[size:] != b"\r\n":
                    assert len(block) < size + 2, f"no line end after a chunk: {block[-20:]!r}"
                    response.complete = False
                    break
            else:
                while (line := self._until(b"\r\n")) != b"\r\n":
                    response.trailers.append(parse_field(line))
        except ConnectionError:
            response.complete = False
        response.body = b"".join(blocks)

    def _until(self, end: bytes) -> bytes:
        """Return all up to and with ``end``; `ConnectionError` where the connection ends first."""
        seen = 0
        while (found := self.buffer.find(end, seen)) < 0:
            seen = max(0, len(self.buffer) - len(end) + 1)
            if not self._receive():
                raise ConnectionError(f"the server closed after {bytes(self.buffer)!r}")
        return self._take(found + len(end))

    def _at_most(self, size: int) -> bytes:
        """Return ``size`` bytes, or fewer where the connection ends before."""
        while len(self.buffer) < size and self._receive():
            pass
        return self._take(size)

    def _take(self, size: int) -> bytes:
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        return data

    def _receive(self) -> bool:
        """Read more into the buffer; return False at the end of the connection."""
        if self.ended:
            return False
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            data = b""
        self.ended = not data
        self.buffer += data
        assert len(self.buffer) <= MAX_RESPONSE, "the server sends without end"
        return bool(data)


def unacknowledged(client: Client) -> int:
    """Return how many bytes that a client has sent have not arrived."""
    answer = fcntl.ioctl(client.socket.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
    return int(struct.unpack("i", answer)[0])


def parse_head(head: bytes) -> Response:
    """Parse a response's status line and fields, strictly (RFC 9112, sections 4 and 5)."""
    lines = head.split(b"\r\n")
    version, status, reason = lines[0].decode("latin-1").split(" ", 2)
    assert version in ("HTTP/1.0", "HTTP/1.1"), head
    assert len(status) == 3, head
    headers = [parse_field(line) for line in lines[1:] if line]
    return Response(version, int(status), reason, headers)


def parse_field(line: bytes) -> tuple[str, str]:
    """Parse ``name: value``; blanks around the name are an error."""
    name, colon, value = line.decode("latin-1").partition(":")
    assert colon, line
    assert name == name.strip() != "", line
    return name, value.strip()


def chunked(*blocks: bytes) -> bytes:
    """Return the blocks as a chunked body, each a chunk."""
    return b"".join(b"%x\r\n%b\r\n" % (len(block), block) for block in blocks) + b"0\r\n\r\n"


def exchange(address: tuple[str, int] | str, data: bytes, *, bytewise: bool = False) -> bytes:
    """Send ``data`` on a connection of its own, and return all that comes until its end.

    The request has to ask for the close, or cause it.
    """
    with Client(address) as client:
        try:
            (client.send_bytewise if bytewise else client.send)(data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # The server may answer, and close, before it has read everything.
        return client.read_to_end()
