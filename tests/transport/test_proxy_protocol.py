"""Connections that begin with a PROXY header, and those that may not."""

from __future__ import annotations

import fcntl
import json
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse

import pytest

import penstock
from edge.test_proxy_protocol import HAPROXYS, TCP4, v2
from penstock.edge.forwarded import Peers
from penstock.edge.proxy_protocol import VERSIONS
from penstock.telemetry.scoreboard import CLIENT_CONNECTIONS, DENIED
from support.certificates import material
from support.serving import TEXT, Environ, Place, address, connect, eventually, get
from support.tls import MemoryClient
from support.transports import serving
from support.wire import Client, exchange

V1 = b"PROXY TCP4 192.0.2.1 192.0.2.2 4711 443\r\n"
LOCAL = v2(command=0x20, family=0x00)
SHOWN = ("REMOTE_ADDR", "REMOTE_PORT", "wsgi.url_scheme", "HTTPS", "SSL_PROTOCOL", "SSL_CIPHER",
         "SSL_CLIENT_VERIFY")  # fmt: skip


def show(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", TEXT)
    return [json.dumps([environ.get(name) for name in SHOWN]).encode()]


@contextmanager
def server_with(transport: str, **settings: object) -> Iterator[Place]:
    settings = {"proxy_protocol": "auto"} | settings
    with penstock.running(show, transport=transport, **settings) as server:
        yield server


def ask(client: Client, *fields: str, target: str = "/") -> list[str | None]:
    client.send(get(target, *fields))
    response = client.read_response()
    assert response.status == 200, response.body
    shown: list[str | None] = json.loads(response.body)
    return shown


def refusal(server: Place, data: bytes) -> str:
    answer = exchange(address(server), data)
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    return answer.rpartition(b"\r\n\r\n")[2].decode().strip()


@pytest.mark.parametrize("header", [V1, v2(TCP4)], ids=["v1", "v2"])
@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])
def test_the_client_is_whom_the_header_names(transport: str, header: bytes, bytewise: bool) -> None:
    with server_with(transport) as server, connect(server) as client:
        (client.send_bytewise if bytewise else client.send)(header)
        for _ in range(3):
            assert ask(client)[:3] == ["192.0.2.1", "4711", "http"]
    with server_with(transport) as server, connect(server) as client:
        client.send(header + get() + get())  # in one segment
        for _ in range(2):
            assert json.loads(client.read_response().body)[:2] == ["192.0.2.1", "4711"]


def test_what_the_proxy_tells_of_tls_is_in_the_environ(transport: str) -> None:
    with server_with(transport) as server, connect(server) as client:
        client.send(v2(TCP4, HAPROXYS))
        for _ in range(3):
            assert ask(client, target="https://a/")[2:] == [
                "https", "on", "TLSv1.3", "TLS_AES_256_GCM_SHA384", "NONE",
            ]  # fmt: skip


def test_a_health_check_of_the_proxy_is_its_own(transport: str) -> None:
    with server_with(transport) as server:
        for header in (LOCAL, b"PROXY UNKNOWN\r\n"):
            with connect(server) as client:
                client.send(header)
                port = str(client.socket.getsockname()[1])
                assert ask(client)[:3] == ["127.0.0.1", port, "http"]
                # Whose bytes these are is not told: their fields are not believed.
                assert ask(client, "X-Forwarded-Proto: https")[2] == "http"


def test_fields_are_believed_of_the_client_that_the_header_names(transport: str) -> None:
    settings = {"forwarded_headers": ["x-forwarded-for"], "forwarded_allow_ips": "192.0.2.0/24"}
    with server_with(transport, **settings) as server:
        with connect(server) as client:
            client.send(V1)
            assert ask(client, "X-Forwarded-For: 203.0.113.9")[0] == "203.0.113.9"
        with connect(server) as client:
            client.send(V1.replace(b"192.0.2.1", b"198.51.100.1"))
            assert ask(client, "X-Forwarded-For: 203.0.113.9")[0] == "198.51.100.1"


