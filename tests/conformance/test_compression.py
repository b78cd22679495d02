"""``--compress``: which responses are compressed, and what their fields say then."""

from __future__ import annotations

import gzip
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any
from wsgiref.types import StartResponse

import pytest

import penstock
from penstock.edge import compression
from penstock.edge.compression import LEAST_BYTES, Compression
from support.serving import Environ, connect, get
from support.wire import Client, Response

TEXT = b"<p>Hello, world!</p>\n" * 500
HTML = ("Content-Type", "text/html; charset=utf-8")


class Answering:
    """An application that answers as it is told."""

    def __init__(self) -> None:
        self.status = "200 OK"
        self.fields = [HTML]
        self.body: Callable[[Environ], Any] = lambda environ: [TEXT]

    def __call__(self, environ: Environ, start_response: StartResponse) -> Any:
        start_response(self.status, list(self.fields))
        return self.body(environ)


@pytest.fixture
def app() -> Answering:
    return Answering()


@pytest.fixture
def client(app: Answering, transport: str, threads: int) -> Iterator[Client]:
    with penstock.running(app, transport=transport, threads=threads, compress=True) as server:
        with connect(server) as client:
            yield client


def ask(client: Client, method: str = "GET", accepted: str | None = "gzip") -> Response:
    return client.request(method, "/", {} if accepted is None else {"Accept-Encoding": accepted})


def wrapped(environ: Environ) -> Any:
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the wrapper closes it
    file.write(TEXT * 20)
    file.seek(7)
    return environ["wsgi.file_wrapper"](file)


def test_rfc9110_8_4_the_body_is_compressed_however_it_is_returned(
    client: Client, app: Answering
) -> None:
    bodies: list[tuple[Callable[[Environ], Any], bytes]] = [
        (lambda environ: [TEXT], TEXT),
        (lambda environ: (TEXT, TEXT), TEXT * 2),
        (lambda environ: iter([TEXT, b"", b"a", TEXT * 100]), TEXT + b"a" + TEXT * 100),
        (wrapped, (TEXT * 20)[7:]),
    ]
    for body, content in bodies:
        for with_length in (False, True):
            length = [("Content-Length", str(len(content)))] if with_length else []
            app.fields, app.body = [HTML, *length], body
            response = ask(client)
            assert gzip.decompress(response.body) == content
            assert response.header("Content-Encoding") == "gzip"
            assert response.header("Vary") == "Accept-Encoding"
            plain = ask(client, accepted=None)
            assert (plain.body, plain.header("Content-Encoding")) == (content, None)
            assert plain.header("Vary") == "Accept-Encoding", "a cache has to know"


def test_a_body_in_one_piece_has_its_length(client: Client) -> None:
    response = ask(client)
    assert response.header("Content-Length") == str(len(response.body))
    assert response.header("Transfer-Encoding") is None


def test_http_1_0_gets_a_stream_until_the_connection_closes(client: Client, app: Answering) -> None:
    app.body = lambda environ: iter([TEXT, TEXT])
    client.send(get("/", "Accept-Encoding: gzip", version="HTTP/1.0"))
    assert gzip.decompress(client.read_response().body) == TEXT * 2


def test_rfc9110_8_8_1_the_tag_is_weak(client: Client, app: Answering) -> None:
    for given, sent in (('"a"', 'W/"a"'), ('W/"a"', 'W/"a"')):
        app.fields = [HTML, ("ETag", given), ("Accept-Ranges", "bytes")]
        response = ask(client)
        assert (response.header("ETag"), response.header("Accept-Ranges")) == (sent, None)
        plain = ask(client, accepted="identity")
        assert (plain.header("ETag"), plain.header("Accept-Ranges")) == (given, "bytes")
    app.status, app.fields, app.body = "304 Not Modified", [("ETag", '"a"')], lambda environ: []
    assert ask(client).header("ETag") == 'W/"a"', "else a cache would not find what it has"
    assert ask(client, accepted=None).header("ETag") == '"a"'


