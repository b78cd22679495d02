"""--otel in whole servers: spans come to a collector; one that does not answer harms nothing."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from penstock.control.metrics import OPENMETRICS
from support.acme_authority import free_port
from support.invariant import eventually
from support.lifecycle import MODULE, Supervised
from support.server_process import BUSY_SECONDS, run_penstock
from support.tracing import Collector
from support.wire import Client

SERVER, INTERNAL = 2, 1
"""Kinds of spans, as OTLP numbers them."""

OWN_SPAN = """
from opentelemetry import trace
tracer = trace.get_tracer("shop")  # before there is a provider

def own_span():
    with tracer.start_as_current_span("work"):
        return "done"
"""

PLAIN = (
    OWN_SPAN
    + """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [own_span().encode()]
"""
)

FLASK = (
    OWN_SPAN
    + """
from flask import Flask
from opentelemetry.instrumentation.flask import FlaskInstrumentor
app = Flask(__name__)
app.get("/<name>")(lambda name: own_span())
FlaskInstrumentor().instrument_app(app)
"""
)

DJANGO = (
    OWN_SPAN
    + """
import sys
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path
from opentelemetry.instrumentation.django import DjangoInstrumentor
settings.configure(ROOT_URLCONF=__name__, SECRET_KEY="x", ALLOWED_HOSTS=["*"])
urlpatterns = [path("<name>", lambda request, name: HttpResponse(own_span()))]
DjangoInstrumentor().instrument()
app = get_wsgi_application()
"""
)

WSGI = (
    PLAIN
    + """
from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware
app = OpenTelemetryMiddleware(app)
"""
)

OF_ITS_OWN = (
    """
import os
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
provider = TracerProvider(resource=Resource.create({"made.by": "the application"}))
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
"""
    + PLAIN
)

QUICKLY = {"OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_SERVICE_NAME": "shop"}


def server_in(
    folder: Path, application: str, endpoint: str, *arguments: str, **environ: str
) -> Supervised:
    (folder / f"{MODULE}.py").write_text(application)
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, **QUICKLY, **environ}
    return Supervised(folder, "--otel", "--drain-linger", "0s", *arguments, environ=variables)


def ask(server: Supervised, target: str = "/a", **fields: str) -> None:
    with Client(server.address) as client:
        answer = client.request("GET", target, {"Connection": "close"} | fields)
    assert (answer.status, answer.body) == (200, b"done")


def check(found: list[dict[str, Any]], requests: int, *between: int) -> None:
    """Check that each request has one span of the server, the application's, and those between."""
    by_id = {span["id"]: span for span in found}
    work = [span for span in found if span["name"] == "work"]
    assert len(work) == requests
    assert len([span for span in found if span["kind"] == SERVER]) == requests
    for span in work:
        kinds = []
        while span["parent"]:
            span = by_id[span["parent"]]
            kinds.append(span["kind"])
        assert kinds == [*between, SERVER]


@pytest.mark.parametrize("preload", [False, True], ids=["", "preload"])
def test_each_worker_exports_what_it_has_seen_also_what_comes_last(
    tmp_path: Path, transport: str, preload: bool
) -> None:
    flags = ["-w", "2", "--transport", transport, *(["--preload"] if preload else [])]
    slowly = {"OTEL_BSP_SCHEDULE_DELAY": "3600000"}
    with Collector().listening() as collector:
        with server_in(tmp_path, PLAIN, collector.url, *flags, **slowly) as server:
            workers = server.wait_for_serving(2)
            for _ in range(20):
                ask(server)
            old = workers
            server.signal(signal.SIGHUP)
            workers = server.wait_for_serving(2, old)
            found = collector.wait(40)
            check(found, 20)
            assert {span["resource"]["process.pid"] for span in found} <= old
            assert {span["resource"]["service.name"] for span in found} == {"shop"}
            ask(server)
            assert server.stop() == 0
            check(collector.wait(42), 21)
    assert not [line for line in server.lines if "PEN-507" in line]


@pytest.mark.parametrize(
    ("application", "between"),
    [(FLASK, [INTERNAL]), (DJANGO, [INTERNAL]), (WSGI, [INTERNAL]), (OF_ITS_OWN, [])],
    ids=["flask", "django", "wsgi", "provider"],
)
def test_beside_an_instrumentation_no_span_of_the_server_is_there_twice(
    tmp_path: Path, transport: str, application: str, between: list[int]
) -> None:
    arguments = ("-w", "1", "--transport", transport, "--trust-traceparent", "127.0.0.1")
    ids = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    with Collector().listening() as collector:
        with server_in(tmp_path, application, collector.url, *arguments) as server:
            ask(server)
            found = collector.wait(2 + len(between))
            check(found, 1, *between)
            made_by = "the application" if application is OF_ITS_OWN else None
            assert {span["resource"].get("made.by") for span in found} == {made_by}
            ask(server, traceparent=f"00-{ids[0]}-{ids[1]}-01")
            more = collector.wait(2 * len(found))[len(found) :]
            assert {span["trace"] for span in more} == {ids[0]}
            assert [span["parent"] for span in more if span["kind"] == SERVER] == [ids[1]]
            assert server.stop() == 0


