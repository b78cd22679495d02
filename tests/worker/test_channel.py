"""The channel between the supervisor and a worker, which an application may write to, too."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator

import pytest

from penstock.supervisor.reports import is_report
from penstock.worker.channel import MAX_MESSAGE_BYTES, Channel


@pytest.fixture
def ends() -> Iterator[tuple[Channel, socket.socket]]:
    """Return a channel, and the socket at its other end."""
    one, other = socket.socketpair()
    with one, other:
        other.settimeout(10)
        yield Channel(one), other


def test_messages_arrive_however_they_are_cut(ends: tuple[Channel, socket.socket]) -> None:
    channel, other = ends
    received = []
    for byte in b'{"event": "ready"}\n{"event": "serving"}\n':
        other.send(bytes([byte]))
        received += channel.receive()
    assert received == [{"event": "ready"}, {"event": "serving"}]
    assert not channel.ended
    other.close()
    assert channel.receive() == []
    assert channel.ended
    assert not channel.broken


@pytest.mark.parametrize("line", [b"garbage", b"[]", b"7", b"\xff", b"[" * 100_000, b"9" * 9000])
def test_a_line_that_is_not_a_message_breaks_the_channel(
    ends: tuple[Channel, socket.socket], line: bytes
) -> None:
    channel, other = ends
    other.sendall(b'{"event": "ready"}\n' + line + b'\n{"event": "serving"}\n')
    assert channel.receive() == [{"event": "ready"}]
    assert channel.ended
    assert channel.broken == "text that is not a message"


def test_a_message_without_an_end_does_not_grow_without_bound(
    ends: tuple[Channel, socket.socket],
) -> None:
    channel, other = ends

    def flood() -> None:
        try:
            while not channel.ended:
                other.send(b"x" * 65536)
        except OSError:
            pass  # the channel is closed

    writer = threading.Thread(target=flood)
    writer.start()
    try:
        received = 0
        while not channel.ended:
            assert channel.receive() == []  # returns, though the other end goes on
            received += 1
            assert received < 1_000_000
    finally:
        channel.close()
        writer.join(10)
    assert channel.broken.startswith(f"more than {MAX_MESSAGE_BYTES >> 20} MiB")


REPORTS = [
    {"event": "hello", "pid": 7},
    {"event": "failed", "message": "a", "traceback": "", "status": 1, "watched": 0},
    {"event": "stuck", "request": "", "free_threads": 3},
    {"event": "changed", "files": {"a.py": [1, 2, 3], "b.py": None}},
]


@pytest.mark.parametrize("report", REPORTS)
def test_a_report_lacks_no_field(report: dict[str, object]) -> None:
    assert is_report(json.loads(json.dumps(report)))
    for name in report:
        assert not is_report({key: value for key, value in report.items() if key != name})


@pytest.mark.parametrize("files", [7, {"a": 3}, {"a": [1, 2]}, {"a": [1, 2, "3"]}, ["a"]])
def test_the_states_of_files_are_checked(files: object) -> None:
    assert not is_report({"event": "changed", "files": files})


@pytest.mark.parametrize("event", ["", "unknown", None, [], {}])
def test_an_unknown_event_is_no_report(event: object) -> None:
    assert not is_report({"event": event})
