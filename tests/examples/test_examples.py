"""Each example as its reader runs it: in its folder, by its name; then a GET of /hello."""

from __future__ import annotations

import http.client
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from support.server_process import EXAMPLES, ROOT, START_WITHIN, ServerProcess
from support.wire import Client

GREETINGS = {
    "wsgiapp": b"Hello world from a simple WSGI application!\n",
    "flaskapp": b"Hello world from Flask!\n",
    "pyramidapp": b"Hello world from Pyramid!\n",
    "djangoapp": b"Hello world from Django!\n",
}
CURL = shutil.which("curl")


@pytest.fixture(scope="module", params=GREETINGS)
def example(request: pytest.FixtureRequest) -> Iterator[tuple[ServerProcess, bytes]]:
    with ServerProcess(f"{request.param}:app", cwd=EXAMPLES) as server:
        yield server, GREETINGS[request.param]
        assert server.stop() == 0, server.lines
        assert not [line for line in server.lines if "Traceback" in line]


def test_start_up_line_names_the_application(example: tuple[ServerProcess, bytes]) -> None:
    server, _ = example
    assert "app on http://127.0.0.1:" in server.start_line


def test_python_client_gets_the_greeting(example: tuple[ServerProcess, bytes]) -> None:
    server, greeting = example
    connection = http.client.HTTPConnection(server.host, server.port, timeout=10)
    try:
        for _ in range(2):  # the second time on the same connection
            connection.request("GET", "/hello")
            response = connection.getresponse()
            assert (response.status, response.read()) == (200, greeting)
            assert response.headers["Content-Type"].startswith("text/plain")
    finally:
        connection.close()


def test_what_make_serve_serves_answers_at_its_root() -> None:
    """A reader who opens the address of the start-up line sees a page."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert "flaskapp:app" in makefile
    with ServerProcess("flaskapp:app", cwd=EXAMPLES) as server, Client(server.address) as client:
        response = client.request("GET", "/")
        assert (response.status, response.body) == (
            200,
            b"Penstock serves this. See /hello, too.\n",
        )


def test_python_client_gets_404_elsewhere(example: tuple[ServerProcess, bytes]) -> None:
    server, _ = example
    connection = http.client.HTTPConnection(server.host, server.port, timeout=10)
    try:
        connection.request("GET", "/nowhere")
        assert connection.getresponse().status == 404
    finally:
        connection.close()


@pytest.mark.skipif(CURL is None, reason="curl is not installed")
def test_curl_gets_the_greeting(example: tuple[ServerProcess, bytes]) -> None:
    server, greeting = example
    result = run_curl("--include", f"{server.url}/hello")
    head, _, body = result.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert body == greeting


@pytest.mark.skipif(CURL is None, reason="curl is not installed")
def test_curl_gets_the_head_alone(example: tuple[ServerProcess, bytes]) -> None:
    server, _ = example
    result = run_curl("--head", f"{server.url}/hello")
    assert result.startswith(b"HTTP/1.1 200 OK\r\n")
    assert result.endswith(b"\r\n\r\n")


def run_curl(*arguments: str) -> bytes:
    assert CURL is not None
    return subprocess.run(
        [CURL, "--silent", "--show-error", "--noproxy", "*", "--max-time", "10", *arguments],
        capture_output=True,
        check=True,
        timeout=START_WITHIN,
    ).stdout
