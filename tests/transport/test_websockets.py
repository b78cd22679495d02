"""WebSocket for WSGI applications: the socket that a handshake offers, until the call ends."""

from __future__ import annotations

import io
import json
import logging
import os
import resource
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse

import pytest

from penstock.errors import WebSocketRefused
from penstock.telemetry.scoreboard import (
    CONNECTIONS,
    IO_BOUND_CALLS,
    WEBSOCKETS,
    WEBSOCKETS_REFUSED,
)
from support.certificates import material
from support.fake_exchange import Records
from support.serving import TEXT as PLAIN
from support.serving import Environ, Gate, connect, eventually, get, post
from support.tls import TlsClient
from support.transports import LOGGER, BareServer
from support.transports import serving as serving_bare
from support.websockets import (
    BINARY,
    CLOSE,
    GOING_AWAY,
    TEXT,
    ClientSide,
    ServerSide,
    frame,
    handshake,
)
from support.wire import DEADLINE, Client

Application = Callable[[Environ, StartResponse], Iterable[bytes]]
KEYS = ("werkzeug.socket", "gunicorn.socket")


@pytest.fixture(params=["plain", "tls"])
def tls(request: pytest.FixtureRequest, transport: str) -> Any:
    """What a server needs for TLS, or None."""
    if request.param == "plain":
        return None
    request.getfixturevalue("tls_transport")
    return material()


@contextmanager
def serving(application: Application, transport: str, **config: Any) -> Iterator[BareServer]:
    """Serve with room for WebSockets."""
    config = {"max_websockets": 4, "threads": 2, "drain_linger": 0.1} | config
    with serving_bare(application, transport, **config) as server:
        server.secure = config.get("tls") is not None  # type: ignore[attr-defined]
        yield server


def client_of(server: BareServer, **connection: Any) -> Client:
    if server.secure:  # type: ignore[attr-defined]
        return TlsClient((server.host, server.port), **connection)
    return connect(server, **connection)


@contextmanager
def opened(server: BareServer, target: str = "/", early: bytes = b"") -> Iterator[ClientSide]:
    """A client with a WebSocket."""
    with client_of(server) as client:
        side = ClientSide(client)
        assert side.open(target, early).status == 101
        yield side


@contextmanager
def logged() -> Iterator[Records]:
    """What the gateway logs."""
    records = Records()
    LOGGER.addHandler(records)
    try:
        yield records
    finally:
        LOGGER.removeHandler(records)


def lines_of(path: Path) -> list[tuple[int, str, int, int, str | None]]:
    """Return status, path, bytes in and out, and reason of each line of an access log in JSON."""
    sizes = ("http.request.body.size", "http.response.body.size")
    names = ("http.response.status_code", "url.path", *sizes, "reason")
    lines = map(json.loads, path.read_text().splitlines())
    return [tuple(line[name] for name in names) for line in lines]


def end_of(side: ClientSide) -> bool:
    """Return True if nothing comes but the end, in order or by a reset."""
    try:
        return side.read() is None
    except (ConnectionResetError, ssl.SSLEOFError):
        return True


