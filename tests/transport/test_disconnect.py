"""Requests whose client left before a thread was free: dropped, and told of as 499."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from penstock.transport.config import TransportConfig
from support.serving import Gate, connect, eventually, get
from support.transports import serving
from support.wire import Client

LONG = TransportConfig().disconnect_seconds + 0.3
BY_TIME = ["native"]
"""The transports that take a client for gone which has ended its side for `disconnect_seconds`; the
others do so while an overload is sustained (`test_queue`)."""


def skip_without_time(transport: str) -> None:
    """Skip a test of what `BY_TIME` does."""
    if transport not in BY_TIME:
        pytest.skip(f"{transport} takes no client for gone that has ended its side")


def statuses(path: Path) -> dict[str, int]:
    """Return the status of each path in the access log."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {line["url.path"]: line["http.response.status_code"] for line in lines}


@pytest.mark.parametrize("threads", [1, 3])
def test_who_has_closed_for_long_is_dropped(transport: str, threads: int, tmp_path: Path) -> None:
    skip_without_time(transport)
    gate = Gate()
    path = tmp_path / "access.log"
    with serving(gate, transport, threads=threads, access_log=path) as server:
        busy = [connect(server) for _ in range(threads)]
        for client in busy:
            client.send(get("/wait"))
        eventually(lambda: gate.inside == threads)
        with connect(server) as waiting:
            waiting.send(get("/patient"))
            for _ in range(3):
                with connect(server) as leaving:
                    leaving.send(get("/left"))
            threading.Event().wait(LONG)
            gate.open()
            assert waiting.read_response().body == b"/patient"
        for client in busy:
            assert client.read_response().status == 200
            client.close()
        eventually(lambda: server.snapshot()["connections"] == 0)
    assert "/left" not in gate.seen
    assert statuses(path) == {"/wait": 200, "/patient": 200, "/left": 499}
    assert path.read_text().count("/left") == 3


def test_with_one_thread_and_checks_it_is_the_same(transport: str, tmp_path: Path) -> None:
    skip_without_time(transport)
    gate = Gate()
    path = tmp_path / "access.log"
    with serving(gate, transport, access_log=path, health_path="/healthz") as server:
        with connect(server) as busy:
            busy.send(get("/wait"))
            eventually(lambda: gate.inside == 1)
            with connect(server) as leaving:
                leaving.send(get("/left"))
            threading.Event().wait(LONG)
            gate.open()
            assert busy.read_response().status == 200
            eventually(lambda: server.snapshot()["connections"] == 1)
    assert statuses(path) == {"/wait": 200, "/left": 499}


@pytest.mark.parametrize("threads", [1, 3])
def test_a_half_closed_client_that_does_not_wait_long_is_answered(
    transport: str, threads: int
) -> None:
    gate = Gate()
    with serving(gate, transport, threads=threads, disconnect_seconds=60.0) as server:
        busy = [connect(server) for _ in range(threads)]
        for client in busy:
            client.send(get("/wait"))
        eventually(lambda: gate.inside == threads)
        halves = [connect(server) for _ in range(3)]
        for client in halves:
            client.send(get("/half"))
            client.end_sending()
        gate.open()
        for client in halves:
            assert client.read_response().body == b"/half"
            assert client.read_to_end() == b""
            client.close()
        for client in busy:
            assert client.read_response().status == 200
            client.close()


@pytest.mark.parametrize("threads", [1, 3])
def test_a_half_closed_client_whose_call_takes_long_is_answered(
    transport: str, threads: int
) -> None:
    gate = Gate()
    with serving(gate, transport, threads=threads) as server, connect(server) as client:
        client.send(get("/wait"))
        client.end_sending()
        eventually(lambda: gate.inside == 1)
        threading.Event().wait(LONG)
        gate.open()
        assert client.read_response().body == b"/wait"


@pytest.mark.parametrize("threads", [1, 3])
def test_what_is_pipelined_before_a_half_close_is_answered(transport: str, threads: int) -> None:
    gate = Gate()
    with serving(gate, transport, threads=threads) as server, connect(server) as client:
        client.send(get("/wait") + get("/second") + get("/third"))
        client.end_sending()
        eventually(lambda: gate.inside == 1)
        threading.Event().wait(LONG)
        gate.open()
        for body in (b"/wait", b"/second", b"/third"):
            assert client.read_response().body == body


@pytest.mark.parametrize("threads", [1, 3])
def test_after_an_idle_time_a_half_closed_client_is_answered(transport: str, threads: int) -> None:
    """That the server slept until the request came does not make it old."""
    with serving(Gate(), transport, threads=threads) as server:
        for _ in range(2):
            with Client((server.host, server.port)) as client:
                client.send(get("/half"))
                client.end_sending()
                assert client.read_response().body == b"/half"
            threading.Event().wait(LONG)
