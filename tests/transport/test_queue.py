"""Requests that wait for a thread: how many, for how long, and what their clients get."""

from __future__ import annotations

import json
import select
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from penstock.edge.forwarded import ForwardedPolicy
from penstock.telemetry.scoreboard import (
    CLIENT_LEFT,
    QUEUE_FULL,
    QUEUE_FULL_SINCE,
    QUEUE_TIMEOUT,
    WAITING,
)
from penstock.transport.config import TransportConfig
from support.server_process import ServerProcess
from support.serving import Environ, Gate, connect, eventually, get, post
from support.transports import BareServer, serving
from support.wire import Client, Response

if TYPE_CHECKING:
    from wsgiref.types import StartResponse

THREADS = 2

STUCK = """
import sys, threading

def app(environ, start_response):
    print("stuck in", environ["PATH_INFO"], file=sys.stderr, flush=True)
    threading.Event().wait(60)
"""


@contextmanager
def busy(gate: Gate, transport: str, **config: Any) -> Iterator[tuple[BareServer, ExitStack]]:
    """Serve with two threads that are both with the application, until the gate opens."""
    with serving(gate, transport, threads=THREADS, **config) as server, ExitStack() as clients:
        for number in range(THREADS):
            clients.enter_context(connect(server)).send(get("/wait"))
            # One after the other: a short queue would not hold two that wait for a moment.
            eventually(lambda number=number: gate.inside == number + 1)  # type: ignore[misc]
        try:
            yield server, clients
        finally:
            gate.open()


def queue_up(
    server: BareServer, clients: ExitStack, *requests: bytes, source: str | None = None
) -> list[Client]:
    """Send requests from an address one after the other, each when the one before waits."""
    waiting = server.word(WAITING)
    queued: list[Client] = []
    for request in requests:
        queued.append(clients.enter_context(connect(server, source=source)))
        queued[-1].send(request)
        eventually(lambda: server.word(WAITING) == waiting + len(queued))
    return queued


