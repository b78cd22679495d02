"""What ``--trace`` prints."""

from __future__ import annotations

import io
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.telemetry.log_sink import LogSink
from penstock.telemetry.trace import MAX_BODY_BYTES, Trace, visible

HEAD = b"POST /hello?x=1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n"


class Writes(io.StringIO):
    """Counts what a terminal would get as separate writes."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def write(self, text: str, /) -> int:
        self.count += 1
        return super().write(text)


def request(head: bytes = HEAD, body: bytes = b"", length: int | None = None) -> str:
    output = Writes()
    Trace(output).request(
        3, 1, "127.0.0.1:4711", head, body, len(body) if length is None else length
    )
    assert output.count == 1
    return output.getvalue()


def response(body: bytes = b"", length: int | None = None, note: str = "") -> str:
    output = Writes()
    Trace(output).response(
        3,
        1,
        "200 OK",
        [("Content-Type", "text/plain")],
        [("Date", "Sun, 06 Nov 1994 08:49:37 GMT"), ("Content-Length", "6")],
        body,
        len(body) if length is None else length,
        note,
    )
    assert output.count == 1
    return output.getvalue()


def test_each_line_of_a_request_begins_with_a_less_than_sign() -> None:
    assert request(body=b"a=1\nb") == (
        "* connection 3 from 127.0.0.1:4711: request 1\n"
        "< POST /hello?x=1 HTTP/1.1\n"
        "< Host: localhost\n"
        "< Content-Length: 5\n"
        "< \n"
        "< a=1\n"
        "< b\n"
    )


def test_each_line_of_a_response_begins_with_a_greater_than_sign_and_the_servers_are_marked() -> (
    None
):
    assert response(body=b"hello\n") == (
        "* connection 3: response to request 1\n"
        "> HTTP/1.1 200 OK\n"
        "> Content-Type: text/plain\n"
        "> Date: Sun, 06 Nov 1994 08:49:37 GMT   [server]\n"
        "> Content-Length: 6   [server]\n"
        "> \n"
        "> hello\n"
    )


def test_a_body_is_shown_to_one_kib_with_the_number_of_bytes_that_follow() -> None:
    *_, shown, more = request(body=b"x" * 1500, length=5000).splitlines()
    assert shown == "< " + "x" * MAX_BODY_BYTES
    assert more == "* 3976 more bytes of the request body"
    assert response(b"x" * 1024, 1025).endswith("\n* 1 more byte of the response body\n")
    assert "more" not in response(b"x" * 1024, 1024)


def test_a_body_that_is_not_shown_at_all_is_counted() -> None:
    assert response(b"", 70).endswith("> \n* 70 more bytes of the response body\n")


def test_a_note_follows_the_response_and_stands_alone() -> None:
    assert response(note="closing: 408 head deadline").endswith(
        "> \n* connection 3: closing: 408 head deadline\n"
    )
    output = Writes()
    Trace(output).note(3, "closed by the client\x1b")
    assert output.getvalue() == "* connection 3: closed by the client\\x1b\n"
    assert output.count == 1


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (b"plain \\ text", "plain \\ text"),
        (b"caf\xc3\xa9 \xe6\x97\xa5", "café 日"),
        (b"\xff\xc3", "\\xff\\xc3"),
        (b"\x1b[31m\x07\x00\t\r", "\\x1b[31m\\x07\\x00\\x09\\x0d"),
        (b"\xc2\x9b1m\xe2\x80\xae", "\\xc2\\x9b1m\\xe2\\x80\\xae"),
    ],
)
def test_visible_escapes_the_bytes_that_a_terminal_acts_on(line: bytes, shown: str) -> None:
    assert visible(line) == shown


@given(st.binary(max_size=2000))
def test_cve_2020_7694_uvicorn_no_control_byte_reaches_the_terminal(data: bytes) -> None:
    output = Writes()
    trace = Trace(output)
    text = data.decode("latin-1")
    trace.request(1, 1, text, data, data, len(data))
    trace.response(1, 1, text, [(text, text)], [(text, text)], data, len(data), text)
    trace.note(1, text)
    lines = output.getvalue().split("\n")
    assert lines.pop() == ""
    assert all(line.isprintable() for line in lines)
    assert {line[:2] for line in lines} == {"* ", "< ", "> "}


def test_header_text_beyond_latin_1_is_shown_and_raises_nothing() -> None:
    output = Writes()
    Trace(output).response(1, 1, "200 OK", [("X", "\u20ac\ud800")], [], b"", 0)
    assert "> X: \u20ac\\ud800\n" in output.getvalue()


def test_with_colour_lines_still_begin_with_their_prefix() -> None:
    output = Writes()
    trace = Trace(output, colour=True)
    trace.request(1, 1, "127.0.0.1:1", HEAD, b"x", 1)
    trace.response(1, 1, "200 OK", [("A", "b")], [("Date", "c")], b"", 0)
    lines = output.getvalue().splitlines()
    assert {line[:2] for line in lines} == {"* ", "< ", "> "}
    assert all(line.endswith("\x1b[0m") for line in lines if len(line) > 2)
    assert any("Date: c   [server]" in line for line in lines)


@pytest.mark.parametrize(
    ("variable", "coloured"), [(None, True), ("", True), ("1", False)], ids=str
)
def test_colour_is_for_terminals_without_no_color(
    variable: str | None, coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = os.openpty()
    monkeypatch.delenv("NO_COLOR", raising=False)
    if variable is not None:
        monkeypatch.setenv("NO_COLOR", variable)
    monkeypatch.setattr(LogSink, "open", lambda *args, **kwargs: LogSink(theirs))
    trace = Trace.to_stderr()
    trace.note(1, "hello")
    assert (b"\x1b[" in os.read(ours, 100)) is coloured
    trace.close()
    os.close(ours)


def test_without_a_terminal_there_is_no_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    monkeypatch.setattr(LogSink, "open", lambda *args, **kwargs: LogSink(writer))
    trace = Trace.to_stderr()
    trace.note(1, "hello")
    trace.close()
    assert os.read(reader, 100) == b"* connection 1: hello\n"
    assert os.read(reader, 100) == b""
    os.close(reader)


def test_faults_44_a_terminal_that_is_gone_raises_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    trace = Trace(LogSink(writer))
    trace.note(1, "hello")
    trace.close()
