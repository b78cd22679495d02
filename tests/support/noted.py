"""Reports of requests that are worth a look, as workers send them, with every field."""

from __future__ import annotations

from typing import Any

CALL: dict[str, Any] = {
    "method": "GET",
    "path": "/a",
    "protocol": "HTTP/1.1",
    "client": "192.0.2.1:5",
    "id": "1-2",
    "trace_id": "",
    "took": 0.5,
    "duration": 0.6,
    "status": 500,
    "reason": "",
    "at": 1.7e9,
    "left_out": 0,
}
REFUSED: dict[str, Any] = {
    "client": "192.0.2.1",
    "id": "1-2",
    "status": 400,
    "reason": "No.",
    "rule": "RFC 1",
    "setting": "",
    "line": "GET / HTTP/1.1",
    "excerpt": "GET / HTTP/1.1\r\n",
    "begin": 0,
    "position": 5,
    "received": 16,
    "at": 1.7e9,
    "left_out": 3,
}
