"""The ids of requests: made so that none can be guessed, or a trusted proxy's."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from wsgiref.types import StartResponse

import pytest

import penstock
from support.serving import TEXT, Environ, Place, address, connect, get
from support.wire import Response, exchange

MADE = re.compile(r"[0-9a-f]+-[0-9a-f]{1,6}-([0-9a-f]{16})")


def show(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    headers = list(TEXT)
    if environ["PATH_INFO"] == "/own":
        headers.append(("x-request-id", "the-application's"))
    start_response("200 OK", headers)
    names = ("penstock.request_id", "HTTP_X_REQUEST_ID", "HTTP_TRACEPARENT")
    return [json.dumps([environ.get(name) for name in names]).encode()]


def ask(server: Place, *fields: str, target: str = "/") -> Response:
    with connect(server) as client:
        client.send(get(target, *fields))
        return client.read_response()


def test_a_made_id_tells_nothing_of_the_next_one(transport: str) -> None:
    with penstock.running(show, transport=transport) as server, connect(server) as client:
        ends = []
        for _ in range(600):  # more than are made at once
            client.send(get())
            made = json.loads(client.read_response().body)[0]
            match = MADE.fullmatch(made)
            assert match is not None, made
            ends.append(int(match[1], 16))
        assert len(set(ends)) == len(ends)
        steps = {(second - first) % (1 << 64) for first, second in pairwise(ends)}
        assert len(steps) == len(ends) - 1


def test_the_id_of_a_trusted_proxy_is_the_requests_everywhere(
    transport: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "access.log"
    settings = {
        "forwarded_headers": ["x-request-id"],
        "access_logfile": str(log),
        "access_logformat": "json",
        "send_request_id": True,
    }
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with penstock.running(show, transport=transport, **settings) as server:
        response = ask(server, "X-Request-ID: 7d1c-9e5a", f"traceparent: {trace}")
        assert json.loads(response.body) == ["7d1c-9e5a", "7d1c-9e5a", trace]
        assert response.header("X-Request-ID") == "7d1c-9e5a"
        refused = ask(server, "X-Request-ID: 7d1c-9e5b", target="https://a/")
        assert (refused.status, refused.header("X-Request-ID")) == (400, "7d1c-9e5b")
    # A thread logs after it sent, so that the line of the second may come first.
    logged = [json.loads(line)["request_id"] for line in log.read_text().splitlines()]
    assert sorted(logged) == ["7d1c-9e5a", "7d1c-9e5b"]
    assert "7d1c-9e5b" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({}, "7d1c"),  # not named
        ({"forwarded_headers": ["x-request-id"], "forwarded_allow_ips": "none"}, "7d1c"),
        ({"forwarded_headers": ["x-request-id"]}, "a b"),
        ({"forwarded_headers": ["x-request-id"]}, 'a"b'),
        ({"forwarded_headers": ["x-request-id"]}, "x" * 129),
        ({"forwarded_headers": ["x-request-id"]}, ""),
    ],
)
def test_any_other_id_is_the_applications_to_read_alone(
    transport: str, settings: dict[str, object], field: str
) -> None:
    with penstock.running(show, transport=transport, **settings) as server:
        made, given, _ = json.loads(ask(server, f"X-Request-ID: {field}").body)
        assert MADE.fullmatch(made)
        assert given == field


def test_responses_have_the_id_where_that_is_switched_on(transport: str) -> None:
    with penstock.running(show, transport=transport, send_request_id=True) as server:
        response = ask(server)
        assert response.header("X-Request-ID") == json.loads(response.body)[0]
        assert ask(server, target="/own").all("X-Request-ID") == ["the-application's"]
        answer = exchange(address(server), b"GET /\r\n\r\n")
        assert re.search(rb"\r\nX-Request-ID: [0-9a-f]+-[0-9a-f]{1,6}-[0-9a-f]{16}\r\n", answer)
    with penstock.running(show, transport=transport) as server:
        assert ask(server).header("X-Request-ID") is None