def test_a_connection_of_a_proxy_has_to_begin_with_the_header(
    transport: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with server_with(transport) as server:
        none = "The connection does not begin with a PROXY header."
        assert refusal(server, get()) == none
        assert refusal(server, b"\x16\x03\x01\x02\x00") == none
        malformed = "The PROXY header is malformed."
        assert refusal(server, V1.replace(b"192.0.2.1", b"192.0.2")) == malformed
        assert refusal(server, v2(TCP4[:11])) == malformed
    assert "setting: proxy_protocol" in capfd.readouterr().err


def test_there_is_one_header(transport: str) -> None:
    with server_with(transport) as server:
        unexpected = "A PROXY header comes from a peer that may not send one."
        assert refusal(server, V1 + V1 + get()) == unexpected
        assert "as in a PROXY header" in refusal(server, V1 + v2(TCP4) + get())


@pytest.mark.parametrize("first", [b"", V1], ids=["first", "second"])
@pytest.mark.parametrize(
    "header",
    [V1, b"PROXY UNKNOWN\r\n", b"PROXY TCP4 1.2.3.4\r\n", b"PROXY TCP4 \xff\r\n", b"PROXY TCP6 1",
     b"PROXY UNKNOWN x HTTP/1.1\r\nHost: a\r\n\r\n", b"\r\n" + V1],
    ids=["v1", "unknown", "short", "not ascii", "cut off", "request", "empty line"],
)  # fmt: skip
def test_a_header_that_may_not_come_is_refused_as_one_however_its_bytes_come(
    transport: str, tmp_path: Path, first: bytes, header: bytes
) -> None:
    settings = {"bind": f"unix:{tmp_path / 's'}", "proxy_protocol": "auto" if first else "off"}
    with server_with(transport, **settings) as server:
        for tail in (get(), b""):
            data = header + tail
            for at in range(len(header) + 1):
                with connect(server) as client:
                    client.send(first + data[:at])
                    if at:
                        eventually(lambda: is_read(client))
                    client.send(data[at:])
                    client.end_sending()
                    answer = client.read_response()
                    assert answer.status == 400
                    assert answer.body.startswith(b"A PROXY header comes from"), (at, answer.body)


def is_read(client: Client) -> bool:
    """Return True if the server has read all that the client has sent, by a unix socket."""
    unread = fcntl.ioctl(client.socket, termios.TIOCOUTQ, bytes(4))
    return int.from_bytes(unread, sys.byteorder) == 0


@pytest.mark.parametrize(
    "settings", [{"proxy_protocol": "off"}, {"proxy_allow_from": ["192.0.2.7", "unix"]}]
)
def test_other_peers_may_not_send_a_header_and_need_none(
    transport: str, settings: dict[str, object]
) -> None:
    with server_with(transport, **settings) as server:
        with connect(server) as client:
            assert ask(client)[0] == "127.0.0.1"
        assert refusal(server, V1 + get()) == (
            "A PROXY header comes from a peer that may not send one."
        )
        for bytewise in (False, True):
            answer = exchange(address(server), v2(TCP4) + get(), bytewise=bytewise)
            assert b"400 Bad Request" in answer
            assert b"as in a PROXY header, which this peer may not send" in answer


def test_a_proxy_on_a_unix_socket(transport: str, tmp_path: Path) -> None:
    with server_with(transport, bind=f"unix:{tmp_path / 'socket'}") as server:
        with connect(server) as client:
            client.send(V1)
            assert ask(client)[0] == "192.0.2.1"
        assert refusal(server, get()) == "The connection does not begin with a PROXY header."


def test_a_header_that_does_not_come_in_time_ends_the_connection(transport: str) -> None:
    with server_with(transport, header_timeout=0.2) as server:
        with connect(server) as client:
            client.send(V1[:20])
            response = client.read_response()
            assert response.status == 408
            assert response.body == b"The PROXY header did not arrive within 0.2 s.\n"
        with connect(server) as client:
            assert client.is_closed_by_server()  # nothing was asked for


def test_a_connection_that_ends_within_its_header(transport: str) -> None:
    with server_with(transport) as server:
        with connect(server) as client:
            client.send(V1[:20])
            client.end_sending()
            assert client.read_response().status == 400
        with connect(server) as client:  # a check of the port
            client.end_sending()
            assert client.is_closed_by_server()


def test_the_limits_of_a_client_are_those_of_whom_the_header_names(transport: str) -> None:
    settings = {"max_connections_per_client": 1, "deny": ["198.51.100.0/24"]}
    with server_with(transport, **settings) as server:
        words = server.worker.slot.words  # type: ignore[attr-defined]
        with connect(server) as first, connect(server) as second, connect(server) as third:
            first.send(V1)
            assert ask(first)[0] == "192.0.2.1"
            second.send(V1.replace(b"192.0.2.1", b"192.0.2.2"))
            assert ask(second)[0] == "192.0.2.2"
            third.send(V1 + get())
            assert third.is_closed_by_server()
            assert words[CLIENT_CONNECTIONS] == 1
        with connect(server) as client:
            client.send(V1.replace(b"192.0.2.1", b"198.51.100.7") + get())
            assert client.is_closed_by_server()
            assert words[DENIED] == 1

        def is_free() -> bool:
            with connect(server) as client:
                client.send(V1 + get())
                return not client.is_closed_by_server()

        eventually(is_free)  # the client's earlier connection is counted no longer


PROXIED: dict[str, Any] = {
    "proxy_versions": VERSIONS["auto"],
    "proxy_peers": Peers.of(["127.0.0.1"]),
}


@pytest.mark.parametrize("apart", [False, True], ids=["together", "apart"])
def test_tls_begins_behind_the_header(tls_transport: str, apart: bool) -> None:
    with serving(show, tls_transport, tls=material(), **PROXIED) as server:
        with Client((server.host, server.port)) as plain:
            client = MemoryClient(plain.socket)
            if apart:
                plain.send_bytewise(v2(TCP4, HAPROXYS))
            else:
                plain.send(v2(TCP4, HAPROXYS) + client.flight())
                assert client.receive()
            client.handshake()
            for _ in range(2):
                plain.send(client.encrypt(get()))
                shown = json.loads(client.read().rpartition(b"\r\n\r\n")[2] or client.read())
                # The server's own TLS is what the environ tells of, not that of client and proxy.
                assert shown[:4] == ["192.0.2.1", "4711", "https", "on"]
                assert shown[4:] == ["TLSv1.3", shown[5], None]


def test_a_connection_for_tls_without_the_header_is_answered_in_plain(tls_transport: str) -> None:
    with serving(show, tls_transport, tls=material(), **PROXIED) as server:
        with Client((server.host, server.port)) as plain:
            plain.send(MemoryClient(None).flight())
            response = plain.read_response()
            assert response.status == 400
            assert response.body == b"The connection does not begin with a PROXY header.\n"
