"""Takes what agents export, in the place of their vendors' servers, and keeps what it can read."""

from __future__ import annotations

import gzip
import json
import ssl
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from support.threads import listening

NEW_RELIC = {
    "preconnect": {"redirect_host": "localhost"},
    "connect": {
        "agent_run_id": "1",
        "data_report_period": 5,
        "event_harvest_config": {
            "report_period_ms": 1000,
            "harvest_limits": {"analytic_event_data": 1000, "error_event_data": 100},
        },
        "span_event_harvest_config": {"report_period_ms": 1000, "harvest_limit": 1000},
    },
}
"""What New Relic's agent is answered, by the method that it calls; null otherwise."""


class Collector:
    """A server on this machine, and all that it has got."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        """Listen; with a context, by TLS."""
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = read_body(self)
                collector.keep(body)
                self.answer()

            def do_GET(self) -> None:
                self.answer()

            do_PUT = do_POST  # Datadog

            def answer(self) -> None:
                method = parse_qs(urlsplit(self.path).query).get("method", [""])[0]
                said = {"return_value": NEW_RELIC.get(method)} if method else {}
                data = json.dumps(said).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments: object) -> None:
                pass

        self._lock = threading.Condition()
        self._bodies: list[bytes] = []  # owned by the lock
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = int(self._server.server_address[1])

    def keep(self, body: bytes) -> None:
        """Keep what an agent has sent."""
        with self._lock:
            self._bodies.append(body)
            self._lock.notify_all()

    def has(self, marks: list[str], within: float = 0.0) -> bool:
        """Return True if one of the marks has come, or comes in some seconds."""
        wanted = [mark.encode() for mark in marks]
        with self._lock:
            return self._lock.wait_for(
                lambda: any(mark in body for body in self._bodies for mark in wanted), within
            )

    @contextmanager
    def listening(self) -> Iterator[Collector]:
        """Serve within the block."""
        with listening(self._server):
            yield self


def read_body(request: BaseHTTPRequestHandler) -> bytes:
    """Return the body of a request, without the codings that agents apply."""
    if request.headers.get("Transfer-Encoding") == "chunked":
        blocks = []
        while size := int(request.rfile.readline(), 16):
            blocks.append(request.rfile.read(size))
            request.rfile.readline()
        request.rfile.readline()
        body = b"".join(blocks)
    else:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
    match request.headers.get("Content-Encoding", "").lower():
        case "gzip":
            return gzip.decompress(body)
        case "deflate":
            return zlib.decompress(body)
        case _:
            return body
