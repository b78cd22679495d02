"""What clients may take together: connections, heads, bytes on the disk, requests by time."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from penstock.edge.client import compile_networks
from penstock.edge.forwarded import ForwardedPolicy
from penstock.edge.rate_limit import RateLimit, RateTable
from penstock.http1 import ParserLimits
from penstock.telemetry.scoreboard import (
    ACCEPTED,
    ACCEPTING,
    CLIENT_CONNECTIONS,
    CLIENT_RATE,
    DENIED,
    EVICTED_BODY,
    EVICTED_HEAD,
    EVICTED_IDLE,
    SLOW_READER,
    SPOOL_FULL,
    SPOOLED,
)
from support.serving import Environ, Recorder, connect, eventually, get, post
from support.transports import BareServer, serving
from support.wire import Client

HAS = ["native", "python"]
SOON: dict[str, Any] = {"evict_idle_seconds": 0.05}
UNFINISHED = b"GET / HTTP/1.1\r\nHost: a\r\n"


@pytest.fixture(autouse=True)
def only_where_it_is(transport: str) -> None:
    """Skip the transports that do not have these budgets."""
    if transport not in HAS:
        pytest.skip(f"{transport} does not have these budgets")


def hold(server: BareServer, clients: ExitStack, *begun: bytes) -> list[Client]:
    """Connect for each of ``begun``, send it, and leave it at that for longer than a moment."""
    held = []
    for data in begun:
        before = server.word(ACCEPTED)
        client = clients.enter_context(connect(server))
        eventually(lambda before=before: server.word(ACCEPTED) > before)  # type: ignore[misc]
        if data:
            client.send(data)
        held.append(client)
    threading.Event().wait(0.1)  # being young is a matter of time
    return held


def test_idle_heads_and_bodies_make_room_in_this_order(transport: str) -> None:
    """SECURITY 8: half-open heads held the cap for as long as they liked."""
    words = (EVICTED_IDLE, EVICTED_HEAD, EVICTED_BODY)
    with (
        serving(Recorder(), transport, threads=2, max_connections=3, **SOON) as server,
        ExitStack() as clients,
    ):
        body, head, idle = hold(server, clients, post(b"x", length=10), UNFINISHED, b"")
        for expected, evicted in (((1, 0, 0), idle), ((1, 1, 0), head), ((1, 1, 1), body)):
            newcomer = clients.enter_context(connect(server))
            newcomer.send(get("/served"))
            assert newcomer.read_response().status == 200
            assert tuple(server.word(word) for word in words) == expected
            assert evicted.is_closed_by_server()
            # It takes the place for a request that it never finishes, which is young.
            newcomer.send(post(b"", length=10))


def test_connections_that_only_linger_make_room_before_all_others(transport: str) -> None:
    """Clients that kept theirs open, and went on to send, had the places for 10 s each."""
    lingers: dict[str, Any] = {"linger_seconds": 60.0, "linger_idle_seconds": 60.0}
    config = {"max_connections": 3, "keep_alive": 0.2, **lingers, **SOON}
    with serving(Recorder(), transport, threads=2, **config) as server, ExitStack() as clients:
        begun = [get(), post(b"x", "Connection: close"), b"bad\r\n\r\n"]
        lingering = hold(server, clients, *begun)
        for client, status in zip(lingering, (200, 200, 400), strict=True):
            assert client.read_response().status == status
            assert client.is_closed_by_server()
            client.send(b"more")
        threading.Event().wait(0.1)
        for number in (1, 2, 3):
            newcomer = clients.enter_context(connect(server))
            newcomer.send(post(b"", length=10))
            eventually(lambda number=number: server.word(EVICTED_IDLE) == number)  # type: ignore[misc]
        assert server.word(EVICTED_BODY) == 0


def test_spooled_bodies_count_as_descriptors(transport: str) -> None:
    """SECURITY 6: 120 stalled uploads under a cap of 200 connections used up all descriptors."""
    with (
        serving(
            Recorder(), transport, threads=2, max_descriptors=4, body_memory=100, **SOON
        ) as server,
        ExitStack() as clients,
    ):
        hold(server, clients, post(b"x" * 200, length=300), post(b"x" * 200, length=300))
        newcomer = clients.enter_context(connect(server))
        newcomer.send(get())
        assert newcomer.read_response().status == 200
        assert server.word(EVICTED_BODY) == 1
        eventually(lambda: server.word(SPOOLED) == 200)  # once the file is closed


def test_the_oldest_of_too_many_heads_is_evicted(transport: str) -> None:
    with (
        serving(Recorder(), transport, threads=2, max_unfinished_heads=2) as server,
        ExitStack() as clients,
    ):
        oldest, second, newest = hold(server, clients, *[UNFINISHED] * 3)
        assert oldest.is_closed_by_server()
        assert server.word(EVICTED_HEAD) == 1
        for client in (second, newest):
            client.send(b"\r\n")
            assert client.read_response().status == 200


def test_all_bodies_together_may_not_take_more_of_the_disk(transport: str, tmp_path: Path) -> None:
    """SECURITY 7: each connection could store a body of the greatest length."""
    limits: dict[str, Any] = {"body_memory": 100, "max_spool": 1000, "temp_dir": str(tmp_path)}
    with serving(Recorder(), transport, threads=2, **limits) as server, ExitStack() as clients:
        (first,) = hold(server, clients, post(b"x" * 600, length=601))
        assert server.word(SPOOLED) == 600
        with connect(server) as second:
            second.send(post(b"x" * 600))
            assert second.read_response().status == 507
        assert server.word(SPOOL_FULL) == 1
        first.send(b"x")
        assert first.read_response().status == 200
        eventually(lambda: server.word(SPOOLED) == 0)
        first.send(post(b"x" * 600))
        assert first.read_response().status == 200
        with connect(server) as leaving:
            leaving.send(post(b"x" * 600, length=601))
            eventually(lambda: server.word(SPOOLED) == 600)
            leaving.reset()
            eventually(lambda: server.word(SPOOLED) == 0)


def test_all_bodies_together_may_not_take_more_of_the_memory(
    transport: str, tmp_path: Path
) -> None:
    """5,000 clients that withheld the end of a short body took 317 MiB."""
    limits: dict[str, Any] = {
        "body_memory": 1000,
        "max_body_memory": 1500,
        "max_spool": 2000,
        "temp_dir": str(tmp_path),
    }
    unfinished, called, go = post(b"x" * 900, length=901), threading.Semaphore(0), threading.Event()

    def application(environ: Environ, start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/wait":
            called.release()
            go.wait(10)
        start_response("200 OK", [])
        return [environ["wsgi.input"].read()]

    with serving(application, transport, threads=2, **limits) as server, ExitStack() as clients:
        clients.callback(go.set)
        held, spooled = hold(server, clients, unfinished, unfinished)
        eventually(lambda: server.word(SPOOLED) == 900)  # the second is in a file
        spooled.send(b"y")
        assert spooled.read_response().body == b"x" * 900 + b"y"
        eventually(lambda: server.word(SPOOLED) == 0)
        held.reset()  # it gives its share back

        # A request that waits for a thread has its share still.
        for _ in range(2):
            clients.enter_context(connect(server)).send(get("/wait"))
            assert called.acquire(timeout=10)
        (waiting,) = hold(server, clients, post(b"z" * 900))
        (spooled,) = hold(server, clients, unfinished)
        eventually(lambda: server.word(SPOOLED) == 900)
        go.set()
        assert waiting.read_response().body == b"z" * 900
        spooled.send(b"y")
        assert spooled.read_response().body == b"x" * 900 + b"y"
        eventually(lambda: server.word(SPOOLED) == 0)
        hold(server, clients, unfinished)
        assert server.word(SPOOLED) == 0  # there is room again


def test_requests_behind_an_unsent_response_count_as_bodies_in_memory(
    transport: str, tmp_path: Path
) -> None:
    """A client that pipelines and reads nothing kept 64 KiB that no budget knew of."""
    limits: dict[str, Any] = {
        "body_memory": 1000,
        "max_body_memory": 1500,
        "scarce_receive_bytes": 100,
        "temp_dir": str(tmp_path),
    }
    bodies: list[int] = []

    def application(environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        if environ["PATH_INFO"] == "/large":
            return [bytes(20_000_000)]  # more than both kernels' buffers hold
        bodies.append(len(environ["wsgi.input"].read()))
        return [b"x"]

    def large(clients: ExitStack, behind: int) -> Client:
        (client,) = hold(server, clients, get("/large") + b"G" * behind)
        return client

    with serving(application, transport, threads=2, **limits) as server, ExitStack() as clients:
        first = large(clients, 1400)
        (spooled,) = hold(server, clients, post(b"x" * 200, length=201))
        eventually(lambda: server.word(SPOOLED) == 200)
        spooled.send(b"y")
        assert spooled.read_response().status == 200
        eventually(lambda: server.word(SPOOLED) == 0)
        first.reset()

        # Half of the memory is taken: of what comes now each read takes a little.
        large(clients, 800)
        large(clients, 1400)
        (held,) = hold(server, clients, post(b"x" * 400, length=401))
        assert server.word(SPOOLED) == 0
        held.send(b"y")
        assert held.read_response().status == 200
        assert bodies == [201, 401]


def test_a_body_that_ends_its_fast_beginning_has_a_window_for_the_rest(transport: str) -> None:
    """SECURITY 7: a byte a minute kept a body of 1 GiB for 24 days."""
    with (
        serving(
            Recorder(), transport, threads=2, body_window_seconds=0.3, body_timeout=0.3
        ) as server,
        connect(server) as client,
    ):
        client.send(post(b"x" * 100_000, length=100_001))
        began = time.monotonic()
        assert client.read_response().status == 408
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("streamed", [False, True], ids=["collected", "streamed"])
def test_a_body_has_a_longest_time_however_fast_it_comes(
    transport: str, streamed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    times: dict[str, Any] = {"max_body_time": 0.3, "body_timeout": 0.2}
    with (
        serving(Recorder(), transport, threads=2, stream_requests=streamed, **times) as server,
        connect(server) as client,
    ):
        client.send(post(b"", length=1_000_000))
        stop = threading.Event()

        def trickle() -> None:
            try:
                while not stop.wait(0.01):
                    client.send(b"x" * 100)
            except OSError:
                pass

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            assert client.read_response().status == 408
        finally:
            stop.set()
            thread.join()
        eventually(lambda: "max_body_time" in caplog.text)
    assert "body_timeout" not in caplog.text


@pytest.mark.parametrize("setting", ["max_body", "max_spool"])
def test_a_body_that_is_too_long_is_refused_with_the_setting_that_limits_it(
    transport: str, setting: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    limits: dict[str, Any] = {"parser": ParserLimits(body=1000), "body_setting": setting}
    with serving(Recorder(), transport, threads=2, **limits) as server, connect(server) as client:
        client.send(post(b"", length=1001))
        assert client.read_response().status == 413
        eventually(lambda: f"setting: {setting}" in caplog.text)


def test_a_worker_whose_descriptors_are_used_up_warns_once_and_accepts_when_it_can(
    transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    limits: dict[str, Any] = {"max_descriptors": 2, "evict_idle_seconds": 60.0}
    with serving(Recorder(), transport, threads=2, **limits) as server, ExitStack() as clients:
        held = [clients.enter_context(connect(server)) for _ in range(2)]
        for client in held:
            assert client.request("GET", "/").status == 200
        waiting = clients.enter_context(connect(server))
        waiting.send(get())
        eventually(lambda: "PEN-2020" in caplog.text)
        held[0].close()
        assert waiting.read_response().status == 200
    assert caplog.text.count("PEN-2020") == 1


def test_a_worker_that_has_its_most_connections_does_not_warn(
    transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    limits: dict[str, Any] = {"max_connections": 1, "evict_idle_seconds": 60.0}
    with serving(Recorder(), transport, threads=2, **limits) as server, ExitStack() as clients:
        first = clients.enter_context(connect(server))
        assert first.request("GET", "/").status == 200
        waiting = clients.enter_context(connect(server))
        waiting.send(get())
        eventually(lambda: server.word(ACCEPTING) == 0)
        first.close()
        assert waiting.read_response().status == 200
    assert "PEN-20" not in caplog.text


def test_a_denied_client_is_closed_at_once(transport: str) -> None:
    networks = compile_networks((), ("127.0.0.0/8",))
    with serving(Recorder(), transport, networks=networks) as server, connect(server) as client:
        assert client.is_closed_by_server()
        eventually(lambda: server.word(DENIED) == 1)


def test_a_client_has_a_number_of_connections(transport: str) -> None:
    with serving(Recorder(), transport, max_connections_per_client=2) as server:
        with connect(server) as first, connect(server) as second:
            for client in (first, second):
                client.send(get())
                assert client.read_response().status == 200
            with connect(server) as third:
                assert third.is_closed_by_server()
            assert server.word(CLIENT_CONNECTIONS) == 1
        eventually(lambda: server.snapshot()["connections"] == 0)
        with connect(server) as later:
            later.send(get())
            assert later.read_response().status == 200


def test_a_trusted_proxy_has_as_many_connections_as_it_likes(transport: str) -> None:
    trusted = ForwardedPolicy.of(["127.0.0.0/8"], ["x-forwarded-proto"], drops=False)
    limits: dict[str, Any] = {"max_connections_per_client": 1, "forwarded": trusted}
    with serving(Recorder(), transport, **limits) as server, ExitStack() as clients:
        for client in [clients.enter_context(connect(server)) for _ in range(3)]:
            client.send(get())
            assert client.read_response().status == 200
        assert server.word(CLIENT_CONNECTIONS) == 0


def test_a_client_has_a_number_of_requests_by_time(transport: str) -> None:
    rate = {"request_rate": RateLimit.of(10.0, 2), "rate_table": RateTable()}
    health: dict[str, Any] = {"health_path": "/healthz", **rate}
    with serving(Recorder(), transport, threads=2, **health) as server:
        with connect(server) as client:
            for _ in range(2):
                client.send(get())
                assert client.read_response().status == 200
            client.send(get())
            response = client.read_response()
            assert response.status == 429
            assert 1 <= int(response.header("retry-after") or 0) <= 10
            assert server.word(CLIENT_RATE) == 1
        with connect(server) as probe:
            probe.send(get("/healthz"))
            assert probe.read_response().status in (200, 503)
        assert server.word(CLIENT_RATE) == 1


@pytest.mark.skipif(not os.path.exists("/proc/net/tcp"), reason="no /proc/net/tcp")
def test_the_kernel_holds_little_for_a_client_that_has_read_nothing(transport: str) -> None:
    """SECURITY 9: 10,000 slow readers had the kernel hold 1.6 GB, and every client waited."""
    page = b"x" * 8_000_000

    def application(environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", str(len(page)))])
        return [page]

    with (
        serving(application, transport) as server,
        connect(server, receive_buffer=4096) as client,
    ):
        client.send(get())
        eventually(lambda: held_by_the_kernel(server, client) > 0)
        # The kernel takes what it takes at once, or never.
        held = [held_by_the_kernel(server, client) for _ in range(10)]
        assert max(held) < 250_000
        # One that reads has it hold more, so that a response takes fewer calls.
        while held_by_the_kernel(server, client) <= 2 * max(held):
            assert client.socket.recv(1_000_000)


def held_by_the_kernel(server: BareServer, client: Client) -> int:
    """Return how many bytes the server's socket has that the client has not acknowledged."""
    ends = [f":{port:04X}" for port in (server.port, client.socket.getsockname()[1])]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, near, far, _, queues, *_ = line.split()
        if [near[-5:], far[-5:]] == ends:
            return int(queues.partition(":")[0], 16)
    return 0