def test_the_variables_of_the_sdk_hold(tmp_path: Path) -> None:
    with Collector().listening() as collector:
        with server_in(
            tmp_path, PLAIN, collector.url, "-w", "1", OTEL_TRACES_SAMPLER="always_off"
        ) as server:
            ask(server)
            assert server.stop() == 0
        with server_in(tmp_path, PLAIN, collector.url, OTEL_SDK_DISABLED="true") as server:
            ask(server)
            assert server.stop() == 0
        with server_in(tmp_path, PLAIN, collector.url, OTEL_TRACES_EXPORTER="console") as server:
            ask(server)
            assert server.stop() == 0
        assert '"name": "GET",' in "".join(server.output)
        assert collector.wait(1, 0.0) == []


@contextmanager
def silent_collector() -> Iterator[str]:
    """The address of a collector that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def unused_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("answers", ["never", "not there"])
def test_a_collector_that_does_not_answer_delays_neither_requests_nor_the_stop(
    tmp_path: Path, transport: str, answers: str
) -> None:
    environ = {"OTEL_BSP_MAX_QUEUE_SIZE": "10", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "5"}
    arguments = ("-w", "1", "--graceful-timeout", "60s", "--transport", transport)
    with silent_collector() as silent:
        endpoint = silent if answers == "never" else unused_address()
        with server_in(tmp_path, PLAIN, endpoint, *arguments, **environ) as server:
            begin = time.monotonic()
            for _ in range(50):  # many times what may wait
                ask(server)
            # The exporter tries for ten seconds: a single request that waited for it would show.
            assert time.monotonic() - begin < BUSY_SECONDS
            status, seconds = server.seconds_to_exit(signal.SIGTERM)
    assert status == 0
    assert seconds < BUSY_SECONDS
    assert [line for line in server.lines if "PEN-5081" in line]


def test_what_cannot_be_set_up_ends_the_start_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / f"{MODULE}.py").write_text("def app(environ, start_response): ...\n")
    arguments = (f"{MODULE}:app", "--bind", "127.0.0.1:0", "--otel")
    cases = {
        "no package has the exporter 'nope'": {"OTEL_TRACES_EXPORTER": "nope"},
        "pip install opentelemetry-exporter-otlp-proto-grpc": {
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"
        },
        "allowed are grpc and http/protobuf": {"OTEL_EXPORTER_OTLP_PROTOCOL": "smoke"},
    }
    for text, environ in cases.items():
        ran = run_penstock(*arguments, cwd=tmp_path, environ=environ)
        assert ran.returncode != 0
        assert text in ran.stderr
    (tmp_path / "opentelemetry.py").write_text("raise ImportError('not there')\n")
    ran = run_penstock(*arguments, cwd=tmp_path)
    assert "pip install 'penstock[otel]'" in ran.stderr
    assert ran.returncode != 0


def test_trust_without_spans_is_refused(tmp_path: Path) -> None:
    arguments = (f"{MODULE}:app", "--bind", "127.0.0.1:0", "--trust-traceparent", "10.0.0.0/8")
    ran = run_penstock(*arguments, cwd=tmp_path)
    assert "needs otel, which makes the spans" in ran.stderr


def test_a_killed_worker_costs_the_others_no_span(tmp_path: Path) -> None:
    with Collector().listening() as collector:
        with server_in(tmp_path, PLAIN, collector.url, "-w", "2") as server:
            killed = min(server.wait_for_workers(2))
            os.kill(killed, signal.SIGKILL)
            server.wait_for_workers(2, {killed})
            ask(server)
            check(collector.wait(2), 1)
            assert server.stop() == 0


SLOW = """
import time

def app(environ, start_response):
    time.sleep(0.03)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "32")])
    return [environ["penstock.trace_id"].encode()]
"""


def test_a_slow_request_is_an_exemplar_of_its_bucket_by_its_trace(
    tmp_path: Path, transport: str
) -> None:
    admin = ("127.0.0.1", free_port())
    arguments = ("-w", "1", "--transport", transport, "--admin", f"127.0.0.1:{admin[1]}")
    with Collector().listening() as collector:
        with server_in(tmp_path, SLOW, collector.url, *arguments) as server:
            with Client(server.address) as client:
                traced = client.request("GET", "/a", {"Connection": "close"}).body.decode()

            def exemplars() -> list[dict[str, str]]:
                fields = {"Accept": OPENMETRICS, "Connection": "close"}
                with Client(admin) as scraper:
                    text = scraper.request("GET", "/metrics", fields).body.decode()
                return [
                    sample.exemplar.labels
                    for family in text_string_to_metric_families(text)
                    for sample in family.samples
                    if sample.exemplar
                ]

            assert eventually(lambda: exemplars() == [{"trace_id": traced}])
            assert server.stop() == 0
