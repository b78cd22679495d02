"""Counts its requests by prometheus_client, for all processes together.

``PROMETHEUS_MULTIPROC_DIR`` names the folder of their files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, make_wsgi_app, multiprocess

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

REQUESTS = Counter("requests", "Requests that were answered")
LIVE = Gauge("workers_with_requests", "Workers that have answered", multiprocess_mode="livesum")

registry = CollectorRegistry()
multiprocess.MultiProcessCollector(registry)
_metrics = make_wsgi_app(registry)


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/metrics":
        return _metrics(environ, start_response)
    REQUESTS.inc()
    LIVE.set(1)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
