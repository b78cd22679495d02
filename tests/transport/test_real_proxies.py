"""Behind nginx and HAProxy: who the client is, also where it claims to be another one.

All proxies are at 127.0.0.1, and the client is at 127.0.0.7.
"""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from wsgiref.types import StartResponse

import pytest

import penstock
from support.proxies import found, haproxy, nginx
from support.serving import TEXT, Environ, Place, eventually
from support.wire import DEADLINE, parse_head

CLIENT = "127.0.0.7"
SHOWN = ("REMOTE_ADDR", "REMOTE_PORT", "wsgi.url_scheme", "HTTP_HOST", "SERVER_PORT",
         "SCRIPT_NAME", "PATH_INFO", "penstock.request_id", "HTTP_X_FORWARDED_FOR",
         "SSL_PROTOCOL", "SSL_CIPHER", "SSL_SERVER_NAME")  # fmt: skip

SPOOFED = [
    "X-Forwarded-For: 6.6.6.6",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: evil.example",
    "X-Forwarded-Prefix: /evil",
    "X-Request-ID: evil",
    "Forwarded: for=6.6.6.6;proto=https",
]


class Application:
    def __init__(self) -> None:
        self.checked_by: set[str] = set()

    def __call__(self, environ: Environ, start_response: StartResponse) -> list[bytes]:
        if environ["PATH_INFO"] == "/check":
            self.checked_by.add(environ["REMOTE_ADDR"])
        start_response("200 OK", TEXT)
        return [json.dumps({name: environ.get(name) for name in SHOWN}).encode()]


@contextmanager
def server_with(
    transport: str, application: Application | None = None, **settings: object
) -> Iterator[Place]:
    settings |= {"transport": transport, "forwarded_allow_ips": ["127.0.0.1", "unix"]}
    with penstock.running(application or Application(), **settings) as server:
        yield server


def ask(
    port: int, *fields: str, target: str = "/x", context: ssl.SSLContext | None = None
) -> dict[str, str | None]:
    """Send a request from `CLIENT` to a proxy, and return what the application was given."""
    head = [f"GET {target} HTTP/1.1", "Host: example.org", "Connection: close", *fields, "", ""]
    with socket.create_connection(("127.0.0.1", port), DEADLINE, (CLIENT, 0)) as sock:
        stream = sock
        if context is not None:
            stream = context.wrap_socket(sock, server_hostname="example.org")
        stream.sendall("\r\n".join(head).encode())
        with stream.makefile("rb") as file:
            answer = file.read()
        stream.close()
    head_, _, body = answer.partition(b"\r\n\r\n")
    assert parse_head(head_).status == 200, answer
    shown: dict[str, str | None] = json.loads(body[body.index(b"{") : body.rindex(b"}") + 1])
    return shown


NGINX_FIELDS = """
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $host;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_set_header X-Forwarded-Proto $scheme;
        proxy_set_header X-Forwarded-Host $http_host;
        proxy_set_header X-Request-ID $request_id;
"""
OF_NGINX = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-request-id"]


@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_nginx_says_who_the_client_is(transport: str, family: str, tmp_path: Path) -> None:
    bind = "127.0.0.1:0" if family == "tcp" else f"unix:{tmp_path / 'app'}"
    with server_with(transport, bind=bind, forwarded_headers=OF_NGINX) as server:
        where = f"127.0.0.1:{server.port}" if server.port else f"unix:{server.host}"

        def http(ports: list[int]) -> str:
            return f"""
    upstream app {{ server {where}; keepalive 4; }}
    server {{
        listen 127.0.0.1:{ports[0]};
        {NGINX_FIELDS}
        location / {{ proxy_pass http://app; }}
    }}"""

        with nginx(tmp_path, http) as (port,):
            for fields in ([], SPOOFED):
                shown = ask(port, *fields)
                assert shown["REMOTE_ADDR"] == CLIENT
                assert shown["REMOTE_PORT"] is None
                assert shown["wsgi.url_scheme"] == "http"
                assert (shown["HTTP_HOST"], shown["SERVER_PORT"]) == ("example.org", "80")
                assert shown["SCRIPT_NAME"] == ""
                assert shown["penstock.request_id"] not in (None, "evil")
                assert len(shown["penstock.request_id"] or "") == 32  # nginx's own


def test_two_nginx_in_a_row(transport: str, tmp_path: Path) -> None:
    with server_with(transport, forwarded_headers=OF_NGINX[:2]) as server:

        def http(ports: list[int]) -> str:
            outer, inner = ports
            return f"""
    server {{
        listen 127.0.0.1:{outer};
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_set_header X-Forwarded-Proto "https";
        location / {{ proxy_pass http://127.0.0.1:{inner}; }}
    }}
    server {{
        listen 127.0.0.1:{inner};
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        location / {{ proxy_pass http://127.0.0.1:{server.port}; }}
    }}"""

        with nginx(tmp_path, http, ports=2) as (port, _):
            for fields in ([], SPOOFED):
                shown = ask(port, *fields)
                assert (shown["REMOTE_ADDR"], shown["wsgi.url_scheme"]) == (CLIENT, "https")
            assert shown["HTTP_X_FORWARDED_FOR"] == f"6.6.6.6, {CLIENT}, 127.0.0.1"


