"""What an application can learn about its call: its deadline, and whether the client waits."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.types import StartResponse

import pytest

from support.serving import TEXT, Environ, Gate, connect, eventually, get
from support.transports import serving


class Keeper:
    """An application that keeps its environs."""

    def __init__(self) -> None:
        self.environs: list[dict[str, Any]] = []

    def __call__(self, environ: Environ, start_response: StartResponse) -> list[bytes]:
        self.environs.append(environ)
        start_response("200 OK", TEXT)
        return [b"kept"]


def test_without_a_timeout_there_is_no_deadline(transport: str) -> None:
    keeper = Keeper()
    with serving(keeper, transport) as server, connect(server) as client:
        assert client.request("GET", "/").status == 200
    assert "penstock.deadline" not in keeper.environs[0]


def test_the_deadline_is_the_timeout_after_the_call_began(transport: str) -> None:
    keeper = Keeper()
    with serving(keeper, transport, timeout=30.0) as server, connect(server) as client:
        for _ in range(2):
            before = time.monotonic()
            assert client.request("GET", "/").status == 200
            deadline = keeper.environs[-1]["penstock.deadline"]
            assert type(deadline) is float
            assert before + 30.0 <= deadline <= time.monotonic() + 30.0


def test_a_path_may_have_a_timeout_of_its_own(transport: str) -> None:
    keeper = Keeper()
    asked: list[str] = []

    def timeout_for(path: str) -> float:
        asked.append(path)
        return {"/long": 300.0, "/for ever": 0.0}.get(path, 5.0)

    with (
        serving(keeper, transport, timeout=30.0, timeout_for=timeout_for) as server,
        connect(server) as client,
    ):
        for target in ("/long?x=1", "/for%20ever", "/short"):
            assert client.request("GET", target).status == 200
        now = time.monotonic()
    assert asked == ["/long", "/for ever", "/short"]
    long, unbounded, short = keeper.environs
    assert now + 290 < long["penstock.deadline"] <= now + 300
    assert "penstock.deadline" not in unbounded
    assert now - 5 < short["penstock.deadline"] <= now + 5


def test_where_the_paths_timeout_cannot_be_told_the_common_one_counts(
    transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = Keeper()

    def timeout_for(path: str) -> float:
        raise LookupError("no such path")

    with (
        serving(keeper, transport, timeout=30.0, timeout_for=timeout_for) as server,
        connect(server) as client,
    ):
        assert client.request("GET", "/").status == 200
        assert keeper.environs[0]["penstock.deadline"] > time.monotonic()
    assert "no such path" in caplog.text


def test_the_application_is_told_when_its_client_has_left(transport: str) -> None:
    told: list[bool] = []
    left, asked = threading.Event(), threading.Event()

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        gone: Callable[[], bool] = environ["penstock.client_gone"]
        told.append(gone())
        asked.set()
        assert left.wait(10)
        eventually(gone)
        told.append(gone())
        asked.set()
        start_response("200 OK", TEXT)
        return [b"x"]

    with serving(application, transport, threads=2) as server:
        client = connect(server)
        client.send(get())
        assert asked.wait(10)
        asked.clear()
        client.reset()
        left.set()
        assert asked.wait(10)
    assert told == [False, True]


def test_another_thread_may_ask_at_any_time_even_after_the_connections_end(
    transport: str,
) -> None:
    keeper = Keeper()
    answers: list[bool] = []
    with serving(keeper, transport) as server:
        with connect(server) as client:
            for _ in range(2):
                assert client.request("GET", "/").status == 200
            first, second = (environ["penstock.client_gone"] for environ in keeper.environs)
            assert first is second  # the connection's own
            thread = threading.Thread(target=lambda: answers.append(first()))
            thread.start()
            thread.join()
            assert answers == [False]
        eventually(lambda: server.snapshot()["connections"] == 0)
        assert first() is True
        with connect(server) as other:  # which may well have the same descriptor now
            assert other.request("GET", "/").status == 200
            assert first() is True
            assert keeper.environs[-1]["penstock.client_gone"]() is False
    assert first() is True


def test_who_half_closes_has_not_left(transport: str) -> None:
    gate = Gate()
    seen: list[Callable[[], bool]] = []

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        seen.append(environ["penstock.client_gone"])
        return gate(environ, start_response)

    with serving(application, transport, threads=2) as server, connect(server) as client:
        client.send(get("/wait"))
        client.end_sending()
        eventually(lambda: gate.inside == 1)
        assert seen[0]() is False
        gate.open()
        assert client.read_response().body == b"/wait"


def test_nothing_of_a_connection_is_in_a_cycle(transport: str) -> None:
    class Held:
        pass

    references: list[weakref.ref[Held]] = []

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        held = Held()
        environ["held"] = held
        references.append(weakref.ref(held))
        assert environ["penstock.client_gone"]() is False
        start_response("200 OK", TEXT)
        return [b"x"]

    gc.disable()
    try:
        with serving(application, transport) as server:
            with connect(server) as client:
                assert client.request("GET", "/").status == 200
                assert client.request("GET", "/").status == 200
            eventually(lambda: server.snapshot()["connections"] == 0)
            assert references[0]() is None
        assert references[1]() is None
    finally:
        gc.enable()