def logged(path: Path) -> dict[str, dict[str, Any]]:
    """Return the lines of the access log by their paths."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {line["url.path"]: line for line in lines}


def retry_after(response: Response) -> int:
    """Return when the client may ask again, in seconds."""
    return int(response.header("retry-after") or -1)


def test_a_request_beyond_the_queue_gets_503_and_its_connection_is_kept(
    transport: str, tmp_path: Path
) -> None:
    path = tmp_path / "access.log"
    gate = Gate()
    with busy(gate, transport, queue=2, access_log=path) as (server, clients):
        waiting = queue_up(server, clients, get("/first"), get("/second"))
        refused = clients.enter_context(connect(server))
        for request in (get("/get"), post(b"x" * 1000, target="/post")):
            refused.send(request)
            response = refused.read_response()
            assert response.status == 503
            assert response.body.decode() == f"{TransportConfig().overloaded}\n"
            assert response.header("connection") is None
            assert retry_after(response) == 1
        assert server.word(QUEUE_FULL) == 2
        gate.open()
        for client in waiting:
            assert client.read_response().status == 200
        refused.send(get("/again"))
        assert refused.read_response().body == b"/again"
    line = logged(path)["/post"]
    assert (line["http.response.status_code"], line["reason"]) == (503, "the queue is full (queue)")
    assert logged(path)["/first"]["queue"] > 0
    assert "/get" not in gate.seen


def test_a_refused_client_that_asks_for_the_end_of_its_connection_gets_it(transport: str) -> None:
    with busy(Gate(), transport, queue=1) as (server, clients):
        queue_up(server, clients, get("/first"))
        for request in (get("/", "Connection: close"), get("/", version="HTTP/1.0")):
            with connect(server) as refused:
                refused.send(request)
                response = refused.read_response()
                assert (response.status, response.header("connection")) == (503, "close")
                assert refused.read_to_end() == b""
        with connect(server) as refused:
            refused.send(get("/", "Connection: keep-alive", version="HTTP/1.0"))
            assert refused.read_response().header("connection") == "keep-alive"
        with connect(server) as refused:
            refused.send(get("/").replace(b"GET", b"HEAD"))
            assert refused.read_response("HEAD").status == 503


def test_a_refused_body_that_is_streamed_keeps_the_connection_where_it_is_short(
    transport: str,
) -> None:
    most = TransportConfig().discard_bytes
    with busy(Gate(), transport, queue=1, stream_requests=True) as (server, clients):
        queue_up(server, clients, get("/first"))
        with connect(server) as refused:
            refused.send(post(b"x" * 10))
            assert refused.read_response().header("connection") is None
            refused.send(post(b"", length=most + 1))
            assert refused.read_response().header("connection") == "close"


def test_a_request_that_waits_for_too_long_gets_503(transport: str, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    with busy(Gate(), transport, queue_timeout=0.2, access_log=path) as (server, clients):
        began = time.monotonic()
        (late,) = queue_up(server, clients, get("/late"))
        response = late.read_response()
        assert response.status == 503
        assert time.monotonic() - began >= 0.2
        assert server.word(QUEUE_TIMEOUT) == 1
        assert server.word(WAITING) == 0
    line = logged(path)["/late"]
    assert line["reason"] == "waited for a thread for 0.2 s (queue_timeout)"
    assert line["queue"] >= 0.2


def test_a_request_whose_client_resets_leaves_the_queue(transport: str, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    gate = Gate()
    with busy(gate, transport, queue=2, access_log=path) as (server, clients):
        gone, stays = queue_up(server, clients, get("/gone"), get("/stays"))
        gone.reset()
        # The queue was full. That there is room for another request is what shows it.
        (after,) = (clients.enter_context(connect(server)),)
        after.send(get("/after"))
        eventually(lambda: server.word(CLIENT_LEFT) == 1)
        gate.open()
        assert stays.read_response().status == 200
        assert after.read_response().status == 200
        assert server.word(QUEUE_FULL) == 0
        assert server.snapshot()["requests_refused"] == 0
    line = logged(path)["/gone"]
    assert line["http.response.status_code"] == 499
    assert line["reason"] == "the client left before a thread was free"
    assert "/gone" not in gate.seen


def test_a_request_leaves_the_queue_whose_client_has_sent_more_and_then_resets(
    transport: str,
) -> None:
    sweeps: dict[str, Any] = {"header_timeout": 1.0}  # every tenth of a second
    gate = Gate()
    with busy(gate, transport, **sweeps) as (server, clients):
        (gone,) = queue_up(server, clients, get("/gone"))
        gone.send(get("/pipelined"))
        queue_up(server, clients, get("/stays"))  # the server has seen the second request by then
        gone.reset()
        eventually(lambda: server.word(CLIENT_LEFT) == 1)
        assert server.word(WAITING) == 1
        assert "/gone" not in gate.seen


def test_requests_that_wait_when_the_transport_ends_get_503_and_their_lines(
    transport: str, tmp_path: Path
) -> None:
    path = tmp_path / "access.log"
    gate = Gate()
    with busy(gate, transport, access_log=path) as (server, clients):
        waiting = queue_up(server, clients, get("/first"), post(b"x" * 1000, target="/second"))
        server.transport.drain()
        server.transport.close()
        for client in waiting:
            response = client.read_response()
            assert (response.status, response.header("connection")) == (503, "close")
            assert response.body.decode() == f"{TransportConfig().stopping}\n"
            assert client.read_to_end() == b""
        assert server.word(WAITING) == 0
        assert server.snapshot()["requests_refused"] == 2
        gate.open()
        eventually(server.is_over)
    for target in ("/first", "/second"):
        line = logged(path)[target]
        assert line["http.response.status_code"] == 503
        assert line["reason"] == TransportConfig().stopped_in_queue
        assert line["queue"] > 0
    assert not {"/first", "/second"} & set(gate.seen)


@pytest.mark.parametrize("threads", [1, 2])
def test_requests_that_wait_at_the_end_of_graceful_timeout_get_503_and_their_lines(
    transport: str, tmp_path: Path, threads: int
) -> None:
    (tmp_path / "stuck.py").write_text(STUCK)
    path = tmp_path / "access.log"
    arguments = ["stuck:app", "--threads", str(threads), "--graceful-timeout", "1"]
    arguments += ["--transport", transport, "--health-path", "/healthz"]
    arguments += ["--access-logfile", str(path), "--access-logformat", "json"]
    with ServerProcess(*arguments, cwd=tmp_path) as server, ExitStack() as stack:

        def ask(target: str) -> Client:
            client = stack.enter_context(Client(server.address))
            client.send(get(target))
            return client

        for number in range(threads):
            ask(f"/stuck/{number}")
            server.wait_for_line(f"stuck in /stuck/{number}")
        waiting = [ask("/waits") for _ in range(3)]
        with Client(server.address) as probe:  # all that came before it is in the queue then
            assert probe.request("GET", "/healthz").status == 200
        server.signal()
        for client in waiting:
            response = client.read_response()
            assert (response.status, response.header("connection")) == (503, "close")
        server.wait()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    waited = [line for line in lines if line["url.path"] == "/waits"]
    assert [line["http.response.status_code"] for line in waited] == [503] * 3
    assert {line["reason"] for line in waited} == {TransportConfig().stopped_in_queue}


def test_a_client_that_only_ends_its_side_is_answered(transport: str) -> None:
    gate = Gate()
    with busy(gate, transport) as (server, clients):
        (half,) = queue_up(server, clients, get("/half"))
        half.end_sending()
        # A request of another client after it: the server has seen the end by then.
        queue_up(server, clients, get("/other"))
        gate.open()
        assert half.read_response().body == b"/half"
    assert server.word(CLIENT_LEFT) == 0


SUSTAINED: dict[str, Any] = {
    "overload_delay_seconds": 0.05,
    "overload_services": 0,
    "overload_seconds": 0.1,
    "header_timeout": 1.0,  # for sweeps every tenth of a second
}


class Steps:
    """An application of which each call waits until it is released."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._release = threading.Semaphore(0)

    def __call__(self, environ: Environ, start_response: StartResponse) -> list[bytes]:
        self.seen.append(environ["PATH_INFO"])
        self._release.acquire()
        start_response("200 OK", [])
        return [b""]

    def release(self, calls: int = 1) -> None:
        """Let one call after the other end, each when a request has taken the last one's place."""
        for _ in range(calls):
            begun = len(self.seen)
            self._release.release()
            eventually(lambda begun=begun: len(self.seen) > begun)  # type: ignore[misc]

    def release_all(self) -> None:
        """Let every call end."""
        self._release.release(1000)