class Echo:
    """Sends back what it gets until the end, then ends as its path says."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.ended: list[str] = []

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if KEYS[0] not in environ:
            return self.gate(environ, start_response)
        side = ServerSide(environ, KEYS[len(path) % 2])
        try:
            while (received := side.read()) is not None:
                opcode, payload = received
                side.send(opcode, payload)
                if opcode == CLOSE:
                    break
        except OSError:
            self.ended.append("error")
        else:
            self.ended.append("end")
        if path == "/raise":
            raise ValueError("a defect of the application")
        if path == "/stop":
            raise StopIteration
        if path == "/connection":
            raise ConnectionError
        if path == "/respond":
            start_response("200 OK", PLAIN)
            return [b"ignored"]
        if path == "/generate":
            return self._generate(start_response)
        if path == "/none":
            return None  # type: ignore[return-value]
        return []

    def _generate(self, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", PLAIN)
        yield b""
        yield b"ignored"


def test_frames_go_both_ways_also_those_that_came_with_the_handshake(
    transport: str, tls: Any
) -> None:
    early = frame(TEXT, b"early", masked=True)
    large = b"x" * 3_000_000
    with serving(Echo(), transport, tls=tls) as server:
        with opened(server, early=early + early[:3]) as side:
            assert side.read() == (TEXT, b"early")
            side.client.send(early[3:])
            assert side.read() == (TEXT, b"early")
            assert side.echoes(b"hello")
            sender = threading.Thread(target=side.send, args=(BINARY, large))
            sender.start()
            assert side.read() == (BINARY, large)
            sender.join()
            side.send(CLOSE, b"")
            assert side.read() == (CLOSE, b"")
            assert side.read() is None
        with client_of(server) as client:
            client.send_bytewise(handshake() + early)
            side = ClientSide(client)
            assert side.read_answer().status == 101
            assert side.read() == (TEXT, b"early")


def test_a_request_before_it_on_the_same_connection_changes_nothing(
    transport: str, tls: Any
) -> None:
    with serving(Echo(), transport, tls=tls) as server, client_of(server) as client:
        client.send(get("/first") + handshake())
        assert client.read_response().body == b"/first"
        side = ClientSide(client)
        assert side.read_answer().status == 101
        assert side.echoes()


def test_the_socket_is_a_real_one(transport: str, tls: Any) -> None:
    """It can be waited for, has timeouts, and tells whose it is."""
    told: list[Any] = []

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        sock = environ["werkzeug.socket"]
        assert sock is environ["gunicorn.socket"]
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        told.append(sock.getpeername() == (environ["REMOTE_ADDR"], int(environ["REMOTE_PORT"])))
        side = ServerSide(environ)
        told.append(select.select([sock], [], [], 0)[0])
        sock.settimeout(0.01)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        sock.settimeout(DEADLINE)
        side.send(TEXT, b"go")
        told.append(bool(select.select([sock], [], [], DEADLINE)[0]))
        told.append(sock.recv(100)[:1])
        sock.shutdown(socket.SHUT_WR)
        told.append(sock.recv(100))
        return []

    with serving(application, transport, tls=tls) as server:
        with opened(server) as side:
            assert side.read() == (TEXT, b"go")
            side.send(TEXT, b"come")
            assert side.read() is None
        eventually(lambda: server.word(WEBSOCKETS) == 0)
    assert told == [True, [], True, b"\x81", b""]


INVALID: dict[str, dict[str, Any]] = {
    "no Upgrade": {"Upgrade": None},
    "another protocol": {"Upgrade": "h2c"},
    "no Connection": {"Connection": None},
    "Connection without upgrade": {"Connection": "keep-alive"},
    "no version": {"Sec_WebSocket_Version": None},
    "an old version": {"Sec_WebSocket_Version": "8"},
    "no key": {"Sec_WebSocket_Key": None},
    "a short key": {"Sec_WebSocket_Key": "dGhlIHNhbXBs"},
    "no base64": {"Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ=!"},
    "a body": {"Content_Length": "1"},
}


def test_the_keys_exist_only_in_a_valid_handshake(transport: str) -> None:
    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", PLAIN)
        return [json.dumps([key in environ for key in KEYS]).encode()]

    def offered(server: BareServer, request: bytes) -> Any:
        with connect(server) as client:
            client.send(request + b"x" * (b"Length: 1" in request))
            response = client.read_response()
            assert response.status == 200
            return json.loads(response.body)

    valid: list[dict[str, Any]] = [
        {},
        {"Upgrade": "h2c, WebSocket", "Connection": "keep-alive, UPGRADE"},
        {"Content_Length": "0"},
    ]
    for streams in (False, True):
        with serving(application, transport, stream_requests=streams) as server:
            for changes in valid:
                for _ in range(3):  # the same fields again are not parsed again
                    assert offered(server, handshake(**changes)) == [True, True], changes
            found = {name: offered(server, handshake(**each)) for name, each in INVALID.items()}
            assert offered(server, handshake("/", "POST")) == [False, False]
            assert offered(server, handshake("/", "GET", "HTTP/1.0")) == [False, False]
            assert found == {name: [False, False] for name in INVALID}
    with serving(application, transport, max_websockets=0) as server:
        assert offered(server, handshake()) == [False, False]


def test_no_request_is_refused_for_its_upgrade_field_and_its_body_is_read(transport: str) -> None:
    """Java's client sends ``h2c`` with plain requests."""

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", PLAIN)
        return [environ["HTTP_UPGRADE"].encode(), b" ", environ["wsgi.input"].read()]

    fields = ("Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk")
    with serving(application, transport) as server, connect(server) as client:
        for token in ("h2c", "TLS/1.0", "websocket", "x/1, y", ""):
            client.send(post(b"the body", f"Upgrade: {token}", *fields))
            response = client.read_response()
            assert (response.status, response.body) == (200, f"{token} the body".encode())
            client.send(get("/", f"Upgrade: {token}", *fields))
            assert client.read_response().status == 200


