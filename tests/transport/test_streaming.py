"""``stream_requests``: the application is called after the head, and reads the body itself."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse

import pytest

import penstock
from support.serving import TEXT, Environ, connect, eventually, get, post, read_until
from support.wire import DEADLINE, Client, chunked, unacknowledged

pytestmark = pytest.mark.parametrize("threads", [1, 4])

CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def settings(transport: str, threads: int) -> dict[str, Any]:
    return {"transport": transport, "threads": threads, "stream_requests": True}


class Reads:
    """An application that calls ``read`` with the body, and answers with what that returns."""

    def __init__(self, read: Callable[[Any], bytes]) -> None:
        self.read = read
        self.called = threading.Event()
        self.targets: list[str] = []
        self.errors: list[BaseException] = []

    def __call__(self, environ: Environ, start_response: StartResponse) -> list[bytes]:
        self.targets.append(environ["RAW_URI"])
        self.called.set()
        try:
            answer = self.read(environ["wsgi.input"])
        except BaseException as error:
            self.errors.append(error)
            raise
        start_response("200 OK", TEXT)
        return [answer]


def test_the_application_is_called_before_the_body_and_reads_as_it_comes(
    settings: dict[str, Any],
) -> None:
    got: list[bytes] = []

    def read(body: Any) -> bytes:
        while block := body.read(5):
            got.append(block)
        return b"-".join(got)

    application = Reads(read)
    with penstock.running(application, **settings) as server, connect(server) as client:
        client.send(post(b"", length=15))
        assert application.called.wait(10)
        for count, part in enumerate((b"first", b"secon", b"third"), 1):
            client.send(part)
            eventually(lambda count=count: len(got) == count)  # type: ignore[misc]
        assert client.read_response().body == b"first-secon-third"
        client.send(get("/next"))
        assert client.read_response().status == 200


@pytest.mark.parametrize("size", [0, 1, 70_000, 3_000_000])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_body_arrives_whole_and_the_connection_is_kept(
    settings: dict[str, Any], framing: str, size: int
) -> None:
    application = Reads(lambda body: str(sum(body.read())).encode())
    data = bytes(range(251)) * (size // 251) + b"z" * (size % 251)
    blocks = [data[start : start + 9999] for start in range(0, size, 9999)]
    whole = post(data) if framing == "length" else CHUNKED + chunked(*blocks)
    with penstock.running(application, **settings) as server, connect(server) as client:
        for _ in range(3):
            client.send(whole)
            assert client.read_response().body == str(sum(data)).encode()


def test_a_body_that_comes_byte_by_byte(settings: dict[str, Any]) -> None:
    application = Reads(lambda body: body.read())
    with penstock.running(application, **settings) as server, connect(server) as client:
        client.send_bytewise((CHUNKED + chunked(b"hel", b"lo")) * 2)
        assert [client.read_response().body for _ in range(2)] == [b"hello", b"hello"]


@pytest.mark.parametrize("left", [1, 60_000])
def test_rfc9112_9_3_a_small_rest_that_has_arrived_is_dropped_and_the_connection_kept(
    settings: dict[str, Any], left: int
) -> None:
    arrived = threading.Event()

    def read(body: Any) -> bytes:
        assert arrived.wait(DEADLINE)
        return bytes(body.read(5))

    application = Reads(read)
    with penstock.running(application, **settings) as server, connect(server) as client:
        client.send(post(b"hello", length=5 + left) + b"x" * left)
        eventually(lambda: unacknowledged(client) == 0)
        arrived.set()
        response = client.read_response()
        assert (response.body, response.header("Connection")) == (b"hello", None)
        client.send(get("/next"))
        assert client.read_response().status == 200
    assert application.targets == ["/", "/next"]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(post(b"hello", length=6), id="the rest has not arrived"),
        pytest.param(post(b"hello", length=300_005), id="much is left"),
        pytest.param(CHUNKED + b"5\r\nhello\r\n", id="the rest has an unknown length"),
    ],
)
def test_rfc9112_9_6_otherwise_the_connection_closes(settings: dict[str, Any], data: bytes) -> None:
    application = Reads(lambda body: bytes(body.read(5)))
    with penstock.running(application, **settings) as server, connect(server) as client:
        client.send(data)
        response = client.read_response()
        assert (response.body, response.header("Connection")) == (b"hello", "close")
        client.send(get("/smuggled"))
        assert client.read_to_end() == b""
    assert application.targets == ["/"]


def test_rfc9112_9_5_a_rest_that_does_not_come_ends_the_connection_without_a_word(
    settings: dict[str, Any],
) -> None:
    application = Reads(lambda body: b"early")
    with penstock.running(application, **settings, body_timeout=0.2) as server:
        with connect(server) as client:
            client.send(post(b"x", length=100))
            assert client.read_response().body == b"early"
            assert client.read_to_end() == b""  # a second answer would be one to nothing


def test_rfc9112_8_a_rest_that_is_cut_off_gets_no_second_answer(settings: dict[str, Any]) -> None:
    application = Reads(lambda body: b"early")
    with penstock.running(application, **settings) as server, connect(server) as client:
        client.send(post(b"x", length=100))
        assert client.read_response().body == b"early"
        client.end_sending()
        assert client.read_to_end() == b""


@pytest.mark.parametrize(
    ("data", "status"),
    [
        pytest.param(CHUNKED + b"5\r\nhelloXX", 400, id="bad chunk"),
        pytest.param(CHUNKED + b"5\r\nhello\r\n0\r\nbad\r\n\r\n", 400, id="bad trailer"),
        pytest.param(CHUNKED + chunked(b"x" * 600, b"x" * 600), 413, id="too large"),
    ],
)
def test_rfc9112_7_1_a_bad_body_is_an_OSError_of_read_and_the_connection_closes(
    settings: dict[str, Any], data: bytes, status: int
) -> None:
    application = Reads(lambda body: bytes(body.read()))
    with penstock.running(application, **settings, max_body=1000) as server:
        with connect(server) as client:
            client.send(data + get("/smuggled"))
            response = client.read_response()
            assert (response.status, response.header("Connection")) == (status, "close")
            assert client.read_to_end() == b""
    assert [isinstance(error, OSError) for error in application.errors] == [True]
    assert application.targets == ["/"]


@pytest.mark.parametrize("how", ["end", "close", "reset"])
def test_rfc9112_8_a_client_that_leaves_within_the_body_is_an_OSError_of_read(
    settings: dict[str, Any], how: str
) -> None:
    application = Reads(lambda body: bytes(body.read()))
    leave: dict[str, Callable[[Client], None]] = {
        "end": Client.end_sending,
        "close": Client.close,
        "reset": Client.reset,
    }
    with penstock.running(application, **settings) as server, connect(server) as client:
        client.send(post(b"hello", length=10))
        assert application.called.wait(10)
        leave[how](client)
        eventually(lambda: application.errors)
        assert isinstance(application.errors[0], OSError)
        eventually(lambda: server.snapshot()["connections"] == 0 or how == "end")


def test_rfc9110_15_5_9_a_body_that_stalls_is_a_408(settings: dict[str, Any]) -> None:
    application = Reads(lambda body: bytes(body.read()))
    with penstock.running(application, **settings, body_timeout=0.2) as server:
        with connect(server) as client:
            client.send(post(b"hello", length=10))
            response = client.read_response()
            assert (response.status, response.header("Connection")) == (408, "close")
            assert client.read_to_end() == b""


def test_a_slow_application_is_not_blamed_on_its_client(settings: dict[str, Any]) -> None:
    def read(body: Any) -> bytes:
        first = body.read(5)
        threading.Event().wait(0.5)
        return bytes(first + body.read())

    with penstock.running(Reads(read), **settings, body_timeout=0.2) as server:
        with connect(server) as client:
            client.send(post(b"hello world"))
            assert client.read_response().body == b"hello world"


def test_pep3333_a_body_can_be_read_after_the_response_has_begun(settings: dict[str, Any]) -> None:
    def application(environ: Environ, start_response: StartResponse) -> Any:
        start_response("200 OK", TEXT)
        yield b"got "
        yield environ["wsgi.input"].read()

    with penstock.running(application, **settings) as server, connect(server) as client:
        client.send(post(b"", length=5))
        read_until(client, b"got \r\n")
        client.send(b"hello")
        assert read_until(client, b"0\r\n\r\n").endswith(b"5\r\nhello\r\n0\r\n\r\n")
        # When the head was sent, what the client would send next was not known.
        assert client.read_to_end() == b""


def test_heads_without_a_body_are_served_as_ever(settings: dict[str, Any]) -> None:
    application = Reads(lambda body: bytes(body.read()))
    with penstock.running(application, **settings) as server, connect(server) as client:
        client.send(get("/1") + get("/2") + post(b"x") + get("/3"))
        assert [client.read_response().body for _ in range(4)] == [b"", b"", b"x", b""]


class ReadsAtItsClose:
    """A response of a known length that reads the request's body when it is closed."""

    def __init__(self, body: Any) -> None:
        self.body = body
        self.told_to_read = threading.Event()
        self.outcome: list[object] = []

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"first"])

    def close(self) -> None:
        assert self.told_to_read.wait(10)
        try:
            self.outcome.append(self.body.read())
        except OSError as error:
            self.outcome.append(error)


