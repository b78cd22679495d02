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
from typing import Any

import pytest

from penstock.telemetry.scoreboard import CLIENT_LEFT, QUEUE_FULL, QUEUE_TIMEOUT, WAITING
from penstock.transport.config import TransportConfig
from support.server_process import ServerProcess
from support.serving import Environ, Gate, connect, eventually, get, post
from support.transports import BareServer, serving
from support.wire import Client, Response

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


def queue_up(server: BareServer, clients: ExitStack, *requests: bytes) -> list[Client]:
    """Send requests one after the other, each when the one before waits."""
    waiting = server.word(WAITING)
    queued: list[Client] = []
    for request in requests:
        queued.append(clients.enter_context(connect(server)))
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


@contextmanager
def overloaded(
    transport: str,
) -> Iterator[tuple[BareServer, list[Client], list[str], threading.Semaphore]]:
    """Serve under sustained overload; requests 1 and 2 of four wait, and 0 and 3 are served."""
    release = threading.Semaphore(0)
    seen: list[str] = []

    def application(environ: Environ, start_response: Any) -> list[bytes]:
        seen.append(environ["PATH_INFO"])
        release.acquire()
        start_response("200 OK", [])
        return [b""]

    with (
        serving(application, transport, threads=THREADS, **SUSTAINED) as server,
        ExitStack() as clients,
    ):
        for _ in range(THREADS):
            clients.enter_context(connect(server)).send(get("/busy"))
        eventually(lambda: len(seen) == THREADS)
        old = queue_up(server, clients, *[get(f"/{number}") for number in range(4)])
        threading.Event().wait(0.3)  # what makes an overload is time
        release.release()  # the first to leave the queue is still the oldest
        eventually(lambda: len(seen) == THREADS + 1)
        release.release()
        eventually(lambda: len(seen) == THREADS + 2)
        assert seen[THREADS:] == ["/0", "/3"]
        yield server, old, seen, release
        for _ in range(10):
            release.release()


def test_clients_that_end_their_sides_together_have_all_left(transport: str) -> None:
    with overloaded(transport) as (server, old, seen, _):
        for client in old[1:3]:
            client.end_sending()
        eventually(lambda: server.word(CLIENT_LEFT) == 2)
        eventually(lambda: server.snapshot()["connections"] == 4)
    assert seen[THREADS:] == ["/0", "/3"]


def test_under_sustained_overload_the_newest_is_next_and_who_ends_its_side_has_left(
    transport: str,
) -> None:
    with overloaded(transport) as (server, old, seen, release):
        old[1].end_sending()
        eventually(lambda: server.word(CLIENT_LEFT) == 1)
        for _ in range(10):
            release.release()
        assert old[2].read_response().status == 200
    assert "/1" not in seen


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
        queue_up(server, clients, get("/queued"))
        eventually(lambda: status("/readyz") == 503)
        assert status("/healthz") == 200
        gate.open()
        eventually(lambda: status("/readyz") == 200)


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