def test_rfc9110_15_4_5_a_304_has_the_vary_of_the_200(client: Client, app: Answering) -> None:
    app.status, app.body = "304 Not Modified", lambda environ: []
    for fields, sent in [
        ([("ETag", '"a"')], ["Accept-Encoding"]),  # of which type the 200 is, a 304 rarely tells
        ([HTML], ["Accept-Encoding"]),
        ([("Vary", "Cookie")], ["Cookie", "Accept-Encoding"]),
        ([("Vary", "*")], ["*"]),
        ([("Content-Type", "image/png")], []),
        ([("Content-Encoding", "br")], []),
        ([("Cache-Control", "no-transform")], []),
    ]:
        app.fields = fields
        for accepted in ("gzip", "identity", None):
            assert ask(client, accepted=accepted).all("Vary") == sent, (fields, accepted)


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (["Cookie"], ["Cookie", "Accept-Encoding"]),
        (["Cookie, accept-encoding"], ["Cookie, accept-encoding"]),
        (["*"], ["*"]),
    ],
)
def test_rfc9110_12_5_5_vary_is_added_where_it_is_missing(
    client: Client, app: Answering, given: list[str], sent: list[str]
) -> None:
    app.fields = [HTML, *(("Vary", value) for value in given)]
    assert ask(client).all("Vary") == sent


def test_what_is_not_compressed(client: Client, app: Answering) -> None:
    for status, fields in [
        ("200 OK", [("Content-Type", "image/png")]),
        ("200 OK", []),
        ("200 OK", [HTML, ("Content-Encoding", "identity")]),
        ("200 OK", [HTML, ("Content-Encoding", "br")]),
        ("200 OK", [HTML, ("Cache-Control", "max-age=5, No-Transform")]),
        ("200 OK", [HTML, ("Content-Digest", "sha-256=:AAAA:")]),
        ("206 Partial Content", [HTML, ("Content-Range", f"bytes 0-1/{len(TEXT)}")]),
    ]:
        app.status, app.fields = status, fields
        response = ask(client)
        assert response.body == TEXT, fields
        assert response.header("Content-Encoding") in (None, "identity", "br")
        assert response.header("Vary") is None
        assert response.header("Content-Length") == str(len(TEXT))
    app.status, app.fields = "204 No Content", [HTML]
    assert ask(client).header("Content-Encoding") is None
    app.status = "404 Not Found"
    assert ask(client).header("Content-Encoding") == "gzip"


def test_types_like_text_are_compressed(client: Client, app: Answering) -> None:
    for kind in (
        "text/plain",
        "TEXT/CSS",
        "application/json",
        "application/javascript; charset=utf-8",
        "application/problem+json",
        "image/svg+xml",
        "application/wasm",
    ):
        app.fields = [("Content-Type", kind)]
        assert ask(client).header("Content-Encoding") == "gzip", kind


def test_a_short_body_is_sent_as_it_is(client: Client, app: Answering) -> None:
    short = b"x" * (LEAST_BYTES - 1)
    for length in ([], [("Content-Length", str(len(short)))]):
        app.fields, app.body = [HTML, *length], lambda environ: [short]
        response = ask(client)
        assert (response.body, response.header("Content-Encoding")) == (short, None)
        assert response.header("Content-Length") == str(len(short))
    app.body = lambda environ: []
    assert ask(client).header("Content-Encoding") is None


def test_rfc9110_12_5_3_the_client_decides(client: Client) -> None:
    for accepted, coding in [
        (None, None),
        ("", None),
        ("identity", None),
        ("gzip;q=0", None),
        ("compress", None),
        ("gzip;q=0.5, identity", None),
        ("*;q=0", None),  # the application has answered: 406 would be the application's
        ("gzip;q=0.1", "gzip"),
        ("x-gzip", "gzip"),
    ]:
        assert ask(client, accepted=accepted).header("Content-Encoding") == coding, accepted


