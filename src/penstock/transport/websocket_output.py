"""What an application sends on a connection that it speaks WebSocket on: a head, then frames.

The server does not read the frames. It follows where each ends (RFC 6455, section 5.2), so that it
can send a close frame of its own behind one.
"""

from __future__ import annotations

import re

GOING_AWAY = b"\x88\x02\x03\xe9"
"""A close frame with the status 1001 (RFC 6455, section 7.4.1): the server goes down."""

MOST_HEAD_BYTES = 64 * 1024
"""An answer to a handshake has some hundred bytes. What is longer is none, and is passed on as it
is."""

_CLOSE = 8  # the opcode
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2}(?: [\t\x20-\x7e\x80-\xff]*)?)\r\n")
_SWITCHING = "101"


class WebSocketOutput:
    """Follows the bytes that an application sends."""

    def __init__(self) -> None:
        self.status = ""
        """Such as ``101 Switching Protocols``; empty until the head is complete."""
        self.headers: list[tuple[str, str]] = []
        self.sent = 0
        """Bytes behind the head, or all where it is none of HTTP."""
        self.begun = False
        """The application has sent something."""
        self.closed = False
        """It has sent a close frame: nothing may follow."""
        self._head: bytearray | None = bytearray()
        self.frames = False
        """What follows the head are frames."""
        self._closing = False  # the current frame is a close frame
        self._frame_head = bytearray()  # as much as has come of the next frame's
        self._left = 0  # bytes of the current frame's payload that are still to come

    @property
    def at_boundary(self) -> bool:
        """Whether a frame may follow: the handshake is answered, and no frame is incomplete."""
        return self.frames and not self._left and not self._frame_head and not self.closed

    def follow(self, data: bytes, *, to_boundary: bool = False) -> int:
        """Follow what the application sends next; return how many bytes of ``data`` that was.

        That is all of it, or, with ``to_boundary``, as much as there is before a frame of the
        server's own may follow.
        """
        position, size = 0, len(data)
        if size:
            self.begun = True
        if self._head is not None:
            position = self._follow_head(data)
        before = position
        while position < size and not (to_boundary and self.at_boundary):
            if not self.frames:
                position = size
            elif self._left:
                taken = min(self._left, size - position)
                self._left -= taken
                position += taken
                self.closed = self._closing and not self._left
            else:
                self._frame_head.append(data[position])
                position += 1
                self._begin_frame()
        self.sent += position - before
        return position

    def _follow_head(self, data: bytes) -> int:
        head = self._head
        assert head is not None
        before = len(head)
        head += data
        end = head.find(b"\r\n\r\n", max(0, before - 3))
        if end < 0:
            if len(head) > MOST_HEAD_BYTES:
                self._head = None
                self.sent = len(head)
            return len(data)
        self._head = None
        found = _STATUS.match(head)
        if found:
            self.status = found[1].decode("latin-1")
            lines = bytes(head[found.end() : end]).decode("latin-1").split("\r\n")
            pairs = (line.partition(":") for line in lines if line)
            self.headers = [(name, value.strip(" \t")) for name, _, value in pairs]
        else:
            self.sent = end + 4
        self.frames = self.status.startswith(_SWITCHING)
        return end + 4 - before

    def _begin_frame(self) -> None:
        """Begin with the payload of the next frame, if its head is complete."""
        head = self._frame_head
        if len(head) < 2:
            return
        length, size = head[1] & 0x7F, 2
        if length > 125:
            size += 2 if length == 126 else 8
        if len(head) < size + 4 * (head[1] >> 7):  # a server sends no mask; if there is one...
            return
        self._left = length if length < 126 else int.from_bytes(head[2:size], "big")
        self._closing = self._closing or head[0] & 0x0F == _CLOSE
        self.closed = self._closing and not self._left
        head.clear()
