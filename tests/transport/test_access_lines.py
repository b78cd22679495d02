"""The access log's lines are the same, whichever transport makes them."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import penstock
from conftest import TRANSPORTS
from support.serving import Environ, Gate, connect, eventually, get, post

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse

EVERY_ATOM = (
    "%(h)s %(l)s %(u)s [%(r)s] %(m)s %(U)s %(q)s %(H)s %(s)s %(B)d %(b)s %(f)s %(a)s %(p)s 100%%"
    " %({Host}i)s %({Cookie}i)s %(queue)s %(peer)s %({X-Twice}i)s %({None}i)s %({X-Out}o)s"
    " %({None}o)s µ"
)

WHAT_DIFFERS = [
    (re.compile(r'"time":"[^"]+"|\[\d\d/\w{3}/\d{4}:[^]]+\]'), "TIME"),
    (re.compile(r'"client.port":\d+'), "PORT"),
    (re.compile(r'"http.server.request.duration":\d+\.\d{6},'), "DURATION"),
    (re.compile(r'"queue":\d+\.\d{6}(?=,)|(?<= )\d+\.\d{6}(?= )'), "QUEUE"),
    (re.compile(r'"request_id":"[0-9a-f]+-[0-9a-f]+-[0-9a-f]{16}'), "ID"),
]
"""The same from one run to the next, in both languages."""

REQUESTS = [
    get("/plain?x=1&y=%20"),
    get("/", "User-Agent: curl/8", "Referer: http://a/b"),
    get("/", "User-Agent:", "Referer:"),
    get("/quoted'", 'User-Agent: "q" \\ tab\there', "Referer: -"),
    get("/", "User-Agent: caf\xc3\xa9", "Cookie: a=1", "Cookie: b=2", "X-Twice: 1", "X-Twice: 2"),
    get("/", "Authorization: Basic dXNlcjpwYXNz"),
    get("/", "Authorization: Bearer abc"),
    get("http://other/path?q"),
    get("http://other?q"),
    get("/old", "Connection: keep-alive", version="HTTP/1.0"),
    post(b"x" * 100),
    get("/nothing").replace(b"GET", b"HEAD"),
    b"GET /two words HTTP/1.1\r\n\r\n",
]


def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
    environ["wsgi.input"].read()
    headers = [("X-Out", '1 "2"'), ("X-Out", "\xe9")]
    start_response("200 OK", headers)
    return [] if environ["PATH_INFO"] == "/nothing" else [b"twelve bytes"]


def lines(transport: str, format: str, path: Path) -> list[str]:
    """Return what a server logs of the requests, without what differs in any case."""
    with (
        penstock.running(
            application, transport=transport, access_logfile=str(path), access_logformat=format
        ) as server,
        connect(server) as client,
    ):
        for request in REQUESTS:
            client.send(request)
            assert client.read_response(request.split()[0].decode()).status in (200, 400)
    text = path.read_text("utf-8")
    for pattern, name in WHAT_DIFFERS:
        text = pattern.sub(name, text)
    return text.replace(f":{server.port}", ":PORT").splitlines()


def test_lines_are_written_while_the_server_runs(transport: str, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    with (
        penstock.running(
            application, transport=transport, access_logfile=str(path), access_logformat="%(U)s"
        ) as server,
        connect(server) as client,
    ):
        for count in range(1, 4):  # each finds the writer asleep again
            assert client.request("GET", "/").status == 200
            eventually(partial(has_lines, path, count))


def has_lines(path: Path, count: int) -> bool:
    return path.read_text().count("\n") == count


@pytest.mark.skipif(len(TRANSPORTS) < 2, reason="the native transport is not built")
@pytest.mark.parametrize("format", ["combined", "json", EVERY_ATOM, "%(t)s", "%({penstock.x}e)s"])
def test_every_transport_makes_the_same_lines(format: str, tmp_path: Path) -> None:
    reference, *others = [lines(each, format, tmp_path / each) for each in TRANSPORTS]
    assert len(reference) == len(REQUESTS)
    for other in others:
        assert other == reference


@pytest.mark.parametrize("size", [5, 500_000])
@pytest.mark.parametrize("framing", ["whole", "chunked"])
def test_bytes_for_a_client_that_has_gone_are_not_logged_as_sent(
    transport: str, framing: str, size: int, tmp_path: Path
) -> None:
    log = tmp_path / "access.log"
    gate = Gate()

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        gate(environ, start_response)
        return [b"x" * size] if framing == "whole" else iter([b"x" * size] * 2)

    settings = {"access_logfile": str(log), "access_logformat": "%(B)s"}
    with penstock.running(application, transport=transport, **settings) as server:
        with connect(server) as client:
            client.send(get("/wait"))
            eventually(lambda: gate.inside)
            client.reset()
        gate.open()
        eventually(log.read_text)
    assert log.read_text() == "0\n"