def test_rfc9110_9_3_2_HEAD_has_the_fields_of_GET_that_are_known(
    client: Client, app: Answering
) -> None:
    app.fields = [HTML, ("Content-Length", str(len(TEXT))), ("ETag", '"a"')]
    for body in (lambda environ: [TEXT], lambda environ: []):
        app.body = body
        head = ask(client, "HEAD")
        fields = ("Content-Encoding", "ETag", "Vary", "Content-Length")
        assert [head.header(name) for name in fields] == ["gzip", 'W/"a"', "Accept-Encoding", None]
    app.fields = [HTML, ("Content-Length", "5")]
    assert ask(client, "HEAD").header("Content-Length") == "5"


def test_each_block_of_a_stream_can_be_read_when_it_is_sent(transport: str) -> None:
    """The application waits until the client has read its first block."""
    goes_on = threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        yield b"data: first\n\n"
        assert goes_on.wait(30)
        yield b"data: last\n\n"

    with penstock.running(app, transport=transport, compress=True) as server:
        with connect(server) as client:
            client.send(get("/", "Accept-Encoding: gzip", version="HTTP/1.0"))
            head, _, body = client._until(b"\r\n\r\n"), None, b""
            assert b"Content-Encoding: gzip" in head
            reader = zlib.decompressobj(16 + zlib.MAX_WBITS)
            read = b""
            while read != b"data: first\n\n":
                read += reader.decompress(client._take(1))
            goes_on.set()
            assert reader.decompress(client.read_to_end()) == b"data: last\n\n"
            assert reader.eof
            assert body == b""


def test_write_of_pep3333_is_compressed_too(transport: str) -> None:
    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        write = start_response("200 OK", [HTML])
        write(TEXT)
        return [b"end"]

    with penstock.running(app, transport=transport, compress=True) as server:
        with connect(server) as client:
            assert gzip.decompress(ask(client).body) == TEXT + b"end"


def test_a_failure_before_anything_was_sent_is_500_as_it_is(client: Client, app: Answering) -> None:
    def failing(environ: Environ) -> Iterator[bytes]:
        raise ValueError("as the test wants it")
        yield b""

    app.body = failing
    response = ask(client)
    assert (response.status, response.body) == (500, b"Internal Server Error\n")
    assert response.header("Content-Encoding") is None


def test_a_body_shorter_than_its_length_is_cut_off(client: Client, app: Answering) -> None:
    app.fields = [HTML, ("Content-Length", str(len(TEXT) + 1))]
    app.body = lambda environ: iter([TEXT])
    client.send(get("/", "Accept-Encoding: gzip"))
    assert not client.read_response().complete


READERS: dict[str, Callable[[Any, bytes], bytes]] = {
    "brotli": lambda module, data: module.decompress(data),
    "brotlicffi": lambda module, data: module.decompress(data),
    "zstandard": lambda module, data: module.ZstdDecompressor().decompressobj().decompress(data),
    "compression.zstd": lambda module, data: module.ZstdDecompressor().decompress(data),
    "backports.zstd": lambda module, data: module.ZstdDecompressor().decompress(data),
}


@pytest.mark.parametrize("library", [*READERS, "zlib"])
def test_each_library_gives_a_stream_that_can_be_read_block_by_block(library: str) -> None:
    try:
        module = import_module(library)
    except ImportError:
        pytest.skip(f"{library} is not installed")
    coders = {name: coder for _, name, coder in compression._LIBRARIES}
    make: Callable[[Any], compression.Coder]
    make = coders.get(library, lambda _: compression._Gzip())
    blocks = [TEXT, b"a", TEXT[::-1]]

    coder = make(module)
    sent = b"".join(map(coder.block, blocks)) + coder.end(b"end")
    read: Callable[[Any, bytes], bytes]
    read = READERS.get(library, lambda _, data: gzip.decompress(data))
    assert read(module, sent) == b"".join(blocks) + b"end"
    assert read(module, make(module).end(TEXT)) == TEXT
    assert len(make(module).end(TEXT)) < len(TEXT) / 10


def test_gzip_is_always_there_and_the_last_choice() -> None:
    found = Compression()
    assert found.codings[-1] == "gzip"
    for coding in found.codings:
        assert found.coder(coding).end(TEXT)
