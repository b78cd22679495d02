"""The open load, against servers that answer all, some or none of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import penstock
from harness.open_loop import Arrivals, OpenLoop
from support.serving import Environ, Gate

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication


def answering(status: str) -> WSGIApplication:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response(status, [("Content-Length", "0")])
        return []

    return application


@pytest.mark.parametrize(("status", "what"), [("200 OK", "useful"), ("503 Busy", "shed")])
def test_answers_are_counted_by_what_they_are(transport: str, status: str, what: str) -> None:
    settings = {"transport": transport, "health_path": "/healthz"}
    with penstock.running(answering(status), **settings) as server:
        arrivals = Arrivals(100, 0.3, 2.0, "/")
        outcome = OpenLoop(server.host, server.port, arrivals, "/healthz").run(0.1)
    assert 10 < outcome.sent < 60
    assert len(getattr(outcome, what)) == outcome.sent
    assert outcome.left == outcome.failed == 0
    assert outcome.probes
    assert max(outcome.probes) < 5


def test_a_client_leaves_when_its_patience_ends(transport: str) -> None:
    gate = Gate()
    with penstock.running(gate, transport=transport, threads=1) as server:
        arrivals = Arrivals(50, 0.2, 0.3, "/wait")
        outcome = OpenLoop(server.host, server.port, arrivals, None).run(0.0)
        gate.open()
    assert outcome.sent == outcome.left > 0
    assert outcome.goodput == 0


def test_the_same_seed_gives_the_same_arrivals(transport: str) -> None:
    with penstock.running(answering("200 OK"), transport=transport) as server:
        loads = [
            OpenLoop(server.host, server.port, Arrivals(200, 0.2, 0.1, "/"), None).run(0.0).sent
            for _ in range(2)
        ]
    assert loads[0] == loads[1] > 0