def test_a_prefix_that_nginx_has_removed(transport: str, tmp_path: Path) -> None:
    with server_with(transport, forwarded_headers=["x-forwarded-prefix", "script_name"]) as server:

        def http(ports: list[int]) -> str:
            app = f"http://127.0.0.1:{server.port}"
            return f"""
    server {{
        listen 127.0.0.1:{ports[0]};
        location /removed/ {{ proxy_pass {app}/; proxy_set_header X-Forwarded-Prefix /removed; }}
        location /kept/ {{ proxy_pass {app}; proxy_set_header SCRIPT_NAME /kept; }}
    }}"""

        with nginx(tmp_path, http) as (port,):
            shown = ask(port, target="/removed/x")
            assert (shown["SCRIPT_NAME"], shown["PATH_INFO"]) == ("/removed", "/x")
            shown = ask(port, target="/kept/x")
            assert (shown["SCRIPT_NAME"], shown["PATH_INFO"]) == ("/kept", "/x")


def test_haproxy_says_who_the_client_is(transport: str, tmp_path: Path) -> None:
    believed = ["x-forwarded-for", "x-forwarded-proto", "x-request-id"]
    with server_with(transport, forwarded_headers=believed) as server:

        def sections(ports: list[int]) -> str:
            return f"""
frontend in
    mode http
    bind 127.0.0.1:{ports[0]}
    option forwardfor
    http-request set-header X-Forwarded-Proto http
    unique-id-format %{{+X}}o\\ %ci:%cp_%fi:%fp_%Ts_%rt:%pid
    http-request set-header X-Request-ID %[unique-id]
    default_backend app
backend app
    mode http
    server app 127.0.0.1:{server.port}
"""

        with haproxy(tmp_path, sections) as (port,):
            for fields in ([], SPOOFED):
                shown = ask(port, *fields)
                assert (shown["REMOTE_ADDR"], shown["wsgi.url_scheme"]) == (CLIENT, "http")
                assert (shown["penstock.request_id"] or "").startswith("7F000007:")


@pytest.mark.parametrize("option", ["send-proxy", "send-proxy-v2"])
def test_haproxy_sends_a_proxy_header(transport: str, option: str, tmp_path: Path) -> None:
    application = Application()
    with server_with(transport, application, proxy_protocol="auto") as server:

        def sections(ports: list[int]) -> str:
            return f"""
listen in
    mode tcp
    bind 127.0.0.1:{ports[0]}
    option httpchk GET /check
    server app 127.0.0.1:{server.port} {option} check inter 100ms
"""

        with haproxy(tmp_path, sections) as (port,):
            for fields in ([], SPOOFED):
                shown = ask(port, *fields)
                assert (shown["REMOTE_ADDR"], shown["wsgi.url_scheme"]) == (CLIENT, "http")
                assert int(shown["REMOTE_PORT"] or 0) > 0
                assert shown["penstock.request_id"] != "evil"
            eventually(lambda: application.checked_by == {"127.0.0.1"})  # LOCAL, or UNKNOWN


def test_haproxy_tells_of_tls(transport: str, tmp_path: Path) -> None:
    certificate = tmp_path / "both.pem"
    make = [found("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt",
            "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=example.org", "-days", "2",
            "-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "certificate")]  # fmt: skip
    subprocess.run(make, check=True, capture_output=True, timeout=DEADLINE)
    certificate.write_text((tmp_path / "certificate").read_text() + (tmp_path / "key").read_text())
    context = ssl.create_default_context(cafile=str(tmp_path / "certificate"))
    context.check_hostname = False
    with server_with(transport, proxy_protocol="v2") as server:

        def sections(ports: list[int]) -> str:
            options = "send-proxy-v2-ssl-cn proxy-v2-options ssl,cert-cn,authority,crc32c"
            options += ",ssl-cipher"
            return f"""
listen in
    mode tcp
    bind 127.0.0.1:{ports[0]} ssl crt {certificate}
    server app 127.0.0.1:{server.port} {options}
"""

        with haproxy(tmp_path, sections) as (port,):
            shown = ask(port, context=context)
            assert (shown["REMOTE_ADDR"], shown["wsgi.url_scheme"]) == (CLIENT, "https")
            assert shown["SSL_PROTOCOL"] == "TLSv1.3"
            assert (shown["SSL_CIPHER"] or "").startswith("TLS_")
            assert shown["SSL_SERVER_NAME"] == "example.org"
