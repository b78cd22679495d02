"""What a real nginx sends by ``uwsgi_pass``, and what its clients get."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse

import pytest

import penstock
from support.proxies import nginx
from support.serving import TEXT, Environ, get, post
from support.wire import DEADLINE, Client, Response, chunked

CLIENT = "127.0.0.7"
SHOWN = ("REQUEST_METHOD", "REQUEST_URI", "SCRIPT_NAME", "PATH_INFO", "QUERY_STRING",
         "wsgi.url_scheme", "REMOTE_ADDR", "SERVER_NAME", "HTTP_HOST", "CONTENT_LENGTH",
         "CONTENT_TYPE", "HTTP_X_A", "HTTP_PROXY", "HTTP_EXPECT", "HTTP_TRANSFER_ENCODING",
         "HTTP_CONNECTION")  # fmt: skip
BLOCK = bytes(range(256)) * 256

PARAMETERS = """
    uwsgi_param QUERY_STRING $query_string;
    uwsgi_param REQUEST_METHOD $request_method;
    uwsgi_param CONTENT_TYPE $content_type;
    uwsgi_param CONTENT_LENGTH $content_length;
    uwsgi_param REQUEST_URI $request_uri;
    uwsgi_param PATH_INFO $document_uri;
    uwsgi_param DOCUMENT_ROOT $document_root;
    uwsgi_param SERVER_PROTOCOL $server_protocol;
    uwsgi_param REQUEST_SCHEME $scheme;
    uwsgi_param HTTPS $https if_not_empty;
    uwsgi_param REMOTE_ADDR $remote_addr;
    uwsgi_param REMOTE_PORT $remote_port;
    uwsgi_param SERVER_PORT $server_port;
    uwsgi_param SERVER_NAME $server_name;
"""
"""What the file uwsgi_params has, which comes with nginx."""


def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path == "/stream":
        start_response("200 OK", TEXT)
        return (BLOCK for _ in range(20))
    if path == "/unmodified":
        start_response("304 Not Modified", [("ETag", '"a"'), ("Last-Modified", "x")])
        return []
    if path == "/accelerated":
        start_response("200 OK", [*TEXT, ("X-Accel-Redirect", "/internal/file")])
        return [b"not this"]
    if path == "/refused":
        start_response("403 Forbidden", TEXT)
        return [b"unread"]
    if path == "/size":
        size = sum(iter(lambda: len(environ["wsgi.input"].read(65536)), 0))
        start_response("200 OK", TEXT)
        return [str(size).encode()]
    body = environ["wsgi.input"].read()
    start_response("200 OK", TEXT)
    shown: dict[str, Any] = {name: environ[name] for name in SHOWN if name in environ}
    return [json.dumps(shown | {"body": body.decode("latin-1")}).encode()]


@contextmanager
def front_end(transport: str, place: Path, locations: str, **settings: Any) -> Iterator[int]:
    """Run nginx in front of a server; yield its port. ``APP`` is the server's address."""
    settings = {"bind": f"uwsgi://unix:{place / 'app'}"} | settings
    (place / "files").mkdir()
    (place / "files" / "file").write_bytes(b"the file")
    with penstock.running(application, transport=transport, **settings) as server:
        app = f"127.0.0.1:{server.port}" if server.port else f"unix:{server.host}"

        def http(ports: list[int]) -> str:
            return f"""
    {PARAMETERS}
    client_max_body_size 100m;
    server {{
        listen 127.0.0.1:{ports[0]};
        server_name example.org;
        location / {{ uwsgi_pass {app}; }}
        location /internal/ {{ internal; alias {place}/files/; }}
        {locations.replace("APP", app)}
    }}"""

        with nginx(place, http) as (port,):
            yield port


def ask(port: int, data: bytes, method: str = "GET") -> Response:
    with Client(("127.0.0.1", port), source=CLIENT) as client:
        client.send(data)
        return client.read_response(method)


def shown(port: int, data: bytes) -> dict[str, str]:
    response = ask(port, data)
    assert response.status == 200, response.body
    given: dict[str, str] = json.loads(response.body)
    return given