def test_a_handshake_that_the_application_ends_without_an_answer_gets_501(
    transport: str, tls: Any
) -> None:
    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/stop":
            raise StopIteration
        if path == "/take":
            environ["werkzeug.socket"].close()
        if path == "/wait":
            environ["werkzeug.socket"].fileno()
        if path == "/generator":
            return iter(())
        return []

    with logged() as records, serving(application, transport, tls=tls) as server:
        for path in ("/", "/stop", "/generator", "/take", "/wait"):
            with client_of(server) as client:
                client.send(handshake(path))
                response = client.read_response()
                assert response.status == 501, path
                assert response.complete
                assert response.header("Date")
        with client_of(server) as client:
            client.send(get("/"))
            assert client.read_response().status == 500  # no handshake: a defect
    assert len(records.lines) == 1
    assert "Traceback" not in records.text


def test_an_application_may_answer_a_handshake_as_any_request(transport: str) -> None:
    """Its 426 keeps the field that RFC 9110, section 15.5.22, asks for."""

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        status, _, name = environ["QUERY_STRING"].partition("&")
        start_response(status.replace("+", " "), [*PLAIN, (name or "Upgrade", "websocket")])
        return [b"no"]

    with logged() as records, serving(application, transport) as server:
        with connect(server) as client:
            for query in ("426+Upgrade+Required", "426+Upgrade+Required&uPGRADE"):
                client.send(handshake(f"/?{query}"))
                response = client.read_response()
                assert (response.status, response.body) == (426, b"no")
                assert response.header("Upgrade") == "websocket"
                assert response.header("Connection") == "upgrade"
            assert not records.lines
            client.send(get("/?403+Forbidden"))
            response = client.read_response()
            assert (response.status, response.header("Upgrade")) == (403, None)
            client.send(get("/?426+Upgrade+Required", "Connection: close"))
            response = client.read_response()
            assert sorted(response.all("Connection")) == ["close", "upgrade"]
    assert len(records.lines) == 1  # the field that was dropped


ENDS = ("/", "/raise", "/stop", "/connection", "/respond", "/generate", "/none")


def test_however_the_call_ends_the_client_reads_the_end_and_nothing_else_is_logged(
    transport: str, tls: Any
) -> None:
    with logged() as records, serving(Echo(), transport, tls=tls) as server:
        for path in ENDS:
            with opened(server, path) as side:
                assert side.echoes()
                side.send(CLOSE, b"\x03\xe8")
                assert side.read() == (CLOSE, b"\x03\xe8")
                assert side.read() is None, path
            eventually(lambda: server.word(WEBSOCKETS) == 0)
    assert len(records.lines) == 1, records.text
    assert "a defect of the application" in records.text


def test_what_the_application_has_sent_is_delivered_though_it_returns_at_once(
    transport: str, tls: Any
) -> None:
    payload = b"y" * 300_000

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        ServerSide(environ).send(BINARY, payload)
        return []

    with (
        serving(application, transport, tls=tls) as server,
        client_of(server, receive_buffer=4096) as client,
    ):
        side = ClientSide(client)
        assert side.open().status == 101
        assert side.read() == (BINARY, payload)
        assert side.read() is None


