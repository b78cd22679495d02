"""Files that the server sends before it asks the application, by section of RFC 9110."""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse

import pytest

import penstock
from penstock.config.checks import native_built
from penstock.edge import static_files
from penstock.edge.preconditions import MOST_RANGES
from support.fake_exchange import FakeExchange, make_environ, make_request
from support.serving import Environ, connect, eventually, get
from support.wire import Client, Response, exchange

STYLE = bytes(range(256)) * 40
LARGE = os.urandom(static_files.CACHED_FILE_BYTES * 5 + 7)
CODED = {"br": b"as br", "zstd": b"as zstd", "gzip": gzip.compress(b"as gzip")}
ENDS = {"br": "br", "zstd": "zst", "gzip": "gz"}
WHEN = 1_700_000_000
DATE = "Tue, 14 Nov 2023 22:13:20 GMT"
BEFORE = "Tue, 14 Nov 2023 22:13:19 GMT"


def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("404 Not Found", [("Content-Type", "text/plain")])
    return [b"application"]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # These files are new, and kept all the same.
    monkeypatch.setattr(static_files, "CHANGED_NANOSECONDS", 0)
    site = tmp_path / "site"
    (site / "docs").mkdir(parents=True)
    (site / "bare").mkdir()
    files = {
        "style.css": STYLE,
        "large.bin": LARGE,
        "empty.txt": b"",
        "coded.js": b"plain",
        "app.55e7cbb9ba48.css": b"hashed",
        "caf\xe9 \u4e2d.txt": b"name",
        "index.html": b"root",
        "docs/index.html": b"docs",
    }
    files |= {f"coded.js.{ENDS[coding]}": content for coding, content in CODED.items()}
    for name, content in files.items():
        (site / name).write_bytes(content)
        os.utime(site / name, (WHEN, WHEN))
    return site


@pytest.fixture
def client(site: Path, transport: str, threads: int) -> Iterator[Client]:
    with penstock.running(
        application, transport=transport, threads=threads, static=[f"/assets={site}"]
    ) as server:
        with connect(server) as client:
            yield client


def ask(client: Client, target: str, method: str = "GET", **fields: str) -> Response:
    return client.request(
        method, target, {name.replace("_", "-"): value for name, value in fields.items()}
    )


def test_rfc9110_8_a_file_has_its_fields(client: Client) -> None:
    for _ in range(2):  # read from the disk, and from memory
        response = ask(client, "/assets/style.css")
        assert (response.status, response.body) == (200, STYLE)
        fields = {
            "Content-Type": "text/css; charset=utf-8",
            "Content-Length": str(len(STYLE)),
            "Last-Modified": DATE,
            "Cache-Control": "public, max-age=60",
            "Accept-Ranges": "bytes",
            "X-Content-Type-Options": "nosniff",
            "Vary": None,
            "Content-Encoding": None,
        }
        assert {name: response.header(name) for name in fields} == fields
        assert re.fullmatch(r'"[0-9a-f]+-[0-9a-f]+"', response.header("ETag") or "")


def test_rfc9110_9_3_2_HEAD_has_the_fields_of_GET(client: Client) -> None:
    for name in ("style.css", "large.bin", "empty.txt"):
        whole, head = ask(client, f"/assets/{name}"), ask(client, f"/assets/{name}", "HEAD")
        assert head.body == b""
        assert without_date(head) == without_date(whole)


def without_date(response: Response) -> list[tuple[str, str]]:
    return [field for field in response.headers if field[0] != "Date"]


def test_rfc9110_15_5_6_other_methods_get_405_for_a_file_and_the_application_for_none(
    client: Client,
) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "TRACE"):
        response = ask(client, "/assets/style.css", method)
        assert (response.status, response.header("Allow")) == (405, "GET, HEAD, OPTIONS"), method
        assert ask(client, "/assets/none.css", method).body == b"application"
    response = ask(client, "/assets/style.css", "OPTIONS")
    assert (response.status, response.header("Allow")) == (200, "GET, HEAD, OPTIONS")
    assert (response.header("Content-Length"), response.body) == ("0", b"")