def test_no_body_is_read_after_the_response_lest_it_be_another_requests(
    settings: dict[str, Any],
) -> None:
    late: list[ReadsAtItsClose] = []

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [*TEXT, ("Content-Length", "5")])
        if environ["PATH_INFO"] == "/other":
            return [environ["wsgi.input"].read()]
        late.append(ReadsAtItsClose(environ["wsgi.input"]))
        return late[0]

    with penstock.running(application, **settings) as server, connect(server) as client:
        client.send(post(b"0123456789"))
        assert client.read_response().body == b"first"
        client.send(post(b"other", target="/other"))
        late[0].told_to_read.set()
        assert client.read_response().body == b"other"
        eventually(lambda: late[0].outcome)
        assert isinstance(late[0].outcome[0], OSError)


def test_a_body_that_is_read_to_its_last_byte_but_not_to_its_end_keeps_nothing_waiting(
    settings: dict[str, Any],
) -> None:
    # The end of the client's side comes while the server still has the body's end to look at.
    application = Reads(lambda body: bytes(body.read(3)))
    with penstock.running(application, **settings) as server, connect(server) as client:
        for _ in range(2):
            client.send(post(b"xyz"))
            assert client.read_response().body == b"xyz"
        client.end_sending()
        assert client.is_closed_by_server()


