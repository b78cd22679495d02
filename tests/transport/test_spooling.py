"""Where request bodies are kept: in memory, on disk, and nowhere once the disk is full."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse

import pytest

import penstock
from support.server_process import ServerProcess
from support.serving import TEXT, Environ, connect, descriptors, eventually, post
from support.wire import Client, Response, chunked

LIMIT = 1000
COLLECTED = {"body_memory": LIMIT, "stream_requests": False}

both = pytest.mark.parametrize("threads", [1, 4])


def places(environ: Environ, start_response: StartResponse) -> list[bytes]:
    """Tell where the body is, how long it is said to be, and what it is."""
    body = environ["wsgi.input"]
    try:
        place = "disk" if body.fileno() > 2 else "?"
    except io.UnsupportedOperation:
        place = "memory"
    first = body.read(3)
    rest = body.read()
    start_response("200 OK", TEXT)
    report = [place, environ.get("CONTENT_LENGTH"), len(first + rest), sum(first + rest)]
    return [json.dumps(report).encode()]


def send_body(client: Client, body: bytes, framing: str) -> Response:
    if framing == "length":
        client.send(post(body))
    else:
        parts = [body[start : start + 700] for start in range(0, len(body), 700)]
        head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        client.send(head + chunked(*parts))
    return client.read_response()


@both
@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize(
    ("size", "place"),
    [(1, "memory"), (LIMIT, "memory"), (LIMIT + 1, "disk"), (3_000_000, "disk")],
)
def test_a_body_is_in_memory_up_to_the_limit_and_on_disk_above(
    transport: str, threads: int, framing: str, size: int, place: str
) -> None:
    settings = {"transport": transport, "threads": threads, **COLLECTED}
    with penstock.running(places, **settings) as server, connect(server) as client:
        body = bytes(range(251)) * (size // 251) + b"z" * (size % 251)
        for _ in range(2):
            response = send_body(client, body, framing)
            # A chunked body has its length too: by now it is known, and Django reads nothing else.
            assert json.loads(response.body) == [place, str(size), size, sum(body)]


@both
def test_a_body_of_1_mib_is_in_memory_while_all_bodies_take_little_of_what_they_may(
    transport: str, threads: int
) -> None:
    settings = {"transport": transport, "threads": threads, "max_body_memory": "4MiB"}
    settings["stream_requests"] = False
    with penstock.running(places, **settings) as server, connect(server) as client:

        def place_of(size: int) -> str:
            return str(json.loads(send_body(client, b"x" * size, "length").body)[0])

        assert (place_of(1 << 20), place_of((1 << 20) + 1)) == ("memory", "disk")
        with connect(server) as one, connect(server) as two:
            # A quarter of what bodies may take waits for its end.
            one.send(post(b"x" * ((1 << 20) - 1), length=1 << 20))
            two.send(post(b"x", length=2))
            eventually(lambda: place_of((64 << 10) + 1) == "disk")
            assert place_of(64 << 10) == "memory"


@both
def test_spooled_bodies_leave_no_descriptor_behind(
    transport: str, threads: int, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"transport": transport, "threads": threads, **COLLECTED}
    with penstock.running(places, **settings, temp_dir=str(tmp_path)) as server:
        with connect(server) as client:
            assert send_body(client, b"x", "length").status == 200
            before = descriptors()
            for _ in range(10):
                assert send_body(client, b"x" * 50_000, "length").status == 200
            for number in range(10):  # left in the middle, refused in the middle
                with connect(server) as other:
                    if number % 2:
                        other.send(post(b"x" * 5000, length=9000))
                    else:
                        bad = b"%x\r\n%b\r\nxyz\r\n" % (5000, b"x" * 5000)
                        other.send(
                            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                            + bad
                        )
                        assert other.read_response().status == 400
            eventually(lambda: server.snapshot()["connections"] == 1)
            eventually(lambda: descriptors() <= before)
            assert list(tmp_path.iterdir()) == []


@both
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_rfc4918_11_5_without_room_for_a_body_it_is_a_507_and_others_go_on(
    transport: str, threads: int, framing: str, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"transport": transport, "threads": threads, **COLLECTED}
    folder = tmp_path / "folder"
    folder.mkdir()
    with penstock.running(places, **settings, temp_dir=str(folder)) as server:
        folder.rmdir()
        with connect(server) as small:
            assert send_body(small, b"x" * LIMIT, framing).status == 200
            before = descriptors()
            for _ in range(5):
                with connect(server) as client:
                    response = send_body(client, b"x" * 500_000, framing)
                    assert (response.status, response.header("Connection")) == (507, "close")
                    assert str(tmp_path) not in response.body.decode()
                    assert client.read_to_end() == b""
            assert send_body(small, b"x" * LIMIT, framing).status == 200
            eventually(lambda: descriptors() <= before)


def test_rfc4918_11_5_a_disk_that_fills_up_within_a_body_is_a_507(transport: str) -> None:
    here = Path(__file__).parents[1] / "support"
    limits = {"LIMIT_FSIZE": "2000000"}
    arguments = ("self_reporting:app", "--transport", transport, "--no-stream-requests")
    with ServerProcess(*arguments, cwd=here, environ=limits) as server:
        with Client(server.address) as small:

            def descriptors() -> int:
                report = json.loads(send_body(small, b"x" * 1000, "length").body)
                return int(report["descriptors"])

            before = descriptors()
            for size, status in (
                (1_900_000, 200),
                (3_000_000, 507),
                (5_000_000, 507),
                (1_900_000, 200),
            ):
                with Client(server.address) as client:
                    assert send_body(client, b"x" * size, "length").status == status
            eventually(lambda: descriptors() <= before)  # the others' connections are to close
