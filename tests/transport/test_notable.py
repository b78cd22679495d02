"""Requests that are worth a look: which ones a worker reports, how many, and what of them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse

import pytest

from penstock.http1 import ParserLimits
from penstock.supervisor.reports import is_report
from penstock.telemetry.histograms import histograms_of, read_series, series_number
from penstock.telemetry.request_finished import TRACE_ID
from penstock.transport.notable import (
    BEFORE_FAULT,
    LEAST_SLOW_SECONDS,
    MOST_A_SECOND,
    MOST_OF_EXCERPT,
    SLOW_SECONDS,
    SLOWEST,
    EndedCall,
    NotableRequests,
)
from support.serving import TEXT, Environ, Gate, connect, eventually, get
from support.transports import serving

LIMITS = ParserLimits(
    request_line=4096, fields=100, field_size=4096, head=65536, chunk_overhead=4096, body=1 << 20
)


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Sent:
    """A worker's notable requests, and what it has sent of them."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.all: list[tuple[str, dict[str, Any]]] = []
        self.notable = NotableRequests(LIMITS, self._take, self.clock, least_slow=0.0)

    def _take(self, kind: str, request: dict[str, Any]) -> None:
        assert is_report({"event": "noted", "kind": kind, "request": request})
        self.all.append((kind, request))

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [request for each, request in self.all if each == kind]

    def call(self, took: float = 0.0, status: int = 200, **known: Any) -> None:
        given: dict[str, Any] = {
            "method": "GET",
            "target": "/a?b=c",
            "protocol": "HTTP/1.1",
            "client": "192.0.2.1:5",
            "request_id": "1-2",
            "trace_id": None,
            "duration": took,
        }
        given |= {"reason": "", "aborted": False} | known
        self.notable.call_ended(EndedCall(took=int(took * 1e9), status=status, **given))

    def refuse(self, received: bytes = b"", **known: str) -> None:
        given: dict[str, Any] = {
            "client": "192.0.2.1",
            "request_line": "GET /a?b=c HTTP/1.1",
            "request_id": "1-2",
        }
        given |= {"reason": "No.", "rule": "RFC 1", "setting": ""} | known
        self.notable.refused(status=400, received=received, **given)


def test_a_call_that_failed_or_was_aborted_is_sent_without_its_query() -> None:
    sent = Sent()
    sent.call(0.5, 503, reason="no database")
    sent.call(0.25, 0, aborted=True)
    sent.call(0.25, 404)
    first, second = sent.of("failed")
    assert first.pop("at") == pytest.approx(time.time(), abs=60)
    assert first == {
        "method": "GET",
        "path": "/a?...",
        "protocol": "HTTP/1.1",
        "client": "192.0.2.1:5",
        "id": "1-2",
        "trace_id": "",
        "took": 0.5,
        "duration": 0.5,
        "status": 503,
        "reason": "no database",
        "left_out": 0,
    }
    assert second["status"] == 0


def test_of_the_calls_of_a_minute_the_slowest_are_sent() -> None:
    sent = Sent()
    for _ in range(20):
        sent.clock.now += 1.0
        for took in (0.1, 0.1, 0.2):
            sent.call(took)
    times = [request["took"] for request in sent.of("slow")]
    # Each that was among the slowest when it came: those of 0.1 s only until there are enough.
    assert times.count(0.1) <= SLOWEST
    assert times.count(0.2) == SLOWEST
    sent.clock.now += SLOW_SECONDS
    sent.call(0.05)
    assert sent.of("slow")[-1]["took"] == 0.05


def test_a_fast_call_is_not_slow_though_it_has_failed() -> None:
    sent = Sent()
    sent.notable = NotableRequests(LIMITS, sent._take, sent.clock)
    sent.call(LEAST_SLOW_SECONDS - 0.001, 500)
    sent.call(LEAST_SLOW_SECONDS, 200)
    assert [kind for kind, _ in sent.all] == ["failed", "slow"]


@pytest.mark.parametrize("known", [None, 7, "", "4BF9", "4bf92f3577b34da6a3ce929d0e0e4736\n"])
def test_what_the_environ_has_in_the_place_of_a_trace_id_is_none(known: object) -> None:
    sent = Sent()
    sent.call(0.5, 500, trace_id=TRACE)
    sent.call(0.5, 500, trace_id=known)
    assert [request["trace_id"] for request in sent.of("failed")] == [TRACE, ""]