@contextmanager
def stepping(transport: str, **config: Any) -> Iterator[tuple[BareServer, ExitStack, Steps]]:
    """Serve with two threads that are both with the application; `Steps` lets them go on."""
    steps = Steps()
    with serving(steps, transport, threads=THREADS, **config) as server, ExitStack() as clients:
        for number in range(THREADS):
            clients.enter_context(connect(server)).send(get("/busy"))
            eventually(lambda number=number: len(steps.seen) > number)  # type: ignore[misc]
        try:
            yield server, clients, steps
        finally:
            steps.release_all()


@contextmanager
def overloaded(transport: str) -> Iterator[tuple[BareServer, list[Client], Steps]]:
    """Serve under sustained overload; requests 1 and 2 of four wait, and 0 and 3 are served."""
    with stepping(transport, **SUSTAINED) as (server, clients, steps):
        old = queue_up(server, clients, *[get(f"/{number}") for number in range(4)])
        make_sustained()
        steps.release(2)  # the first to leave the queue is still the oldest
        assert steps.seen[THREADS:] == ["/0", "/3"]
        yield server, old, steps


def make_sustained() -> None:
    """Wait until what has waited for long makes an overload, with the settings of SUSTAINED."""
    threading.Event().wait(0.3)  # what makes it is time


A, B, C = "127.0.2.1", "127.0.2.2", "127.0.2.3"


def numbered(name: str, count: int) -> list[bytes]:
    return [get(f"/{name}{number}") for number in range(count)]