def test_rfc9110_13_conditional_requests(client: Client) -> None:
    etag = ask(client, "/assets/style.css").header("ETag")
    assert etag
    for fields, status in [
        ({"If_None_Match": etag}, 304),
        ({"If_None_Match": f'"x", W/{etag}'}, 304),
        ({"If_None_Match": "*"}, 304),
        ({"If_None_Match": '"x"', "If_Modified_Since": DATE}, 200),
        ({"If_Modified_Since": DATE}, 304),
        ({"If_Modified_Since": BEFORE}, 200),
        ({"If_Match": etag}, 200),
        ({"If_Match": f"W/{etag}"}, 412),
        ({"If_Unmodified_Since": BEFORE}, 412),
        ({"If_Unmodified_Since": DATE}, 200),
        ({"If_Match": '"x"', "Range": "bytes=0-1"}, 412),
        ({"If_None_Match": etag, "Range": "bytes=0-1"}, 304),
    ]:
        for method in ("GET", "HEAD"):
            response = ask(client, "/assets/style.css", method, **fields)
            expected = 200 if status == 206 and method == "HEAD" else status
            assert response.status == expected, (method, fields)


def test_rfc9110_15_4_5_a_304_has_what_caches_need_and_no_length(client: Client) -> None:
    plain = ask(client, "/assets/coded.js", Accept_Encoding="br")
    response = ask(
        client, "/assets/coded.js", Accept_Encoding="br", If_None_Match=plain.header("ETag") or ""
    )
    assert response.status == 304
    for name in ("ETag", "Cache-Control", "Vary", "Date"):
        assert response.header(name), name
    for name in ("Content-Type", "Content-Length", "Content-Encoding", "Last-Modified"):
        assert response.header(name) is None, name


def test_rfc9110_14_one_range(client: Client) -> None:
    for name, content in (("style.css", STYLE), ("large.bin", LARGE)):
        size = len(content)
        for value, begin, end in [
            ("bytes=0-0", 0, 1),
            ("bytes=5-", 5, size),
            ("bytes=-5", size - 5, size),
            ("bytes=7-99999999", 7, size),
            ("bytes=0-9,5-20", 0, 21),
        ]:
            response = ask(client, f"/assets/{name}", Range=value)
            assert (response.status, response.body) == (206, content[begin:end]), value
            assert response.header("Content-Range") == f"bytes {begin}-{end - 1}/{size}"
            assert response.header("ETag")


def test_rfc9110_14_6_several_ranges(client: Client) -> None:
    for name, content, kind in (
        ("style.css", STYLE, "text/css; charset=utf-8"),
        ("large.bin", LARGE, "application/octet-stream"),
    ):
        response = ask(client, f"/assets/{name}", Range="bytes=-3, 0-4, 100-199")
        size = len(content)
        parts = [(size - 3, size), (0, 5), (100, 200)]
        boundary = (response.header("Content-Type") or "").removeprefix(
            "multipart/byteranges; boundary="
        )
        expected = "".join(
            f"\r\n--{boundary}\r\nContent-Type: {kind}\r\n"
            f"Content-Range: bytes {begin}-{end - 1}/{size}\r\n\r\n"
            + content[begin:end].decode("latin-1")
            for begin, end in parts
        )[2:]
        assert response.status == 206
        assert response.header("Content-Range") is None
        assert response.all("Content-Type") == [f"multipart/byteranges; boundary={boundary}"]
        assert response.body.decode("latin-1") == f"{expected}\r\n--{boundary}--\r\n"
        assert ask(client, "/assets/empty.txt").status == 200, "the connection goes on"


def test_rfc9110_14_2_a_range_that_has_no_effect(client: Client) -> None:
    many = "bytes=" + ",".join(f"{n * 3}-{n * 3}" for n in range(MOST_RANGES + 1))
    for fields in (
        {"Range": many},
        {"Range": "lines=1-2"},
        {"Range": "bytes=9-1"},
        {"Range": "bytes=0-1", "If_Range": '"x"'},
        {"Range": "bytes=0-1", "If_Range": BEFORE},
    ):
        response = ask(client, "/assets/style.css", **fields)
        assert (response.status, len(response.body)) == (200, len(STYLE)), fields
    response = ask(client, "/assets/style.css", "HEAD", Range="bytes=0-1")
    assert (response.status, response.header("Content-Length")) == (200, str(len(STYLE)))
    etag = ask(client, "/assets/style.css").header("ETag") or ""
    for validator in (etag, DATE):
        response = ask(client, "/assets/style.css", Range="bytes=0-1", If_Range=validator)
        assert (response.status, response.body) == (206, STYLE[:2])


