"""The pictures of docs/story.md: a palette, with the colours that the picture had."""

from __future__ import annotations

import struct
import zlib

import pytest

from harness.small_png import SIGNATURE, small


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, colours: int, lines: list[bytes], bits: int = 8) -> bytes:
    """Make a picture of lines that have their filters in front."""
    header = struct.pack(">IIBBBBB", width, len(lines), bits, colours, 0, 0, 0)
    data = zlib.compress(b"".join(lines))
    return SIGNATURE + b"".join(
        chunk(kind, part) for kind, part in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    )


def shown(picture: bytes) -> list[list[bytes]]:
    """Return the colour of each point of a picture with a palette."""
    parts, at = {}, len(SIGNATURE)
    while at < len(picture):
        [length] = struct.unpack_from(">I", picture, at)
        parts[picture[at + 4 : at + 8]] = picture[at + 8 : at + 8 + length]
        at += length + 12
    width, height, bits, colours = struct.unpack_from(">IIBB", parts[b"IHDR"])
    assert (bits, colours) == (8, 3)
    palette, data = parts[b"PLTE"], zlib.decompress(parts[b"IDAT"])
    rows = [data[at : at + width + 1] for at in range(0, len(data), width + 1)]
    assert len(rows) == height
    assert {row[0] for row in rows} == {0}
    return [[palette[3 * n : 3 * n + 3] for n in row[1:]] for row in rows]


ONE, TWO = bytes([10, 20, 30]), bytes([200, 100, 0])


@pytest.mark.parametrize(
    "second",
    [
        b"\0" + TWO + ONE,
        # The same line by its difference to the left, above, the mean of both, and the nearest.
        b"\1" + TWO + bytes((a - b) & 255 for a, b in zip(ONE, TWO, strict=True)),
        b"\2" + bytes((a - b) & 255 for a, b in zip(TWO + ONE, ONE + TWO, strict=True)),
        b"\3"
        + bytes((a - b // 2) & 255 for a, b in zip(TWO, ONE, strict=True))
        + bytes((a - (b + b) // 2) & 255 for a, b in zip(ONE, TWO, strict=True)),
        # Left and above are the same here, so that the guess is further than the corner.
        b"\4"
        + bytes((a - b) & 255 for a, b in zip(TWO, ONE, strict=True))
        + bytes((a - b) & 255 for a, b in zip(ONE, TWO, strict=True)),
    ],
    ids=["none", "left", "above", "mean", "paeth"],
)
def test_each_filter_gives_the_colours_that_the_picture_had(second: bytes) -> None:
    assert shown(small(png(2, 2, [b"\0" + ONE + TWO, second]))) == [[ONE, TWO], [TWO, ONE]]


def test_transparency_is_left_out() -> None:
    assert shown(small(png(2, 6, [b"\0" + ONE + b"\xff" + TWO + b"\xff"]))) == [[ONE, TWO]]


def test_the_rare_ones_of_too_many_colours_get_the_nearest_colour() -> None:
    often = [bytes([n, 0, 0]) for n in range(256)]
    [row] = shown(small(png(513, 2, [b"\0" + b"".join([*often, *often, bytes([7, 1, 0])])])))
    assert row == [*often, *often, bytes([7, 0, 0])]


@pytest.mark.parametrize("picture", [b"GIF89a", png(1, 2, [b"\0" + ONE * 2], bits=16)])
def test_another_form_is_refused(picture: bytes) -> None:
    with pytest.raises(ValueError, match=r"PNG|form"):
        small(picture)