def test_clients_have_the_threads_in_turns_and_each_in_the_order_of_its_requests(
    transport: str,
) -> None:
    with stepping(transport) as (server, clients, steps):
        for name, source, count in (("a", A, 4), ("b", B, 2), ("c", C, 1)):
            queue_up(server, clients, *numbered(name, count), source=source)
        steps.release(7)
        assert steps.seen[THREADS:] == ["/a0", "/b0", "/c0", "/a1", "/b1", "/a2", "/a3"]


def test_the_requests_of_one_client_are_served_in_the_order_of_arrival(transport: str) -> None:
    with stepping(transport) as (server, clients, steps):
        queue_up(server, clients, *numbered("a", 8))
        steps.release(8)
        assert steps.seen[THREADS:] == [f"/a{number}" for number in range(8)]


def test_the_client_is_the_one_that_a_trusted_proxy_names(transport: str) -> None:
    policy = ForwardedPolicy.of(["127.0.0.1"], ["x-forwarded-for"], drops=False)
    with stepping(transport, forwarded=policy) as (server, clients, steps):
        for name, client in (("a", "192.0.2.1"), ("b", "2001:db8::1"), ("B", "2001:db8::2:1")):
            requests = [get(f"/{name}{it}", f"X-Forwarded-For: {client}") for it in range(2)]
            queue_up(server, clients, *requests)
        queue_up(server, clients, get("/c", "X-Forwarded-For: 192.0.2.2"))
        steps.release(7)
        # The two addresses of IPv6 are of one network.
        assert steps.seen[THREADS:] == ["/a0", "/b0", "/c", "/a1", "/b1", "/B0", "/B1"]


def test_a_full_queue_refuses_the_newest_request_of_the_client_with_the_most(
    transport: str, tmp_path: Path
) -> None:
    path = tmp_path / "access.log"
    with stepping(transport, queue=4, access_log=path) as (server, clients, steps):
        hostile = queue_up(server, clients, *numbered("a", 3), source=A)
        hostile += queue_up(server, clients, post(b"x" * 1000, target="/a3"), source=A)
        honest = clients.enter_context(connect(server, source=B))
        for number in range(2):
            honest.send(get(f"/b{number}"))
            refused = hostile.pop()
            response = refused.read_response()
            assert response.status == 503
            assert response.body.decode() == f"{TransportConfig().overloaded}\n"
            assert response.header("connection") is None
            assert retry_after(response) == 1
            assert (server.word(QUEUE_FULL), server.word(WAITING)) == (1 + number, 4)
            if number == 0:
                honest = clients.enter_context(connect(server, source=B))
        with connect(server, source=B) as equal:  # it has as many as the other by now
            equal.send(get("/b2"))
            assert equal.read_response().status == 503
        refused.send(get("/a4"))  # its connection was kept
        assert refused.read_response().status == 503
        eventually(lambda: server.snapshot()["requests_refused"] == 4)
        steps.release(4)
        assert steps.seen[THREADS:] == ["/a0", "/b0", "/a1", "/b1"]
        steps.release_all()
        assert honest.read_response().status == 200
    line = logged(path)["/a3"]
    assert (line["http.response.status_code"], line["reason"]) == (
        503,
        TransportConfig().queue_full,
    )
    assert line["queue"] > 0


def test_under_sustained_overload_the_client_is_next_that_has_sent_last_within_its_share(
    transport: str,
) -> None:
    with stepping(transport, **SUSTAINED) as (server, clients, steps):
        queue_up(server, clients, *numbered("a", 4), source=A)
        queue_up(server, clients, get("/b0"), source=B)
        make_sustained()
        steps.release(1)  # the oldest, after which it is sustained
        queue_up(server, clients, get("/c0"), source=C)
        steps.release(3)
        queue_up(server, clients, get("/b1"), source=B)
        steps.release(3)
        assert steps.seen[THREADS:] == ["/a0", "/c0", "/b0", "/a3", "/b1", "/a2", "/a1"]


def test_clients_that_end_their_sides_together_have_all_left(transport: str) -> None:
    with overloaded(transport) as (server, old, steps):
        for client in old[1:3]:
            client.end_sending()
        eventually(lambda: server.word(CLIENT_LEFT) == 2)
        eventually(lambda: server.snapshot()["connections"] == 4)
    assert steps.seen[THREADS:] == ["/0", "/3"]


