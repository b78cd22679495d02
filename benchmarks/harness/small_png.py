"""PNG pictures of screens with 256 colours at most, which are a third as large.

Chromium writes three or four bytes for each point. A picture of a page has few colours, and shades
of them at the edges of letters: the rare ones are replaced by the nearest of the others.
"""

from __future__ import annotations

import struct
import zlib
from collections import Counter

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOURS = 256
_BYTES = {2: 3, 6: 4}
"""Of a point, by the type of colours."""


def small(picture: bytes) -> bytes:
    """Return a PNG with a palette of a PNG with eight bits for each of red, green and blue.

    Transparency is left out. Raises `ValueError` for any other picture.
    """
    width, height, each, lines = _decoded(picture)
    points = [line[at : at + 3] for line in lines for at in range(0, len(line), each)]
    counts = Counter(points)
    palette = [colour for colour, _ in counts.most_common(COLOURS)]
    places = {colour: place for place, colour in enumerate(palette)}
    for colour in counts:
        if colour not in places:
            places[colour] = min(range(len(palette)), key=lambda n: _distance(palette[n], colour))
    numbers = bytes(places[point] for point in points)
    rows = b"".join(b"\0" + numbers[at : at + width] for at in range(0, len(numbers), width))
    return SIGNATURE + b"".join(
        (
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            _chunk(b"PLTE", b"".join(palette)),
            _chunk(b"IDAT", zlib.compress(rows, 9)),
            _chunk(b"IEND", b""),
        )
    )


def _distance(one: bytes, other: bytes) -> int:
    return sum((a - b) ** 2 for a, b in zip(one, other, strict=True))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _decoded(picture: bytes) -> tuple[int, int, int, list[bytes]]:
    """Return width, height, the bytes of a point, and the bytes of each line."""
    if not picture.startswith(SIGNATURE):
        raise ValueError("it is no PNG")
    at, data, header = len(SIGNATURE), b"", b""
    while at < len(picture):
        [length] = struct.unpack_from(">I", picture, at)
        kind, part = picture[at + 4 : at + 8], picture[at + 8 : at + 8 + length]
        header, data = (part if kind == b"IHDR" else header), data + part * (kind == b"IDAT")
        at += length + 12
    width, height, bits, colours, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    if bits != 8 or colours not in _BYTES or interlaced:
        raise ValueError("it has another form than Chromium writes")
    each = _BYTES[colours]
    raw, size = zlib.decompress(data), width * each + 1
    lines: list[bytes] = []
    before = bytes(size - 1)
    for start in range(0, height * size, size):
        before = _unfiltered(raw[start], raw[start + 1 : start + size], before, each)
        lines.append(before)
    return width, height, each, lines


def _unfiltered(kind: int, data: bytes, above: bytes, each: int) -> bytes:
    """Undo the filter of a line: https://www.w3.org/TR/png-3/#9Filters."""
    if kind == 0:
        return data
    if kind == 2:
        return bytes((a + b) & 255 for a, b in zip(data, above, strict=True))
    line = bytearray(each) + data
    corner = bytes(each) + above
    for at, up in enumerate(above):
        left = line[at]
        if kind == 1:
            guess = left
        elif kind == 3:
            guess = (left + up) // 2
        else:
            guess = _paeth(left, up, corner[at])
        line[at + each] = (line[at + each] + guess) & 255
    return bytes(line[each:])


def _paeth(left: int, up: int, corner: int) -> int:
    guess = left + up - corner
    a, b, c = abs(guess - left), abs(guess - up), abs(guess - corner)
    if a <= b and a <= c:
        return left
    return up if b <= c else corner
