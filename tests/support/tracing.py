"""Spans in memory, and a collector on this machine that takes them by OTLP over HTTP."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from support.invariant import eventually
from support.threads import listening

SERVER, INTERNAL = trace.SpanKind.SERVER, trace.SpanKind.INTERNAL


class Spans:
    """The spans that have ended in this process. A process has one provider of them."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        trace.set_tracer_provider(provider)
        assert trace.get_tracer_provider() is provider

    def clear(self) -> None:
        """Forget all."""
        self._exporter.clear()

    @property
    def all(self) -> Sequence[ReadableSpan]:
        """What has ended, in this order."""
        return tuple(self._exporter.get_finished_spans())

    def wait(self, count: int = 1) -> list[ReadableSpan]:
        """Return the server's spans in the order of their beginnings, once there is this number."""
        eventually(lambda: len(self.of_server) >= count)
        found = self.of_server
        assert len(found) == count, [span.to_json() for span in self.all]
        return found

    @property
    def of_server(self) -> list[ReadableSpan]:
        """Those of the server."""
        found = [each for each in self.all if each.kind is SERVER]
        return sorted(found, key=lambda span: span.start_time or 0)

    def named(self, name: str) -> ReadableSpan:
        """Return the only span of a name that is not the server's."""
        [found] = [each for each in self.all if each.name == name and each.kind is not SERVER]
        return found


_spans: list[Spans] = []


def spans() -> Spans:
    """Return the spans of this process, of which there are none yet."""
    if not _spans:
        _spans.append(Spans())
    _spans[0].clear()
    return _spans[0]


class Collector:
    """Takes spans as OpenTelemetry's collector does, and keeps them."""

    def __init__(self) -> None:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.take(self.path, body)
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        self._came = threading.Condition()
        self._spans: list[dict[str, Any]] = []  # owned by the condition
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def take(self, path: str, body: bytes) -> None:
        """Keep the spans of one request."""
        assert path == "/v1/traces"
        exported = ExportTraceServiceRequest.FromString(body)
        with self._came:
            for group in exported.resource_spans:
                resource = _values(group.resource.attributes)
                for scope in group.scope_spans:
                    self._spans += [
                        {
                            "name": span.name,
                            "kind": span.kind,
                            "id": span.span_id.hex(),
                            "trace": span.trace_id.hex(),
                            "parent": span.parent_span_id.hex(),
                            "resource": resource,
                            **_values(span.attributes),
                        }
                        for span in scope.spans
                    ]
            self._came.notify_all()

    def wait(self, count: int, within: float = 30.0) -> list[dict[str, Any]]:
        """Return the spans that have come, once there is this number or more."""
        with self._came:
            self._came.wait_for(lambda: len(self._spans) >= count, within)
            return list(self._spans)

    @contextmanager
    def listening(self) -> Iterator[Collector]:
        """Serve within the block."""
        with listening(self._server):
            yield self


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