def test_under_sustained_overload_the_newest_is_next_and_who_ends_its_side_has_left(
    transport: str,
) -> None:
    with overloaded(transport) as (server, old, steps):
        old[1].end_sending()
        eventually(lambda: server.word(CLIENT_LEFT) == 1)
        steps.release_all()
        assert old[2].read_response().status == 200
    assert "/1" not in steps.seen


@pytest.mark.parametrize("threads", [1, 3])
def test_checks_are_answered_while_the_queue_is_full_and_readiness_turns_negative(
    transport: str, threads: int
) -> None:
    gate = Gate()
    checks: dict[str, Any] = {"health_path": "/healthz", "ready_path": "/readyz"}
    with (
        serving(
            gate, transport, threads=threads, queue=1, overload_ready_after=0.2, **checks
        ) as server,
        ExitStack() as clients,
    ):
        server.slot.words[3] = 1  # READY, which a worker sets
        server.slot.words[10] = 1  # LIVE
        for number in range(threads):
            clients.enter_context(connect(server)).send(get("/wait"))
            eventually(lambda number=number: gate.inside == number + 1)  # type: ignore[misc]
        probe = clients.enter_context(connect(server))

        def status(path: str) -> int:
            probe.send(get(path))
            return probe.read_response().status

        assert status("/readyz") == 200
        assert server.word(QUEUE_FULL_SINCE) == 0
        queue_up(server, clients, get("/queued"))
        eventually(lambda: status("/readyz") == 503)
        assert 0 < time.monotonic_ns() - server.word(QUEUE_FULL_SINCE) < 60e9
        assert status("/healthz") == 200
        gate.open()
        eventually(lambda: status("/readyz") == 200)
        assert server.word(QUEUE_FULL_SINCE) == 0


def test_options_asterisk_is_answered_while_all_threads_are_busy_and_the_queue_is_full(
    transport: str, tmp_path: Path
) -> None:
    path = tmp_path / "access.log"
    options = b"OPTIONS * HTTP/1.1\r\nHost: a\r\n"
    with busy(Gate(), transport, queue=1, access_log=path) as (server, clients):
        queue_up(server, clients, get("/queued"))
        probe = clients.enter_context(connect(server))
        for _ in range(2):
            probe.send(options + b"\r\n")
            response = probe.read_response()
            assert (response.status, response.header("content-length")) == (200, "0")
            assert response.header("connection") is None
        probe.send(options + b"Connection: close\r\n\r\n")
        response = probe.read_response()
        assert (response.status, response.header("connection")) == (200, "close")
        assert probe.read_to_end() == b""
        assert server.word(WAITING) == 1
        assert server.snapshot()["requests_refused"] == 0
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    answered = [line for line in lines if line["http.request.method"] == "OPTIONS"]
    assert [line["http.response.status_code"] for line in answered] == [200] * 3
    assert {line["reason"] for line in answered} == {None}


def test_the_application_gets_the_time_in_the_queue(transport: str) -> None:
    environs: dict[str, Environ] = {}
    gate = Gate()

    def application(environ: Environ, start_response: Any) -> Any:
        environs[environ["PATH_INFO"]] = dict(environ)
        return gate(environ, start_response)

    claimed = "X-Request-Start: t=1.000"
    with serving(application, transport, threads=THREADS) as server, ExitStack() as clients:

        def taken_at_once() -> bool:
            with connect(server) as client:
                client.send(get("/at-once", claimed))
                assert client.read_response().status == 200
            return bool(environs["/at-once"]["penstock.queue_time"] == 0.0)

        eventually(taken_at_once)  # on a busy machine a thread may be late once
        for _ in range(THREADS):
            clients.enter_context(connect(server)).send(get("/wait", claimed))
        eventually(lambda: gate.inside == THREADS)
        before = time.time()
        (queued,) = queue_up(server, clients, get("/queued", claimed, "X_Request_Start: t=1.000"))
        threading.Event().wait(0.05)
        gate.open()
        assert queued.read_response().status == 200
    at_once, later = environs["/at-once"], environs["/queued"]
    assert "HTTP_X_REQUEST_START" not in at_once
    assert later["penstock.queue_time"] >= 0.05
    start = later["HTTP_X_REQUEST_START"]
    assert start.startswith("t=")
    assert len(start.partition(".")[2]) == 3
    assert before - 0.01 <= float(start[2:]) <= time.time()