def test_one_whose_socket_the_application_has_detached_ends_with_the_call(transport: str) -> None:
    kept: list[socket.socket] = []

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        side = ServerSide(environ)
        kept.append(socket.socket(fileno=side.socket.detach()))
        kept[0].sendall(frame(TEXT, b"last"))
        return []

    with serving(application, transport) as server, opened(server) as side:
        assert side.read() == (TEXT, b"last")
        assert side.read() is None
        eventually(lambda: server.word(WEBSOCKETS) == 0)
        kept[0].close()


def test_a_websocket_does_not_count_as_a_thread_and_is_counted_exactly(
    transport: str, tls: Any
) -> None:
    echo = Echo()
    with (
        ExitStack() as stack,
        serving(echo, transport, max_websockets=2, tls=tls) as server,
    ):
        for _ in range(3):
            sides = [stack.enter_context(opened(server, path)) for path in ("/", "/x")]
            assert all(side.echoes() for side in sides)
            assert server.word(WEBSOCKETS) == server.word(IO_BOUND_CALLS) == 2
            waiting = [stack.enter_context(client_of(server)) for _ in range(2)]
            for client in waiting:
                client.send(get("/wait"))
            eventually(lambda: echo.gate.inside == 2)
            assert [request.websocket for request in server.slot.requests()].count(True) == 2
            assert server.slot.calls_of_count() == 2
            echo.gate.open()
            for client in waiting:
                assert client.read_response().status == 200
            with client_of(server) as third:
                side = ClientSide(third)
                response = side.open()
                assert response.status == 503
                assert response.header("Retry-After")
                third.send(get("/after"))
                assert third.read_response().body == b"/after"
            assert all(side.echoes() for side in sides)
            # One ends in order, the other by a reset.
            sides[0].send(CLOSE, b"")
            sides[1].client.reset()
            eventually(lambda: server.word(WEBSOCKETS) == 0)
            assert server.word(IO_BOUND_CALLS) == 0
            assert len(server.threads) <= 4
            echo.gate = Gate()
        assert server.word(WEBSOCKETS_REFUSED) == 3
        eventually(lambda: not list(server.slot.requests()))


def test_what_the_application_makes_of_the_refusal_does_not_matter(transport: str) -> None:
    seen: list[BaseException] = []

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/hold":
            ServerSide(environ).read()
            return []
        for _ in range(2):
            try:
                environ["gunicorn.socket"].recv(1)
            except OSError as error:
                seen.append(error)
        if path == "/raise":
            raise seen[-1]
        if path == "/other":
            raise ValueError("from the refusal")
        start_response("500 Internal Server Error", PLAIN)
        return [b"of the framework"]

    log = Records()
    with (
        logged() as records,
        serving(application, transport, max_websockets=1, logger=log.logger) as server,
        opened(server, "/hold"),
    ):
        for path in ("/raise", "/other", "/respond"):
            with connect(server) as client:
                client.send(handshake(path))
                response = client.read_response()
                assert response.status == 503
                assert response.complete
    assert [type(error) for error in seen] == [WebSocketRefused] * 6
    assert not records.lines
    assert [line[:8] for line in log.lines] == ["PEN-6170"] * 3


def test_without_descriptors_for_its_relay_it_gets_503(transport: str) -> None:
    refused: list[str] = []

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        with descriptors_left(int(environ["PATH_INFO"][1:])):
            try:
                environ[KEYS[0]].fileno()
            except WebSocketRefused as error:
                refused.append(str(error))
                raise
        return []

    with logged() as records, serving(application, transport) as server:
        # None for its own pair of sockets, for the selector, and for what wakes that.
        for left in (1, 2, 3):
            with client_of(server) as client:
                client.send(handshake(f"/{left}"))
                assert client.read_response().status == 503
            # Its descriptor is closed before the next one counts what is left.
            eventually(lambda: server.word(CONNECTIONS) == 0)
        assert server.word(WEBSOCKETS_REFUSED) == 3
    assert len(refused) == 3
    assert all("Too many open files" in reason for reason in refused)
    assert "Traceback" not in records.text


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Let the process open as many more descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.dup(0)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/dev/fd"))) + 8, hard))
    try:
        with suppress(OSError):
            while True:
                taken.append(os.dup(0))
        for _ in range(count):
            os.close(taken.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)


