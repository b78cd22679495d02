"""Who runs the application, how many at a time, and what goes on meanwhile."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from wsgiref.types import StartResponse

import pytest

import penstock
from penstock.transport.python import PythonTransport
from support import transports
from support.server_process import ServerProcess
from support.serving import TEXT, Environ, Gate, connect, eventually, get, post
from support.wire import Client

if TYPE_CHECKING:
    from penstock.api import RunningServer

SUPPORT = Path(__file__).parents[1] / "support"


def test_one_thread_runs_everything(transport: str) -> None:
    gate = Gate()
    before = threading.active_count()
    with penstock.running(gate, transport=transport, threads=1) as server:
        with connect(server) as first, connect(server) as second:
            for _ in range(25):
                assert first.request("GET", "/").status == 200
                assert second.request("GET", "/").status == 200
        assert threading.active_count() == before + 2  # that one, and who keeps the deadlines
    assert len(gate.threads) == 1
    assert gate.most == 1


def test_one_blocked_view_stalls_nobody(transport: str) -> None:
    gate = Gate()
    with penstock.running(gate, transport=transport, threads=4) as server:
        with connect(server) as blocked:
            blocked.send(get("/wait"))
            eventually(lambda: gate.inside == 1)
            for _ in range(20):  # on connections old and new
                with connect(server) as other:
                    for _ in range(5):
                        assert other.request("GET", "/").status == 200
            assert gate.inside == 1
            gate.open()
            assert blocked.read_response().body == b"/wait"


def test_as_many_run_at_once_as_there_are_threads_and_no_more(transport: str) -> None:
    gate = Gate()
    with penstock.running(gate, transport=transport, threads=4) as server:
        clients = [connect(server) for _ in range(30)]
        for number, client in enumerate(clients):
            client.send(get(f"/wait/{number}"))
        eventually(lambda: gate.inside == 4)
        # The others have been read: they wait for a thread, not in the kernel.
        eventually(lambda: server.snapshot()["connections"] == 30)
        gate.open()
        for number, client in enumerate(clients):
            assert client.read_response().body == b"/wait/%d" % number
            client.close()
    assert gate.most == 4


@contextmanager
def all_blocked(transport: str, **settings: Any) -> Iterator[tuple[RunningServer, Gate]]:
    """Serve with three threads, which wait for a gate to open, at the end at the latest."""
    gate = Gate()
    with penstock.running(gate, transport=transport, threads=3, **settings) as server:
        with ExitStack() as stack:
            stack.callback(gate.open)
            blocked = [stack.enter_context(connect(server)) for _ in range(3)]
            for client in blocked:
                client.send(get("/wait"))
            eventually(lambda: gate.inside == 3)
            yield server, gate
            gate.open()
            for client in blocked:
                assert client.read_response().body == b"/wait"
    assert gate.most == 3


def test_with_all_threads_blocked_deadlines_are_kept(transport: str) -> None:
    with all_blocked(transport, header_timeout=0.3, keep_alive=1.0) as (server, _):
        with connect(server) as slow:
            slow.send(b"GET / HTTP/1.1\r\n")
            assert slow.read_response().status == 408
        with connect(server) as idle:
            assert idle.read_to_end() == b""


def test_with_all_threads_blocked_sockets_are_served_still(transport: str) -> None:
    with all_blocked(transport) as (server, gate):
        with connect(server) as bad:
            bad.send(b"nonsense\r\n\r\n")
            assert bad.read_response().status == 400
        with connect(server) as uploading, connect(server) as leaving:
            uploading.send(post(b"", "Expect: 100-continue", target="/uploaded", length=5))
            assert uploading.read_response().status == 100
            uploading.send(b"hello")
            leaving.send(get()[:-1])
            leaving.reset()
            eventually(lambda: server.snapshot()["connections"] == 4)
            assert gate.inside == 3
            gate.open()
            assert uploading.read_response().body == b"/uploaded"


def test_a_large_response_goes_on_while_all_threads_are_blocked(transport: str) -> None:
    gate = Gate()

    def application(environ: Environ, start_response: StartResponse) -> object:
        if environ["PATH_INFO"] != "/large":
            return gate(environ, start_response)
        start_response("200 OK", TEXT)
        return [b"x" * 20_000_000]

    with penstock.running(application, transport=transport, threads=2) as server:  # type: ignore[arg-type]
        with connect(server, receive_buffer=4096) as large:
            large.send(get("/large"))
            eventually(lambda: server.snapshot()["requests"] == 1)
            blocked = [connect(server) for _ in range(2)]
            for client in blocked:
                client.send(get("/wait"))
            eventually(lambda: gate.inside == 2)
            assert len(large.read_response().body) == 20_000_000
            gate.open()
            for client in blocked:
                assert client.read_response().status == 200
                client.close()


def test_calls_that_all_block_overlap(transport: str) -> None:
    """A barrier that only opens when all threads are inside at once, again and again."""
    barrier = threading.Barrier(8, timeout=10)

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        barrier.wait()
        start_response("200 OK", TEXT)
        return [b"met"]

    with penstock.running(application, transport=transport, threads=8) as server:
        clients = [connect(server) for _ in range(8)]
        for _ in range(20):
            for client in clients:
                client.send(get())
            for client in clients:
                assert client.read_response().body == b"met"
        for client in clients:
            client.close()


@pytest.mark.parametrize("threads", [1, 4])
def test_an_applications_own_thread_runs_while_the_server_is_idle(
    transport: str, threads: int
) -> None:
    counted = 0
    stop = threading.Event()

    def count() -> None:
        nonlocal counted
        while not stop.wait(0.001):
            counted += 1

    background = threading.Thread(target=count)

    def application(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        background.start()
        yield b"started"

    with penstock.running(application, transport=transport, threads=threads) as server:
        with connect(server) as client:
            assert client.request("GET", "/").body == b"started"
            eventually(lambda: counted > 0)
            seen = counted
            eventually(lambda: counted > seen + 50)
            stop.set()
            background.join()


@pytest.mark.parametrize("threads", [1, 4])
def test_an_idle_server_uses_no_processor(transport: str, threads: int) -> None:
    arguments = ("self_reporting:app", "--transport", transport, "--threads", str(threads))
    with ServerProcess(*arguments, cwd=SUPPORT) as server, Client(server.address) as client:
        idle = [Client(server.address) for _ in range(100)]
        for other in idle:
            assert other.request("GET", "/").status == 200
        before = json.loads(client.request("GET", "/").body)["cpu"]
        threading.Event().wait(2.0)
        after = json.loads(client.request("GET", "/").body)["cpu"]
        assert after - before < 0.1
        for other in idle:
            other.close()


def test_a_close_is_noticed_though_the_batch_in_hand_takes_its_wake_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with transports.serving(Gate(), "python", threads=2) as server:
        assert isinstance(server.transport, PythonTransport)
        loop = server.transport._loop
        take = loop._waker.handle_events

        def close_and_take(mask: int) -> None:
            loop.closed = True  # as `close` does, after the poll that found an earlier wake-up
            loop.wake()
            take(mask)

        monkeypatch.setattr(loop._waker, "handle_events", close_and_take)
        loop.wake()
        eventually(server.is_over)