def test_a_thousand_requests_at_once_are_all_served(transport: str) -> None:
    """With the settings' defaults: 4 threads, and a view of 20 ms."""

    def application(environ: Environ, start_response: Any) -> list[bytes]:
        threading.Event().wait(0.02)
        start_response("200 OK", [])
        return [b"served"]

    with serving(application, transport, threads=4) as server, ExitStack() as stack:
        clients = [stack.enter_context(connect(server)) for _ in range(1000)]
        for client in clients:
            client.send(get())
        with ThreadPoolExecutor(8) as pool:
            statuses = [r.status for r in pool.map(Client.read_response, clients)]
    assert statuses == [200] * 1000


def test_with_one_thread_the_queue_begins_when_calls_last_for_long(transport: str) -> None:
    gate = Gate()
    at_once: dict[str, Any] = {
        "slow_call_seconds": 0.0,
        "stalled_call_seconds": 0.0,
        "stalled_calls": 1,
    }
    with serving(gate, transport, queue=1, **at_once) as server, ExitStack() as clients:
        busy = clients.enter_context(connect(server))
        busy.send(get("/long"))
        assert busy.read_response().status == 200
        busy.send(get("/wait"))
        eventually(lambda: gate.inside == 1)
        (queued,) = queue_up(server, clients, get("/queued"))
        with connect(server) as refused:
            refused.send(get("/refused"))
            assert refused.read_response().status == 503
        gate.open()
        assert queued.read_response().body == b"/queued"


def test_with_one_thread_the_queue_begins_when_a_call_has_lasted_for_a_second(
    transport: str,
) -> None:
    gate = Gate()
    with (
        serving(gate, transport, queue=1, busy_accept_seconds=0.2) as server,
        ExitStack() as clients,
    ):
        clients.callback(gate.open)
        clients.enter_context(connect(server)).send(get("/wait"))
        eventually(lambda: gate.inside == 1)
        began = time.monotonic()
        server.transport.look_at_calls()  # as a worker does about once a second
        queued = clients.enter_context(connect(server))
        queued.send(get("/queued"))

        def waits() -> bool:
            server.transport.look_at_calls()
            return server.word(WAITING) == 1

        eventually(waits)
        assert time.monotonic() - began >= 0.1
        with connect(server) as refused:
            refused.send(get("/refused"))
            response = refused.read_response()
            assert (response.status, retry_after(response)) == (503, 1)
        gate.open()
        assert queued.read_response().body == b"/queued"


@pytest.mark.parametrize("threads", [1, 2])
def test_busy_workers_of_one_server_hold_no_more_clients_than_their_queues(
    transport: str, tmp_path: Path, threads: int
) -> None:
    """Each of 30 clients is accepted within some seconds, although no call ever returns."""
    (tmp_path / "stuck.py").write_text(STUCK)
    arguments = ["stuck:app", "--workers", "2", "--threads", str(threads), "--queue", "10"]
    arguments += ["--transport", transport, "--graceful-timeout", "0.5"]
    with ServerProcess(*arguments, cwd=tmp_path) as server, ExitStack() as stack:
        clients = [stack.enter_context(Client(server.address)) for _ in range(2 * threads + 30)]
        for client in clients:
            client.send(get("/"))
        eventually(lambda: len(answered(clients)) >= 10)
        refused = 0
        for client in answered(clients):
            refused += 1
            response = client.read_response()
            assert response.status == 503
            assert retry_after(response) >= 1
        # A worker that does not look at its sockets yet is left out: one at least is full by then.
        assert refused <= len(clients) - threads - 10


def answered(clients: list[Client]) -> list[Client]:
    """Return those to which the server has sent something."""
    readable, _, _ = select.select([client.socket for client in clients], [], [], 0)
    return [client for client in clients if client.socket in readable]