def test_a_websocket_has_no_deadline(transport: str) -> None:
    extended: list[float] = []

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        extend = environ["penstock.extend_deadline"]
        side = ServerSide(environ)
        assert "penstock.deadline" not in environ
        extended.append(extend(1))
        side.read()
        return []

    with serving(application, transport, timeout=30.0, timeout_max=60.0) as server:
        with opened(server) as side:
            eventually(lambda: extended)
            (request,) = server.slot.requests()
            assert request.websocket
            assert request.deadline is None
            assert request.age >= 0
            side.client.close()
        eventually(lambda: not list(server.slot.requests()))


def test_with_one_thread_a_websocket_keeps_it(transport: str) -> None:
    with serving(Echo(), transport, threads=1, max_websockets=1) as server:
        for _ in range(2):
            with opened(server) as side, connect(server) as client:
                assert side.echoes()
                assert server.word(WEBSOCKETS) == 1
                assert server.word(IO_BOUND_CALLS) == 0
                client.send(get("/after"))
                assert side.echoes()
                server.transport.look_at_calls()
                assert not select.select([client.socket], [], [], 0.05)[0]
                side.send(CLOSE, b"")
                assert client.read_response().body == b"/after"
                assert side.read() == (CLOSE, b"")
            eventually(lambda: server.word(WEBSOCKETS) == 0)
        assert len(server.threads) == 1


def test_a_call_that_has_left_the_count_may_open_one(transport: str) -> None:
    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        assert environ["penstock.io_bound"]()
        return Echo()(environ, start_response)

    with serving(application, transport, max_io_bound=1) as server:
        for _ in range(2):
            with opened(server) as side:
                assert side.echoes()
                assert (server.word(IO_BOUND_CALLS), server.word(WEBSOCKETS)) == (1, 1)
                with opened(server) as second:
                    assert second.echoes()  # the first one is no longer counted as io-bound
                    assert (server.word(IO_BOUND_CALLS), server.word(WEBSOCKETS)) == (2, 2)
            eventually(lambda: server.word(IO_BOUND_CALLS) == 0)
            assert server.word(WEBSOCKETS) == 0


def test_a_client_that_leaves_ends_the_applications_reading(transport: str, tls: Any) -> None:
    echo = Echo()
    with serving(echo, transport, tls=tls) as server:
        with opened(server) as side:
            assert side.echoes()
            side.client.end_sending()
            assert side.read() is None
        assert echo.ended == ["end"]
        with opened(server) as side:
            assert side.echoes()
            side.client.reset()
        eventually(lambda: len(echo.ended) == 2)
        eventually(lambda: server.word(CONNECTIONS) == 0)
        assert server.word(WEBSOCKETS) == 0


def test_a_client_that_takes_no_data_is_given_up(transport: str, tls: Any, tmp_path: Path) -> None:
    failed: list[OSError] = []

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        side = ServerSide(environ)
        try:
            while True:
                side.send(BINARY, b"z" * 100_000)
        except OSError as error:
            failed.append(error)
        return []

    path = tmp_path / "log"
    with serving(application, transport, tls=tls, write_timeout=0.3, access_log=path) as server:
        with client_of(server, receive_buffer=4096) as client:
            assert ClientSide(client).open().status == 101
            eventually(lambda: failed)
            eventually(lambda: server.word(WEBSOCKETS) == 0)
    [(status, _, _, _, reason)] = lines_of(path)
    assert status == 101
    assert reason is not None
    assert "write_timeout" in reason