def test_rfc9110_15_5_17_there_are_no_such_bytes(client: Client) -> None:
    for name, size in (("style.css", len(STYLE)), ("empty.txt", 0)):
        response = ask(client, f"/assets/{name}", Range=f"bytes={size}-")
        assert (response.status, response.header("Content-Range")) == (416, f"bytes */{size}")
    assert ask(client, "/assets/empty.txt", Range="bytes=-5").status == 200


def test_rfc9110_12_5_3_precompressed_files(client: Client) -> None:
    plain = ask(client, "/assets/coded.js")
    assert (plain.body, plain.header("Content-Encoding")) == (b"plain", None)
    tags = {plain.header("ETag")}
    for value, coding in [
        ("br", "br"),
        ("gzip, zstd, br", "br"),
        ("gzip, zstd", "zstd"),
        ("gzip;q=1, zstd;q=0.5", "gzip"),
        ("gzip", "gzip"),
    ]:
        response = ask(client, "/assets/coded.js", Accept_Encoding=value)
        assert (response.body, response.header("Content-Encoding")) == (CODED[coding], coding)
        assert response.header("Content-Type") == "text/javascript; charset=utf-8"
        assert response.header("Vary") == "Accept-Encoding"
        tags.add(response.header("ETag"))
        # Of another coding the tag is another one.
        again = ask(client, "/assets/coded.js", If_None_Match=response.header("ETag") or "")
        assert again.status == 200
    assert len(tags) == 4
    for value, status in [("gzip;q=0, identity", 200), ("*;q=0", 406), ("", 200)]:
        response = ask(client, "/assets/coded.js", Accept_Encoding=value)
        assert (response.status, response.header("Vary")) == (status, "Accept-Encoding"), value
        assert response.header("Content-Encoding") is None
    part = ask(client, "/assets/coded.js", Accept_Encoding="br", Range="bytes=1-2")
    assert (part.status, part.body) == (206, CODED["br"][1:3])
    itself = ask(client, "/assets/coded.js.gz")
    assert (itself.body, itself.header("Content-Encoding")) == (CODED["gzip"], None)
    assert itself.header("Content-Type") == "application/gzip"


def test_a_name_with_a_hash_is_immutable(client: Client) -> None:
    response = ask(client, "/assets/app.55e7cbb9ba48.css")
    assert response.header("Cache-Control") == "public, max-age=31536000, immutable"


def test_rfc3986_2_1_a_path_is_decoded_once(client: Client) -> None:
    assert ask(client, "/assets/caf%C3%A9%20%E4%B8%AD.txt").body == b"name"
    assert ask(client, "/%61ssets/st%79le.css").body == STYLE
    for path in ("/assets/st%2579le.css", "/assets//style.css", "//assets/style.css"):
        assert ask(client, path).body == b"application", path
    assert ask(client, "/assets/style.css?v=1").body == STYLE