def test_a_websocket_is_no_slow_request() -> None:
    sent = Sent()
    sent.call(3600.0, 101)
    assert sent.all == []


@pytest.mark.parametrize("kind", MOST_A_SECOND)
def test_a_few_of_a_kind_are_sent_in_a_second_and_the_others_counted(kind: str) -> None:
    sent = Sent()

    def bring_about(number: int) -> None:
        if kind == "refused":
            sent.refuse()
        else:
            sent.call(1.0 + number, 200 if kind == "slow" else 500)

    for number in range(20):
        bring_about(number)
    assert len(sent.of(kind)) == MOST_A_SECOND[kind]
    sent.clock.now += 1.0
    bring_about(100)
    assert sent.of(kind)[-1]["left_out"] == 20 - MOST_A_SECOND[kind]
    sent.clock.now += 1.0
    bring_about(200)
    assert sent.of(kind)[-1]["left_out"] == 0


def test_of_a_refused_head_the_surroundings_of_the_fault_are_sent() -> None:
    sent = Sent()
    head = b"GET /a HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 90 + b"Z: \0" + b"z" * 900
    sent.refuse(head)
    (request,) = sent.of("refused")
    place = head.index(b"\0")
    assert request["position"] == place
    assert request["begin"] == place - BEFORE_FAULT
    assert request["received"] == len(head)
    assert request["excerpt"].encode("latin-1") == head[request["begin"] :][:MOST_OF_EXCERPT]
    assert request["line"] == "GET /a?*** HTTP/1.1"
    assert (request["status"], request["reason"], request["rule"]) == (400, "No.", "RFC 1")


def test_a_refused_request_without_a_head_has_no_place() -> None:
    sent = Sent()
    sent.refuse(setting="queue")
    (request,) = sent.of("refused")
    assert (request["position"], request["excerpt"], request["received"]) == (None, "", 0)


def test_whatever_the_length_of_a_text_the_supervisor_accepts_it() -> None:
    sent = Sent()
    long = "x" * 5000
    call = {"method": long, "target": long, "protocol": long, "client": long, "request_id": long}
    sent.call(1.0, 500, **call, trace_id=long, reason=long)
    given = {"client": long, "request_line": long, "request_id": long, "reason": long}
    sent.refuse(long.encode(), **given)
    assert [kind for kind, _ in sent.all] == ["slow", "failed", "refused"]


# -- what the transports report ------------------------------------------------------------------


def test_a_transport_reports_the_call_that_failed(transport: str) -> None:
    sent = Sent()

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        status = environ["PATH_INFO"][1:]
        start_response(f"{status} Status", TEXT)
        return [b"x"]

    with serving(application, transport, notable=sent.notable) as server:
        with connect(server) as client:
            for status in (200, 404, 500, 599):
                client.send(get(f"/{status}?secret"))
                assert client.read_response().status == status
            host, port = client.socket.getsockname()
        eventually(lambda: len(sent.of("failed")) == 2)
    first, second = sent.of("failed")
    assert (first["method"], first["path"], first["status"]) == ("GET", "/500?...", 500)
    assert first["client"] == f"{host}:{port}"
    assert first["id"]
    assert 0 < first["took"] < 30
    assert second["status"] == 599


def test_a_transport_reports_what_the_histograms_count_of_a_call(transport: str) -> None:
    sent = Sent()

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        environ[TRACE_ID] = TRACE
        start_response("500 Status", TEXT)
        return [b"x"]

    with serving(application, transport, notable=sent.notable) as server:
        with connect(server) as client:
            client.send(b"GET / HTTP/1.0\r\n\r\n")
            assert client.read_response().status == 500
        eventually(lambda: len(sent.of("failed")) == 1)
        number = series_number("GET", "500", "HTTP/1.0")

        def counted() -> bool:
            server.transport.publish()
            return read_series(server.slot).keys() == {number}

        eventually(counted)
        seconds = histograms_of(read_series(server.slot)[number])["duration"].seconds
    (failed,) = sent.of("failed")
    assert (failed["protocol"], failed["trace_id"]) == ("HTTP/1.0", TRACE)
    assert failed["took"] <= failed["duration"] <= seconds + 1e-6
    assert failed["duration"] == pytest.approx(seconds, abs=0.02)