def test_an_application_that_reads_nothing_stops_its_client_alone(transport: str, tls: Any) -> None:
    """No more than some buffers are taken from it, and what it sends later arrives whole."""
    gate = threading.Event()
    sizes: list[int] = []

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        side = ServerSide(environ)
        assert gate.wait(DEADLINE)
        received = side.read()
        assert received is not None
        sizes.append(len(received[1]))
        return []

    with serving(application, transport, tls=tls) as server, opened(server) as side:
        payload = b"z" * 20_000_000
        sender = threading.Thread(target=side.send, args=(BINARY, payload))
        sender.start()
        with opened(server) as other:
            sender.join(0.2)
            assert sender.is_alive()
            gate.set()
            sender.join()
            other.send(TEXT, b"")
            assert other.read() is None
        assert side.read() is None
    assert sorted(sizes) == [0, 20_000_000]


def test_the_access_log_has_a_line_with_the_bytes_of_both_ways(
    transport: str, tls: Any, tmp_path: Path
) -> None:
    path = tmp_path / "log"
    with serving(Echo(), transport, tls=tls, access_log=path) as server:
        with opened(server, "/a?b", early=frame(TEXT, b"one", masked=True)) as side:
            assert side.read() == (TEXT, b"one")
            assert side.echoes(b"three")
            side.send(CLOSE, b"")
            assert side.read() == (CLOSE, b"")
            assert side.read() is None
        with opened(server, "/reset") as side:
            assert side.echoes()
            side.client.reset()
            eventually(lambda: server.word(WEBSOCKETS) == 0)
    first, second = lines_of(path)
    assert first == (101, "/a", 9 + 11 + 6, 5 + 7 + 2, None)
    assert second[:4] == (101, "/reset", 11, 7)


def test_a_drain_says_1001_behind_the_frame_that_is_under_way(transport: str, tls: Any) -> None:
    """Also to those that open one later. What the application sends behind it goes nowhere."""
    parts: dict[str, threading.Event] = {name: threading.Event() for name in ("/half", "/late")}
    after: list[tuple[str, Any]] = []

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/late":
            assert parts[path].wait(DEADLINE)
        side = ServerSide(environ)
        if path == "/half":
            whole = frame(BINARY, b"x" * 1000)
            side.socket.sendall(frame(TEXT, b"first") + whole[:500])
            assert parts[path].wait(DEADLINE)
            side.socket.sendall(whole[500:] + frame(TEXT, b"never"))
        while (received := side.read()) is not None:
            after.append((path, received))
            side.send(CLOSE, b"")
        return []

    with serving(application, transport, tls=tls) as server, ExitStack() as stack:
        idle = stack.enter_context(opened(server, "/idle"))
        half = stack.enter_context(opened(server, "/half"))
        assert half.read() == (TEXT, b"first")
        late = stack.enter_context(client_of(server))
        late.send(handshake("/late"))
        eventually(lambda: len(list(server.slot.requests())) == 3)
        server.transport.drain()
        assert idle.read() == GOING_AWAY
        assert not select.select([half.socket], [], [], 0.05)[0] or tls  # TLS has records of a half
        parts["/half"].set()
        assert half.read() == (BINARY, b"x" * 1000)
        assert half.read() == GOING_AWAY
        parts["/late"].set()
        side = ClientSide(late)
        assert side.read_answer().status == 101
        assert side.read() == GOING_AWAY
        for each in (idle, half, side):
            each.send(CLOSE, b"\x03\xe9")
        eventually(lambda: len(after) == 3)  # the application gets the client's answer
        for each in (idle, half, side):
            each.client.end_sending()
            assert each.read() is None
        eventually(server.is_over)


def test_one_that_does_not_end_in_time_is_reset(transport: str, tls: Any, tmp_path: Path) -> None:
    path = tmp_path / "log"
    ended = threading.Event()

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        side = ServerSide(environ)
        while side.read() is not None:
            pass
        ended.set()
        with pytest.raises(OSError, match="pipe"):
            side.send(TEXT, b"")
        start_response("200 OK", PLAIN)
        return []

    with (
        logged() as records,
        serving(application, transport, tls=tls, access_log=path) as server,
        opened(server) as side,
    ):
        server.transport.drain()
        assert side.read() == GOING_AWAY
        assert server.transport.abort_all("the time is over") == 1
        assert end_of(side)
        assert ended.wait(DEADLINE)
        eventually(server.is_over)
    assert lines_of(path) == [(101, "/", 0, 4, "the time is over")]
    assert "Traceback" not in records.text


