"""The same requests are in the access log, and the same of them is hidden, on each transport."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import penstock
from conftest import TRANSPORTS
from support.serving import Environ, connect, get

if TYPE_CHECKING:
    from wsgiref.types import StartResponse

SECRET = "s3cr3t"


def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
    """Answer with the status that the path ends with."""
    status = environ["PATH_INFO"].rpartition("/")[2]
    start_response(f"{status if status.isdigit() else 200} X", [("Location", f"/?token={SECRET}")])
    return [b"x"]


def logged(transport: str, path: Path, requests: list[bytes], **settings: Any) -> list[str]:
    """Return the lines for requests, which are sent over one connection each.

    With one thread, which logs a request before it takes the next: so the lines are in their order.
    """
    with penstock.running(
        application,
        transport=transport,
        threads=1,
        access_logfile=str(path),
        forwarded_headers="x-request-id",
        **settings,
    ) as server:
        for request in requests:
            with connect(server) as client:
                client.send(request)
                client.read_response(request.split()[0].decode())
    return path.read_text("utf-8").splitlines()


def numbered(target: str, number: int, *fields: str) -> bytes:
    return get(target, f"X-Request-Id: r-{number}", *fields)


def test_rules_leave_out_paths_by_their_status(transport: str, tmp_path: Path) -> None:
    paths = ["/healthz/200", "/healthz/503", "/static/304", "/a/200", "/static/200?x", "/a/404"]
    found = logged(
        transport,
        tmp_path / "log",
        [get(path) for path in paths],
        access_log_skip=["/healthz/* 2xx", "/static/304", "* 404"],
        access_logformat="%(U)s",
    )
    assert found == ["/healthz/503", "/a/200", "/static/200"]


def test_a_failure_is_logged_where_only_slow_requests_are(transport: str, tmp_path: Path) -> None:
    found = logged(
        transport,
        tmp_path / "log",
        [get("/200"), get("/500"), b"GET /two words HTTP/1.1\r\n\r\n", get("/404")],
        access_log_slow=30,
        access_logformat="%(U)s",
    )
    assert found == ["/500"]
    assert len(logged(transport, tmp_path / "all", [get("/200")], access_log_slow="0.000001")) == 1


def test_every_transport_has_the_same_sample(transport: str, tmp_path: Path) -> None:
    count = 60
    requests = [numbered("/200", number) for number in range(count)] + [numbered("/500", 0)]
    found = logged(
        transport,
        tmp_path / "log",
        requests,
        access_log_sample="1/4",
        access_logformat="json",
    )
    lines = [json.loads(line) for line in found]
    # What `penstock.telemetry.access_log_rules.in_sample` says of these ids.
    chosen = [line["request_id"] for line in lines if line["sample"] == 4]
    assert chosen == expected_sample(count)
    assert [line["http.response.status_code"] for line in lines if line["sample"] == 1] == [500]


def expected_sample(count: int) -> list[str]:
    from penstock.telemetry.access_log_rules import in_sample, threshold_of

    chosen = [f"r-{n}" for n in range(count) if in_sample(f"r-{n}", threshold_of(0.25))]
    assert 5 < len(chosen) < 30
    return chosen


HIDING = [
    numbered(f"/a/200?x=1&token={SECRET}", 1),
    numbered("/a/200", 2, f"Referer: http://h/?token={SECRET}&y=2"),
    numbered("/a/200", 3, f"X-Key: {SECRET}", "User-Agent: curl/8"),
    numbered("/a/200", 4, "Referer: http://h/plain", f"Authorization: Bearer {SECRET}"),
    f"GET /a?token={SECRET} and more HTTP/1.1\r\n\r\n".encode(),
    f"GET?token={SECRET} / HTTP/1.1\r\nHost: a\r\n\r\n".encode(),
    numbered(f"http://other/200?%74oken={SECRET}", 5),
]
FORMATS = [
    "combined",
    "json",
    "short",
    "%(r)s %(q)s %(f)s %({X-Key}i)s %({authorization}i)s %(u)s %({Referer}i)s",
    "%(U)s %({Location}o)s",
    "%(U)s %({QUERY_STRING}e)s %({HTTP_X_KEY}e)s %({RAW_URI}e)s",
]
WHAT = ["header:x-key", "header:authorization"]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("hide", ["query", "query:token"])
def test_nothing_that_is_hidden_is_in_the_log(
    transport: str, hide: str, format: str, tmp_path: Path
) -> None:
    settings = {"access_logformat": format, "access_log_hide": [hide, *WHAT]}
    found = logged(transport, tmp_path / "log", HIDING, **settings)
    assert len(found) == len(HIDING)
    assert SECRET not in "\n".join(found)
    assert "REDACTED" in "\n".join(found)
    if format == "json":
        assert json.loads(found[0])["url.query"] == (
            "REDACTED" if hide == "query" else "x=1&token=REDACTED"
        )


@pytest.mark.skipif(len(TRANSPORTS) < 2, reason="the native transport is not built")
@pytest.mark.parametrize(
    "format", ["%(r)s %(f)s %(a)s", "%(m)s %(U)s %(q)s %({X-Key}i)s %(sample)s"]
)
def test_every_transport_hides_the_same(format: str, tmp_path: Path) -> None:
    settings = {
        "access_logformat": format,
        "access_log_hide": ["query:token", *WHAT],
        "access_log_sample": "1/2",
    }
    reference, *others = [
        logged(each, tmp_path / each, HIDING[:4], **settings) for each in TRANSPORTS
    ]
    assert reference
    for other in others:
        assert other == reference


def test_a_worker_without_rules_does_not_import_them(transport: str) -> None:
    code = (
        "import penstock, sys, urllib.request\n"
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return []\n"
        f"settings = dict(transport={transport!r}, access_logfile='/dev/null')\n"
        "with penstock.running(app, **settings) as server:\n"
        "    urllib.request.urlopen(server.url).read()\n"
        "print('penstock.telemetry.access_log_rules' in sys.modules)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.stdout == "False\n", run.stderr
