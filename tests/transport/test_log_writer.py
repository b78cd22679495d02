"""What the logs and the trace tell of exchanges that did not go the plain way."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse

import pytest

import penstock
from support.serving import TEXT, Environ, Gate, Recorder, connect, eventually, get, post
from support.wire import DEADLINE


def json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of an access log in JSON."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_request_whose_client_has_reset_while_it_was_queued_never_runs(
    transport: str, tmp_path: Path
) -> None:
    gate = Gate()
    log = tmp_path / "access.log"
    with (
        penstock.running(
            gate,
            transport=transport,
            threads=2,
            access_logfile=str(log),
            access_logformat="json",
        ) as server,
        connect(server) as first,
        connect(server) as second,
        connect(server) as third,
    ):
        for client in (first, second):
            client.send(get("/wait"))
        eventually(lambda: gate.inside == 2)
        third.send(get("/gone"))
        # Queued: both threads are with the application.
        eventually(lambda: server.snapshot()["requests_in_progress"] == 3)
        third.reset()
        gate.open()
        for client in (first, second):
            assert client.read_response().status == 200
        eventually(lambda: server.snapshot()["requests_in_progress"] == 0)
    assert "/gone" not in gate.seen
    (gone,) = [line for line in json_lines(log) if line["url.path"] == "/gone"]
    assert gone["http.response.status_code"] == 499
    assert gone["http.response.body.size"] == 0


def test_RFC9112_9_6_what_arrives_behind_a_last_request_does_not_cost_its_response(
    transport: str,
) -> None:
    body = b"x" * 3_000_000

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", TEXT)
        return [body]

    with (
        penstock.running(app, transport=transport) as server,
        connect(server, receive_buffer=65536) as client,
    ):
        client.send(get("/", "Connection: close"))
        eventually(lambda: server.snapshot()["requests"] == 1)
        client.send(b"\r\n")  # as old clients add to a body
        response = client.read_response()
        assert response.complete
        assert len(response.body) == len(body)


def test_pep3333_any_negative_size_reads_all_of_a_spooled_body(transport: str) -> None:
    sizes: list[int] = []

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        sizes.append(len(environ["wsgi.input"].read(-2)))
        start_response("200 OK", TEXT)
        return [b""]

    with penstock.running(app, transport=transport) as server, connect(server) as client:
        for size in (10, 100_000):
            client.send(post(b"b" * size))
            assert client.read_response().status == 200
    assert sizes == [10, 100_000]


def test_RFC9110_9_3_2_a_HEAD_that_is_refused_in_its_head_gets_no_body(transport: str) -> None:
    with penstock.running(Recorder(), transport=transport) as server, connect(server) as client:
        client.send(b"HEAD / HTTP/1.1\r\n\r\n")  # no Host
        answer = client.read_to_end()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.endswith(b"\r\n\r\n")


def test_a_refusal_names_what_was_asked_for_in_both_logs(transport: str, tmp_path: Path) -> None:
    access, errors = tmp_path / "access.log", tmp_path / "errors.log"
    with (
        penstock.running(
            Recorder(),
            transport=transport,
            max_body=10,
            access_logfile=str(access),
            access_logformat="json",
            error_logfile=str(errors),
        ) as server,
        connect(server) as client,
    ):
        client.send(post(b"", "User-Agent: probe", target="/upload", length=11))
        answer = client.read_response()
        assert answer.status == 413
    (record,) = json_lines(access)
    assert record["url.path"] == "/upload"
    assert record["http.request.method"] == "POST"
    assert record["user_agent.original"] == "probe"
    assert record["http.response.body.size"] == len(answer.body)
    (line,) = [line for line in errors.read_text("utf-8").splitlines() if "refused" in line]
    assert '"POST /upload HTTP/1.1"' in line
    assert "setting: max_body" in line


def test_a_body_that_the_client_breaks_off_is_told_of(transport: str, tmp_path: Path) -> None:
    access, errors = tmp_path / "access.log", tmp_path / "errors.log"
    with penstock.running(
        Recorder(),
        transport=transport,
        access_logfile=str(access),
        access_logformat="json",
        error_logfile=str(errors),
    ) as server:
        client = connect(server)
        client.send(post(b"half", length=8))
        eventually(lambda: server.snapshot()["connections"] == 1)
        client.reset()
        eventually(lambda: server.snapshot()["connections_accepted"] == 1)
        eventually(lambda: server.snapshot()["connections"] == 0)
    # The head may have been lost with the reset, if it came first: then there is nothing to tell.
    for record in json_lines(access):
        assert record["http.response.status_code"] == 499


def test_the_bytes_of_a_response_that_was_cut_off_are_those_that_left(
    transport: str, tmp_path: Path
) -> None:
    log = tmp_path / "access.log"
    size = 50_000_000

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", TEXT)
        return [b"x" * size]

    with penstock.running(
        app, transport=transport, access_logfile=str(log), access_logformat="json"
    ) as server:
        client = connect(server, receive_buffer=65536)
        client.send(get("/"))
        assert client.socket.recv(1000)
        client.reset()
        eventually(lambda: server.snapshot()["connections"] == 0)
    (record,) = json_lines(log)
    assert 0 < record["http.response.body.size"] < size
    assert record["reason"] == "client disconnected: the client is gone"


@pytest.mark.parametrize("blocks", [1, 100])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_reset_has_one_text_whatever_thread_meets_it(
    transport: str, threads: int, blocks: int, tmp_path: Path
) -> None:
    access, errors = tmp_path / "access.log", tmp_path / "errors.log"

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", TEXT)
        return [b"x" * (50_000_000 // blocks) for _ in range(blocks)]

    with penstock.running(
        app,
        transport=transport,
        threads=threads,
        access_logfile=str(access),
        access_logformat="json",
        error_logfile=str(errors),
    ) as server:
        client = connect(server, receive_buffer=65536)
        client.send(get("/big"))
        assert client.socket.recv(1000)
        client.reset()
        eventually(access.read_text)
    (record,) = json_lines(access)
    assert record["reason"] == "client disconnected: the client is gone"
    (line,) = [line for line in errors.read_text("utf-8").splitlines() if "/big" in line]
    name = f"GET /big (request {record['request_id']})"
    assert line.endswith(f"[INFO] {name}: client disconnected: the client is gone")


def test_a_head_that_has_only_begun_does_not_hold_up_a_stop(transport: str) -> None:
    stopped = threading.Event()

    def run() -> None:
        with penstock.running(Recorder(), transport=transport) as server:
            client = connect(server)
            client.send(b"GET / HT")
            eventually(lambda: server.snapshot()["connections"] == 1)
            clients.append(client)
        stopped.set()

    clients: list[Any] = []
    thread = threading.Thread(target=run)
    thread.start()
    assert stopped.wait(DEADLINE)  # the head's own deadline is at 30 s
    thread.join()
    for client in clients:
        client.close()
