"""What the logs show on a terminal: short lines in colour. Elsewhere they stay as they are."""

from __future__ import annotations

import logging
import os
import select
from collections.abc import Iterator

import pytest

from penstock.telemetry.access_log import AccessLog
from penstock.telemetry.access_log_format import compile_format, line_format, needs_of
from penstock.telemetry.error_log import SinkHandler
from penstock.telemetry.log_sink import LogSink
from penstock.telemetry.request_finished import Needs, RequestFinished
from penstock.telemetry.terminal import NOT_ON_TERMINAL, ON_TERMINAL

CLOCK = r"\d\d:\d\d:\d\d "


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    ours, theirs = os.openpty()
    yield ours, theirs
    os.close(ours)


def record(level: int, text: str, **extra: str) -> logging.LogRecord:
    made = logging.LogRecord("penstock", level, "", 0, text, None, None)
    vars(made).update(extra)
    return made


def finished(status: int, target: str = "/path", reason: str = "") -> RequestFinished:
    return RequestFinished(
        client_addr="192.0.2.1", client_port="1", method="GET", target=target, protocol="HTTP/1.1",
        request_line=f"GET {target} HTTP/1.1", status=status, bytes_in=0, bytes_out=2,
        ended="complete", reason=reason, wall_time=0.0, finished_at=12.0123, begun_at=12.0,
        request_id="1",
    )  # fmt: skip


def shown(ours: int, lines: int) -> bytes:
    """Return what a terminal shows once it has these lines: the kernel passes on parts."""
    received = b""
    while received.count(b"\n") < lines:
        assert select.select([ours], [], [], 20)[0], received
        received += os.read(ours, 4096)
    return received


def without_clock(lines: bytes) -> list[str]:
    return [line.partition(" ")[2] for line in lines.decode().splitlines()]


@pytest.mark.parametrize("no_color", ["", "1"])
def test_records_are_short_with_their_level_in_colour_unless_no_color_is_set(
    terminal: tuple[int, int], monkeypatch: pytest.MonkeyPatch, no_color: str
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    ours, theirs = terminal
    handler = SinkHandler(LogSink(theirs))
    handler.handle(record(logging.INFO, "plain"))
    handler.handle(record(logging.WARNING, "PEN-1 warned\nmore"))
    handler.handle(record(logging.INFO, "left out", **NOT_ON_TERMINAL))
    handler.handle(record(logging.INFO, "elsewhere", **{ON_TERMINAL: "serving\n  url"}))
    received = shown(ours, 5)
    handler.close_sinks()
    lines = received.decode().splitlines()
    begin, bold, end = ("", "", "") if no_color else ("\x1b[33m", "\x1b[1m", "\x1b[0m")
    assert without_clock(received)[:2] == ["plain", f"{begin}WARNING{end} PEN-1 warned"]
    assert lines[2:] == ["  more", f"{bold}serving{end}", "  url"]


def test_elsewhere_a_record_is_the_same_with_what_it_has_for_a_terminal() -> None:
    reader, writer = os.pipe()
    handler = SinkHandler(LogSink(writer))
    handler.handle(record(logging.INFO, "elsewhere", **{ON_TERMINAL: "serving"}))
    handler.handle(record(logging.INFO, "too", **NOT_ON_TERMINAL))
    handler.close_sinks()
    lines = os.read(reader, 4096).decode().splitlines()
    os.close(reader)
    assert [line.partition("[INFO] ")[2] for line in lines] == ["elsewhere", "too"]


def test_requests_have_a_short_line_with_their_status_in_colour(
    terminal: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    ours, theirs = terminal
    log = AccessLog(LogSink(theirs), "short")
    log.requests_finished([finished(200), finished(404, "/\x1b"), finished(504, "/", "slow")], 1.0)
    received = shown(ours, 3)
    log.close()
    assert without_clock(received) == [
        "\x1b[32m200\x1b[0m GET /path 12.3 ms",
        "\x1b[33m404\x1b[0m GET /\\x1b 12.3 ms",
        "\x1b[31m504\x1b[0m GET / 12.3 ms (slow)",
    ]


def test_the_short_format_has_no_colour_elsewhere_and_needs_nothing() -> None:
    line = compile_format("short")(finished(200)._replace(finished_at=15.5))
    assert without_clock(line.encode()) == ["200 GET /path 3.5 s"]
    assert needs_of("short") == Needs()
    assert line_format("short") is None
