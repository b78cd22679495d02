"""What known vulnerabilities did to whole servers; what they did to parsers is tested there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from wsgiref.types import StartResponse

import pytest

import penstock
from support import applications
from support.serving import (
    TEXT,
    Environ,
    Gate,
    Recorder,
    connect,
    descriptors,
    eventually,
    get,
    post,
)

pytestmark = pytest.mark.parametrize("threads", [1, 4])

CHUNKED = "Transfer-Encoding: chunked"


def chunked_post(body: bytes) -> bytes:
    return f"POST / HTTP/1.1\r\nHost: a\r\n{CHUNKED}\r\n\r\n".encode() + body


def test_CVE_2024_49768_nothing_behind_a_refused_request_is_processed(
    transport: str, threads: int
) -> None:
    recorder = Recorder()
    with penstock.running(recorder, transport=transport, threads=threads) as server:
        with connect(server) as client:
            # The first lookahead ends within the second request, as in waitress's recv_bytes.
            client.send(get("/good") + b"GET /bad\r\n" + get("/smuggled") * 1500)
            assert client.read_response().status == 200
            assert client.read_response().status == 400
            client.send(get("/smuggled-later"))
            assert client.read_to_end() == b""
        with connect(server) as client:
            assert client.request("GET", "/afterwards").status == 200
    assert recorder.targets == ["/good", "/afterwards"]


def test_CVE_2024_49769_peers_gone_before_they_are_accepted_cost_nothing(
    transport: str, threads: int
) -> None:
    gate = Gate()
    with penstock.running(gate, transport=transport, threads=threads) as server:
        with connect(server) as client:
            assert client.request("GET", "/").status == 200
            before = descriptors()
            for _ in range(200):
                connect(server).reset()
            client.send(get("/wait"))
            eventually(lambda: "/wait" in gate.seen)
            for _ in range(200):
                connect(server).reset()
            gate.open()
            assert client.read_response().status == 200
            # Only now the accept queue has been read to its end.
            with connect(server) as last:
                assert last.request("GET", "/").status == 200
            eventually(lambda: server.snapshot()["connections"] == 1)
            assert client.request("GET", "/").status == 200
            eventually(lambda: descriptors() <= before)


def test_CVE_2022_31015_a_connection_that_a_thread_closes_ends_no_loop(
    transport: str, threads: int
) -> None:
    with penstock.running(applications.echo, transport=transport, threads=threads) as server:
        for _ in range(100):
            with connect(server) as first, connect(server) as second:
                first.send(get("/", "Connection: close"))
                second.send(post(b"x" * 100, length=1000))
                assert first.read_response().status == 200
                second.reset()
                # Its descriptor is free, and the next connection gets it.
                with connect(server) as third:
                    assert third.request("GET", "/").status == 200
        eventually(lambda: server.snapshot()["connections"] == 0)


@pytest.mark.parametrize("first", [post(b"a=1"), chunked_post(b"3\r\na=1\r\n0\r\n\r\n")])
def test_CVE_2023_46137_and_CVE_2024_41671_answers_come_in_the_order_of_the_requests(
    transport: str, threads: int, first: bytes
) -> None:
    gate = Gate()
    data = first.replace(b"POST /", b"POST /wait/first") + post(b"b=2", target="/second")
    with penstock.running(gate, transport=transport, threads=threads) as server:
        with connect(server) as client:
            client.send(data + get("/third"))
            eventually(lambda: gate.inside == 1)
            client.send(get("/fourth"))
            gate.open()
            answers = [client.read_response().body for _ in range(4)]
    assert answers == [b"/wait/first", b"/second", b"/third", b"/fourth"]


def test_CVE_2025_43859_and_funky_chunks_close_when_the_body_is_streamed(
    transport: str, threads: int
) -> None:
    recorder = Recorder()
    body = b"5\r\nAAAAAXX2\r\n45\r\n0\r\n\r\n" + get("/smuggled")
    settings = {"transport": transport, "threads": threads, "stream_requests": True}
    with penstock.running(recorder, **settings) as server, connect(server) as client:
        client.send(chunked_post(body))
        response = client.read_response()
        assert (response.status, response.header("Connection")) == (400, "close")
        assert client.read_to_end() == b""
    assert recorder.targets == ["/"]


def test_CVE_2025_43859_an_application_that_goes_on_after_a_broken_body_closes_too(
    transport: str, threads: int
) -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        errors = []
        for _ in range(3):
            try:
                environ["wsgi.input"].read(100)
            except OSError as error:
                errors.append(type(error).__name__)
        start_response("200 OK", TEXT)
        return [" ".join(errors).encode()]

    settings = {"transport": transport, "threads": threads, "stream_requests": True}
    with penstock.running(application, **settings) as server, connect(server) as client:
        client.send(chunked_post(b"5\r\nAAAAAXX\r\n" + get("/smuggled")))
        response = client.read_response()
        assert response.body == b"RequestBodyError RequestBodyError RequestBodyError"
        assert response.header("Connection") == "close"
        assert client.read_to_end() == b""


@pytest.mark.parametrize("size", [10, 100_000, 10_000_000])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_0CL_desync_what_an_early_answer_leaves_of_the_body_is_no_request(
    transport: str, threads: int, size: int, framing: str
) -> None:
    """HTTP/1.1 must die (2025): the unread body of a request was taken for the next one."""
    seen = []

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        seen.append(environ["PATH_INFO"])
        start_response("403 Forbidden", TEXT)
        return [b"early"]

    smuggled = get("/smuggled").ljust(size, b"\n")
    whole = (
        post(smuggled)
        if framing == "length"
        else chunked_post(b"%x\r\n%b\r\n0\r\n\r\n" % (len(smuggled), smuggled))
    )
    settings = {"transport": transport, "threads": threads, "stream_requests": True}
    with penstock.running(application, **settings) as server, connect(server) as client:
        head = whole[: whole.index(b"\r\n\r\n") + 4]
        client.send(head)
        response = client.read_response()
        assert (response.status, response.body) == (403, b"early")
        try:
            client.send(whole[len(head) :] + get("/second"))
        except (BrokenPipeError, ConnectionResetError):
            assert response.header("Connection") == "close"
        if response.header("Connection") is None:
            assert client.read_response().status == 403
            assert seen == ["/", "/second"]
        else:
            assert client.read_to_end() == b""
            assert seen == ["/"]


def test_CVE_2007_6750_slowloris_cannot_keep_a_head_open_by_trickling(
    transport: str, threads: int
) -> None:
    settings = {"transport": transport, "threads": threads, "header_timeout": 0.5}
    with penstock.running(applications.hello, **settings) as server:
        slow = [connect(server) for _ in range(20)]
        for client in slow:
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n")
        with connect(server) as other:
            assert other.request("GET", "/").status == 200

        def trickle() -> None:
            for client in slow:
                with suppress(OSError):  # it has been cut off
                    client.send(b"X: y\r\n")

        def all_are_cut_off() -> bool:
            trickle()
            return bool(server.snapshot()["requests_refused"] >= len(slow))

        eventually(all_are_cut_off)
        for client in slow:
            assert client.read_response().status == 408
            client.close()


def test_slow_POST_cannot_hold_a_thread_or_last_for_ever(transport: str, threads: int) -> None:
    settings = {"transport": transport, "threads": threads, "body_timeout": 0.5}
    with penstock.running(applications.echo, **settings, body_min_rate=1000) as server:
        slow = [connect(server) for _ in range(20)]
        for client in slow:
            client.send(post(b"x", length=1_000_000))
        with connect(server) as other:
            assert other.request("GET", "/").status == 200
            assert server.snapshot()["requests_in_progress"] <= 1
        for client in slow:
            assert client.read_response().status == 408
            client.close()


def test_slow_read_holds_no_thread_and_ends(transport: str, threads: int) -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", TEXT)
        return [b"x" * (20_000_000 if environ["PATH_INFO"] == "/big" else 5)]

    settings = {"transport": transport, "threads": threads, "write_timeout": 0.5}
    with penstock.running(application, **settings) as server:
        slow = [connect(server, receive_buffer=4096) for _ in range(8)]
        for client in slow:
            client.send(get("/big"))
        for _ in range(20):
            with connect(server) as other:
                assert other.request("GET", "/").body == b"xxxxx"
        eventually(lambda: server.snapshot()["connections"] == 0, timeout=60)
        for client in slow:
            client.close()


def test_CVE_2016_5388_httpoxy_no_client_sets_HTTP_PROXY(transport: str, threads: int) -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", TEXT)
        return [repr([name for name in environ if "PROXY" in name.upper()]).encode()]

    with penstock.running(application, transport=transport, threads=threads) as server:
        with connect(server) as client:
            client.send(get("/", "Proxy: http://evil.example"))
            assert client.read_response().body == b"[]"


@pytest.mark.parametrize(
    ("header_map", "expected"),
    [("drop", "1.1.1.1"), ("dangerous", "1.1.1.1"), ("refuse", None)],
)
def test_CVE_2024_45614_a_name_with_an_underscore_does_not_replace_a_proxys_field(
    transport: str, threads: int, header_map: str, expected: str | None
) -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", TEXT)
        return [environ["HTTP_X_FORWARDED_FOR"].replace(" ", "").encode()]

    settings = {"transport": transport, "threads": threads, "header_map": header_map}
    with penstock.running(application, **settings) as server, connect(server) as client:
        client.send(get("/", "X-Forwarded-For: 1.1.1.1", "X_Forwarded_For: 6.6.6.6"))
        response = client.read_response()
        if expected is None:
            assert response.status == 400
        else:
            assert response.body.decode() == expected


@pytest.mark.parametrize(
    "field",
    [
        ("X-A", "b\r\nSet-Cookie: evil=1"),
        ("X-A", "b\nX: y"),
        ("X-A", "b\0"),
        ("X Bad", "b"),
        ("X-A\r\nX-B", "b"),
        ("", "b"),
        ("X-A", "caf\u00e9\u20ac"),
        ("Sec-WebSocket-Protocol", "\u20ac"),
    ],
    ids=repr,
)
def test_CVE_2026_42545_CVE_2020_7695_a_bad_response_field_is_a_500_and_ends_no_thread(
    transport: str, threads: int, field: tuple[str, str]
) -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [field] if environ["PATH_INFO"] == "/bad" else [])
        return [b"hello"]

    with penstock.running(application, transport=transport, threads=threads) as server:
        with connect(server) as client:
            client.send(get("/bad") + get("/good"))
            response = client.read_response()
            assert response.status == 500
            assert response.header("Set-Cookie") is None
            assert client.read_response().body == b"hello"


@pytest.mark.parametrize("field", [("X-A", "b\r\nX: y"), ("X Bad", "b"), ("X-A", "\u20ac")])
def test_CVE_2026_42545_a_bad_early_hint_is_refused_as_well(
    transport: str, threads: int, field: tuple[str, str]
) -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        environ["wsgi.early_hints"]([field])
        return applications.hello(environ, start_response)

    with penstock.running(application, transport=transport, threads=threads) as server:
        with connect(server) as client:
            assert client.request("GET", "/").status == 500


def test_CVE_2026_42544_a_non_ascii_Sec_WebSocket_Protocol_is_passed_on_as_latin_1(
    transport: str, threads: int
) -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", TEXT)
        return [environ["HTTP_SEC_WEBSOCKET_PROTOCOL"].encode("latin-1")]

    with penstock.running(application, transport=transport, threads=threads) as server:
        with connect(server) as client:
            for value in (b"caf\xe9", b"caf\xc3\xa9", b"\xff\xfe"):
                field = b"Sec-WebSocket-Protocol: " + value
                client.send(b"GET / HTTP/1.1\r\nHost: a\r\n" + field + b"\r\n\r\n")
                assert client.read_response().body == value


def test_gunicorn_20_1_the_8_bytes_behind_Sec_WebSocket_Key1_are_no_body(
    transport: str, threads: int
) -> None:
    """No length announces them: to a proxy in front they are the next request's beginning."""
    recorder = Recorder()
    with penstock.running(recorder, transport=transport, threads=threads) as server:
        with connect(server) as client:
            client.send(get("/first", "Sec-WebSocket-Key1: x") + b"\0" * 8 + get("/second"))
            first = client.read_response()
            assert (first.status, b'"body": ""' in first.body) == (200, True)
            assert client.read_response().status == 400
            assert client.read_to_end() == b""
        with connect(server) as client:
            smuggled = b"GET /smu"
            client.send(get("/first", "Sec-WebSocket-Key1: x") + smuggled)
            assert b'"body": ""' in client.read_response().body
            client.send(get("/ggled")[len("GET /") :])
            assert client.read_response().status == 200
    assert recorder.targets == ["/first", "/first", "/smuggled"]


