"""Records of finished requests, made by hand."""

from __future__ import annotations

from penstock.telemetry.request_finished import RequestFinished


def request(target: str = "/", **changes: object) -> RequestFinished:
    """Return a plain GET that took a quarter of a second; ``changes`` replace its fields."""
    fields: dict[str, object] = {
        "request_id": "r-1",
        "client_addr": "127.0.0.1",
        "client_port": "40000",
        "method": "GET",
        "target": target,
        "protocol": "HTTP/1.1",
        "request_line": f"GET {target} HTTP/1.1",
        "status": 200,
        "bytes_in": 0,
        "bytes_out": 5,
        "ended": "complete",
        "reason": "",
        "wall_time": 0.0,
        "finished_at": 100.25,
        "begun_at": 100.0,
        "peer_addr": "127.0.0.1",
    }
    return RequestFinished(**{**fields, **changes})  # type: ignore[arg-type]
