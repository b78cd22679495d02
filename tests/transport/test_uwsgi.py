"""The uwsgi protocol on the wire: what an application gets, and what a front-end gets back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse

import pytest

import penstock
from penstock.telemetry.scoreboard import CLIENT_CONNECTIONS, DENIED
from support.serving import TEXT, Environ, Place, address, connect, eventually
from support.uwsgi import BASIC, Pair, packet, packet_of, pairs
from support.wire import Client, Response, exchange, parse_head

SHOWN = ("REQUEST_METHOD", "REQUEST_URI", "RAW_URI", "SCRIPT_NAME", "PATH_INFO", "QUERY_STRING",
         "SERVER_PROTOCOL", "wsgi.url_scheme", "HTTPS", "REMOTE_ADDR", "REMOTE_PORT",
         "SERVER_NAME", "SERVER_PORT", "HTTP_HOST", "CONTENT_LENGTH", "CONTENT_TYPE",
         "REMOTE_USER", "HTTP_X_A", "HTTP_PROXY", "HTTP_X_FORWARDED_FOR",
         "HTTP_TRANSFER_ENCODING", "penstock.request_id")  # fmt: skip


def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path == "/stream":
        start_response("200 OK", TEXT)
        return iter([b"one ", b"two ", b"three"])
    if path == "/unmodified":
        start_response("304 Not Modified", [("ETag", '"a"')])
        return []
    body = environ["wsgi.input"].read()
    start_response("200 OK", TEXT)
    shown: dict[str, Any] = {name: environ[name] for name in SHOWN if name in environ}
    return [json.dumps(shown | {"body": body.decode("latin-1")}).encode()]


@contextmanager
def server_with(transport: str, **settings: Any) -> Iterator[Place]:
    settings = {"bind": "uwsgi://127.0.0.1:0"} | settings
    with penstock.running(application, transport=transport, **settings) as server:
        yield server


def answer(server: Place, data: bytes, *, bytewise: bool = False) -> tuple[Response, bytes]:
    """Return head and body of the answer, which the end of the connection ends."""
    head, _, body = exchange(address(server), data, bytewise=bytewise).partition(b"\r\n\r\n")
    return parse_head(head), body


def shown(server: Place, data: bytes, *, bytewise: bool = False) -> dict[str, str]:
    response, body = answer(server, data, bytewise=bytewise)
    assert response.status == 200, body
    given: dict[str, str] = json.loads(body)
    return given


@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])
def test_the_environ_is_that_of_the_client(transport: str, bytewise: bool) -> None:
    with server_with(transport) as server:
        given = shown(server, packet(HTTP_X_A="1", REMOTE_USER="me"), bytewise=bytewise)
        assert given.pop("penstock.request_id")
        assert given == {
            "REQUEST_METHOD": "GET", "REQUEST_URI": "/x?a=1", "RAW_URI": "/x?a=1",
            "SCRIPT_NAME": "", "PATH_INFO": "/x", "QUERY_STRING": "a=1",
            "SERVER_PROTOCOL": "HTTP/1.0", "wsgi.url_scheme": "http", "REMOTE_ADDR": "192.0.2.1",
            "REMOTE_PORT": "4711", "SERVER_NAME": "example.org", "SERVER_PORT": "8080",
            "HTTP_HOST": "example.org", "REMOTE_USER": "me", "HTTP_X_A": "1", "body": "",
        }  # fmt: skip
        unnamed = shown(server, packet(REMOTE_ADDR="", SERVER_NAME="", SERVER_PORT=""))
        port = str(server.port)
        names = ("REMOTE_ADDR", "SERVER_NAME", "SERVER_PORT")
        assert [unnamed[name] for name in names] == ["127.0.0.1", "127.0.0.1", port]
        assert "REMOTE_PORT" not in shown(server, packet(REMOTE_PORT=""))


def test_scheme_mount_and_id_are_what_the_front_end_says(transport: str) -> None:
    with server_with(transport, script_name="/other") as server:
        given = shown(
            server,
            packet(
                HTTPS="on",
                SERVER_PORT="443",
                SCRIPT_NAME="/caf\xc3\xa9",
                PATH_INFO="/caf\xc3\xa9/x y",
                REQUEST_URI="/caf%C3%A9/x%20y?a=1",
                REQUEST_ID="given-1",
            ),
        )
        assert (given["wsgi.url_scheme"], given["HTTPS"], given["SERVER_PORT"]) == (
            "https", "on", "443",
        )  # fmt: skip
        assert given["SCRIPT_NAME"] == "/caf\xc3\xa9"
        assert given["PATH_INFO"] == "/x y"
        assert given["RAW_URI"] == "/caf%C3%A9/x%20y?a=1"
        assert given["penstock.request_id"] == "given-1"


@pytest.mark.parametrize("streamed", [False, True], ids=["collected", "streamed"])
@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])
def test_the_body_is_as_long_as_its_length_says(
    transport: str, streamed: bool, bytewise: bool
) -> None:
    with server_with(transport, stream_requests=streamed) as server:
        head = packet(
            REQUEST_METHOD="POST",
            CONTENT_LENGTH="11",
            CONTENT_TYPE="a/b",
            HTTP_CONTENT_LENGTH="3",
            HTTP_TRANSFER_ENCODING="chunked",
            HTTP_EXPECT="100-continue",
        )
        given = shown(server, head + b"hello world", bytewise=bytewise)
        assert given["body"] == "hello world"
        assert (given["CONTENT_LENGTH"], given["CONTENT_TYPE"]) == ("11", "a/b")
        assert "HTTP_TRANSFER_ENCODING" not in given
        # What comes behind the body is dropped: a connection has one request.
        assert shown(server, head + b"hello world" + packet())["body"] == "hello world"


@pytest.mark.parametrize("streamed", [False, True], ids=["collected", "streamed"])
def test_a_large_body(transport: str, streamed: bool) -> None:
    body = bytes(range(256)) * 8192
    settings = {"stream_requests": streamed, "max_body": len(body)}
    with server_with(transport, **settings) as server:
        head = packet(REQUEST_METHOD="POST", CONTENT_LENGTH=str(len(body)))
        assert shown(server, head + body)["body"].encode("latin-1") == body
        response, _ = answer(server, packet(CONTENT_LENGTH=str(len(body) + 1)))
        assert response.status == 413


def test_the_response_ends_with_the_connection(transport: str) -> None:
    with server_with(transport) as server:
        response, body = answer(server, packet(PATH_INFO="/stream"))
        assert body == b"one two three"
        for name in ("Transfer-Encoding", "Content-Length", "Keep-Alive"):
            assert response.header(name) is None
        response, body = answer(server, packet(PATH_INFO="/unmodified"))
        assert (response.status, body) == (304, b"")
        response, body = answer(server, packet(REQUEST_METHOD="HEAD"))
        assert (response.status, body) == (200, b"")


def test_fields_are_believed_of_the_client_that_the_packet_names(transport: str) -> None:
    settings = {"forwarded_headers": ["x-forwarded-for", "x-forwarded-proto"],
                "forwarded_allow_ips": ["192.0.2.0/24", "127.0.0.1"]}  # fmt: skip
    with server_with(transport, **settings) as server:
        fields = {"HTTP_X_FORWARDED_FOR": "203.0.113.9", "HTTP_X_FORWARDED_PROTO": "https"}
        given = shown(server, packet(**fields))
        assert (given["REMOTE_ADDR"], given["wsgi.url_scheme"]) == ("203.0.113.9", "https")
        # Of a client that is no proxy, and where none is named: the front-end passes them on.
        given = shown(server, packet(REMOTE_ADDR="198.51.100.1", **fields))
        assert (given["REMOTE_ADDR"], given["wsgi.url_scheme"]) == ("198.51.100.1", "http")
        given = shown(server, packet(REMOTE_ADDR="", **fields))
        assert (given["REMOTE_ADDR"], given["wsgi.url_scheme"]) == ("127.0.0.1", "http")


def test_the_rules_of_http_hold(transport: str) -> None:
    with server_with(transport, limit_request_fields=5) as server:
        changes: list[tuple[dict[str, Any], int]] = [
            ({"HTTP_HOST": "a b"}, 400),
            ({"CONTENT_LENGTH": "+1"}, 400),
            ({"CONTENT_LENGTH": "1, 1"}, 400),
            ({"REQUEST_METHOD": "A" * 33}, 501),
            ({"REQUEST_URI": "/a#b", "PATH_INFO": None}, 400),
            ({"REQUEST_URI": "/" + "a" * 9000, "PATH_INFO": None}, 414),
            ({"HTTP_X": "a" * 9000}, 431),
            ({f"HTTP_X_{number}": "" for number in range(6)}, 431),
        ]
        for changed, status in changes:
            response, _ = answer(server, packet(**changed))
            assert response.status == status, changed
        twice: list[Pair] = [*BASIC, ("HTTP_HOST", "b")]
        response, body = answer(server, packet_of(pairs(twice)))
        assert (response.status, b"is repeated" in body) == (400, True)
        given = shown(server, packet(HTTP_PROXY="evil"))
        assert "HTTP_PROXY" not in given


def test_what_is_no_packet_is_refused(transport: str, capfd: pytest.CaptureFixture[str]) -> None:
    with server_with(transport, limit_request_head=8192) as server:
        response, body = answer(server, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert response.status == 400
        assert body == b"The connection does not begin with a uwsgi packet.\n"
        response, body = answer(server, b"\x00\xff\xff\x00")
        assert (response.status, body) == (431, b"The uwsgi packet is too long.\n")
        response, body = answer(server, packet_of(b"\x05\x00HTTPS"))
        assert (response.status, body) == (400, b"The uwsgi packet is malformed.\n")
        for size in (1, 3, 4, len(packet()) - 1):
            with connect(server) as client:
                client.send(packet()[:size])
                client.end_sending()
                assert client.read_response().body == b"The uwsgi packet is malformed.\n"
        response, body = answer(server, packet(HTTP_X="a\nb"))
        assert body == b"A field of the uwsgi packet has a control character.\n"
        with connect(server) as client:  # a check of the port
            client.end_sending()
            assert client.is_closed_by_server()
    log = capfd.readouterr().err
    assert "setting: bind" in log
    assert "setting: limit_request_head" in log


def test_a_packet_that_does_not_come_in_time_ends_the_connection(transport: str) -> None:
    with server_with(transport, header_timeout=0.2) as server:
        with connect(server) as client:
            client.send(packet()[:20])
            response = client.read_response()
            assert response.status == 408
            assert response.body == b"The uwsgi packet did not arrive within 0.2 s.\n"
        with connect(server) as client:
            assert client.is_closed_by_server()  # nothing was asked for
    with server_with(transport, body_timeout=0.2) as server, connect(server) as client:
        client.send(packet(CONTENT_LENGTH="5"))
        assert client.read_response().status == 408


def test_only_the_peers_that_the_setting_names_may_connect(
    transport: str, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = {"uwsgi_allow_from": ["127.0.0.7"], "bind": ["uwsgi://127.0.0.1:0"]}
    with server_with(transport, **settings) as server:
        words = server.worker.slot.words  # type: ignore[attr-defined]
        for _ in range(3):
            with connect(server) as client:
                assert client.is_closed_by_server()
        eventually(lambda: words[DENIED] == 3)
        with connect(server, source="127.0.0.7") as client:
            client.send(packet())
            assert client.read_response().status == 200
    log = capfd.readouterr().err
    assert log.count("PEN-4020") == 1
    assert "a connection of 127.0.0.1 to uwsgi://127.0.0.1:" in log
    assert "setting: uwsgi_allow_from" in log


def test_the_limits_of_a_client_are_those_of_whom_the_packet_names(transport: str) -> None:
    settings = {"max_connections_per_client": 1, "deny": ["198.51.100.0/24"]}
    with server_with(transport, **settings) as server:
        words = server.worker.slot.words  # type: ignore[attr-defined]
        with connect(server) as first, connect(server) as second, connect(server) as third:
            head = packet(REQUEST_METHOD="POST", CONTENT_LENGTH="1")
            first.send(head)
            second.send(packet(REMOTE_ADDR="192.0.2.2"))
            assert second.read_response().status == 200
            eventually(lambda: refused_for(third, head, words))
        with connect(server) as client:
            client.send(packet(REMOTE_ADDR="198.51.100.7"))
            assert client.is_closed_by_server()
            assert words[DENIED] == 1
    with server_with(transport, max_requests_per_client="2/h") as server:
        for status in (200, 200, 429):
            assert answer(server, packet())[0].status == status
        assert answer(server, packet(REMOTE_ADDR="192.0.2.2"))[0].status == 200


def refused_for(client: Client, head: bytes, words: Any) -> bool:
    client.send(head)
    return client.is_closed_by_server() and words[CLIENT_CONNECTIONS] == 1


def test_a_unix_socket(transport: str, tmp_path: Path) -> None:
    place = tmp_path / "socket"
    log = tmp_path / "log"
    settings = {"bind": f"uwsgi://unix:{place}", "access_logfile": str(log),
                "access_logformat": "%(h)s %({peer}x)s %(r)s %(s)s"}  # fmt: skip
    with server_with(transport, **settings) as server:
        assert server.host == str(place)
        assert shown(server, packet())["REMOTE_ADDR"] == "192.0.2.1"
        assert shown(server, packet(REMOTE_ADDR="unix:"))["REMOTE_ADDR"] == ""
        assert answer(server, packet(REMOTE_ADDR="a"))[0].status == 400
    lines = log.read_text().splitlines()
    assert lines[0].startswith("192.0.2.1 ")
    assert lines[0].endswith(" GET /x?a=1 HTTP/1.0 200")
    assert len(lines) == 3
    with server_with(transport, uwsgi_allow_from=["127.0.0.1"], **settings) as server:
        with connect(server) as client:
            assert client.is_closed_by_server()


def test_a_listener_of_http_beside_it(transport: str, tmp_path: Path) -> None:
    place = tmp_path / "socket"
    with server_with(transport, bind=["127.0.0.1:0", f"uwsgi://unix:{place}"]) as server:
        with connect(server) as client:
            assert client.request("GET", "/x").status == 200
        with Client(str(place)) as client:
            client.send(packet())
            assert client.read_response().status == 200
        response, _ = answer(server, packet())
        assert response.status == 400
