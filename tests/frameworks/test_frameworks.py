"""Four frameworks over real sockets, each bare and under `wsgiref.validate`."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from wsgiref.types import WSGIApplication
from wsgiref.validate import validator

import pytest

import penstock
from frameworks.contents import PAGE, PAGE_ETAG, STREAM_BLOCKS, stream, summary
from support.wire import Client, Response, chunked

FRAMEWORKS = ("flask", "django", "pyramid", "bottle")
SMALL = b"a few bytes\n"
LARGE = bytes(range(256)) * 4096  # 1 MiB: more than a body that is kept in memory
BOUNDARY = "a-line-that-no-file-holds"


@pytest.fixture(
    scope="module",
    params=[(name, checked) for name in FRAMEWORKS for checked in (False, True)],
    ids=lambda param: param[0] + ("-validated" if param[1] else ""),
)
def address(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    name, checked = request.param
    app: WSGIApplication = importlib.import_module(f"frameworks.{name}_site").app
    with penstock.running(validator(app) if checked else app) as server:
        yield server.host, server.port


@pytest.fixture
def client(address: tuple[str, int]) -> Iterator[Client]:
    with Client(address) as client:
        yield client


@pytest.fixture
def reads_without_size(request: pytest.FixtureRequest) -> None:
    """Leave out what `wsgiref.validate` forbids, and a framework does all the same."""
    if "flask-validated" in request.node.name:
        pytest.skip("Werkzeug calls wsgi.input.read() without a size")


def multipart(title: str, filename: str, content: bytes) -> bytes:
    """Return a form with a field and a file (RFC 7578)."""
    return b"\r\n".join(
        [
            b"--" + BOUNDARY.encode(),
            b'Content-Disposition: form-data; name="title"',
            b"",
            title.encode(),
            b"--" + BOUNDARY.encode(),
            b'Content-Disposition: form-data; name="file"; filename="%b"' % filename.encode(),
            b"Content-Type: application/octet-stream",
            b"",
            content,
            b"--" + BOUNDARY.encode() + b"--",
            b"",
        ]
    )


def send_body(
    client: Client, method: str, target: str, kind: str, body: bytes, how: str
) -> Response:
    headers = {"Content-Type": kind}
    if how == "chunked":
        headers["Transfer-Encoding"] = "chunked"
        half = len(body) // 2
        body = chunked(body[:half], body[half:])
    return client.request(method, target, headers, body)


def assert_ok(response: Response, text: str) -> None:
    assert (response.status, response.body.decode()) == (200, text)
    assert response.complete


whole_body = pytest.mark.usefixtures("reads_without_size")
either_framing = pytest.mark.parametrize("how", ["content-length", "chunked"])
either_size = pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])


@either_framing
@either_size
def test_multipart_upload_arrives_whole(client: Client, how: str, content: bytes) -> None:
    body = multipart("a title", "some.bin", content)
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    response = send_body(client, "POST", "/upload", kind, body, how)
    assert_ok(response, f"a title some.bin {summary(content)}")


@whole_body
@either_framing
@either_size
def test_raw_body_arrives_whole(client: Client, how: str, content: bytes) -> None:
    response = send_body(client, "PUT", "/body", "application/octet-stream", content, how)
    assert_ok(response, summary(content))


@whole_body
def test_empty_body_is_empty(client: Client) -> None:
    response = client.request("POST", "/body", {"Content-Length": "0"})
    assert_ok(response, summary(b""))


@whole_body
def test_json_body_arrives_whole(client: Client) -> None:
    document = json.dumps({"é": [1, 2.5, None]}).encode()
    response = client.request("POST", "/body", {"Content-Type": "application/json"}, document)
    assert_ok(response, summary(document))


@whole_body
def test_upload_that_asks_before_it_sends_gets_100_continue(client: Client) -> None:
    lines = ["POST /body HTTP/1.1", "Host: localhost", f"Content-Length: {len(SMALL)}"]
    client.send("\r\n".join([*lines, "Expect: 100-continue", "", ""]).encode())
    assert client.read_response().status == 100
    client.send(SMALL)
    assert_ok(client.read_response(), summary(SMALL))


def test_streamed_response_arrives_whole(client: Client) -> None:
    response = client.request("GET", "/stream")
    assert response.status == 200
    assert response.complete
    assert response.header("Transfer-Encoding") == "chunked"
    assert response.body == b"".join(stream())
    assert len(response.body) > STREAM_BLOCKS


def test_streamed_response_ends_with_the_connection_for_http_1_0(client: Client) -> None:
    client.send(b"GET /stream HTTP/1.0\r\nHost: localhost\r\n\r\n")
    response = client.read_response()
    assert response.header("Transfer-Encoding") is None
    assert response.body == b"".join(stream())


def test_head_has_the_fields_of_get_and_no_body(client: Client) -> None:
    got = client.request("GET", "/page")
    asked = client.request("HEAD", "/page")
    assert_ok(got, PAGE)
    assert (asked.status, asked.body) == (200, b"")
    assert asked.header("ETag") == got.header("ETag") == f'"{PAGE_ETAG}"'
    assert asked.header("Content-Length") in (got.header("Content-Length"), None)
    assert_ok(client.request("GET", "/page"), PAGE)  # nothing was left on the connection


def test_conditional_get_of_a_known_page_is_304_without_body(client: Client) -> None:
    response = client.request("GET", "/page", {"If-None-Match": f'"{PAGE_ETAG}"'})
    assert response.status == 304
    assert response.header("Transfer-Encoding") is None
    assert response.header("ETag") == f'"{PAGE_ETAG}"'
    assert_ok(client.request("GET", "/page"), PAGE)


def test_conditional_get_of_a_changed_page_is_200(client: Client) -> None:
    assert_ok(client.request("GET", "/page", {"If-None-Match": '"another"'}), PAGE)


def test_each_cookie_is_a_field_of_its_own_and_comes_back(client: Client) -> None:
    response = client.request("GET", "/cookies")
    cookies = [value.partition(";")[0] for value in response.all("Set-Cookie")]
    assert sorted(cookies) == ["first=1", "second=2"]
    response = client.request("GET", "/cookies", {"Cookie": "; ".join(cookies)})
    assert_ok(response, str([("first", "1"), ("second", "2")]))


def test_unknown_path_is_the_frameworks_404(client: Client) -> None:
    assert client.request("GET", "/nowhere").status == 404


def test_body_that_is_not_read_is_not_taken_for_a_request(client: Client) -> None:
    assert client.request("POST", "/nowhere", body=b"GET /page HTTP/1.1\r\n\r\n").status == 404
    assert_ok(client.request("GET", "/page"), PAGE)
