"""Hostile packets of the uwsgi protocol: from a front-end that was taken in, or in its name."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from wsgiref.types import StartResponse

import pytest

import penstock
from edge.test_uwsgi import native_read, python_read
from support.serving import TEXT, Environ, Place, address, connect, eventually
from support.uwsgi import BASIC, Pair, packet, packet_of, pairs
from support.wire import exchange

SEEN: list[dict[str, Any]] = []


def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
    SEEN.append(environ)
    environ["wsgi.input"].read()
    start_response("200 OK", TEXT)
    return [b"served"]


@contextmanager
def server_with(transport: str, **settings: Any) -> Iterator[Place]:
    SEEN.clear()
    bind = "uwsgi://127.0.0.1:0"
    with penstock.running(application, transport=transport, bind=bind, **settings) as server:
        yield server


def test_there_is_one_request_whatever_comes_behind_it(transport: str) -> None:
    smuggled = b"GET /evil HTTP/1.1\r\nHost: a\r\n\r\n"
    with server_with(transport) as server:
        for head, body in [
            (packet(), b""),
            (packet(CONTENT_LENGTH="0"), b""),
            (packet(CONTENT_LENGTH="2", HTTP_TRANSFER_ENCODING="chunked"), b"0\r"),
            (packet(CONTENT_LENGTH="2", HTTP_CONNECTION="keep-alive"), b"ab"),
        ]:
            for behind in (smuggled, packet(PATH_INFO="/evil"), b"\n"):
                answer = exchange(address(server), head + body + behind)
                assert answer.count(b"HTTP/1.1 ") == 1
                assert answer.endswith(b"\r\n\r\nserved")
    assert {environ["PATH_INFO"] for environ in SEEN} == {"/x"}


def test_names_give_no_orders_and_set_nothing_of_the_servers(transport: str) -> None:
    names = ["UWSGI_FILE", "UWSGI_SCRIPT", "UWSGI_MODULE", "UWSGI_PYHOME", "UWSGI_CHDIR",
             "UWSGI_APPID", "UWSGI_SETENV", "UWSGI_TOUCH_RELOAD", "wsgi.input", "wsgi.errors",
             "wsgi.url_scheme", "penstock.request_id", "SERVER_SOFTWARE", "PATH", "PYTHONPATH",
             "HTTP_PROXY", "GATEWAY_INTERFACE", "HTTPS\0"]  # fmt: skip
    with server_with(transport) as server:
        hostile: list[Pair] = [(name, "/evil") for name in names]
        assert exchange(address(server), packet_of(pairs(BASIC + hostile))).endswith(b"served")
    [environ] = SEEN
    assert "/evil" not in [value for value in environ.values() if isinstance(value, str)]


def test_the_largest_packets_take_linear_time(transport: str) -> None:
    with server_with(transport) as server:
        for content in (
            bytes(65535 // 4 * 4),  # pairs of empty names and values
            pairs([("HTTP_A", "")] * 5000),
            pairs([("REMOTE_ADDR", "192.0.2.1")] * 2500),
            pairs([("SCRIPT_NAME", "/" * 65000)]),
            pairs([("PATH_INFO", "/" + "\xff" * 65000)]),
        ):
            answer = exchange(address(server), packet_of(content))
            assert answer.startswith(b"HTTP/1.1 4"), answer
        assert exchange(address(server), packet()).endswith(b"served")


def test_a_packet_that_trickles_has_the_deadline_of_a_head(transport: str) -> None:
    with server_with(transport, header_timeout=0.5) as server, connect(server) as client:
        data = packet_of(pairs([("HTTP_A", "a" * 60000)]))
        sent = 0

        def is_answered() -> bool:
            nonlocal sent
            client.socket.settimeout(0.01)
            try:
                client.socket.sendall(data[sent : sent + 1])
                sent += 1
                return client.socket.recv(1, 2) != b""  # MSG_PEEK
            except TimeoutError:
                return False

        eventually(is_answered)
        assert client.read_response().status == 408
        assert sent < len(data)


def test_both_transports_read_packets_that_were_damaged_alike() -> None:
    pytest.importorskip("penstock._native", reason="the native transport is not built")
    chance = random.Random(2026)
    values = ["", "/", "on", "https", "/a%2Fb", "/a b", "::1", "1", "65536", "a\r\nb", "\xe9", "*"]
    names = [str(name) for name, _ in BASIC]
    names += ["SCRIPT_NAME", "HTTPS", "UWSGI_SCHEME", "REQUEST_ID", "HTTP_X_A", "REMOTE_USER"]
    for _ in range(3000):
        changed = {name: chance.choice(values) for name in chance.sample(names, 3)}
        data = bytearray(packet(**changed))
        for _ in range(chance.choice([0, 0, 1, 3])):
            data[chance.randrange(len(data))] = chance.randrange(256)
        assert native_read(bytes(data)) == python_read(bytes(data)), bytes(data)
