"""The bare loop in C that calls a WSGI application: only right answers make it a measure."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import environment, installing
from harness.servers import HOST, free_port
from support.proxies import answers
from support.serving import eventually
from support.wire import Client

APPLICATION = """
LARGE = bytes(range(256)) * 4096
closed = []


class Blocks:
    def __iter__(self):
        yield b"one, "
        yield b"two"

    def close(self):
        closed.append(self)


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Place", "caf\\xe9")])
    match environ["PATH_INFO"]:
        case "/large":
            return (LARGE,)
        case "/blocks":
            return Blocks()
        case "/closed":
            return [b"%d" % len(closed)]
        case "/fails":
            raise RuntimeError("the application fails")
    said = "{REQUEST_METHOD} {PATH_INFO} {QUERY_STRING}\\n".format(**environ)
    length = int(environ.get("CONTENT_LENGTH", 0))
    return [said.encode(), environ["wsgi.input"].read(length)]
"""

Connect = Callable[..., Client]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("floor_wsgi")
    why = installing.compile_module(made)
    if why.startswith("it is compiled with"):
        pytest.skip(f"the bare loop cannot be compiled here: {why}")
    assert not why
    (made / "application.py").write_text(APPLICATION)
    return made


def serving(folder: Path, *closing: str) -> Iterator[Connect]:
    """Run the server; yield what connects to it."""
    port = free_port()
    runner = str(environment.BENCHMARKS / "runners.py")
    command = [sys.executable, runner, "floor-wsgi", "application:app", HOST, str(port)]
    variables = {**os.environ, "PYTHONPATH": str(folder)}
    process = subprocess.Popen([*command, *closing], env=variables, stderr=subprocess.DEVNULL)

    def connect(receive_buffer: int | None = None) -> Client:
        return Client((HOST, port), receive_buffer=receive_buffer)

    try:
        eventually(lambda: answers(port) or process.poll() is not None)
        assert process.poll() is None, "the server has ended"
        yield connect
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def connect(folder: Path) -> Iterator[Connect]:
    yield from serving(folder)


@pytest.fixture
def connect_to_closing(folder: Path) -> Iterator[Connect]:
    yield from serving(folder, "close")


def test_a_get_is_answered_with_all_fields(connect: Connect) -> None:
    with connect() as client:
        for _ in range(2):
            response = client.request("GET", "/some/path?a=b")
            assert (response.status, response.reason) == (200, "OK")
            assert response.body == b"GET /some/path a=b\n"
            assert response.header("X-Place") == "caf\xe9"
            assert response.header("Content-Length") == "19"
            assert response.header("Server") == "floor"
            assert response.header("Date")


def test_a_head_may_come_byte_by_byte(connect: Connect) -> None:
    with connect() as client:
        client.send_bytewise(b"GET /path HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.read_response().body == b"GET /path \n"


def test_the_application_reads_a_body_that_came_in_two_packets(connect: Connect) -> None:
    body = os.urandom(300_000)
    head = b"POST /take HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body)
    with connect() as client, connect() as other:
        client.send(head + body[:1000])
        # One poll brings both, or that of the body was before: it has been read by now.
        other.request("GET", "/")
        client.send(body[1000:])
        assert client.read_response().body == b"POST /take \n" + body
        # What this request had must not be left for the next one.
        assert client.request("GET", "/").body == b"GET / \n"


def test_large_answers_arrive_whole_where_the_kernel_takes_them_in_parts(connect: Connect) -> None:
    with connect(receive_buffer=8192) as client:
        client.send(b"GET /large HTTP/1.1\r\n\r\n" * 8)
        for _ in range(8):
            assert client.read_response().body == bytes(range(256)) * 4096
        assert client.request("GET", "/").body == b"GET / \n"


def test_pipelined_requests_are_answered_in_their_order(connect: Connect) -> None:
    with connect() as client:
        client.send(
            b"GET /1 HTTP/1.1\r\n\r\n"
            b"POST /2 HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello"
            b"GET /3 HTTP/1.1\r\n\r\n"
            b"GET /4 HT"
        )
        bodies = [client.read_response().body for _ in range(3)]
        assert bodies == [b"GET /1 \n", b"POST /2 \nhello", b"GET /3 \n"]
        client.send(b"TP/1.1\r\n\r\n")
        assert client.read_response().body == b"GET /4 \n"


def test_blocks_are_joined_and_close_is_called(connect: Connect) -> None:
    with connect() as client:
        before = int(client.request("GET", "/closed").body)
        assert client.request("GET", "/blocks").body == b"one, two"
        assert int(client.request("GET", "/closed").body) == before + 1


def test_an_application_that_raises_ends_its_own_connection_alone(connect: Connect) -> None:
    with connect() as client, connect() as other:
        client.send(b"GET /fails HTTP/1.1\r\n\r\n")
        assert client.is_closed_by_server()
        assert other.request("GET", "/").status == 200


def test_each_connection_is_closed_after_its_answer_where_that_is_asked_for(
    connect_to_closing: Connect,
) -> None:
    for path in ("/", "/large", "/"):
        with connect_to_closing() as client:
            response = client.request("GET", path)
            assert response.header("Connection") == "close"
            assert response.complete
            assert client.is_closed_by_server()