@pytest.mark.parametrize("streamed", [False, True])
def test_the_slowest_reader_is_cut_off_beyond_the_unsent_bytes_of_all(
    transport: str, streamed: bool, tmp_path: Path
) -> None:
    """SECURITY 9: 60 readers of a page of 8 MB that never read took 458 MiB."""
    log = tmp_path / "access"
    cut_off = threading.Event()

    def application(environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        yield b"x" * 8_000_000
        if streamed and environ["PATH_INFO"] != "/honest":
            cut_off.wait(10)
        yield b"y"

    limits: dict[str, Any] = {"max_unsent": 20_000_000, "out_buffer": 10_000_000}
    with (
        serving(application, transport, threads=11, access_log=log, **limits) as server,
        ExitStack() as clients,
    ):
        clients.callback(cut_off.set)
        readers = [clients.enter_context(connect(server, receive_buffer=4096)) for _ in range(10)]
        for reader in readers:
            reader.send(get())
        eventually(lambda: server.word(SLOW_READER) >= 5)
        with connect(server) as honest:
            honest.send(get("/honest"))
            assert len(honest.read_response().body) == 8_000_001
        count = server.word(SLOW_READER)
        assert count <= 10
        cut_off.set()
        reason = '"client disconnected: the client reads too slowly (setting: max_unsent)"'
        eventually(lambda: log.read_text().count(reason) >= count)