LOCATIONS = """
        location /app/ { uwsgi_pass APP; include PARAMETERS; uwsgi_param SCRIPT_NAME /app; }
        location /old/ { uwsgi_pass APP; include PARAMETERS; uwsgi_param SCRIPT_NAME /old;
                         uwsgi_modifier1 30; }
        location /moved/ { rewrite ^/moved/(.*)$ /new/$1 break; uwsgi_pass APP; }
        location /secured/ { uwsgi_pass APP; include PARAMETERS; uwsgi_param UWSGI_SCHEME https; }
"""


@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_the_application_gets_what_the_client_asked_for(
    transport: str, family: str, tmp_path: Path
) -> None:
    (tmp_path / "parameters").write_text(PARAMETERS)
    locations = LOCATIONS.replace("PARAMETERS", str(tmp_path / "parameters"))
    settings = {"bind": "uwsgi://127.0.0.1:0"} if family == "tcp" else {}
    with front_end(transport, tmp_path, locations, **settings) as port:
        given = shown(port, get("/%C3%A9/a%20b?q=1&r", "X-A: 1", "Proxy: evil", "Expect: x"))
        assert given == {
            "REQUEST_METHOD": "GET", "REQUEST_URI": "/%C3%A9/a%20b?q=1&r", "SCRIPT_NAME": "",
            "PATH_INFO": "/\xc3\xa9/a b", "QUERY_STRING": "q=1&r", "wsgi.url_scheme": "http",
            "REMOTE_ADDR": CLIENT, "SERVER_NAME": "example.org", "HTTP_HOST": "a",
            "HTTP_X_A": "1", "body": "",
        }  # fmt: skip
        for target, mount, path, scheme in [
            ("/app/x", "/app", "/x", "http"),
            ("/old/x", "/old", "/x", "http"),
            ("/moved/x", "", "/new/x", "http"),
            ("/a/../b//c", "", "/b/c", "http"),
            ("/secured/x", "", "/secured/x", "https"),
        ]:
            given = shown(port, get(target))
            found = given["SCRIPT_NAME"], given["PATH_INFO"], given["wsgi.url_scheme"]
            assert found == (mount, path, scheme)


def test_bodies_and_their_framing(transport: str, tmp_path: Path) -> None:
    locations = """
        location /size { uwsgi_pass APP; }
        location /at-once/ { rewrite ^ /size break; uwsgi_pass APP; uwsgi_request_buffering off; }
    """
    large = BLOCK * 320
    with front_end(transport, tmp_path, locations, stream_requests=True) as port:
        given = shown(port, post(b"hello", "Content-Type: a/b"))
        found = given["body"], given["CONTENT_LENGTH"], given["CONTENT_TYPE"]
        assert found == ("hello", "5", "a/b")
        head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        given = shown(port, head + chunked(b"hello ", b"world"))
        assert (given["body"], given["CONTENT_LENGTH"]) == ("hello world", "11")
        assert "HTTP_TRANSFER_ENCODING" not in given
        for target in ("/size", "/at-once/"):
            response = ask(port, post(large, target=target))
            assert response.body == str(len(large)).encode(), target
        # The answer of an application that reads nothing of a body comes through.
        for target in ("/refused", "/at-once/"):
            response = ask(port, post(b"x" * 100_000, target=target))
            assert response.status == (403 if target == "/refused" else 200)


def test_responses_come_through_as_over_http(transport: str, tmp_path: Path) -> None:
    with front_end(transport, tmp_path, "") as port:
        with Client(("127.0.0.1", port)) as client:
            for _ in range(2):  # nginx keeps its client's connection
                client.send(get("/stream"))
                response = client.read_response()
                assert response.body == BLOCK * 20
                assert response.complete
            client.send(get("/x").replace(b"GET", b"HEAD", 1))
            response = client.read_response("HEAD")
            assert (response.status, response.body) == (200, b"")
            client.send(get("/unmodified"))
            response = client.read_response()
            assert (response.status, response.header("ETag")) == (304, '"a"')
            client.send(get("/accelerated"))
            response = client.read_response()
            assert (response.status, response.body) == (200, b"the file")
        with socket.create_connection(("127.0.0.1", port), DEADLINE) as sock:
            sock.sendall(get("/stream", version="HTTP/1.0"))
            with sock.makefile("rb") as file:
                assert file.read().endswith(BLOCK)
