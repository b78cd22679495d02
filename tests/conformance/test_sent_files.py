"""``X-Sendfile`` and ``X-Accel-Redirect``: files that the application names to be sent."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse

import pytest

import penstock
from support.serving import Environ, connect, eventually
from support.wire import Client, Response

CONTENT = os.urandom(200_000)
WHEN = 1_700_000_000
DATE = "Tue, 14 Nov 2023 22:13:20 GMT"

Fields = list[tuple[str, str]]


class Naming:
    """An application that answers as it is told, and keeps what became of its body."""

    def __init__(self) -> None:
        self.status = "200 OK"
        self.fields: Fields = []
        self.body: Callable[[], Any] = lambda: [b"not this"]

    def __call__(self, environ: Environ, start_response: StartResponse) -> Any:
        start_response(self.status, list(self.fields))
        return self.body()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    files = tmp_path / "files"
    (files / "sub").mkdir(parents=True)
    (files / "sub" / "a b%.bin").write_bytes(CONTENT)
    (files / "page.html").write_bytes(b"page")
    (files / ".hidden").write_bytes(b"secret")
    (tmp_path / "secret").write_bytes(b"secret")
    (files / "out").symlink_to("../secret")
    os.mkfifo(files / "fifo")
    for name in ("sub/a b%.bin", "page.html"):
        os.utime(files / name, (WHEN, WHEN))
    return files


@pytest.fixture
def naming() -> Naming:
    return Naming()


@pytest.fixture
def client(naming: Naming, files: Path, transport: str, threads: int) -> Iterator[Client]:
    with penstock.running(
        naming,
        transport=transport,
        threads=threads,
        sendfile_root=[str(files), f"/internal={files}"],
        compress=True,
    ) as server:
        with connect(server) as client:
            yield client


def ask(client: Client, method: str = "GET", **fields: str) -> Response:
    return client.request(
        method, "/", {name.replace("_", "-"): value for name, value in fields.items()}
    )


def test_the_file_comes_in_place_of_what_the_application_returns(
    client: Client, naming: Naming, files: Path
) -> None:
    def streamed() -> Iterator[bytes]:
        yield b"a"
        yield b"b"

    bodies: list[Callable[[], Any]] = [
        lambda: [b"not this"],
        lambda: [],
        lambda: (b"not", b"this"),
        streamed,
    ]
    for name, value in (
        ("X-Sendfile", f"{files}/sub/a b%.bin"),
        ("x-sendfile", f"{files}//sub/a b%.bin"),
        ("X-Accel-Redirect", "/internal/sub/a%20b%25.bin?x=y"),
    ):
        for body in bodies:
            for length in ([], [("Content-Length", "8")], [("Content-Length", "0")]):
                naming.body = body
                naming.fields = [("Content-Disposition", "attachment"), (name, value), *length]
                response = ask(client, Accept_Encoding="gzip")
                assert (response.status, response.body) == (200, CONTENT), (name, length)
                assert response.header(name) is None
                assert response.header("Content-Disposition") == "attachment"
                assert response.header("Content-Type") == "application/octet-stream"
                assert response.header("Last-Modified") == DATE


def test_the_applications_fields_count(client: Client, naming: Naming, files: Path) -> None:
    naming.fields = [
        ("X-Sendfile", f"{files}/page.html"),
        ("Content-Type", "text/x-own"),
        ("ETag", '"own"'),
        ("Last-Modified", "Mon, 13 Nov 2023 22:13:20 GMT"),
        ("Set-Cookie", "a=b"),
    ]
    response = ask(client)
    assert response.body == b"page"
    assert response.all("Content-Type") == ["text/x-own"]
    assert response.all("ETag") == ['"own"']
    assert response.all("Last-Modified") == ["Mon, 13 Nov 2023 22:13:20 GMT"]
    unchanged = ask(client, If_None_Match='W/"own"')
    assert (unchanged.status, unchanged.header("Set-Cookie")) == (304, "a=b")
    assert ask(client, If_Modified_Since="Mon, 13 Nov 2023 22:13:20 GMT").status == 304
    assert ask(client, If_Modified_Since="Sun, 12 Nov 2023 22:13:20 GMT").status == 200


def test_rfc9110_13_and_14_conditions_and_ranges(
    client: Client, naming: Naming, files: Path
) -> None:
    naming.fields = [("X-Sendfile", f"{files}/sub/a b%.bin")]
    part = ask(client, Range="bytes=-5")
    assert (part.status, part.body) == (206, CONTENT[-5:])
    several = ask(client, Range="bytes=0-1,5-6")
    assert several.status == 206
    assert (several.header("Content-Type") or "").startswith("multipart/byteranges")
    assert ask(client, Range="bytes=200000-").status == 416
    assert ask(client, If_Match='"other"').status == 412
    head = ask(client, "HEAD", Range="bytes=0-1")
    assert (head.status, head.header("Content-Length"), head.body) == (200, "200000", b"")


def test_another_status_or_method_gets_the_whole_file(
    client: Client, naming: Naming, files: Path
) -> None:
    naming.fields = [("X-Sendfile", f"{files}/page.html")]
    response = ask(client, "POST", Range="bytes=0-1", If_Match='"other"')
    assert (response.status, response.body) == (200, b"page")
    naming.status = "403 Forbidden"
    response = ask(client, Range="bytes=0-1", If_None_Match="*")
    assert (response.status, response.body) == (403, b"page")
    naming.status = "204 No Content"
    response = ask(client)
    assert (response.status, response.header("X-Sendfile")) == (204, None)


def test_what_is_in_no_directory_or_refused_is_404(
    client: Client, naming: Naming, files: Path
) -> None:
    for name, value in [
        ("X-Sendfile", "/etc/passwd"),
        ("X-Sendfile", "page.html"),
        ("X-Sendfile", ""),
        ("X-Sendfile", f"{files}"),
        ("X-Sendfile", f"{files}/"),
        ("X-Sendfile", f"{files}/none"),
        ("X-Sendfile", f"{files}/sub"),
        ("X-Sendfile", f"{files}/out"),
        ("X-Sendfile", f"{files}/../secret"),
        ("X-Sendfile", f"{files}/sub/../../secret"),
        ("X-Sendfile", f"{files}x/page.html"),
        ("X-Sendfile", f"{files}/.hidden"),
        ("X-Sendfile", f"{files}/fifo"),
        ("X-Sendfile", f"{files}/sub/a%20b%25.bin"),
        ("X-Sendfile", "/internal/page.html"),
        ("X-Accel-Redirect", f"{files}/page.html"),
        ("X-Accel-Redirect", "/internal/../secret"),
        ("X-Accel-Redirect", "/internal/%2e%2e/secret"),
        ("X-Accel-Redirect", "/internal/sub%2f..%2f..%2fsecret"),
        ("X-Accel-Redirect", "/internal/page.html%00"),
        ("X-Accel-Redirect", "/internal/sub/a%2520b%2525.bin"),
        ("X-Accel-Redirect", "/internal"),
        ("X-Accel-Redirect", "internal/page.html"),
    ]:
        naming.fields = [("Set-Cookie", "a=b"), (name, value)]
        response = ask(client)
        assert (response.status, response.body) == (404, b"Not Found\n"), (name, value)
        assert response.header("Set-Cookie") is None


def test_the_log_says_why_a_file_is_refused(
    client: Client, naming: Naming, files: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path, reason in (
        (files / "out", "it leads out of the directory"),
        (files / ".hidden", "a name in its path begins with a dot"),
        (files / ".." / "secret", "a name in its path begins with a dot"),
        (files.parent / "secret", "it is in no directory of sendfile_root"),
        (files / "none", "No such file or directory"),
        (files / "fifo", "not a regular file"),
    ):
        naming.fields = [("X-Sendfile", str(path))]
        assert ask(client).status == 404
        said = f"could not send the file {path}, which the application named in X-Sendfile: "
        assert said + reason in caplog.text


def test_other_responses_are_the_applications(client: Client, naming: Naming) -> None:
    naming.fields = [("Content-Type", "text/plain")]
    assert ask(client).body == b"not this"


def test_the_body_is_closed_and_an_error_in_it_is_500(
    client: Client, naming: Naming, files: Path
) -> None:
    closed = []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            yield b"a"
            raise ValueError("as the test wants it")

        def close(self) -> None:
            closed.append(True)

    naming.fields = [("X-Sendfile", f"{files}/page.html")]
    naming.body = Body
    assert ask(client).status == 500
    eventually(lambda: closed == [True])


def test_without_the_setting_the_field_is_one_as_any_other(
    naming: Naming, files: Path, transport: str
) -> None:
    naming.fields = [("X-Sendfile", f"{files}/page.html")]
    with penstock.running(naming, transport=transport) as server:
        with connect(server) as client:
            response = ask(client)
            assert response.body == b"not this"
            assert response.header("X-Sendfile") == f"{files}/page.html"
