"""Kinds of sockets, and the ways in which clients end their side."""

from __future__ import annotations

import json
from pathlib import Path
from wsgiref.types import StartResponse

import pytest

import penstock
from support import applications
from support.serving import (
    TEXT,
    Environ,
    Gate,
    Recorder,
    connect,
    descriptors,
    eventually,
    get,
    post,
)
from support.wire import Client

pytestmark = pytest.mark.parametrize("threads", [1, 4])


def remote(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", TEXT)
    names = ("REMOTE_ADDR", "REMOTE_PORT", "SERVER_NAME", "SERVER_PORT")
    return [json.dumps([environ.get(name) for name in names]).encode()]


def test_ipv4(transport: str, threads: int) -> None:
    with penstock.running(remote, transport=transport, threads=threads) as server:
        with connect(server) as client:
            port = str(client.socket.getsockname()[1])
            answer = json.loads(client.request("GET", "/").body)
            assert answer == ["127.0.0.1", port, "127.0.0.1", str(server.port)]


def test_ipv6(transport: str, threads: int) -> None:
    settings = {"transport": transport, "threads": threads, "bind": ["[::1]:0"]}
    with penstock.running(remote, **settings) as server, connect(server) as client:
        assert server.url == f"http://[::1]:{server.port}"
        assert json.loads(client.request("GET", "/").body)[0] == "::1"


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_unix_socket(transport: str, threads: int, kind: str, tmp_path: Path) -> None:
    name = f"@{tmp_path}" if kind == "abstract" else str(tmp_path / "socket")
    settings = {"transport": transport, "threads": threads, "bind": [f"unix:{name}"]}
    where = name.replace("@", "\0", 1) if kind == "abstract" else name
    with penstock.running(remote, **settings):
        with Client(where) as client:
            client.send(get() * 3)
            for _ in range(3):
                assert json.loads(client.read_response().body)[0] == ""
        with Client(where) as client:
            client.send(b"nonsense\r\n\r\n")
            assert client.read_response().status == 400


def test_several_listeners(transport: str, threads: int, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    settings = {"transport": transport, "threads": threads}
    bind = ["127.0.0.1:0", f"unix:{path}"]
    with penstock.running(Gate(), **settings, bind=bind) as server:
        with connect(server) as first, Client(path) as second:
            for _ in range(5):
                assert first.request("GET", "/tcp").body == b"/tcp"
                assert second.request("GET", "/unix").body == b"/unix"


@pytest.mark.parametrize("data", [get("/"), get("/", version="HTTP/1.0"), post(b"hello")])
def test_rfc9112_9_6_a_client_that_half_closes_gets_its_response(
    transport: str, threads: int, data: bytes
) -> None:
    with penstock.running(applications.echo, transport=transport, threads=threads) as server:
        with connect(server) as client:
            client.send(data)
            client.end_sending()
            assert client.read_response().status == 200
            assert client.read_to_end() == b""


def test_rfc9112_9_6_a_client_that_half_closes_while_it_waits_gets_all_its_responses(
    transport: str, threads: int
) -> None:
    gate = Gate()
    with penstock.running(gate, transport=transport, threads=threads) as server:
        with connect(server) as client:
            client.send(get("/wait") + get("/second") + get("/third"))
            client.end_sending()
            eventually(lambda: gate.inside == 1)
            gate.open()
            answers = [client.read_response().body for _ in range(3)]
            assert answers == [b"/wait", b"/second", b"/third"]
            assert client.read_to_end() == b""
    assert gate.seen == ["/wait", "/second", "/third"]


@pytest.mark.parametrize("data", [b"", get()[:-2], post(b"x", length=2), post(b"", length=1)])
def test_rfc9112_8_a_client_that_resets_within_a_request_is_forgotten(
    transport: str, threads: int, data: bytes
) -> None:
    recorder = Recorder()
    with penstock.running(recorder, transport=transport, threads=threads) as server:
        with connect(server) as other:
            assert other.request("GET", "/").status == 200
            before = descriptors()
            for _ in range(10):
                client = connect(server)
                client.send(data)
                client.reset()
            eventually(lambda: server.snapshot()["connections_accepted"] == 11)
            eventually(lambda: server.snapshot()["connections"] == 1)
            assert descriptors() <= before
    assert recorder.targets == ["/"]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(get(), id="request"),
        pytest.param(get() * 3, id="requests"),
        pytest.param(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", id="OPTIONS asterisk"),
        pytest.param(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n" * 3, id="OPTIONS asterisk thrice"),
        pytest.param(b"nonsense\r\n\r\n", id="nonsense"),
        pytest.param(post(b"", "Expect: 100-continue", length=5), id="expectation"),
    ],
)
def test_a_client_that_resets_before_its_answer_leaves_nothing_behind(
    transport: str, threads: int, data: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    gate = Gate()
    with penstock.running(gate, transport=transport, threads=threads) as server:
        blocked = [connect(server) for _ in range(threads)]
        for client in blocked:
            client.send(get("/wait"))
        eventually(lambda: gate.inside == threads)
        before = descriptors()
        for _ in range(20):
            client = connect(server)
            client.send(data)
            client.reset()
        gate.open()
        for client in blocked:
            assert client.read_response().status == 200
        eventually(lambda: server.snapshot()["connections_accepted"] == threads + 20)
        eventually(lambda: server.snapshot()["connections"] == threads)
        assert server.snapshot()["requests_in_progress"] <= threads
        assert descriptors() <= before
        for client in blocked:
            client.close()
    assert "internal error" not in capfd.readouterr().err
