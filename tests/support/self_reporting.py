"""An application that reports what its process uses: served by the command, in its own process."""

from __future__ import annotations

import json
import os
import resource
import threading
from wsgiref.types import StartResponse, WSGIEnvironment

if limit := int(os.environ.get("LIMIT_NOFILE", "0")):
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
if limit := int(os.environ.get("LIMIT_FSIZE", "0")):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    body = environ["wsgi.input"].read()
    if environ["PATH_INFO"] == "/plain":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"plain"]
    used = resource.getrusage(resource.RUSAGE_SELF)
    report = {
        "body": len(body),
        "cpu": used.ru_utime + used.ru_stime,
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
    }
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(report).encode()]
