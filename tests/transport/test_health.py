"""Health and readiness checks: answered by the transport, whatever the application is at."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from penstock.telemetry.scoreboard import BEAT, LIVE, READY, STALE_BEAT_SECONDS, STARTED
from support.serving import Gate, Recorder, connect, eventually, get, post
from support.transports import BareServer, serving
from support.wire import Client, Response

PATHS: dict[str, Any] = {"health_path": "/healthz", "ready_path": "/readyz"}


def ask(server: BareServer, target: str, method: str = "GET") -> Response:
    """Return the answer to a check on a connection of its own."""
    with connect(server) as client:
        return client.request(method, target)


def check(response: Response, status: int) -> None:
    assert response.status == status
    assert response.body == (b"ok\n" if status == 200 else b"no\n")
    assert response.header("Content-Type") == "text/plain"
    assert response.header("Cache-Control") == "no-store"
    assert response.header("Content-Length") == "3"
    assert response.header("Date") is not None
    assert response.header("Server") == "penstock"
    assert response.header("Connection") is None


@pytest.mark.parametrize("threads", [1, 4])
def test_ready_is_what_the_scoreboard_says(transport: str, threads: int) -> None:
    with serving(Gate(), transport, threads=threads, **PATHS) as server:
        check(ask(server, "/readyz"), 503)
        server.slot.words[READY] = 1
        check(ask(server, "/readyz"), 200)
        server.slot.words[READY] = 0
        check(ask(server, "/readyz"), 503)


@pytest.mark.parametrize("threads", [1, 4])
def test_healthy_is_a_worker_that_is_live_and_whose_watchdog_runs(
    transport: str, threads: int
) -> None:
    with serving(Gate(), transport, threads=threads, **PATHS) as server:
        words = server.slot.words
        check(ask(server, "/healthz"), 503)
        words[LIVE] = 1
        check(ask(server, "/healthz"), 200)
        words[BEAT] = time.monotonic_ns()
        check(ask(server, "/healthz"), 200)
        words[BEAT] = time.monotonic_ns() - int((STALE_BEAT_SECONDS + 1) * 1e9)
        check(ask(server, "/healthz"), 503)
        words[BEAT] = time.monotonic_ns()
        check(ask(server, "/healthz"), 200)
        words[LIVE] = 0
        check(ask(server, "/healthz"), 503)


def test_head_gets_the_same_without_the_body(transport: str) -> None:
    with serving(Gate(), transport, **PATHS) as server, connect(server) as client:
        server.slot.words[READY] = 1
        for _ in range(2):  # whose second shows that no body came
            response = client.request("HEAD", "/readyz")
            assert response.status == 200
            assert response.header("Content-Length") == "3"


def test_the_query_does_not_matter_and_the_rest_of_the_path_does(transport: str) -> None:
    recorder = Recorder()
    with serving(recorder, transport, **PATHS) as server:
        server.slot.words[READY] = 1
        check(ask(server, "/readyz?from=balancer"), 200)
        check(ask(server, "http://elsewhere/readyz"), 200)
        others = ["/readyz/", "/readyz/x", "/ready", "/%72eadyz", "/x/readyz"]
        for target in others:
            assert ask(server, target).header("Cache-Control") is None
        assert recorder.targets == others


def test_options_is_a_check_too_as_some_proxies_ask(transport: str) -> None:
    recorder = Recorder()
    with serving(recorder, transport, **PATHS) as server:
        check(ask(server, "/readyz?from=balancer", "OPTIONS"), 503)
        server.slot.words[READY] = 1
        with connect(server) as client:
            for _ in range(2):
                response = client.request("OPTIONS", "/readyz")
                check(response, 200)
                assert response.header("Allow") == "GET, HEAD, OPTIONS"
        with connect(server) as client:
            client.send(b"OPTIONS /readyz HTTP/1.0\r\n\r\n")
            assert client.read_response().status == 200
            assert client.read_to_end() == b""
    assert recorder.targets == []


def test_another_method_is_the_applications(transport: str) -> None:
    recorder = Recorder()
    with serving(recorder, transport, **PATHS) as server, connect(server) as client:
        client.send(post(b"body", target="/readyz"))
        assert json.loads(client.read_response().body)["body"] == "body"
    assert recorder.targets == ["/readyz"]


def test_without_a_path_there_are_no_checks(transport: str) -> None:
    recorder = Recorder()
    with serving(recorder, transport) as server:
        assert ask(server, "/healthz").status == 200
        assert ask(server, "/readyz").status == 200
    assert recorder.targets == ["/healthz", "/readyz"]


def test_checks_go_on_with_requests_on_one_connection(transport: str) -> None:
    recorder = Recorder()
    with serving(recorder, transport, **PATHS) as server, connect(server) as client:
        server.slot.words[READY] = 1
        client.send((get("/readyz") + get("/a") + get("/healthz") + get("/b")) * 3)
        for _ in range(3):
            check(client.read_response(), 200)
            assert json.loads(client.read_response().body)["RAW_URI"] == "/a"
            check(client.read_response(), 503)
            assert json.loads(client.read_response().body)["RAW_URI"] == "/b"
        assert client.request("GET", "/readyz", {"Connection": "close"}).header("Connection")
        assert client.read_to_end() == b""
    assert recorder.targets == ["/a", "/b"] * 3


def test_a_check_with_a_body_is_answered_and_the_body_is_no_request(transport: str) -> None:
    with serving(Recorder(), transport, stream_requests=True, **PATHS) as server:
        server.slot.words[READY] = 1
        with connect(server) as client:
            for _ in range(2):
                client.send(post(b"GET / HTTP/1.1", target="/readyz").replace(b"POST", b"GET", 1))
                check(client.read_response(), 200)


def test_checks_have_no_line_in_the_access_log_and_count_as_nothing(
    transport: str, tmp_path: Path
) -> None:
    path = tmp_path / "access.log"
    with serving(Gate(), transport, access_log=path, **PATHS) as server:
        for target in ("/healthz", "/readyz", "/other"):
            assert ask(server, target).status in (200, 503)
        assert server.word(STARTED) == 1
    assert [json.loads(line)["url.path"] for line in path.read_text().splitlines()] == ["/other"]


@pytest.mark.parametrize("threads", [1, 3])
def test_checks_are_answered_while_every_thread_is_busy(transport: str, threads: int) -> None:
    gate = Gate()
    with serving(gate, transport, threads=threads, **PATHS) as server:
        server.slot.words[READY] = server.slot.words[LIVE] = 1
        with connect(server) as old:
            check(old.request("GET", "/readyz"), 200)
            busy = [connect(server) for _ in range(threads)]
            for client in busy:
                client.send(get("/wait"))
            eventually(lambda: gate.inside == threads)
            for _ in range(3):
                check(ask(server, "/readyz"), 200)
                check(ask(server, "/healthz"), 200)
                check(old.request("GET", "/healthz"), 200)
            assert gate.inside == threads
            gate.open()
            for client in busy:
                assert client.read_response().status == 200
                client.close()


def test_a_request_behind_a_busy_thread_waits_for_it_still(transport: str) -> None:
    """A thread answers the checks, and none is left to run the application."""
    gate = Gate()
    with serving(gate, transport, **PATHS) as server:
        with connect(server) as busy, connect(server) as waiting:
            busy.send(get("/wait"))
            eventually(lambda: gate.inside == 1)
            waiting.send(get("/next"))
            check(ask(server, "/readyz"), 503)
            assert gate.seen == ["/wait"]
            gate.open()
            assert busy.read_response().body == b"/wait"
            assert waiting.read_response().body == b"/next"
    assert len(gate.threads) == 1


def test_who_drains_is_not_ready(transport: str) -> None:
    gate = Gate()
    with serving(gate, transport, threads=2, **PATHS) as server:
        server.slot.words[READY] = server.slot.words[LIVE] = 1
        with connect(server) as busy, connect(server) as client:
            check(client.request("GET", "/readyz"), 200)
            busy.send(get("/wait"))
            eventually(lambda: gate.inside == 1)
            server.transport.drain()
            assert client.request("GET", "/readyz").status == 503
            gate.open()
            assert busy.read_response().status == 200


def test_one_thread_ends_with_its_checks(transport: str) -> None:
    with serving(Gate(), transport, **PATHS) as server:
        with Client((server.host, server.port)) as client:
            assert client.request("GET", "/").status == 200
        server.transport.drain()
        eventually(server.is_over)
