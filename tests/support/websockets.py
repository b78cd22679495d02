"""Both sides of a WebSocket, in bytes: what is sent, and when, is the test's to say (RFC 6455)."""

from __future__ import annotations

import base64
import hashlib
import struct
from typing import Any

from support.wire import Client, Response

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_MASK = b"\x01\x02\x03\x04"

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
GOING_AWAY = (CLOSE, b"\x03\xe9")
"""The close frame of a server that goes away: 1001."""

FIELDS = {
    "Host": "a",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": KEY,
}


def handshake(
    target: str = "/", method: str = "GET", version: str = "HTTP/1.1", /, **changes: str | None
) -> bytes:
    """Return a handshake; ``changes`` are fields with ``_`` in the place of ``-``, None is none."""
    fields: dict[str, str | None] = dict(FIELDS)
    fields |= {name.replace("_", "-"): value for name, value in changes.items()}
    lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
    return "\r\n".join([f"{method} {target} {version}", *lines, "", ""]).encode()


def frame(opcode: int, payload: bytes, *, masked: bool = False, final: bool = True) -> bytes:
    """Return a frame; a client masks its own."""
    head = bytes([opcode | 0x80 * final])
    size, bit = len(payload), 0x80 * masked
    if size < 126:
        head += bytes([bit | size])
    elif size < 1 << 16:
        head += struct.pack("!BH", bit | 126, size)
    else:
        head += struct.pack("!BQ", bit | 127, size)
    return head + _MASK + unmask(payload) if masked else head + payload


def unmask(payload: bytes) -> bytes:
    """Apply the mask of these tests, or take it off."""
    size = len(payload)
    whole = int.from_bytes(payload, "big") ^ int.from_bytes((_MASK * (size // 4 + 1))[:size], "big")
    return whole.to_bytes(size, "big")


class Frames:
    """Reads frames from a socket."""

    def __init__(self, sock: Any) -> None:
        self.socket = sock
        self._buffer = bytearray()

    def _exactly(self, size: int) -> bytes | None:
        while len(self._buffer) < size:
            data = self.socket.recv(65536)
            if not data:
                return None
            self._buffer += data
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def read(self) -> tuple[int, bytes] | None:
        """Return the next frame's opcode and payload; None at the end."""
        head = self._exactly(2)
        if head is None:
            return None
        length, masked = head[1] & 0x7F, head[1] >> 7
        if length > 125:
            more = self._exactly(2 if length == 126 else 8)
            if more is None:
                return None
            length = int.from_bytes(more, "big")
        payload = self._exactly(4 * masked + length)
        if payload is None:
            return None
        return head[0] & 0x0F, unmask(payload[4:]) if masked else payload


class ServerSide(Frames):
    """The application's side: takes the socket, and answers the handshake."""

    def __init__(self, environ: dict[str, Any], key: str = "gunicorn.socket") -> None:
        super().__init__(environ[key])
        self.socket.sendall(answer(environ["HTTP_SEC_WEBSOCKET_KEY"]))

    def send(self, opcode: int, payload: bytes) -> None:
        """Send a frame."""
        self.socket.sendall(frame(opcode, payload))


def answer(key: str = KEY) -> bytes:
    """Return the answer to a handshake with this key."""
    digest = hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n\r\n"
    )


class ClientSide(Frames):
    """The client's side, over a `Client`."""

    def __init__(self, client: Client) -> None:
        super().__init__(client.socket)
        self.client = client

    def open(self, target: str = "/", early: bytes = b"", **changes: str | None) -> Response:
        """Send a handshake with bytes behind it; return the head of the answer."""
        self.client.send(handshake(target, **changes) + early)
        return self.read_answer()

    def read_answer(self) -> Response:
        """Read the answer to a handshake."""
        response = self.client.read_response()
        self._buffer += self.client.buffer
        self.client.buffer.clear()
        return response

    def send(self, opcode: int, payload: bytes) -> None:
        """Send a masked frame."""
        self.client.send(frame(opcode, payload, masked=True))

    def echoes(self, payload: bytes = b"hello") -> bool:
        """Return True if the application sends a text back."""
        self.send(TEXT, payload)
        return self.read() == (TEXT, payload)