def test_a_call_whose_response_is_not_sent_yet_is_reported_without_a_duration(
    transport: str,
) -> None:
    sent, size = Sent(), 8 << 20

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("500 Status", [*TEXT, ("Content-Length", str(size))])
        return [b"x" * size]

    config: dict[str, Any] = {"notable": sent.notable, "out_buffer": 2 * size}
    with serving(application, transport, **config) as server:
        with connect(server) as client:
            client.send(get("/"))
            eventually(lambda: sent.of("failed"))
            assert len(client.read_response().body) == size
    (failed,) = sent.of("failed")
    assert failed["duration"] == 0


def test_a_transport_reports_the_call_that_it_has_ended(transport: str) -> None:
    sent, gate = Sent(), Gate()
    with serving(gate, transport, threads=2, notable=sent.notable) as server:
        with connect(server) as client:
            client.send(get("/wait"))
            eventually(lambda: gate.inside == 1)
            (request,) = server.slot.requests()
            assert server.transport.expire(request.number, "timeout after 1 s")
            assert client.read_response().status == 504
        gate.open()
        eventually(lambda: gate.inside == 0)
    (failed,) = sent.of("failed")
    assert (failed["path"], failed["status"]) == ("/wait", 504)
    assert failed["reason"] == "timeout after 1 s"


def test_a_transport_reports_the_call_that_took_long(transport: str) -> None:
    sent, gate = Sent(), Gate()
    config: dict[str, Any] = {
        "notable": sent.notable,
        "notable_call_seconds": 0.0,
        "slow_call_seconds": 0.0,
    }
    with serving(gate, transport, threads=2, **config) as server, connect(server) as client:
        client.send(get("/wait"))
        eventually(lambda: gate.inside == 1)
        gate.open()
        assert client.read_response().status == 200
        eventually(lambda: sent.of("slow"))
    assert [request["path"] for request in sent.of("slow")] == ["/wait"]
    assert sent.of("failed") == []


def test_a_client_that_leaves_is_no_failure(transport: str) -> None:
    sent, gate = Sent(), Gate()
    with serving(gate, transport, threads=2, notable=sent.notable) as server:
        with connect(server) as client:
            client.send(get("/wait"))
            eventually(lambda: gate.inside == 1)
        eventually(lambda: server.snapshot()["connections"] <= 1)
        gate.open()
        eventually(lambda: not list(server.slot.requests()))
    assert sent.of("failed") == []


@pytest.mark.parametrize(
    ("head", "fault"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\nX-A: b\0c\r\n\r\n", b"\0c\r\n\r\n"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", b"x\r\n\r\n"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nGETX / HTTP/1.1", None),
        (b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n", b"(T / H"),
    ],
)
def test_a_transport_reports_where_the_fault_of_a_head_is(
    transport: str, head: bytes, fault: bytes | None
) -> None:
    sent = Sent()
    with serving(Gate(), transport, notable=sent.notable, parser=LIMITS) as server:
        with connect(server) as client:
            client.send(head)
            if fault is None:
                assert client.read_response().status == 200
                return
            assert client.read_response().status == 400
        eventually(lambda: sent.of("refused"))
    (refused,) = sent.of("refused")
    assert head[refused["position"] :][:6] == fault
    assert refused["excerpt"].encode("latin-1") == head
    assert (refused["status"], refused["client"]) == (400, "127.0.0.1")


def test_a_transport_reports_a_request_that_a_setting_refuses(transport: str) -> None:
    sent = Sent()
    config: dict[str, Any] = {"notable": sent.notable, "header_map": "refuse"}
    with serving(Gate(), transport, **config) as server, connect(server) as client:
        client.send(get("/", "X_A: b", "Cookie: secret"))
        assert client.read_response().status == 400
        eventually(lambda: sent.of("refused"))
    (refused,) = sent.of("refused")
    assert refused["setting"] == "header_map"
    assert refused["excerpt"][refused["position"]] == "_"
    assert "secret" not in str(refused)
