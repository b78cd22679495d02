"""An address that redirects to https (setting: redirect_http)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from penstock.listeners import Address, open_listeners, parse_address
from penstock.transport.config import TransportConfig
from penstock.transport.redirect import redirect
from support.serving import Recorder, connect, get, post
from support.transports import BareServer, serving


def address() -> Address:
    text = "127.0.0.1:0"
    place = parse_address(text)
    return Address(text, host=place.host, port=0, redirects=True)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def server(tls_transport: str, threads: int, recorder: Recorder) -> Iterator[BareServer]:
    [listener] = open_listeners([address()], 16)
    settings: dict[str, Any] = {"redirect_https_port": 8443, "ready_path": "/ready"}
    with serving(
        recorder, tls_transport, threads=threads, listener=listener, hsts="max-age=9", **settings
    ) as made:
        yield made


def test_every_request_is_redirected_with_its_path_and_query(
    server: BareServer, recorder: Recorder
) -> None:
    cases = [
        (get("/a/b%20c?d=e&f"), 301, "https://a:8443/a/b%20c?d=e&f"),
        (get("/caf\xe9?\u20ac"), 301, "https://a:8443/caf%C3%A9?%E2%82%AC"),
        (get("//other.test/x"), 301, "https://a:8443//other.test/x"),
        (get("http://named.test:80/p?q"), 301, "https://named.test:8443/p?q"),
        (get().replace(b"Host: a", b"Host: shop.test:8080"), 301, "https://shop.test:8443/"),
        (get().replace(b"Host: a", b"Host: [::1]:8080"), 301, "https://[::1]:8443/"),
        (get().replace(b"Host: a", b"Host: [::1]"), 301, "https://[::1]:8443/"),
        (get(version="HTTP/1.0"), 301, "https://a:8443/"),
        (get().replace(b"GET", b"DELETE"), 308, "https://a:8443/"),
        (post(b"body", target="/form"), 308, "https://a:8443/form"),
    ]
    for request, status, location in cases:
        with connect(server) as client:
            client.send(request)
            response = client.read_response()
            assert (response.status, response.header("Location")) == (status, location)
            assert response.header("Strict-Transport-Security") is None
    assert recorder.targets == []


def test_the_answer_to_head_has_no_body(server: BareServer) -> None:
    with connect(server) as client:
        client.send(get().replace(b"GET", b"HEAD") + get("/next"))
        assert client.read_response("HEAD").status == 301
        assert client.read_response().header("Location") == "https://a:8443/next"


def test_a_body_is_not_waited_for(server: BareServer) -> None:
    with connect(server) as client:
        client.send(post(b"x", length=1 << 40, target="/upload"))
        # More than `max_body` is refused before that.
        assert client.read_response().status in (308, 413)
    with connect(server) as client:
        client.send(post(b"x", length=1000))
        response = client.read_response()
        assert (response.status, response.header("Connection")) == (308, "close")
        assert client.read_to_end() == b""
    with connect(server) as client:
        client.send(post(b"", "Expect: 100-continue", length=1000))
        assert client.read_response().status == 308


def test_a_request_without_a_host_or_with_a_bad_one_gets_400(server: BareServer) -> None:
    for host in ("", "Host: \r\n", "Host: a b\r\n", "Host: evil/\r\n", "Host: a\r\nHost: b\r\n"):
        version = "HTTP/1.0" if not host else "HTTP/1.1"
        with connect(server) as client:
            client.send(f"GET / {version}\r\n{host}\r\n".encode())
            response = client.read_response()
            assert response.status == 400, host
            assert response.header("Location") is None


def test_checks_of_readiness_are_answered_there(server: BareServer) -> None:
    with connect(server) as client:
        client.send(get("/ready"))
        assert client.read_response().status in (200, 503)


@pytest.mark.parametrize(
    ("port", "host", "location"),
    [
        (443, "shop.test", "https://shop.test/x"),
        (443, "shop.test:80", "https://shop.test/x"),
        (8443, "shop.test", "https://shop.test:8443/x"),
        (443, "[2001:db8::1]", "https://[2001:db8::1]/x"),
        (443, "[2001:db8::1]:80", "https://[2001:db8::1]/x"),
    ],
)
def test_the_port_of_https_is_left_out_where_it_is_443(port: int, host: str, location: str) -> None:
    config = TransportConfig(redirect_https_port=port)
    status, fields, _ = redirect(config, "GET", host, "/x")
    assert status.startswith("301 ")
    assert dict(fields)["Location"] == location