def test_a_transport_that_is_closed_ends_it(transport: str, tls: Any) -> None:
    echo = Echo()
    with serving(echo, transport, tls=tls) as server, opened(server) as side:
        assert side.echoes()
        server.transport.close()
        assert end_of(side)
        eventually(server.is_over)
    assert len(echo.ended) == 1


def test_only_its_own_call_takes_the_socket_and_only_before_the_response(transport: str) -> None:
    errors: list[str] = []
    kept: list[Any] = []

    def attempt(sock: Any) -> None:
        try:
            sock.recv(1)
        except OSError as error:
            errors.append(str(error))

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        sock = environ["gunicorn.socket"]
        other = threading.Thread(target=attempt, args=(sock,))
        other.start()
        other.join()
        if kept:
            attempt(kept[0])  # of an earlier request
        kept.append(sock)
        write = start_response("200 OK", PLAIN)
        write(b"begun ")
        attempt(sock)
        return [b"ended"]

    with serving(application, transport) as server, connect(server) as client:
        for _ in range(2):
            client.send(handshake())
            assert client.read_response().body == b"begun ended"
    attempt(kept[0])
    assert len(errors) == 6
    assert sum("response has begun" in error for error in errors) == 2
    assert sum("the call is over" in error for error in errors) == 4


def test_what_is_no_http_answer_is_passed_on_as_it_is(transport: str, tmp_path: Path) -> None:
    """The server does not judge; such a connection gets no frame of the server's own."""
    answers = {
        "/refused": b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno",
        "/odd": b"hello\r\n\r\nworld",
        "/long": b"x" * 70_000,
    }

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        environ["werkzeug.socket"].sendall(answers[environ["PATH_INFO"]])
        environ["werkzeug.socket"].recv(1)
        return []

    path = tmp_path / "log"
    with serving(application, transport, access_log=path) as server:
        with ExitStack() as stack:
            clients = {}
            for target, expected in answers.items():
                client = clients[target] = stack.enter_context(connect(server))
                client.send(handshake(target))
                while len(client.buffer) < len(expected):
                    client.buffer += client.socket.recv(65536)
            server.transport.drain()
            for target, client in clients.items():
                client.end_sending()
                assert client.read_to_end() == answers[target]
    assert sorted((line[0], line[3]) for line in lines_of(path)) == [
        (101, 14),
        (101, 70_000),
        (403, 2),
    ]


def test_nothing_is_kept_once_it_has_ended(transport: str) -> None:
    """Neither threads nor descriptors, though the application keeps the socket and the environ."""
    kept: list[Environ] = []

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        kept.append(environ)
        return Echo()(environ, start_response)

    def watching() -> bool:
        return any(thread.name == "penstock-websockets" for thread in threading.enumerate())

    with serving(application, transport, logger=logging.Logger("quiet")) as server:
        for _ in range(3):
            with opened(server) as side:
                assert side.echoes()
                assert watching()
            eventually(lambda: not watching())
        eventually(lambda: server.word(CONNECTIONS) == 0)
        for environ in kept:
            with pytest.raises(OSError, match="descriptor"):
                environ["werkzeug.socket"].recv(1)
            assert isinstance(environ["wsgi.input"], io.IOBase)


def test_a_child_that_the_application_forks_ends_and_leaves_the_websocket_to_its_parent(
    transport: str,
) -> None:
    statuses: list[int] = []

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        side = ServerSide(environ)
        child = os.fork()
        if child == 0:
            server.transport.close_in_child()  # as a worker does at each fork
            try:
                side.send(TEXT, b"from the child")
            except OSError:
                os._exit(7)
            os._exit(0)
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        assert statuses == [7]
        received = side.read()
        assert received is not None
        side.send(*received)
        return []

    with serving(application, transport) as server, opened(server) as side:
        eventually(lambda: statuses)
        assert side.echoes(b"to the parent")
        assert side.read() is None
