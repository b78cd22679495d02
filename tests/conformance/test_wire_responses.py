"""How responses are framed, and connections kept or closed, by section of RFC 9110 and 9112."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.types import StartResponse
from wsgiref.validate import validator

import pytest

import penstock
from support import applications
from support.serving import TEXT, Environ, connect, get, post
from support.wire import Client, Response

DATE = re.compile(r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT")

Application = Callable[[Environ, StartResponse], Iterable[bytes]]


def answering(
    status: str, body: Iterable[bytes] = (), headers: Iterable[tuple[str, str]] = ()
) -> Application:
    """Return an application that gives ``body``, a list as it is and anything else as blocks."""

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response(status, list(headers))
        return body if isinstance(body, list) else iter(list(body))

    return application


@pytest.fixture
def ask(transport: str, threads: int) -> Ask:
    return Ask(transport, threads)


class Ask:
    """Sends bytes to a server that runs an application, and takes the responses."""

    def __init__(self, transport: str, threads: int) -> None:
        self.settings: dict[str, Any] = {"transport": transport, "threads": threads}

    def __call__(
        self, application: Any, data: bytes, *methods: str, **settings: Any
    ) -> tuple[list[Response], bool]:
        """Return a response for each method, and whether the connection was closed then."""
        with penstock.running(application, **self.settings, **settings) as server:
            with connect(server) as client:
                client.send(data)
                responses = [client.read_response(method) for method in methods or ("GET",)]
                return responses, closed(client)


def closed(client: Client) -> bool:
    """Return True if the connection is closed; otherwise it answers another request."""
    try:
        client.send(get("/afterwards"))
        client.read_response()
    except ConnectionError:
        return True
    return False


def test_rfc9110_9_3_2_HEAD_has_the_fields_of_GET_and_no_body(ask: Ask) -> None:
    application = answering("200 OK", [b"hello"], [("Content-Length", "5"), ("X-A", "b")])
    data = get() + get().replace(b"GET", b"HEAD") + get()
    (first, headed, last), _ = ask(application, data, "GET", "HEAD", "GET")
    assert headed.body == b""
    assert headed.header("Content-Length") == "5"
    assert [name for name, _ in headed.headers] == [name for name, _ in first.headers]
    assert first.body == last.body == b"hello"


@pytest.mark.parametrize("bytewise", [False, True])
def test_rfc9110_9_3_2_a_HEAD_that_is_refused_gets_no_body_however_it_comes(
    transport: str, bytewise: bool
) -> None:
    with penstock.running(answering("200 OK"), transport=transport) as server:
        with connect(server) as client:
            data = b"HEAD / HTTP/1.1\r\nX: no host\r\n\r\n"
            (client.send_bytewise if bytewise else client.send)(data)
            response = client.read_response("HEAD")
            assert response.status == 400
            assert int(response.header("Content-Length") or 0) > 0
            assert client.read_to_end() == b""


def test_rfc9110_8_6_HEAD_invents_no_length(ask: Ask) -> None:
    data = get().replace(b"GET", b"HEAD") + get()
    (headed, _), was_closed = ask(answering("200 OK", iter([b"a", b"b"])), data, "HEAD", "GET")
    assert headed.header("Content-Length") is None
    assert not was_closed


@pytest.mark.parametrize("body", [[b"dropped"], (b"dropped", b"twice"), []], ids=repr)
@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_rfc9112_6_3_a_204_and_a_304_have_no_body(ask: Ask, status: str, body: list[bytes]) -> None:
    responses, was_closed = ask(answering(status, body), get() + get(), "GET", "GET")
    for response in responses:
        assert response.status == int(status[:3])
        assert response.header("Transfer-Encoding") is None
        assert response.header("Content-Length") is None
        assert response.body == b""
    assert not was_closed


def test_rfc9110_8_6_a_204_has_no_length_and_a_304_that_of_a_200(ask: Ask) -> None:
    length = [("Content-Length", "7")]
    (response,), _ = ask(answering("204 No Content", [], length), get())
    assert response.header("Content-Length") is None
    (response,), _ = ask(answering("304 Not Modified", [], length), get())
    assert response.header("Content-Length") == "7"


@pytest.mark.parametrize("body", [[b"dropped"], (b"a", b"b"), []], ids=repr)
def test_rfc9110_15_3_6_a_205_has_an_empty_body(ask: Ask, body: list[bytes]) -> None:
    responses, was_closed = ask(answering("205 Reset Content", body), get() * 2, "GET", "GET")
    for response in responses:
        assert response.header("Content-Length") == "0"
        assert response.body == b""
    assert not was_closed


def test_rfc9112_6_3_a_body_of_known_length_has_it(ask: Ask) -> None:
    (response,), was_closed = ask(answering("200 OK", [b"a", b"b"]), get())
    assert response.header("Content-Length") == "2"
    assert response.header("Transfer-Encoding") is None
    assert not was_closed


def test_rfc9112_7_1_a_body_of_unknown_length_is_chunked(ask: Ask) -> None:
    with penstock.running(answering("200 OK", (b"one", b"", b"three")), **ask.settings) as server:
        with connect(server) as client:
            client.send(get("/", "Connection: close"))
            head, _, body = client.read_to_end().partition(b"\r\n\r\n")
    assert b"Transfer-Encoding: chunked" in head
    assert b"Content-Length" not in head
    # An empty block sends nothing: as a chunk it would end the body.
    assert body == b"3\r\none\r\n5\r\nthree\r\n0\r\n\r\n"


@pytest.mark.parametrize("fields", [(), ("Connection: keep-alive",)], ids=str)
def test_rfc9112_6_1_a_1_0_client_gets_no_chunks_but_the_end_of_the_connection(
    ask: Ask, fields: tuple[str, ...]
) -> None:
    data = get("/", *fields, version="HTTP/1.0")
    (response,), was_closed = ask(answering("200 OK", (b"one", b"two")), data)
    assert response.body == b"onetwo"
    assert response.header("Transfer-Encoding") is None
    assert response.header("Connection") == "close"
    assert was_closed


def test_rfc9112_9_3_a_1_0_client_keeps_the_connection_if_it_asks(ask: Ask) -> None:
    data = get("/", "Connection: Keep-Alive", version="HTTP/1.0") * 2
    responses, was_closed = ask(answering("200 OK", [b"hello"]), data, "GET", "GET")
    assert [r.header("Connection") for r in responses] == ["keep-alive"] * 2
    assert not was_closed


def test_rfc9112_9_3_a_1_0_client_that_does_not_ask_is_closed(ask: Ask) -> None:
    data = get(version="HTTP/1.0") + get("/never")
    (response,), was_closed = ask(answering("200 OK", [b"hello"]), data)
    assert response.header("Connection") == "close"
    assert response.version == "HTTP/1.1"  # RFC 9110, section 2.5: the server's own
    assert was_closed


def test_rfc9112_9_3_a_1_1_connection_is_kept_without_a_word(ask: Ask) -> None:
    (response,), was_closed = ask(answering("200 OK", [b"hello"]), get())
    assert response.header("Connection") is None
    assert not was_closed


@pytest.mark.parametrize("value", ["close", "CLOSE", "x, close"])
def test_rfc9112_9_6_close_is_said_in_the_last_response_and_nothing_after_is_processed(
    ask: Ask, value: str
) -> None:
    seen: list[str] = []

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        seen.append(environ["PATH_INFO"])
        start_response("200 OK", TEXT)
        return [b"hello"]

    data = get("/first") + get("/last", f"Connection: {value}") + get("/never")
    responses, was_closed = ask(application, data, "GET", "GET")
    assert [r.header("Connection") for r in responses] == [None, "close"]
    assert was_closed
    assert seen == ["/first", "/last"]


def test_rfc9112_9_6_an_application_that_says_close_gets_it_once(ask: Ask) -> None:
    application = answering("200 OK", [b"hello"], [("Connection", "close")])
    (response,), was_closed = ask(application, get())
    assert response.header("Connection") == "close"  # header() refuses a second one
    assert was_closed


@pytest.mark.parametrize(
    "status", ["200 OK", "204 No Content", "404 Not Found", "304 Not Modified"]
)
def test_rfc9110_6_6_1_Date_and_Server_are_there_once(ask: Ask, status: str) -> None:
    (response,), _ = ask(answering(status), get())
    assert DATE.fullmatch(str(response.header("Date")))
    assert response.header("Server") == "penstock"


def test_rfc9110_6_6_1_the_applications_own_Date_and_Server_stand_alone(ask: Ask) -> None:
    own = [("date", "Thu, 01 Jan 1970 00:00:00 GMT"), ("SERVER", "mine")]
    (response,), _ = ask(answering("200 OK", [b""], own), get())
    assert response.header("Date") == "Thu, 01 Jan 1970 00:00:00 GMT"
    assert response.header("Server") == "mine"
    (response,), _ = ask(answering("200 OK", [b""], own[:1]), get())
    assert response.header("Server") == "penstock"
    (response,), _ = ask(answering("200 OK", [b""], own[1:]), get())
    assert DATE.fullmatch(str(response.header("Date")))


def test_rfc9110_10_2_4_Server_can_be_renamed_and_left_out(ask: Ask) -> None:
    (response,), _ = ask(answering("200 OK"), get(), server_header="gate/1")
    assert response.header("Server") == "gate/1"
    (response,), _ = ask(answering("200 OK"), get(), server_header="")
    assert response.header("Server") is None


def hints(environ: Environ, start_response: StartResponse) -> list[bytes]:
    environ["wsgi.early_hints"]([("Link", "</style.css>; rel=preload")])
    start_response("200 OK", TEXT)
    return [b"hello"]


def test_rfc8297_early_hints_precede_the_response(ask: Ask) -> None:
    (hint, response), was_closed = ask(hints, get(), "GET", "GET")
    assert (hint.status, hint.headers) == (103, [("Link", "</style.css>; rel=preload")])
    assert (response.status, response.body) == (200, b"hello")
    assert not was_closed


def test_rfc9110_15_2_a_1_0_client_gets_no_interim_response(ask: Ask) -> None:
    (response,), _ = ask(hints, get(version="HTTP/1.0"))
    assert (response.status, response.body) == (200, b"hello")


EXPECT = "Expect: 100-continue"


def test_rfc9110_10_1_1_continue_is_sent_after_the_heads_checks(ask: Ask) -> None:
    with penstock.running(applications.echo, **ask.settings) as server, connect(server) as client:
        client.send(post(b"", EXPECT, length=5))
        interim = client.read_response()
        assert (interim.status, interim.headers) == (100, [])
        client.send(b"hello")
        assert client.read_response().body == b"hello"


def test_rfc9110_10_1_1_a_client_that_does_not_wait_gets_no_continue(ask: Ask) -> None:
    (response,), _ = ask(applications.echo, post(b"hello", EXPECT))
    assert (response.status, response.body) == (200, b"hello")


def test_rfc9110_10_1_1_refused_by_the_head_means_no_continue(ask: Ask) -> None:
    (response,), was_closed = ask(applications.echo, post(b"", EXPECT, length=50), max_body=49)
    assert response.status == 413
    assert was_closed


def test_rfc9110_10_1_1_a_1_0_client_gets_no_continue(ask: Ask) -> None:
    data = post(b"", EXPECT, length=5).replace(b"HTTP/1.1", b"HTTP/1.0")
    with penstock.running(applications.echo, **ask.settings) as server, connect(server) as client:
        client.send(data)
        client.send(b"hello")
        assert client.read_response().status == 200


def test_rfc9110_10_1_1_another_expectation_is_417(ask: Ask) -> None:
    (response,), was_closed = ask(applications.echo, get("/", "Expect: 200-ok"))
    assert response.status == 417
    assert was_closed


def test_rfc9110_10_1_1_streamed_continue_comes_with_the_first_read(ask: Ask) -> None:
    order: list[str] = []

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        order.append("called")
        body = environ["wsgi.input"].read(5)
        start_response("200 OK", TEXT)
        return [body]

    with penstock.running(application, stream_requests=True, **ask.settings) as server:
        with connect(server) as client:
            client.send(post(b"", EXPECT, length=5))
            assert client.read_response().status == 100
            assert order == ["called"]
            client.send(b"hello")
            response = client.read_response()
            assert (response.body, response.header("Connection")) == (b"hello", None)
            assert not closed(client)


HOP_BY_HOP = [("Transfer-Encoding", "chunked"), ("Upgrade", "h2c"), ("Trailer", "X"), ("TE", "x")]


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        ("200 OK", HOP_BY_HOP),
        ("207", []),
        ("999 Denied", []),
        ("200 OK", [("Content-Length", "2")]),
        ("200 OK", [["X-List", "a"]]),
    ],
)
def test_rfc9110_7_6_1_a_response_that_an_application_passes_on_is_served(
    transport: str, status: str, headers: list[tuple[str, str]]
) -> None:
    application = answering(status, [b"ok"], [("Content-Length", "2"), *headers])
    with penstock.running(application, transport=transport) as server:
        with connect(server) as client:
            client.send(get())
            response = client.read_response()
            assert (response.status, response.body) == (int(status[:3]), b"ok")
            assert response.reason == status[4:]
            assert not {name.lower() for name, _ in response.headers} & {
                name.lower() for name, _ in HOP_BY_HOP
            }
            client.send(get())
            assert client.read_response().body == b"ok"


def test_rfc9110_10_1_1_streamed_final_answer_without_continue_closes(ask: Ask) -> None:
    refusing = answering("403 Forbidden", [b"no"])
    data = post(b"", EXPECT, length=5)
    (response,), was_closed = ask(refusing, data, stream_requests=True)
    # The server cannot know whether the client now sends the body or another request.
    assert (response.status, response.header("Connection")) == (403, "close")
    assert was_closed


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("body", [b"", b"hello"])
def test_rfc9110_9_3_7_OPTIONS_asterisk_is_answered_by_the_server(
    ask: Ask, body: bytes, streamed: bool
) -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        assert environ["PATH_INFO"] != "*"
        return applications.hello(environ, start_response)

    data = post(body).replace(b"POST /", b"OPTIONS *") + get()
    responses, was_closed = ask(application, data, "GET", "GET", stream_requests=streamed)
    assert [(r.status, r.body) for r in responses] == [(200, b""), (200, b"hello")]
    assert responses[0].header("Content-Length") == "0"
    assert not was_closed


def test_rfc9110_9_3_6_CONNECT_is_405_and_closes(ask: Ask) -> None:
    data = b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n" + get("/never")
    (response,), was_closed = ask(applications.hello, data)
    assert response.status == 405
    assert "GET" in str(response.header("Allow"))
    assert was_closed


def test_rfc9110_7_8_an_unknown_upgrade_is_ignored_and_the_body_read(ask: Ask) -> None:
    data = post(b"hello", "Upgrade: h2c", "Connection: upgrade") + get()
    responses, was_closed = ask(applications.echo, data, "GET", "GET")
    assert [r.body for r in responses] == [b"hello", b""]
    assert not was_closed


def test_pep3333_empty_blocks_send_nothing_not_even_the_head(ask: Ask) -> None:
    def application(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        yield b""
        try:
            raise KeyError("after an empty block, the head can still be replaced")
        except KeyError:
            start_response("503 Busy", TEXT, sys.exc_info())
        yield b"sorry"

    (response,), _ = ask(application, get())
    assert (response.status, response.body) == (503, b"sorry")


@pytest.mark.parametrize("body", [[b"hello, more"], (b"hel", b"lo, more"), (b"hello", b"more")])
def test_rfc9112_6_3_what_exceeds_the_length_is_cut_and_the_next_response_intact(
    ask: Ask, body: Iterable[bytes]
) -> None:
    application = answering("200 OK", body, [("Content-Length", "5")])
    responses, _ = ask(application, get() * 3, "GET", "GET", "GET")
    assert [r.body for r in responses] == [b"hello"] * 3


@pytest.mark.parametrize("body", [(b"hel",), (b"h", b"e")], ids=repr)
def test_rfc9112_8_a_body_short_of_its_length_ends_with_the_connection(
    ask: Ask, body: Iterable[bytes]
) -> None:
    application = answering("200 OK", body, [("Content-Length", "5")])
    (response,), was_closed = ask(application, get() + get("/never"))
    assert not response.complete
    assert response.body == b"".join(body)
    assert was_closed


def failing(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", TEXT)
    yield b"begun"
    raise KeyError("in the middle")


def test_rfc9112_8_a_chunked_body_that_fails_has_no_last_chunk(ask: Ask) -> None:
    (response,), was_closed = ask(failing, get() + get("/never"))
    assert (response.body, response.complete) == (b"begun", False)
    assert was_closed


def test_rfc9112_8_a_body_that_ends_with_the_connection_fails_with_a_reset(ask: Ask) -> None:
    with penstock.running(failing, **ask.settings) as server, connect(server) as client:
        client.send(get(version="HTTP/1.0"))
        # Not `Client.read_to_end`, for which a reset is an end like any other.
        with client.socket.makefile("rb") as stream, pytest.raises(ConnectionResetError):
            stream.read()


def test_pep3333_a_failure_before_the_head_is_a_500_and_the_connection_lives(ask: Ask) -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [("X-Secret", "yes")])
        raise KeyError("secret")

    responses, was_closed = ask(application, get() * 2, "GET", "GET")
    for response in responses:
        assert response.status == 500
        assert response.header("X-Secret") is None
        assert b"secret" not in response.body
    assert not was_closed


@pytest.mark.parametrize("body", [[b"x" * 300_000], (b"x" * 100_000,) * 3, [b"x" * 100_000] * 3])
@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
def test_rfc9112_6_large_bodies_arrive_whole(ask: Ask, body: Iterable[bytes], version: str) -> None:
    (response,), _ = ask(answering("200 OK", body), get(version=version))
    assert response.complete
    assert response.body == b"x" * 300_000


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("streamed", [False, True])
def test_pep3333_every_application_gives_the_same_under_the_validator(
    ask: Ask, method: str, streamed: bool
) -> None:
    data = post(b"a\nb\n", target="/x?y", length=4).replace(b"POST", method.encode())

    def essence(application: Any) -> tuple[int, bytes, bool, list[tuple[str, str]]]:
        (response,), was_closed = ask(application, data, method, stream_requests=streamed)
        assert response.complete
        # The validator hides how many blocks there are, and with them the length.
        differ = ("Date", "Content-Length", "Transfer-Encoding")
        fields = [field for field in response.headers if field[0] not in differ]
        return response.status, response.body, was_closed, fields

    for application in applications.ALL:
        assert essence(application) == essence(validator(application)), application
