"""Giving up what is with an application that does not come back."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from wsgiref.types import StartResponse

import pytest

from support.serving import TEXT, Environ, Gate, connect, eventually, get, post
from support.transports import serving

REASON = "timeout: its thread did not come back"


def logged(path: Path) -> list[tuple[str, int, str]]:
    """Return path, status and reason of each line in the access log."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return sorted(
        (line["url.path"], line["http.response.status_code"], line.get("reason") or "")
        for line in lines
    )


@pytest.mark.parametrize("threads", [1, 3])
def test_clients_that_got_nothing_get_504(transport: str, threads: int, tmp_path: Path) -> None:
    gate = Gate()
    path = tmp_path / "access.log"
    with serving(gate, transport, threads=threads, access_log=path) as server:
        clients = [connect(server) for _ in range(threads)]
        for client in clients:
            client.send(get("/wait"))
        eventually(lambda: gate.inside == threads)
        assert server.transport.abort_all(REASON) == threads
        for client in clients:
            response = client.read_response()
            assert response.status == 504
            assert response.header("Connection") == "close"
            assert response.complete
            assert client.read_to_end() == b""
            client.close()
        assert server.transport.abort_all(REASON) == 0
        gate.open()
        eventually(lambda: gate.inside == 0)
    assert logged(path) == [("/wait", 504, REASON)] * threads


def test_head_gets_504_without_a_body(transport: str) -> None:
    gate = Gate()
    with serving(gate, transport) as server, connect(server) as client:
        client.send(get("/wait").replace(b"GET", b"HEAD"))
        eventually(lambda: gate.inside == 1)
        assert server.transport.abort_all(REASON) == 1
        assert client.read_response("HEAD").status == 504
        assert client.read_to_end() == b""
        gate.open()


@pytest.mark.parametrize("threads", [1, 3])
def test_a_response_that_has_begun_is_cut_off(transport: str, threads: int, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    go_on = threading.Event()

    def application(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("202 Accepted", TEXT)
        yield b"begun"
        assert go_on.wait(10)
        yield b"more"

    with serving(application, transport, threads=threads, access_log=path) as server:
        with connect(server) as client:
            client.send(get("/begun"))
            eventually(lambda: client.socket.recv(65536).endswith(b"begun\r\n"))
            assert server.transport.abort_all(REASON) == 1
            assert client.read_to_end() == b""
        go_on.set()
    assert logged(path) == [("/begun", 202, REASON)]


@pytest.mark.parametrize("threads", [1, 3])
def test_a_thread_that_comes_back_finds_its_exchange_over_and_serves_on(
    transport: str, threads: int, tmp_path: Path
) -> None:
    gate = Gate()
    path = tmp_path / "access.log"
    with serving(gate, transport, threads=threads, access_log=path) as server:
        with connect(server) as client:
            client.send(get("/wait"))
            eventually(lambda: gate.inside == 1)
            assert server.transport.abort_all(REASON) == 1
            assert client.read_response().status == 504
            gate.open()
            assert client.read_to_end() == b""
        with connect(server) as other:
            assert other.request("GET", "/other").body == b"/other"
        eventually(lambda: server.snapshot()["connections"] == 0)
    assert logged(path) == [("/other", 200, ""), ("/wait", 504, REASON)]


def test_what_is_not_with_the_application_is_left_alone(transport: str) -> None:
    with serving(Gate(), transport) as server, connect(server) as client:
        assert server.transport.abort_all(REASON) == 0
        assert client.request("GET", "/").status == 200
        eventually(lambda: not list(server.slot.requests()))
        assert server.transport.abort_all(REASON) == 0
        assert client.request("GET", "/").status == 200


def test_what_waits_for_a_thread_is_left_alone(transport: str) -> None:
    gate = Gate()
    with serving(gate, transport, threads=2) as server:
        busy = [connect(server) for _ in range(2)]
        for client in busy:
            client.send(get("/wait"))
        eventually(lambda: gate.inside == 2)
        with connect(server) as waiting:
            waiting.send(get("/next"))
            eventually(lambda: server.snapshot()["requests"] == 3)
            assert server.transport.abort_all(REASON) == 2
            for client in busy:
                assert client.read_response().status == 504
                client.close()
            gate.open()
            assert waiting.read_response().body == b"/next"


def test_a_streamed_request_is_given_up(transport: str, tmp_path: Path) -> None:
    """Its body is still under way: the client reads the answer all the same."""
    path = tmp_path / "access.log"
    read = threading.Event()
    failures: list[Exception] = []

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        assert environ["wsgi.input"].read(1) == b"x"
        read.set()
        try:
            environ["wsgi.input"].read()
        except Exception as error:
            failures.append(error)
        start_response("200 OK", TEXT)
        return [b"too late"]

    with serving(
        application, transport, threads=2, access_log=path, stream_requests=True
    ) as server:
        with connect(server) as client:
            client.send(post(b"x", target="/upload", length=100))
            assert read.wait(10)
            assert server.transport.abort_all(REASON) == 1
            assert client.read_response().status == 504
            assert client.read_to_end() == b""
        eventually(lambda: len(failures) == 1)
    assert isinstance(failures[0], OSError)
    assert logged(path) == [("/upload", 504, REASON)]
