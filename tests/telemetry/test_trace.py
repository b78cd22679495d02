"""What ``--trace`` prints."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.telemetry.log_sink import LogSink
from penstock.telemetry.request_finished import RequestFinished, Transcript
from penstock.telemetry.trace import Trace, visible
from support.requests_finished import request

HEAD = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
ADDED = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 6\r\n"


def transcript(**changes: object) -> Transcript:
    fields: dict[str, object] = {
        "connection": 3,
        "number": 1,
        "head": HEAD,
        "request_body": b"",
        "interim": "",
        "status": "200 OK",
        "headers": (("Content-Type", "text/plain"),),
        "added": ADDED,
        "response_body": b"",
    }
    return Transcript(**{**fields, **changes})  # type: ignore[arg-type]


def exchange(changes: dict[str, object] | None = None, **parts: object) -> RequestFinished:
    """Return a record; ``parts`` are of its transcript, ``changes`` of the rest."""
    known: dict[str, object] = {"bytes_out": 0, "transcript": transcript(**parts)}
    return request(**{**known, **(changes or {})})  # type: ignore[arg-type]


def trace(*, colour: bool = False) -> Trace:
    return Trace(LogSink(os.open(os.devnull, os.O_WRONLY)), colour=colour)


def text(changes: dict[str, object] | None = None, **parts: object) -> str:
    observer = trace()
    try:
        return observer.text_of(exchange(changes, **parts))
    finally:
        observer.close()


def test_the_clients_lines_and_the_servers_begin_with_signs_of_their_own() -> None:
    shown = text(
        {"bytes_in": 5, "bytes_out": 6},
        head=b"POST /hello?x=1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n",
        request_body=b"a=1\nb",
        response_body=b"hello\n",
    )
    assert shown == (
        "* connection 3 from 127.0.0.1:40000: request 1\n"
        "< POST /hello?x=1 HTTP/1.1\n"
        "< Host: localhost\n"
        "< Content-Length: 5\n"
        "< \n"
        "< a=1\n"
        "< b\n"
        "* connection 3: response to request 1\n"
        "> HTTP/1.1 200 OK\n"
        "> Content-Type: text/plain\n"
        "> Date: Sun, 06 Nov 1994 08:49:37 GMT   [server]\n"
        "> Content-Length: 6   [server]\n"
        "> \n"
        "> hello\n"
    )


def test_interim_responses_are_between_the_request_and_the_response() -> None:
    lines = text(interim="103 Early Hints\n100 Continue\n").splitlines()
    at = lines.index("* connection 3: response to request 1")
    assert lines[at - 3 : at] == [
        "< ",
        "* connection 3: sent HTTP/1.1 103 Early Hints",
        "* connection 3: sent HTTP/1.1 100 Continue",
    ]


def test_a_line_tells_how_many_bytes_of_a_body_are_not_shown() -> None:
    lines = text(
        {"bytes_in": 5000, "bytes_out": 1025},
        request_body=b"x" * 1024,
        response_body=b"x" * 1024,
    ).splitlines()
    at = lines.index("< " + "x" * 1024)
    assert lines[at + 1] == "* 3976 more bytes of the request body"
    assert lines[-1] == "* 1 more byte of the response body"
    assert "more" not in text({"bytes_out": 1024}, response_body=b"x" * 1024)
    # Nor where the client never got what is shown.
    assert "more" not in text({"bytes_out": 5}, response_body=b"x" * 1024)


def test_a_body_that_is_not_shown_at_all_is_counted() -> None:
    assert text({"bytes_out": 70}).endswith("> \n* 70 more bytes of the response body\n")


def test_the_last_line_tells_why_an_exchange_did_not_go_the_plain_way() -> None:
    assert text({"reason": "the client is gone", "ended": "disconnected"}).endswith(
        "> \n* connection 3: the client is gone\n"
    )
    assert text({"reason": "too\x1blarge", "ended": "refused"}).endswith(
        "> \n* connection 3: refused by the server: too\\x1blarge\n"
    )


def test_where_there_was_no_response_none_is_shown() -> None:
    assert text({"reason": "gone", "ended": "disconnected"}, status="", headers=(), added="") == (
        "* connection 3 from 127.0.0.1:40000: request 1\n"
        "< GET / HTTP/1.1\n< Host: h\n< \n* connection 3: gone\n"
    )


def test_a_client_of_a_unix_socket_has_no_address() -> None:
    assert text({"client_addr": "", "client_port": ""}).startswith(
        "* connection 3 from a unix socket: request 1\n"
    )


def test_a_batch_is_one_write_and_lost_requests_are_counted(tmp_path: Path) -> None:
    writes: list[str] = []

    class Sink(LogSink):
        def write(self, text: str, *, patience: float = 0.0, keep_end: bool = False) -> bool:
            writes.append(text)
            return super().write(text, patience=patience)

    path = tmp_path / "trace"
    observer = Trace(Sink(os.open(path, os.O_WRONLY | os.O_CREAT)))
    observer.requests_finished([exchange(), request(), exchange({}, number=2)], 1.0)
    observer.requests_lost(1)
    observer.requests_lost(7)
    observer.close()
    assert len(writes) == 3
    lines = path.read_text().splitlines()
    assert [line for line in lines if "response to" in line] == [
        "* connection 3: response to request 1",
        "* connection 3: response to request 2",
    ]
    assert lines[-2:] == [
        "* 1 request is missing: too many wait to be printed",
        "* 7 requests are missing: too many wait to be printed",
    ]


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
    latin = data.decode("latin-1")
    lines = text(
        {"client_addr": latin, "reason": latin, "bytes_in": len(data), "bytes_out": len(data)},
        head=data,
        request_body=data,
        interim=latin,
        status=latin,
        headers=((latin, latin),),
        added=latin,
        response_body=data,
    ).split("\n")
    assert lines.pop() == ""
    assert all(line.isprintable() for line in lines)
    assert {line[:2] for line in lines} <= {"* ", "< ", "> "}


def test_header_text_beyond_latin_1_is_shown_and_raises_nothing() -> None:
    assert "> X: \u20ac\\ud800\n" in text(headers=(("X", "\u20ac\ud800"),))


def test_with_colour_lines_still_begin_with_their_prefix() -> None:
    observer = trace(colour=True)
    lines = observer.text_of(exchange({"bytes_in": 1}, request_body=b"x")).splitlines()
    observer.close()
    assert {line[:2] for line in lines} == {"* ", "< ", "> "}
    assert all(line.endswith("\x1b[0m") for line in lines if len(line) > 2)
    assert any("Content-Length: 6   [server]" in line for line in lines)


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
    trace.requests_finished([exchange()], 0.0)
    assert (b"\x1b[" in os.read(ours, 1000)) is coloured
    trace.close()
    os.close(ours)


def test_without_a_terminal_there_is_no_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    monkeypatch.setattr(LogSink, "open", lambda *args, **kwargs: LogSink(writer))
    trace = Trace.to_stderr()
    trace.requests_finished([exchange()], 0.0)
    trace.close()
    assert os.read(reader, 100).startswith(b"* connection 3 from 127.0.0.1:40000: request 1\n< ")
    os.close(reader)


def test_faults_44_a_terminal_that_is_gone_raises_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    trace = Trace(LogSink(writer))
    trace.requests_finished([exchange()], 0.0)
    trace.close()