def test_a_thread_of_the_applications_own_that_still_reads_does_not_hold_up_the_response(
    settings: dict[str, Any],
) -> None:
    may_answer = threading.Event()
    ended = threading.Event()

    def read(body: Any) -> None:
        # In the moment in which the response ends it may still get what it waited for.
        with contextlib.suppress(OSError):
            assert body.read(5) == b"hello"
        ended.set()

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        if environ["PATH_INFO"] == "/":
            threading.Thread(target=read, args=(environ["wsgi.input"],)).start()
            assert may_answer.wait(DEADLINE)
        start_response("200 OK", TEXT)
        return [b"done"]

    with penstock.running(application, **settings) as server, connect(server) as client:
        client.send(post(b"", "Expect: 100-continue", length=5))
        assert client.read_response().status == 100  # so that it reads by now
        may_answer.set()
        assert client.read_response().body == b"done"
        client.send(b"hello")
        assert client.read_to_end() == b""
        assert ended.wait(DEADLINE)


def test_no_other_thread_wakes_for_the_parts_of_a_body_that_a_thread_reads(
    settings: dict[str, Any],
) -> None:
    if settings["transport"] == "python" or settings["threads"] == 1:
        pytest.skip("no thread polls meanwhile, or it polls for the one that reads")
    parts = 400
    here = threading.get_native_id()
    others = 0

    def switches(*without: int) -> int:
        found = 0
        for task in Path("/proc/self/task").iterdir():
            if int(task.name) not in without:
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    text = (task / "status").read_text()
                    found += int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
        return found

    def read(body: Any) -> bytes:
        nonlocal others
        came.release()
        assert body.read(1) == b"x"
        before = switches(here, threading.get_native_id())
        for _ in range(parts):
            came.release()
            assert body.read(1) == b"x"
        others = switches(here, threading.get_native_id()) - before
        return b"read"

    came = threading.Semaphore(0)
    with penstock.running(Reads(read), **settings) as server, connect(server) as client:
        client.send(post(b"", length=parts + 1))
        for _ in range(parts + 1):
            assert came.acquire(timeout=DEADLINE)
            client.send(b"x")
        assert client.read_response().body == b"read"
        client.send(get("/next"))  # the connection is watched again
        assert client.read_response().status == 500
    # Some wake up by the clock.
    assert others < parts / 2


def test_a_thread_of_the_applications_own_reads_while_the_response_waits_for_the_client(
    settings: dict[str, Any],
) -> None:
    got: list[bytes] = []
    over = threading.Event()

    def read(body: Any) -> None:
        got.extend(iter(lambda: body.read(5), b""))
        over.set()

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        threading.Thread(target=read, args=(environ["wsgi.input"],)).start()
        start_response("200 OK", TEXT)
        yield b"x" * 10_000_000
        yield b"x" * 10_000_000
        assert over.wait(DEADLINE)

    with penstock.running(application, **settings) as server:
        with connect(server, receive_buffer=4096) as client:
            client.send(post(b"", length=15))
            assert client.socket.recv(1) == b"H"
            for part in (b"first", b"secon", b"third"):
                client.send(part)
            assert over.wait(DEADLINE)
            client.buffer += b"H"
            assert len(client.read_response().body) == 20_000_000
    assert got == [b"first", b"secon", b"third"]