def test_what_is_not_there_is_the_applications(client: Client) -> None:
    for path in (
        "/",
        "/assets",
        "/assets/",
        "/assetsx",
        "/assets/none",
        "/assets/docs",
        "/assets/docs/",
        "/assets/bare/",
        "/assets/style.css/",
        "/assets/style.css/x",
        "/assets/" + "n" * 300,
        "/style.css",
    ):
        response = ask(client, path)
        assert (response.status, response.body) == (404, b"application"), path
    client.send(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")
    assert client.read_response().status in (200, 404)


def test_a_directory_has_its_index_file_by_setting(
    site: Path, transport: str, threads: int
) -> None:
    with penstock.running(
        application,
        transport=transport,
        threads=threads,
        static=[f"/={site}", f"/mounted/here={site / 'docs'}"],
        static_index="index.html",
    ) as server:
        with connect(server) as client:
            for path, content in [
                ("/", b"root"),
                ("/docs/", b"docs"),
                ("/mounted/here/", b"docs"),
                ("/style.css", STYLE),
                ("/bare/", b"application"),
                ("/bare", b"application"),
                ("//docs/", b"application"),
            ]:
                assert ask(client, path).body == content, path
            for path, location in [
                ("/docs", "./docs/"),
                ("/mounted/here?a=b&c", "./here/?a=b&c"),
                ("//docs", None),
            ]:
                response = ask(client, path)
                assert response.header("Location") == location, path
                assert response.status == (404 if location is None else 301), path
            client.send(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.read_response().status in (200, 404)


def test_prefixes_are_of_the_whole_url_also_with_a_mount_prefix(
    site: Path, transport: str, threads: int
) -> None:
    with penstock.running(
        application,
        transport=transport,
        threads=threads,
        static=[f"/assets={site}", f"/app/assets={site / 'docs'}"],
        script_name="/app",
    ) as server:
        with connect(server) as client:
            assert ask(client, "/assets/style.css").body == STYLE
            assert ask(client, "/app/assets/index.html").body == b"docs"
            assert ask(client, "/app/other").body == b"application"
            assert ask(client, "/other").status == 404
            # RFC 9112, section 3.2.2: the same in absolute-form
            assert ask(client, "http://localhost/app/assets/index.html?x=/y").body == b"docs"
            assert ask(client, "/app/assets/%69ndex.html").body == b"docs"


def test_prefixes_are_of_the_url_that_is_received_also_behind_a_proxy_that_removes_one(
    site: Path, transport: str
) -> None:
    with penstock.running(
        application,
        transport=transport,
        static=[f"/app/assets={site}"],
        script_name="/app",
        forwarded_allow_ips=["127.0.0.1"],
        forwarded_headers=["x-forwarded-prefix"],
    ) as server:
        with connect(server) as client:
            for prefix in ("/outer", "/app"):
                response = ask(client, "/app/assets/style.css", X_Forwarded_Prefix=prefix)
                assert response.body == STYLE, prefix


def test_a_change_of_a_file_is_seen_with_the_next_request(client: Client, site: Path) -> None:
    first = ask(client, "/assets/style.css")
    path = site / "style.css"
    path.write_bytes(STYLE[::-1])
    second = ask(client, "/assets/style.css", If_None_Match=first.header("ETag") or "")
    assert (second.status, second.body) == (200, STYLE[::-1])
    path.unlink()
    assert ask(client, "/assets/style.css").body == b"application"
    path.write_bytes(b"again")
    assert ask(client, "/assets/style.css").body == b"again"


def test_another_directory_in_the_same_place_is_seen(client: Client, site: Path) -> None:
    """As a build makes it that removes its output first."""
    assert ask(client, "/assets/style.css").body == STYLE
    site.rename(site.with_name("before"))
    eventually(lambda: ask(client, "/assets/style.css").body == b"application")
    site.mkdir()
    (site / "style.css").write_bytes(b"new")
    eventually(lambda: ask(client, "/assets/style.css").body == b"new")


def test_rfc9110_8_8_1_times_that_a_build_sets_are_no_validators(
    client: Client, site: Path
) -> None:
    tags, path, changed = set(), site / "build.js", 0
    for content in (b"one", b"two"):
        path.write_bytes(content)
        os.utime(path, (315532800, 315532800))
        while path.stat().st_ctime_ns == changed:  # within one tick of the clock of files
            os.utime(path, (315532800, 315532800))
        changed = path.stat().st_ctime_ns
        response = ask(client, "/assets/build.js")
        assert response.body == content
        assert response.header("Last-Modified") is None
        tags.add(response.header("ETag"))
    assert len(tags) == 2


def test_rfc9110_8_8_2_1_last_modified_is_never_after_date(client: Client, site: Path) -> None:
    os.utime(site / "style.css", (4_000_000_000, 4_000_000_000))
    response = ask(client, "/assets/style.css")
    assert "20" in (response.header("Last-Modified") or "")
    assert "2096" not in (response.header("Last-Modified") or "")


@pytest.mark.parametrize("settings", [{"static_cache": 0}, {"sendfile": False}])
def test_files_are_the_same_without_memory_and_without_sendfile(
    site: Path, transport: str, threads: int, settings: dict[str, Any]
) -> None:
    with penstock.running(
        application,
        transport=transport,
        threads=threads,
        static=[f"/assets={site}"],
        static_max_age=0,
        **settings,
    ) as server:
        with connect(server) as client:
            for name, content in (("style.css", STYLE), ("large.bin", LARGE), ("empty.txt", b"")):
                response = ask(client, f"/assets/{name}")
                assert (response.status, response.body) == (200, content)
                assert response.header("Cache-Control") == "no-cache"
            part = ask(client, "/assets/large.bin", Range="bytes=70000-200000,5-9")
            assert LARGE[70000:200001] in part.body


def test_pipelined_requests_for_files_and_for_the_application(client: Client) -> None:
    targets = ["/assets/style.css", "/x", "/assets/large.bin", "/assets/none", "/assets/empty.txt"]
    client.send(b"".join(map(get, targets)))
    bodies = [client.read_response().body for _ in targets]
    assert bodies == [STYLE, b"application", LARGE, b"application", b""]


def test_a_request_for_a_file_may_have_a_body(client: Client) -> None:
    client.send(
        b"GET /assets/style.css HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc" + get()
    )
    assert client.read_response().body == STYLE
    assert client.read_response().body == b"application"


def test_the_cache_stays_within_its_limit(site: Path) -> None:
    limit = 3 * (static_files.ENTRY_BYTES + 1000)
    settings = static_files.StaticSettings([("/", str(site))], cache_bytes=limit)
    files = static_files.StaticFiles(settings, print)
    for number in range(20):
        (site / f"{number}.txt").write_bytes(b"x" * 1000)
        for _ in range(2):
            exchange = FakeExchange(make_environ(make_request(target=f"/{number}.txt")))
            assert files.answer(exchange)
            assert exchange.sent == b"x" * 1000
        assert sum(entry.size for entry in files._cache.values()) == files._cached_bytes <= limit
    assert set(files._cache) == {"/17.txt", "/18.txt", "/19.txt"}
    assert all(entry.variants["identity"].kept for entry in files._cache.values())


def test_a_file_that_was_just_changed_is_not_kept(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second change within the same tick of the clock of files would not show."""
    monkeypatch.setattr(static_files, "CHANGED_NANOSECONDS", 3600 * 10**9)
    files = static_files.StaticFiles(static_files.StaticSettings([("/", str(site))]), print)
    for _ in range(2):
        exchange = FakeExchange(make_environ(make_request(target="/style.css")))
        assert files.answer(exchange)
        assert exchange.sent == STYLE
    assert files._cache["/style.css"].variants["identity"].kept is None


def test_both_transports_give_the_same_bytes(site: Path) -> None:
    """But for the date, and the boundary of several ranges, which is random."""
    if not native_built():
        pytest.skip("only one transport is built")
    requests = [
        get(f"/assets/{name}", "Connection: close", *fields, version=version)
        for name in ("style.css", "large.bin", "coded.js", "empty.txt", "docs", ".env", "none")
        for fields in (
            (),
            ("Accept-Encoding: gzip, br;q=0.5",),
            ("If-None-Match: *",),
            ('If-Match: "x"',),
            ("Range: bytes=1-2",),
            ("Range: bytes=-2,0-0",),
            ("Range: bytes=999999-",),
        )
        for version in ("HTTP/1.1", "HTTP/1.0")
    ]
    requests += [
        request.replace(b"GET", method)
        for request in requests[:14]
        for method in (b"HEAD", b"OPTIONS", b"PUT")
    ]
    answers = []
    for transport in ("python", "native"):
        with penstock.running(
            application, transport=transport, static=[f"/assets={site}"], static_index="index.html"
        ) as server:
            address = (server.host, server.port)
            answers.append([without_chance(exchange(address, data)) for data in requests])
    for data, *both in zip(requests, *answers, strict=True):
        assert both[0] == both[1], data


def without_chance(answer: bytes) -> bytes:
    answer = re.sub(rb"Date: [^\r]*", b"Date: now", answer)
    return re.sub(rb"(boundary=|--)[0-9a-f]{32}", rb"\1boundary", answer)
