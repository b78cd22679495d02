"""Where the frames end that an application sends (RFC 6455, section 5.2)."""

from __future__ import annotations

import random

import pytest

from penstock.transport.websocket_output import MOST_HEAD_BYTES, WebSocketOutput
from support.websockets import BINARY, CLOSE, PING, TEXT, answer, frame

FRAMES = [
    frame(TEXT, b""),
    frame(BINARY, b"x" * 125),
    frame(BINARY, b"x" * 126, final=False),
    frame(PING, b"within"),
    frame(0, b"x" * 65535),
    frame(BINARY, b"x" * 65536),
    frame(TEXT, b"masked", masked=True),
    frame(TEXT, b"y" * 200, masked=True),
]


@pytest.mark.parametrize("seed", range(4))
def test_a_boundary_is_found_however_the_bytes_are_split(seed: int) -> None:
    choose = random.Random(seed)
    data = answer() + b"".join(FRAMES)
    ends, at = {len(answer())}, len(answer())
    for each in FRAMES:
        at += len(each)
        ends.add(at)
    output, at = WebSocketOutput(), 0
    while at < len(data):
        size = choose.choice([1, 2, 3, 100, 70_000])
        assert output.follow(data[at : at + size]) == len(data[at : at + size])
        at = min(at + size, len(data))
        assert output.at_boundary is (at in ends)
    assert output.status == "101 Switching Protocols"
    assert ("Upgrade", "websocket") in output.headers
    assert output.sent == len(data) - len(answer())


def test_what_is_followed_ends_with_the_frame_that_is_under_way() -> None:
    output = WebSocketOutput()
    assert output.follow(answer()[:10], to_boundary=True) == 10
    rest = answer()[10:] + frame(TEXT, b"first")
    assert output.follow(rest, to_boundary=True) == len(answer()) - 10
    assert output.at_boundary
    assert output.follow(frame(TEXT, b"none"), to_boundary=True) == 0
    first, second = frame(BINARY, b"x" * 1000), frame(TEXT, b"second")
    assert output.follow(first[:500]) == 500
    assert output.follow(first[500:] + second, to_boundary=True) == len(first) - 500


def test_nothing_may_follow_a_close_frame() -> None:
    output = WebSocketOutput()
    data = answer() + frame(CLOSE, b"\x03\xe8")
    output.follow(data[:-1])
    assert not output.closed
    assert not output.at_boundary
    output.follow(data[-1:])
    assert output.closed
    assert not output.at_boundary


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "400 Bad Request"),
        (b"HTTP/1.1 403\r\n\r\nbody", "403"),
        (b"hello\r\n\r\nworld", ""),
        (b"x" * (MOST_HEAD_BYTES + 1), ""),
    ],
)
def test_what_follows_another_answer_has_no_frames(data: bytes, status: str) -> None:
    output = WebSocketOutput()
    assert not output.begun
    assert output.follow(data, to_boundary=True) == len(data)
    assert output.follow(b"more", to_boundary=True) == 4
    assert output.begun
    assert output.status == status
    assert not output.at_boundary