def test_CVE_2014_0242_no_request_sees_data_of_another(transport: str, threads: int) -> None:
    """mod_wsgi gave the Content-Type of an earlier request where a later one had none."""

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        own = {name: value for name, value in environ.items() if isinstance(value, str)}
        body = environ["wsgi.input"].read()
        environ["secret.marker"] = environ["PATH_INFO"]
        start_response("200 OK", TEXT)
        return [f"{own} {body!r}".encode()]

    secret = post(b"secret-body", "X-Secret: secret", "Content-Type: a/secret", "Cookie: secret")
    secret = secret.replace(b"POST /", b"POST /secret?secret")
    with penstock.running(application, transport=transport, threads=threads) as server:
        with connect(server) as client, connect(server) as other:
            for _ in range(50):
                client.send(secret + get("/plain"))
                other.send(get("/other"))
                assert b"secret-body" in client.read_response().body
                assert b"secret" not in client.read_response().body
                assert b"secret" not in other.read_response().body


def test_CVE_2024_1135_a_refused_request_poisons_no_other_connection(
    transport: str, threads: int
) -> None:
    recorder = Recorder()
    bad = chunked_post(b"0\r\n\r\n" + get("/smuggled")).replace(
        b"\r\n\r\n", b"\r\nTransfer-Encoding: identity\r\n\r\n", 1
    )
    with penstock.running(recorder, transport=transport, threads=threads) as server:
        with connect(server) as victim:
            assert victim.request("GET", "/before").status == 200
            with connect(server) as attacker:
                attacker.send(bad)
                assert attacker.read_response().status == 400
                assert victim.request("GET", "/during").status == 200
            assert victim.request("GET", "/after").status == 200
    assert recorder.targets == ["/before", "/during", "/after"]


def test_gunicorn_3410_nothing_is_added_to_a_response_that_fails_in_the_middle(
    transport: str, threads: int
) -> None:
    def application(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        yield b"begun"
        raise SystemExit

    with penstock.running(application, transport=transport, threads=threads) as server:
        for _ in range(3):  # SystemExit ends no worker
            with connect(server) as client:
                client.send(get())
                _, _, body = client.read_to_end().partition(b"\r\n\r\n")
                assert body == b"5\r\nbegun\r\n"


def test_CVE_2018_7490_the_path_is_the_applications_to_judge(transport: str, threads: int) -> None:
    recorder = Recorder()
    with penstock.running(recorder, transport=transport, threads=threads) as server:
        with connect(server) as client:
            client.send(get("/..%2f..%2fetc/passwd") + get("/../../etc/passwd"))
            assert [client.read_response().status for _ in range(2)] == [200, 200]
    assert recorder.targets == ["/..%2f..%2fetc/passwd", "/../../etc/passwd"]
