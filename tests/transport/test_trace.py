"""What the trace prints of exchanges on a real connection: the same on both transports."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse

import pytest

from penstock.telemetry.log_sink import LogSink
from penstock.telemetry.observers import Observers
from penstock.telemetry.trace import Trace
from support.serving import TEXT, Environ, Gate, connect, eventually, get, post
from support.transports import serving
from support.wire import Client

REASON = "timeout: its thread did not come back"
BEGIN = "* connection 1 from 127.0.0.1:PORT: request "


class Printed:
    """A trace, and what it has printed so far, without what changes from run to run."""

    def __init__(self, path: Path) -> None:
        self.observers = Observers([Trace(LogSink(os.open(path, os.O_WRONLY | os.O_CREAT)))])
        self._path = path

    def text(self) -> str:
        text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", self._path.read_text())
        return re.sub(r"Date: .* GMT", "Date: NOW", text)


@pytest.fixture
def printed(tmp_path: Path) -> Printed:
    return Printed(tmp_path / "trace")


def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    body = environ["wsgi.input"].read()
    if environ["PATH_INFO"] == "/hints":
        environ["wsgi.early_hints"]([("Link", "</style.css>")])
    start_response("200 OK", TEXT)
    return [body[:3], b"y" * 2000]


def printed_by(
    ask: Callable[[Client], object], transport: str, printed: Printed, **config: Any
) -> str:
    with serving(application, transport, observers=printed.observers, **config) as server:
        with connect(server) as client:
            ask(client)
    return printed.text()


def test_an_exchange_is_printed_when_it_is_over(transport: str, printed: Printed) -> None:
    def ask(client: Client) -> None:
        client.send(post(b"a=1&b", target="/x?y=1") + get("/second"))
        assert client.read_response().status == 200
        assert client.read_response().status == 200

    first, second = printed_by(ask, transport, printed).split(BEGIN)[1:]
    assert first == (
        "1\n"
        "< POST /x?y=1 HTTP/1.1\n"
        "< Host: a\n"
        "< Content-Length: 5\n"
        "< \n"
        "< a=1&b\n"
        "* connection 1: response to request 1\n"
        "> HTTP/1.1 200 OK\n"
        "> Content-Type: text/plain\n"
        "> Date: NOW   [server]\n"
        "> Server: penstock   [server]\n"
        "> Content-Length: 2003   [server]\n"
        "> \n"
        "> a=1" + "y" * 1021 + "\n"
        "* 979 more bytes of the response body\n"
    )
    assert second.startswith("2\n< GET /second HTTP/1.1\n")


def test_a_streamed_body_is_printed_as_far_as_it_was_read(transport: str, printed: Printed) -> None:
    def ask(client: Client) -> None:
        client.send(
            b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        client.read_response()
        client.send(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
        assert client.read_response().status == 200

    text = printed_by(ask, transport, printed, stream_requests=True)
    assert (
        "< \n< abcde\n* connection 1: sent HTTP/1.1 100 Continue\n"
        "* connection 1: response to request 1\n"
    ) in text


def test_a_refused_request_is_printed_with_the_servers_answer(
    transport: str, printed: Printed
) -> None:
    def ask(client: Client) -> None:
        client.send(get("/") + b"GET /late HTTP/1.1\r\nHo st: h\r\nX: y\r\n\r\n")
        assert client.read_response().status == 200
        assert client.read_response().status == 400

    text = printed_by(ask, transport, printed).split(BEGIN)[-1]
    reason = text.splitlines()[-1].partition("refused by the server: ")[2]
    assert text == (
        "2\n"
        "< GET /late HTTP/1.1\n"
        "< Ho st: h\n"
        "< X: y\n"
        "< \n"
        "* connection 1: response to request 2\n"
        "> HTTP/1.1 400 Bad Request\n"
        "> Content-Type: text/plain; charset=utf-8   [server]\n"
        f"> Content-Length: {len(reason) + 1}   [server]\n"
        "> Connection: close   [server]\n"
        "> Date: NOW   [server]\n"
        "> Server: penstock   [server]\n"
        "> \n"
        f"> {reason}\n"
        f"* connection 1: refused by the server: {reason}\n"
    )


def test_a_request_that_hung_is_printed_with_the_504_that_the_client_got(
    transport: str, printed: Printed
) -> None:
    gate = Gate()
    with (
        serving(gate, transport, observers=printed.observers) as server,
        connect(server) as client,
    ):
        client.send(get("/wait"))
        eventually(lambda: gate.inside == 1)
        assert server.transport.abort_all(REASON) == 1
        body = client.read_response().body.decode()
        eventually(lambda: REASON in printed.text())
        gate.open()
    _, _, response = printed.text().partition("response to request 1\n")
    assert response.startswith("> HTTP/1.1 504 Gateway Timeout\n> Content-Type: text/plain")
    assert f"> {body}" in response
    assert "more bytes of the response body" not in response


def test_interim_responses_are_kept_up_to_a_bound(transport: str, printed: Printed) -> None:
    def hinting(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        for _ in range(500):
            environ["wsgi.early_hints"]([("Link", "</style.css>")])
        start_response("200 OK", TEXT)
        return [b""]

    with serving(hinting, transport, observers=printed.observers) as server:
        with connect(server) as client:
            client.send(get("/"))
            while client.read_response().status == 103:
                pass
    assert 1 <= printed.text().count("sent HTTP/1.1 103 Early Hints") <= 100
