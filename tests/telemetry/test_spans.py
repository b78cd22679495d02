"""The spans of --otel, as OpenTelemetry's SDK exports them: one for each request, and correct."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

import penstock
from penstock.telemetry import spans as module
from penstock.telemetry.request_finished import SPAN_ID
from penstock.telemetry.scoreboard import WAITING
from support.fake_exchange import Records
from support.requests_finished import request
from support.serving import TEXT, Environ, Gate, connect, eventually, get, post
from support.tracing import Spans, spans
from support.websockets import ClientSide, ServerSide
from support.wire import DEADLINE

THEIRS = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"traceparent: 00-{THEIRS}-b7ad6b7169203331-01"
UNSAMPLED = f"traceparent: 00-{THEIRS}-b7ad6b7169203331-00"

tracer = trace.get_tracer("application")


@pytest.fixture
def exported() -> Spans:
    return spans()


def plain(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", TEXT)
    return [b"hello"]


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def events(span: ReadableSpan) -> list[str]:
    return [event.name.removeprefix("penstock.") for event in span.events]


def test_a_request_has_one_span_with_the_attributes_of_the_conventions(
    exported: Spans, transport: str, threads: int
) -> None:
    with penstock.running(plain, transport=transport, threads=threads, otel=True) as server:
        with connect(server) as client:
            client.send(
                b"GET /a%20b?secret=1 HTTP/1.1\r\nHost: shop.example:8080\r\n"
                b"User-Agent: curl/8\r\n\r\n"
            )
            assert client.read_response().status == 200
            [span] = exported.wait()
            found = attributes(span)
            assert found.pop("penstock.request_id")
            assert found == {
                "http.request.method": "GET",
                "url.scheme": "http",
                "url.path": "/a%20b",
                "server.address": "shop.example",
                "server.port": 8080,
                "network.protocol.version": "1.1",
                "client.address": "127.0.0.1",
                "user_agent.original": "curl/8",
                "http.response.status_code": 200,
            }
            # On the same connection.
            client.send(get("/second"))
            assert client.read_response().status == 200
            assert [attributes(each)["url.path"] for each in exported.wait(2)][1] == "/second"
    assert (span.name, span.parent, span.status.status_code) == ("GET", None, StatusCode.UNSET)
    assert span.links == ()


def test_the_events_of_a_request_are_in_order_within_its_span(
    exported: Spans, transport: str
) -> None:
    with penstock.running(plain, transport=transport, otel=True) as server:
        with connect(server) as client:
            client.send(post(b"body"))
            assert client.read_response().status == 200
    [span] = exported.wait()
    assert events(span) == [
        "request.head_received",
        "request.body_received",
        "request.taken",
        "application.called",
        "response.first_byte",
    ]
    times = [span.start_time, *(event.timestamp for event in span.events), span.end_time]
    assert times == sorted(times)


def test_the_span_is_current_while_the_application_is_called_iterated_over_and_closed(
    exported: Spans, transport: str, threads: int
) -> None:
    class Blocks:
        def __iter__(self) -> Iterator[bytes]:
            for number in range(2):
                with tracer.start_as_current_span(f"block {number}"):
                    yield b"block"

        def close(self) -> None:
            with tracer.start_as_current_span("close"):
                pass

    seen: list[Any] = []

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        with tracer.start_as_current_span("call"):
            start_response("200 OK", TEXT)
            seen.append((environ["penstock.trace_id"], environ["penstock.span_id"]))
            return Blocks()

    with penstock.running(application, transport=transport, threads=threads, otel=True) as server:
        with connect(server) as client:
            for _ in range(2):
                client.send(get())
                assert client.read_response().status == 200
    found = exported.wait(2)
    for name in ("call", "block 0", "block 1", "close"):
        children = [each for each in exported.all if each.name == name]
        # Of two requests, the thread of the first may end its span behind that of the second.
        parents = sorted(each.parent.span_id if each.parent else 0 for each in children)
        assert parents == sorted(each.context.span_id for each in found)
    ids = [(each.context.trace_id, each.context.span_id) for each in found]
    assert sorted(seen) == sorted((f"{one:032x}", f"{other:016x}") for one, other in ids)
    assert ids[0][0] != ids[1][0]


def test_a_context_that_the_application_leaves_attached_does_not_reach_the_next_request(
    exported: Spans, transport: str
) -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        context.attach(trace.set_span_in_context(tracer.start_span("left")))
        start_response("200 OK", TEXT)
        return [b""]

    with penstock.running(application, transport=transport, threads=1, otel=True) as server:
        with connect(server) as client:
            for _ in range(2):
                client.send(get())
                assert client.read_response().status == 200
    assert [each.parent for each in exported.wait(2)] == [None, None]


def failing_at_once(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    raise LookupError("it is not there")


def failing_later(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", TEXT)
    yield b"begun"
    raise LookupError("it is not there")


@pytest.mark.parametrize(
    ("application", "status", "ended"),
    [(failing_at_once, 500, None), (failing_later, 200, "aborted")],
)
def test_what_the_application_raises_is_the_error_of_the_span(
    exported: Spans, transport: str, application: Any, status: int, ended: str | None
) -> None:
    with penstock.running(application, transport=transport, otel=True) as server:
        with connect(server) as client:
            client.send(get())
            client.read_response()
    [span] = exported.wait()
    found = attributes(span)
    assert found["http.response.status_code"] == status
    assert found["error.type"] == "LookupError"
    assert found.get("penstock.ended") == ended
    assert span.status.status_code is StatusCode.ERROR
    [raised] = [event for event in span.events if event.name == "exception"]
    assert raised.attributes is not None
    assert raised.attributes["exception.message"] == "it is not there"


def test_a_status_of_the_application_from_500_on_is_an_error(
    exported: Spans, transport: str
) -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response(environ["PATH_INFO"].strip("/") + " X", TEXT)
        return [b""]

    with penstock.running(application, transport=transport, otel=True) as server:
        with connect(server) as client:
            for status in ("404", "503"):
                client.send(get(f"/{status}"))
                assert client.read_response().status == int(status)
    errors = [attributes(each).get("error.type") for each in exported.wait(2)]
    assert errors == [None, "503"]


def test_a_request_past_its_deadline_is_a_timeout(exported: Spans, transport: str) -> None:
    go_on = threading.Event()

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        go_on.wait(DEADLINE)
        start_response("200 OK", TEXT)
        return [b""]

    with penstock.running(application, transport=transport, timeout=0.3, otel=True) as server:
        with connect(server) as client:
            client.send(get())
            assert client.read_response().status == 504
            [span] = exported.wait()
            go_on.set()
    found = attributes(span)
    assert found["http.response.status_code"] == 504
    assert found["error.type"] == "timeout"
    assert found["penstock.reason"] == "timeout after 0.3 s"
    assert span.status.status_code is StatusCode.ERROR
    assert len(exported.of_server) == 1


def test_a_client_that_leaves_is_no_error_and_its_span_ends(
    exported: Spans, transport: str
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def application(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        begun.set()
        go_on.wait(DEADLINE)
        start_response("200 OK", TEXT)
        while True:
            yield b"x" * 65536

    with penstock.running(application, transport=transport, otel=True) as server:
        with connect(server) as client:
            client.send(get())
            assert begun.wait(DEADLINE)
            client.reset()
            go_on.set()
            [span] = exported.wait()
    found = attributes(span)
    assert found["penstock.ended"] == "disconnected"
    assert "error.type" not in found
    assert span.status.status_code is StatusCode.UNSET
    assert "exception" not in events(span)


def test_a_stream_has_its_first_byte_before_its_end(exported: Spans, transport: str) -> None:
    go_on = threading.Event()

    def application(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        yield b"first"
        go_on.wait(DEADLINE)
        yield b"last"

    with penstock.running(application, transport=transport, otel=True) as server:
        with connect(server) as client:
            client.send(get())
            while b"first" not in client.buffer:
                client.buffer += client.socket.recv(65536)
            assert exported.of_server == []
            go_on.set()
            assert client.read_response().body == b"firstlast"
    [span] = exported.wait()
    [first] = [each for each in span.events if each.name == "penstock.response.first_byte"]
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.start_time <= first.timestamp < span.end_time


def test_a_request_that_waits_for_a_thread_tells_how_long(exported: Spans, transport: str) -> None:
    gate = Gate()
    with penstock.running(gate, transport=transport, threads=2, otel=True) as server:
        with ExitStack() as stack:
            clients = [stack.enter_context(connect(server)) for _ in range(3)]
            for client in clients[:2]:
                client.send(get("/wait"))
            eventually(lambda: gate.inside == 2)
            clients[2].send(get("/last"))
            eventually(lambda: server.worker.slot.words[WAITING] == 1)
            gate.open()
            for client in clients:
                assert client.read_response().status == 200
    times = {
        attributes(each)["url.path"]: attributes(each).get("penstock.queue_time")
        for each in exported.wait(3)
    }
    assert times["/wait"] is None
    assert (times["/last"] or 0.0) > 0


def test_a_websocket_is_one_span_until_its_end(exported: Spans, transport: str) -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        side = ServerSide(environ)
        with tracer.start_as_current_span("message"):
            side.send(*(side.read() or (0, b"")))
        assert side.read() is None
        return []

    with penstock.running(application, transport=transport, threads=2, otel=True) as server:
        with connect(server) as client:
            side = ClientSide(client)
            assert side.open("/chat").status == 101
            assert side.echoes()
            assert exported.of_server == []
    [span] = exported.wait()
    assert attributes(span)["http.response.status_code"] == 101
    parent = exported.named("message").parent
    assert parent is not None
    assert parent.span_id == span.context.span_id


def test_of_a_peer_that_is_not_trusted_the_span_is_linked_and_nothing_else(
    exported: Spans, transport: str
) -> None:
    seen: list[object] = []

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        seen.append(baggage.get_baggage("user"))
        return plain(environ, start_response)

    with penstock.running(application, transport=transport, otel=True) as server:
        with connect(server) as client:
            for field in (PARENT, UNSAMPLED, "traceparent: nonsense"):
                client.send(get("/", field, "baggage: user=ann"))
                assert client.read_response().status == 200
    linked, unsampled, nonsense = exported.wait(3)
    for span in (linked, unsampled):
        assert span.parent is None
        [link] = span.links
        assert f"{link.context.trace_id:032x}" == THEIRS
        assert span.context.trace_id != link.context.trace_id
    assert nonsense.links == ()
    assert seen == [None, None, None]


@pytest.mark.parametrize(("trusted", "is_parent"), [("127.0.0.0/8", True), ("10.0.0.0/8", False)])
def test_of_a_trusted_peer_the_span_is_the_parent_with_its_baggage(
    exported: Spans, transport: str, trusted: str, is_parent: bool
) -> None:
    seen: list[object] = []

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        seen.append(baggage.get_baggage("user"))
        return plain(environ, start_response)

    with penstock.running(
        application, transport=transport, otel=True, trust_traceparent=[trusted]
    ) as server:
        with connect(server) as client:
            client.send(get("/", PARENT, "tracestate: a=b", "baggage: user=ann"))
            assert client.read_response().status == 200
            [span] = exported.wait()
            if is_parent:
                assert span.parent is not None
                assert f"{span.parent.trace_id:032x}" == f"{span.context.trace_id:032x}" == THEIRS
                assert span.context.trace_state.get("a") == "b"
                client.send(get("/", UNSAMPLED))  # which the default sampler obeys
                assert client.read_response().status == 200
            else:
                assert span.parent is None
                assert len(span.links) == 1
    assert seen[0] == ("ann" if is_parent else None)
    assert len(exported.of_server) == 1


def test_the_peer_decides_and_not_what_a_proxy_says_of_the_client(
    exported: Spans, transport: str
) -> None:
    with penstock.running(
        plain,
        transport=transport,
        otel=True,
        trust_traceparent=["192.0.2.7"],
        forwarded_allow_ips=["127.0.0.1"],
        forwarded_headers=["x-forwarded-for"],
    ) as server:
        with connect(server) as client:
            client.send(get("/", PARENT, "X-Forwarded-For: 192.0.2.7"))
            assert client.read_response().status == 200
    [span] = exported.wait()
    assert attributes(span)["client.address"] == "192.0.2.7"
    assert span.parent is None


def test_requests_that_the_application_does_not_see_have_a_span_each(
    exported: Spans, transport: str
) -> None:
    with penstock.running(
        plain, transport=transport, otel=True, max_body=10, trust_traceparent=["*"]
    ) as server:
        with connect(server) as client:
            client.send(post(bytes(100), PARENT, target="/upload"))
            assert client.read_response().status == 413
        with connect(server) as client:
            client.send(b"nonsense\r\n\r\n")
            assert client.read_response().status == 400
    large, nonsense = exported.wait(2)
    assert large.name == "POST"
    found = attributes(large)
    assert (found["http.response.status_code"], found["url.path"]) == (413, "/upload")
    assert found["penstock.ended"] == "refused"
    assert large.parent is not None
    assert f"{large.parent.trace_id:032x}" == THEIRS
    assert nonsense.name == "HTTP"
    assert attributes(nonsense)["http.request.method"] == "_OTHER"
    assert "url.path" not in attributes(nonsense)


def test_a_file_and_an_unknown_method_have_spans_of_bounded_names(
    exported: Spans, transport: str, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("file")
    with penstock.running(
        plain, transport=transport, otel=True, static=[f"/assets={tmp_path}"]
    ) as server:
        with connect(server) as client:
            client.send(get("/assets/a.txt"))
            assert client.read_response().body == b"file"
            client.send(b"BREW /pot HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.read_response().status == 200
    file, brewed = exported.wait(2)
    assert attributes(file)["url.path"] == "/assets/a.txt"
    assert brewed.name == "HTTP"
    assert attributes(brewed)["http.request.method_original"] == "BREW"


def test_the_access_log_names_the_span(exported: Spans, transport: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    settings: dict[str, Any] = {"transport": transport, "otel": True, "access_logfile": str(log)}
    lines = []
    for format in ("json", "%(trace_id)s %(span_id)s %(s)s"):
        with penstock.running(plain, **settings, access_logformat=format) as server:
            with connect(server) as client:
                client.send(get())
                assert client.read_response().status == 200
                client.send(b"nonsense\r\n\r\n")
                assert client.read_response().status == 400
        lines.append(log.read_text().splitlines())
        log.unlink()
    ids = [f"{each.context.trace_id:032x} {each.context.span_id:016x}" for each in exported.wait(4)]
    seen, refused = map(json.loads, lines[0])
    assert f"{seen['trace_id']} {seen['span_id']}" == ids[0]
    assert (refused["trace_id"], refused["span_id"]) == (None, None)
    assert lines[1] == [f"{ids[2]} 200", "- - 400"]
    assert seen["request_id"] == attributes(exported.of_server[0])["penstock.request_id"]


def test_two_requests_of_one_id_have_a_span_each(exported: Spans, transport: str) -> None:
    """A trusted proxy may give an id twice."""
    with penstock.running(
        plain,
        transport=transport,
        otel=True,
        forwarded_allow_ips=["127.0.0.1"],
        forwarded_headers=["x-request-id"],
    ) as server:
        with connect(server) as client:
            for _ in range(2):
                client.send(get("/", "X-Request-Id: same"))
                assert client.read_response().status == 200
    assert {attributes(each)["penstock.request_id"] for each in exported.wait(2)} == {"same"}


def test_a_defect_in_making_spans_costs_no_request(exported: Spans, transport: str) -> None:
    class Nonsense(dict[str, Any]):
        pass

    def sampler_fails(*_: object, **__: object) -> None:
        raise RuntimeError("no")

    log = Records()
    made = module.Spans(lambda _peer: False, log.logger)
    made.set_up()
    made._tracer = type("Broken", (), {"start_span": sampler_fails})()
    answered: list[object] = []
    handle = made.around(answered.append)

    class Exchange:
        environ: dict[str, Any] = {}  # noqa: RUF012
        peer_addr = ""

    exchange: Any = Exchange()
    handle(exchange)
    handle(exchange)
    made.requests_finished([request()], 0.0)
    assert answered == [exchange, exchange]
    assert [line.split()[0] for line in log.lines] == ["PEN-5080"]
    made.close()


def test_spans_whose_records_are_lost_are_ended_in_the_end(
    exported: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOST_SECONDS", -1.0)
    made = module.Spans(lambda _peer: False, Records().logger)
    made.set_up()
    names = []

    def handle(exchange: Any) -> None:
        names.append(exchange.environ[SPAN_ID])

    class Exchange:
        peer_addr = ""
        began = 0.0
        request_id = "r"

        def __init__(self) -> None:
            self.environ = {
                "REQUEST_METHOD": "GET",
                "RAW_URI": "/",
                "SERVER_NAME": "a",
                "SERVER_PROTOCOL": "HTTP/1.1",
                "wsgi.url_scheme": "http",
            }

    for _ in range(3):
        made.around(handle)(Exchange())  # type: ignore[arg-type]
    made.requests_lost(1)
    made.requests_finished([request(environ={SPAN_ID: names[2]})], 0.0)
    assert len(exported.wait(2)) == 2  # the one that is finished, and one that is given up
    made.requests_lost(5)
    made.requests_finished([], 0.0)
    made.requests_finished([], 0.0)
    exported.wait(3)
    # The record comes after all: its request has its span already.
    made.requests_finished([request(environ={SPAN_ID: names[0]})], 0.0)
    exported.wait(3)
    made.close()
